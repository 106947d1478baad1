"""TVM heads against onnxruntime: `tvm_heads.py [NAME…] [--light] [--torch] [--rounds N]`.

For each network, simplified as `compile` does it: seconds and peak memory of compiling (a process
of its own), size of the artifact, worst error against onnxruntime, and the ratio of CPU times at
1 thread: interleaved in one process, median of the rounds, machine code for the processor here.
"""

import argparse
import json
import math
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import _networks
import numpy as np

import splitc
from splitc.backend import Target
from splitc.backends.tvm import Tvm
from splitc.errors import BackendError, SplitcError
from splitc.execute import session
from splitc.feeds import draw
from splitc.model import Model
from splitc.passes.simplify import Simplify

TARGETS = {
    "x86-64-v4": Target("here", "x86_64-linux-gnu", "x86-64-v4", ("avx512f",), threads=1),
    "x86-64-v3": Target("here", "x86_64-linux-gnu", "x86-64-v3", ("avx2", "fma"), threads=1),
    "armv8": Target("here", "aarch64-linux-gnu", "generic", ("neon",), threads=1),
}
COLUMNS = (
    *("network", "compile s", "peak MB", "code MB", "worst error"),
    *("onnxruntime ms", "tvm ms", "ratio", "slowest kernel", "generic kernels"),
)
AT_LEAST_S = 0.05
"""CPU time of one measurement of one side; short networks are called several times."""


def here() -> Target:
    """Return the target with this processor's widest registers."""
    if platform.machine() != "x86_64":
        return TARGETS["armv8"]
    wide = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
    have = set(Path("/proc/cpuinfo").read_text("utf-8").split())
    return TARGETS["x86-64-v4" if wide <= have else "x86-64-v3"]


def loaded(path: Path, inputs: tuple[str, ...]) -> Model:
    return Simplify().run(splitc.load(path, input=inputs))


def compile_here(path: Path, inputs: tuple[str, ...], folder: Path) -> None:
    """Compile in this process, and print the facts as JSON."""
    model, backend = loaded(path, inputs), Tvm()
    target = here()
    start = time.process_time()
    artifact = backend.compile(model, target)
    seconds = time.process_time() - start
    for name, data in artifact.files.items():
        (folder / name).write_bytes(data)
    print(json.dumps({**artifact.facts, "s": seconds, "peak_mb": peak_mb()}))


