"""What `splitc compile` costs: whole processes, their time and their memory.

    python benchmarks/compile.py [--repeat 3] [--without-torch] [--large GB] [NAME…]

Prints Markdown. Against each compile stands a process that imports onnxsim, simplifies the file
path to path and opens one onnxruntime session on the result. Both run in turn, `--repeat` times;
figures are medians. Targets: time at most 2.5 x that + the self-test's inferences (four samples
through the whole and through the halves) + 2 s; memory at most 2.5 x the weights + 2 x the peak
activations + 300 MB. Memory is the largest sum of resident bytes over the process and its
children, sampled every 20 ms, and at least the kernel's own high-water mark of the process. (Not
`ru_maxrss`: a child inherits that from the process that started it.)

`--without-torch` hides an installed torch from both sides: onnxsim imports it when it is there.
`--large` compiles a model of that size with external data; it needs three times that on the disk.
"""

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import _networks
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

import splitc

NAMES = (
    "imagenet_mobilenet_v2_1.0_224",
    "coco_yolox_nano_416",
    "sst2_tiny_transformer",
    "light_resnet50",
    "light_vgg19",
)
SCENARIO = ("--head", "raspberry-pi-4", "--tail", "nvidia-a100", "--link", "wifi")
BASELINE = """
import sys, onnxsim, onnxruntime
onnxsim.simplify(sys.argv[1], check_n=0, output_path=sys.argv[2])
onnxruntime.InferenceSession(sys.argv[2], providers=["CPUExecutionProvider"])
"""
MB = 1e6
LAYER = 4096
"""Width of the large model's layers: 64 MB of weights each."""


@dataclass(frozen=True)
class Run:
    """One process: wall seconds, and the peak of resident bytes, children included."""

    seconds: float
    peak: int


def resident(session: int) -> int:
    """Return the resident bytes of all processes of a session."""
    total = 0
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
            if int(fields[3]) == session:
                total += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    return total


def high_water(process: int) -> int:
    """Return the kernel's own peak of a process since its exec, 0 when it has ended."""
    try:
        lines = Path("/proc", str(process), "status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def watch(leader: int, peak: list[int], over: threading.Event) -> None:
    """Sample until `over`; the leader's session is what it and its children run in."""
    while not over.wait(0.02):
        peak.append(max(peak.pop(), resident(leader), high_water(leader)))


def run(command: Sequence[str | Path], env: dict[str, str]) -> Run:
    """Run a process to its end; exit with what it said if it fails."""
    with tempfile.TemporaryFile("w+") as said:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command, env=env, stdout=said, stderr=said, start_new_session=True
        )
        peak, over = [0], threading.Event()
        watcher = threading.Thread(target=watch, args=(process.pid, peak, over))
        watcher.start()
        process.wait()
        seconds = time.perf_counter() - begin
        over.set()
        watcher.join()
        if process.returncode:
            said.seek(0)
            sys.exit(f"{command}: exit {process.returncode}\n{said.read()[-2000:]}")
    return Run(seconds, peak[0])


def environment(folder: Path, hide_torch: bool) -> dict[str, str]:
    """Return the environment of both sides; a module `torch` in front of the real one hides it."""
    if not hide_torch:
        return dict(os.environ)
    hidden = folder / "hidden"
    hidden.mkdir(exist_ok=True)
    (hidden / "torch.py").write_text("raise ImportError('hidden by the benchmark')\n")
    return {**os.environ, "PYTHONPATH": str(hidden)}


def compile_command(path: Path, inputs: Sequence[str], out: Path) -> list[str | Path]:
    """Return the command as a user types it."""
    sizes = [part for text in inputs for part in ("--input", text)]
    command = [Path(sys.executable).with_name("splitc"), "compile", path, *SCENARIO, *sizes]
    return [*command, "-o", out, "--progress", "none"]


def facts(path: Path, inputs: Sequence[str]) -> tuple[int, int, float]:
    """Return (weight bytes, peak activation bytes, seconds of one inference on one thread)."""
    from splitc.cost.memory import Memory
    from splitc.execute import run as run_session
    from splitc.execute import session
    from splitc.feeds import draw_inputs

    model = splitc.load(path, input=list(inputs))
    opened, feeds = session(model), draw_inputs(model)
    names = [tensor.name for tensor in model.outputs]
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        run_session(opened, feeds, names, path.name)
        times.append(time.perf_counter() - begin)
    peak = Memory(model).peak({node.id for node in model.graph.nodes})
    return model.weight_bytes(), peak, statistics.median(times)


