"""Executed instructions of aarch64 heads: `python benchmarks/tvm_instructions.py [NAME…]`.

Each network is compiled for the profile raspberry-pi-4 (cortex-a72) and run by the C++ runner, and
its ONNX form by onnxruntime's aarch64 wheel, both under qemu-user at 1 thread with a plugin that
counts what is executed. Loading and the first run do not count: of the runner, whose start is the
same each time, the difference of `MANY` inferences and one is taken; onnxruntime's program, whose
start differs by more than a small network takes, tells the plugin where an inference ends, by a
system call. Instructions are not cycles: caches, loads and issue width are invisible. Says what is
missing, and exits with 0, where it cannot run.

As root on Debian: apt-get install gcc g++-aarch64-linux-gnu qemu-user, then
python -m splitc.backends.tvm.emulation aarch64.
"""

import argparse
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import _arm_python
import _networks
import numpy as np
from _arm_python import MissingError
from numpy.typing import NDArray

import splitc
from splitc.backend import Target
from splitc.backends.tvm import Tvm
from splitc.backends.tvm.session import runtime_folder
from splitc.errors import SplitcError
from splitc.execute import evaluate
from splitc.feeds import draw
from splitc.model import Model
from splitc.passes.simplify import Simplify

PI = Target("raspberry-pi-4", "aarch64-linux-gnu", "cortex-a72", ("neon",), threads=1)
NETWORKS = (
    *("imagenet_mobilenet_v2_1.0_224", "torch_resnet18", "cifar10_resnet20_jpegft"),
    *("imagenet_mobilenet_v1_0.25_224_fp32", "sst2_tiny_transformer"),
)
MANY = 4
TOLERANCE = 1e-4
COLUMNS = ("network", "TVM, million", "onnxruntime, million", "ratio", "worst errors")
WITH_ONNXRUNTIME = """
import os, sys
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
given = dict(numpy.load(sys.argv[2]))
for _ in range(int(sys.argv[4])):
    made = session.run(None, given)
    os.getppid()
names = [output.name for output in session.get_outputs()]
numpy.savez(sys.argv[3], **dict(zip(names, made)))
"""


@dataclass(frozen=True)
class Counter:
    """qemu with the plugin: `qemu` and `plugin` are files; the count goes through `folder`."""

    qemu: str
    plugin: Path
    folder: Path

    def __call__(self, root: Path, variables: Mapping[str, str], words: list[str]) -> list[int]:
        """Run a program of `root`; return the instructions up to each mark, and up to its end."""
        file = self.folder / "count"
        file.unlink(missing_ok=True)
        command = [self.qemu, "-cpu", PI.cpu, "-L", str(root)]
        command += ["-plugin", f"{self.plugin},to={file}"]
        command += [word for pair in variables.items() for word in ("-E", "=".join(pair))]
        done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
        if done.returncode or not file.is_file():
            raise MissingError(f"emulation failed: {done.stderr.strip()[-200:] or done.returncode}")
        return [int(line) for line in file.read_text("utf-8").splitlines()]


def counter(folder: Path) -> Counter:
    """Build the plugin; raises `MissingError`."""
    qemu, compiler = shutil.which("qemu-aarch64"), shutil.which("gcc")
    if qemu is None or compiler is None:
        lacking = "qemu-aarch64 (the static one takes no plugin)" if qemu is None else "gcc"
        raise MissingError(f"{lacking} is not installed: apt-get install gcc qemu-user")
    if not (runtime_folder("aarch64") / "run").is_file():
        raise MissingError("no TVM runtime: python -m splitc.backends.tvm.emulation aarch64")
    said = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=True).stdout
    interface = 1 if int(said.split("version ")[1].split(".")[0]) < 9 else 2
    source, plugin = Path(__file__).with_suffix(".c"), folder / "libcount.so"
    words = [compiler, "-O2", "-shared", "-fPIC", f"-DAPI={interface}", str(source)]
    subprocess.run([*words, "-o", str(plugin)], check=True)
    return Counter(qemu, plugin, folder)


