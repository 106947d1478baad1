"""Which tails does TensorRT-RTX build? Five spread cuts of each network; no GPU is needed.

    python benchmarks/tensorrt.py [--only NAME] [--cuts 5] [--capability 8.0] [--folder DIR]

Every network after the default pipeline, batch 1; then two of them in fp16 and in symmetric int8
(random calibration data: what builds is asked, not what it computes). The real parser and builder
of TensorRT-RTX run in a child process, one thread. Prints Markdown: tails built, the node that is
refused and why, seconds for a build, size of the engine, and whether a second build of the first
tail gives the same bytes. Seconds are of this machine, whatever else runs on it.
"""

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _networks
import numpy as np
import onnx

import splitc
from splitc import pipeline
from splitc.backends.tensorrt import child, judge, refusals
from splitc.backends.tensorrt.child import RTX, Order
from splitc.backends.tensorrt.recipe import profile
from splitc.cuts import Cut
from splitc.feeds import draw_inputs
from splitc.model import Model
from splitc.split import split

FORMS = ("cifar10_resnet20_jpegft", "imagenet_mobilenet_v2_1.0_224")
LIGHT = ("light_resnet50", "light_densenet121", "light_inception_v1", "light_squeezenet")
CALIBRATION = {"QuantizeBias": False, "ActivationSymmetric": True, "WeightSymmetric": True}


@dataclass(frozen=True)
class Tail:
    """What became of one tail. `known`: the table of refusals alone knew."""

    cut: str
    seconds: float
    size: int
    refused: dict[str, str]
    known: bool


def tails(model: Model, count: int) -> Iterator[tuple[str, Model]]:
    """Yield (cut, tail) of `count` cuts, evenly spread over those that have a tail."""
    found = [row.cut for row in splitc.cuts(model).cuts if row.cut.kind != "output"]
    places = np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)
    for cut in (found[place] for place in dict.fromkeys(places.tolist())):
        tail = split(model, cut).tail
        assert tail is not None
        yield named(cut), tail


def named(cut: Cut) -> str:
    return "@input" if cut.kind == "input" else ",".join(cut.tensors)


def one(cut: str, tail: Model, capability: str) -> Tail:
    """Build one tail."""
    known = refusals.refused(tail, rtx=True)
    begin = time.perf_counter()
    verdict = judge.judge(tail, capability)
    seconds = time.perf_counter() - begin
    size = len(verdict.outcome.engine or b"")
    return Tail(cut, seconds, size, dict(verdict.refused), bool(known))


def same(tail: Model, capability: str) -> bool:
    """Build a tail twice and compare the engines."""
    order = Order(profile(tail), capability.replace(".", ""))
    return child.build(tail, order).engine == child.build(tail, order).engine is not None


def show(name: str, model: Model, count: int, capability: str) -> tuple[int, int]:
    """Print the row of one network; return (tails built, tails)."""
    made = [(one(cut, tail, capability), tail) for cut, tail in tails(model, count)]
    built = [done for done, _ in made if done.size]
    refused = [f"{done.cut}: `{n}`: {w}" for done, _ in made for n, w in done.refused.items()]
    again = next((same(tail, capability) for done, tail in made if done.size), None)
    wrong = [done.cut for done, _ in made if done.known == bool(done.size)]
    seconds = statistics.median(done.seconds for done in built) if built else float("nan")
    size = max((done.size for done in built), default=0) / 1e6
    equal = {None: "–", True: "yes", False: "NO"}[again]
    print(
        f"| {name} | {len(model.graph.nodes)} | {len(built)} of {len(made)} | {seconds:.1f} "
        f"| {size:.1f} | {equal} | {len(wrong)} | {'<br>'.join(refused).replace('|', '/')} |",
        flush=True,
    )
    return len(built), len(made)


def optimised(path: Path, inputs: tuple[str, ...] = ()) -> Model:
    model = splitc.load(path, input=inputs)
    return pipeline.run(pipeline.parse(pipeline.DEFAULT), model)


def fp16(path: Path, folder: Path) -> Path:
    """Convert the whole network, its inputs and outputs too."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    target = folder / f"{path.stem}.fp16.onnx"
    onnx.save(convert_float_to_float16(onnx.load(path)), target)
    return target


class Calibration:
    """Random inputs for onnxruntime's quantizer."""

    def __init__(self, model: Model) -> None:
        self._left = iter([draw_inputs(model, seed=seed) for seed in range(2)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._left, None)


def int8(path: Path, folder: Path) -> Path:
    """Quantize as TensorRT takes it: symmetric int8, per channel, float bias."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    target = folder / f"{path.stem}.int8.onnx"
    quantize_static(
        path,
        target,
        Calibration(splitc.load(path)),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        extra_options=dict(CALIBRATION),
    )
    return target


def networks(folder: Path, only: str) -> Iterator[tuple[str, Model]]:
    """Yield (name, model) of every row."""
    shared = _networks.shared()
    if not shared:
        print("The folder 'shared' with real networks is absent: they are left out.\n")
    light = [n for n in _networks.light() if n.name in LIGHT]
    for network in (n for n in (*shared, *light) if only in n.name):
        yield network.name, optimised(network.make(folder), network.inputs)
    forms = [n for n in shared if n.name in FORMS] or light[-2:]
    for network in (n for n in forms if only in n.name):
        plain = folder / f"{network.name}.plain.onnx"
        optimised(network.make(folder), network.inputs).save(plain)
        yield f"{network.name}, fp16", splitc.load(fp16(plain, folder))
        yield f"{network.name}, int8", splitc.load(int8(plain, folder))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", default="", help="networks whose name contains this")
    options.add_argument("--cuts", type=int, default=5, help="cuts of each network")
    options.add_argument("--capability", default="8.0", help="compute capability to build for")
    options.add_argument("--folder", type=Path, help="keep the generated networks here")
    given = options.parse_args()
    if missing := RTX.missing():
        print(f"not run: {missing}")
        return
    print(f"TensorRT-RTX {child.version(RTX)}, built for {given.capability}, not run (no GPU).\n")
    print("| network | nodes | tails built | s | MB | same bytes | table wrong | refused |")
    print("|---|--:|--:|--:|--:|---|--:|---|")
    logging.disable(logging.WARNING)  # of the quantizer
    built = total = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name, model in networks(folder, given.only):
            print(f"{name} …", file=sys.stderr, flush=True)
            done = show(name, model, given.cuts, given.capability)
            built, total = built + done[0], total + done[1]
    print(f"\n{built} of {total} tails built.")


if __name__ == "__main__":
    main()
