"""Run compiled code on the device: python run.py FOLDER x.npz y.npz [--threads N] [--repeat N].

Needs `pip install apache-tvm-ffi numpy` and libtvm_runtime.so: the one of `pip install apache-tvm`,
or a copy of it in FOLDER. Needs neither splitc nor TVM's compiler. x.npz holds one array for each
input that interface.txt names; y.npz gets the outputs.
"""

import argparse
import ctypes
import importlib.util
import time
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
        lines = [line.split(" ", 3) for line in (folder / "interface.txt").read_text("utf-8").splitlines()]
        self.inputs = [(name, dtype, _shape(shape)) for way, dtype, shape, name in lines if way == "input"]
        self.outputs = [name for way, _, _, name in lines if way == "output"]
        library = tvm_ffi.load_module(str(folder / "model.so"))
        self._machine: Any = library["vm_load_executable"]()
        self._machine["vm_initialization"](_CPU, 0, _POOLED)
        if threads:
            configure: Any = tvm_ffi.get_global_func("runtime.config_threadpool")
            configure(1, threads)

    def __call__(self, feeds: dict[str, Any]) -> dict[str, Any]:
        """Run once; a missing, misshapen or mistyped input is a KeyError or ValueError."""
        arrays = [_checked(feeds[name], name, dtype, shape) for name, dtype, shape in self.inputs]
        self._machine["set_input"]("main", *[tvm_ffi.from_dlpack(array) for array in arrays])
        self._machine["invoke_stateful"]("main")
        count = self._machine["get_output_arity"]("main")
        if count < 0:
            made = [self._machine["get_output"]("main")]
        else:
            made = [self._machine["get_output"]("main", place) for place in range(count)]
        arrays = [np.from_dlpack(value).copy() for value in made]
        return dict(zip(self.outputs, arrays, strict=True))


def runtime_library(folder: Path) -> Path:
    """Return libtvm_runtime.so: in the folder, or in the installed package `apache-tvm`."""
    places = [folder]
    found = importlib.util.find_spec("tvm")
    for place in (found.submodule_search_locations or ()) if found else ():
        places += [Path(place) / "lib", Path(place)]
    for place in places:
        if (place / "libtvm_runtime.so").is_file():
            return place / "libtvm_runtime.so"
    raise FileNotFoundError("libtvm_runtime.so: pip install apache-tvm, or copy it to the folder")


def _shape(text: str) -> tuple[int, ...]:
    return () if text == "-" else tuple(int(size) for size in text.split("x"))


def _checked(array: Any, name: str, dtype: str, shape: tuple[int, ...]) -> Any:
    made = np.array(array, order="C")
    if made.dtype.name != dtype or made.shape != shape:
        raise ValueError(f"input {name!r}: {made.dtype} {made.shape}, expected {dtype} {shape}")
    return made


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