def measure(network: _networks.Network, folder: Path, count: Counter, python: Path) -> str:
    """Return the network's line."""
    model = Simplify().run(splitc.load(network.make(folder), input=network.inputs))
    feeds = draw(model, {t.name: model.facts[t.name] for t in model.inputs}, seed=0)
    want = evaluate(model, feeds)
    place = folder / network.name
    place.mkdir()
    ours, tvm_error = _tvm(model, feeds, want, place, count)
    theirs, error = _onnxruntime(model, feeds, want, place, count, python)
    cells = (network.name, f"{ours / 1e6:.1f}", f"{theirs / 1e6:.1f}", f"{ours / theirs:.2f}")
    verdict = "" if max(tvm_error, error) <= TOLERANCE else ", **not equal**"
    return f"| {' | '.join(cells)} | {tvm_error:.0e}, {error:.0e}{verdict} |"


def _tvm(
    model: Model,
    feeds: Mapping[str, Any],
    want: Mapping[str, Any],
    place: Path,
    count: Counter,
) -> tuple[float, float]:
    """Return the instructions per inference, and the worst error."""
    for name, data in Tvm().compile(model, PI).files.items():
        (place / name).write_bytes(data)
    runtime = runtime_folder("aarch64")
    for side in ("in", "out"):
        (place / side).mkdir()
    for index, tensor in enumerate(model.inputs):
        (place / f"in/{index}.bin").write_bytes(np.ascontiguousarray(feeds[tensor.name]).tobytes())
    words = [str(runtime / "run"), str(place), str(place / "in"), str(place / "out"), "1"]
    variables = {"LD_LIBRARY_PATH": str(runtime)}
    once, more = (count(runtime, variables, [*words, str(times)])[-1] for times in (1, MANY))
    made = {}
    for index, (name, value) in enumerate(want.items()):
        raw = (place / f"out/{index}.bin").read_bytes()
        made[name] = np.frombuffer(raw, value.dtype).reshape(value.shape)
    return (more - once) / (MANY - 1), worst(made, want)


def _onnxruntime(
    model: Model,
    feeds: Mapping[str, Any],
    want: Mapping[str, Any],
    place: Path,
    count: Counter,
    python: Path,
) -> tuple[float, float]:
    """Return the instructions per inference, and the worst error."""
    model.save(place / "model.onnx")
    np.savez(place / "x.npz", **feeds)
    files = [str(place / name) for name in ("model.onnx", "x.npz", "y.npz")]
    words = [str(_arm_python.python(python)), "-c", WITH_ONNXRUNTIME, *files]
    variables = _arm_python.environment(python)
    *marks, _ = count(python, variables, [*words, str(MANY)])
    spent = median(later - earlier for earlier, later in pairwise(marks[-MANY:]))
    return spent, worst(np.load(place / "y.npz"), want)


def worst(got: Mapping[str, NDArray[Any]], want: Mapping[str, NDArray[Any]]) -> float:
    """Return max|a−b| / max|b|, the worst over outputs."""
    errors = [np.abs(got[n] - want[n]).max() / (np.abs(want[n]).max() or 1.0) for n in want]
    return float(max(errors))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NETWORKS)
    names = parser.parse_args().names
    known = (*_networks.shared(), *_networks.light(), *_networks.exported())
    chosen = [network for network in known if network.name in names]
    with tempfile.TemporaryDirectory(prefix="splitc-") as name:
        try:
            Tvm()
            count, python = counter(Path(name)), _arm_python.root()
        except (MissingError, SplitcError) as error:
            print(f"not run: {error.args[0]}")
            return
        print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
        for network in chosen:
            try:
                line = measure(network, Path(name), count, python)
            except (MissingError, SplitcError) as error:
                line = f"| {network.name} | {error.args[0]} |"
            print(line, flush=True)


if __name__ == "__main__":
    main()