def row(network: _networks.Network, folder: Path, args: argparse.Namespace) -> str:
    """Measure one network; return its line of the table."""
    name, path, inputs = network.name, network.make(folder), network.inputs
    env = environment(folder, args.without_torch)
    base = [sys.executable, "-c", BASELINE, path, folder / "simplified.onnx"]
    theirs, ours = [], []
    for _ in range(args.repeat):
        theirs.append(run(base, env))
        ours.append(run(compile_command(path, inputs, folder / "bundle"), env))
    weights, activations, inference = facts(path, inputs)
    old = statistics.median(r.seconds for r in theirs)
    new = statistics.median(r.seconds for r in ours)
    limit = 2.5 * old + 8 * inference + 2
    peak = statistics.median(r.peak for r in ours)
    most = 2.5 * weights + 2 * activations + 300 * MB
    other = statistics.median(r.peak for r in theirs)
    return (
        f"| {name} | {old:.2f} | {new:.2f} | {new / old:.2f} | {limit:.2f} | {verdict(new, limit)} "
        f"| {weights / MB:.1f} | {activations / MB:.1f} | {other / MB:.0f} | {peak / MB:.0f} "
        f"| {most / MB:.0f} | {verdict(peak, most)} |"
    )


def verdict(value: float, limit: float) -> str:
    """Return the words of the last column."""
    return "met" if value <= limit else "**missed**"


def large(folder: Path, gigabytes: float) -> Path:
    """Write a chain of MatMul and Relu with its weights beside it, layer by layer."""
    rng = np.random.default_rng(0)
    layers = max(2, round(gigabytes * 1e9 / (LAYER * LAYER * 4)))
    nodes, weights = [], []
    path, size = folder / "large.onnx", LAYER * LAYER * 4
    with (folder / "large.data").open("wb") as data:
        for index in range(layers):
            drawn = rng.standard_normal((LAYER, LAYER), np.float32)
            drawn *= np.float32((2 / LAYER) ** 0.5)
            data.write(drawn.tobytes())
            weight = TensorProto(name=f"w{index}", data_type=1, dims=(LAYER, LAYER))
            weight.data_location = TensorProto.EXTERNAL
            place = {"location": "large.data", "offset": index * size, "length": size}
            for key, value in place.items():
                weight.external_data.add(key=key, value=str(value))
            weights.append(weight)
            nodes.append(helper.make_node("MatMul", [f"r{index}", f"w{index}"], [f"m{index}"]))
            nodes.append(helper.make_node("Relu", [f"m{index}"], [f"r{index + 1}"]))
    ends = [helper.make_tensor_value_info(n, 1, (1, LAYER)) for n in ("r0", f"r{layers}")]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), path)
    return path


def large_row(folder: Path, gigabytes: float, args: argparse.Namespace) -> str:
    """Compile the large model once at an inner cut; return its line."""
    free = shutil.disk_usage(folder).free
    if free < 3.5e9 * gigabytes:
        return f"| {gigabytes:g} GB | not run: {free / 1e9:.0f} GB of disk are free |"
    path = large(folder, gigabytes)
    weights, env = (folder / "large.data").stat().st_size, environment(folder, args.without_torch)
    middle = f"r{weights // (LAYER * LAYER * 8)}"
    command = [*compile_command(path, (), folder / "bundle"), "--cut", middle, "--json"]
    made = run(command, env)
    most = 2.5 * weights + 300 * MB
    return (
        f"| {weights / 1e9:.2f} GB, external data, cut at {middle} | {made.seconds:.1f} "
        f"| {made.peak / MB:.0f} | {most / MB:.0f} | {verdict(made.peak, most)} |"
    )


def networks(names: Sequence[str]) -> list[_networks.Network]:
    """Return the networks called `names`, those that are here."""
    known = {n.name: n for n in (*_networks.shared(), *_networks.light(), *_networks.exported())}
    for name in names:
        if name not in known:
            print(f"{name}: not here (it lies in the folder 'shared' beside the checkout)\n")
    return [known[name] for name in names if name in known]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--without-torch", action="store_true")
    parser.add_argument("--large", type=float, default=3.0, help="GB, 0 = leave it out")
    args = parser.parse_args()
    torch = "hidden" if args.without_torch else "visible to both sides if installed"
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, onnxruntime {onnxruntime.__version__} with "
        f"its own number of threads; torch {torch}; medians of {args.repeat}, interleaved.\n"
    )
    print(
        "| network | onnxsim + session s | compile s | ratio | target s | time | weights MB "
        "| peak activations MB | theirs MB | peak MB | target MB | memory |\n" + "|---" * 12 + "|"
    )
    with tempfile.TemporaryDirectory(prefix="splitc-bench-") as name:
        folder = Path(name)
        for network in networks(args.names):
            print(row(network, folder, args), flush=True)
        if args.large:
            print("\n| model | compile s | peak MB | target MB | memory |\n|---|---|---|---|---|")
            print(large_row(folder, args.large, args), flush=True)


if __name__ == "__main__":
    main()
