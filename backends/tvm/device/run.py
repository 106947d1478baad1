"""Run compiled code on the device: python run.py FOLDER x.npz y.npz [--threads N] [--repeat N].

Needs `pip install apache-tvm-ffi numpy` and libtvm_runtime.so: the one of `pip install apache-tvm`,
or a copy of it in FOLDER. Needs neither splitc nor TVM's compiler. x.npz holds one array for each
input that interface.txt names; y.npz gets the outputs.
"""

import argparse
import ctypes
import importlib.util
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi

_CPU, _POOLED = 1, 2


class Compiled:
    """A function from arrays by name to arrays by name."""

    def __init__(self, folder: Path, threads: int = 0) -> None:
        """Load model.so and interface.txt of `folder`; threads 0 = all cores."""
        ctypes.CDLL(str(runtime_library(folder)), ctypes.RTLD_GLOBAL)
        text = (folder / "interface.txt").read_text("utf-8")
        lines = [line.split(" ", 3) for line in text.splitlines()]
        self.inputs = {
            name: _aligned(dtype, shape) for way, dtype, shape, name in lines if way == "input"
        }
        self.outputs = [name for way, _, _, name in lines if way == "output"]
        self.machine: Any = tvm_ffi.load_module(str(folder / "model.so"))["vm_load_executable"]()
        self.machine["vm_initialization"](_CPU, 0, _POOLED)
        self.machine["set_input"]("main", *map(tvm_ffi.from_dlpack, self.inputs.values()))
        self._invoke, self._output = self.machine["invoke_stateful"], self.machine["get_output"]
        self._places: list[tuple[int, ...]] | None = None  # of outputs, known after the first run
        if threads:
            configure: Any = tvm_ffi.get_global_func("runtime.config_threadpool")
            configure(1, threads)

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Run once; a missing, misshapen or mistyped input is a KeyError or ValueError."""
        for name, place in self.inputs.items():
            given = np.asarray(feeds[name])
            if given.dtype != place.dtype or given.shape != place.shape:
                have, want = f"{given.dtype} {given.shape}", f"{place.dtype} {place.shape}"
                raise ValueError(f"input {name!r}: {have}, expected {want}")
            place[...] = given
        self._invoke("main")
        if self._places is None:
            count = self.machine["get_output_arity"]("main")
            self._places = [()] if count < 0 else [(place,) for place in range(count)]
        made = [self._output("main", *place) for place in self._places]
        arrays = [np.from_dlpack(value).copy() for value in made]
        return dict(zip(self.outputs, arrays, strict=True))


def runtime_library(folder: Path) -> Path:
    """Return libtvm_runtime.so: in the folder, or in the installed package `apache-tvm`."""
    places = [folder]
    found = importlib.util.find_spec("tvm")
    for package in (found.submodule_search_locations or ()) if found else ():
        places += [Path(package) / "lib", Path(package)]
    for place in places:
        if (place / "libtvm_runtime.so").is_file():
            return place / "libtvm_runtime.so"
    raise FileNotFoundError("libtvm_runtime.so: pip install apache-tvm, or copy it to the folder")


def _aligned(dtype: str, shape: str) -> Any:
    """Return room for an input, on a boundary of 64 bytes as the code expects."""
    sizes = () if shape == "-" else tuple(int(size) for size in shape.split("x"))
    count = math.prod(sizes) * np.dtype(dtype).itemsize
    room = np.zeros(count + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + count].view(dtype).reshape(sizes)


def main() -> None:
    """Do what the module's first line says."""
    parser = argparse.ArgumentParser(description="Run compiled code on arrays.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=1)
    args = parser.parse_args()
    compiled = Compiled(args.folder, args.threads)
    feeds = dict(np.load(args.input))
    for _ in range(args.repeat):
        start = time.perf_counter()
        outputs = compiled(feeds)
        print(f"{1e3 * (time.perf_counter() - start):.3f} ms")
    np.savez(args.output, **outputs)


if __name__ == "__main__":
    main()