def peak_mb() -> float:
    """Return this program's largest resident size (getrusage would count the parent's, too)."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def cpu(call: Callable[[], object], times: int) -> float:
    start = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - start) / times


def compare(model: Model, folder: Path, rounds: int) -> dict[str, Any]:
    """Return the worst error, the two times, the ratio and the slowest kernel."""
    from splitc.backend import Artifact

    artifact = Artifact("tvm", "tvm-vm", here(), folder=folder)
    compiled = Tvm().load(artifact)
    feeds = draw(model, {t.name: model.facts[t.name] for t in model.inputs}, seed=0)
    oracle = session(model, threads=1)
    given = {i.name: feeds[i.name] for i in oracle.get_inputs()}
    names = [o.name for o in oracle.get_outputs()]
    reference = dict(zip(names, oracle.run(names, given), strict=True))
    error = max(worst(compiled(feeds)[name], reference[name]) for name in names)
    sides = (lambda: oracle.run(names, given), lambda: compiled(feeds))
    times = max(3, min(200, int(AT_LEAST_S / max(cpu(sides[0], 3), 1e-6))))
    for side in sides:
        cpu(side, times)
    seen = [(cpu(sides[0], times), cpu(sides[1], times)) for _ in range(rounds)]
    return {
        "error": error,
        "ort_ms": 1e3 * median(a for a, _ in seen),
        "tvm_ms": 1e3 * median(b for _, b in seen),
        "ratio": median(b / a for a, b in seen),
        "slowest": slowest(compiled, feeds),
    }


def worst(got: Any, want: Any) -> float:
    scale = float(np.abs(want).max())
    return float(np.abs(got.astype(np.float64) - want).max()) / (scale or 1.0)


def slowest(compiled: Any, feeds: Mapping[str, Any]) -> str:
    """Return the kernel with the largest share of the CPU time, by the machine's own instrument.

    Calls of the machine itself ("vm.…") are left out: the instrument is most of what they take.
    """
    import tvm_ffi

    spent: defaultdict[str, float] = defaultdict(float)
    started = [0.0]

    def watch(
        function: object, name: str, before: bool, result: object, *arguments: object
    ) -> None:
        del function, result, arguments
        if before:
            started[0] = time.process_time()
        else:
            spent[name] += time.process_time() - started[0]

    runner = compiled._compiled
    runner.machine["set_instrument"](tvm_ffi.convert(watch))
    for _ in range(5):
        runner(feeds)
    kernels = {name: s for name, s in spent.items() if not name.startswith("vm.")}
    name = max(kernels, key=lambda key: kernels[key])
    return f"{name[:48]} {100 * spent[name] / sum(kernels.values()):.0f} %"


def row(network: _networks.Network, folder: Path, rounds: int) -> tuple[str, float]:
    """Measure one network; return its line, and the ratio (NaN where it was refused)."""
    path = network.make(folder)
    out = folder / network.name
    out.mkdir(exist_ok=True)
    words = [sys.executable, __file__, "--compile", str(path), str(out), *network.inputs]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return f"| {network.name} | {lines[-1][:120] if lines else 'failed'} |", math.nan
    facts = json.loads(done.stdout.splitlines()[-1])
    try:
        found = compare(loaded(path, network.inputs), out, rounds)
    except SplitcError as error:
        return f"| {network.name} | {error.args[0]} |", math.nan
    listed = facts["generic_kernels"].split()
    cells = (
        network.name,
        f"{facts['s']:.1f}",
        f"{facts['peak_mb']:.0f}",
        f"{facts['code_bytes'] / 1e6:.2f}",
        f"{found['error']:.0e}",
        f"{found['ort_ms']:.3f}",
        f"{found['tvm_ms']:.3f}",
        f"{found['ratio']:.2f}",
        found["slowest"],
        " ".join(listed[:4]) + (" …" if len(listed) > 4 else ""),
    )
    line = f"| {' | '.join(cells)} |"
    return line, found["ratio"]


def chosen(args: argparse.Namespace) -> list[_networks.Network]:
    networks = _networks.shared()
    networks += _networks.light() if args.light else []
    networks += _networks.exported() if args.torch else []
    return [n for n in networks if not args.names or n.name in args.names]


def main() -> None:
    if sys.argv[1:2] == ["--compile"]:
        compile_here(Path(sys.argv[2]), tuple(sys.argv[4:]), Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--light", action="store_true", help="the light models of onnx too")
    parser.add_argument("--torch", action="store_true", help="exported torch networks too")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    networks = chosen(args)
    if not networks:
        print("no networks here: give --light, --torch, or the folder ../shared")
        return
    try:
        Tvm()
    except BackendError as error:
        print(error.args[0])
        return
    target = here()
    print(f"1 thread; code for {target.cpu} {' '.join(target.features)}; CPU time, batch 1\n")
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---" * len(COLUMNS) + "|")
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        for network in networks:
            line, ratio = row(network, Path(name), args.rounds)
            print(line, flush=True)
            ratios.append(ratio)
    good = [ratio for ratio in ratios if not math.isnan(ratio)]
    if good:
        mean = math.exp(sum(map(math.log, good)) / len(good))
        print(f"\n{len(good)} of {len(ratios)} compiled;", end=" ")
        print(f"ratio: geometric mean {mean:.2f}, largest {max(good):.2f}")


if __name__ == "__main__":
    main()
