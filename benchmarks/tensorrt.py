"""Which tails does TensorRT-RTX build? Five spread cuts of each network; no GPU is needed.

    python benchmarks/tensorrt.py [--only NAME] [--cuts 5] [--capability 8.0] [--folder DIR]

Every network after the default pipeline, batch 1; then two of them in fp16 and in symmetric int8
(random calibration data: what builds is asked, not what it computes). The real parser and builder
of TensorRT-RTX run in a child process, one thread. Prints Markdown: tails built, the node that is
refused and why, seconds for a build, size of the largest engine, and how many tails give the same
bytes when they are built again. Two rows are there to be refused: silero with its If nodes, and
int8 as onnxruntime makes it by default. Seconds are of this machine, whatever else runs on it.
"table wrong" counts tails that the table of refusals takes and the builder refuses, or the reverse.
"""

import argparse
import hashlib
import logging
import statistics
import sys
import tempfile
import time
from collections import Counter
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
    digest: str
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
    engine = verdict.outcome.engine
    refused = dict(verdict.refused)
    return Tail(cut, seconds, len(engine or b""), digest(engine), refused, bool(known))


def same(done: Tail, tail: Model, capability: str) -> bool:
    """Build a tail again and compare the engines."""
    order = Order(profile(tail), capability.replace(".", ""))
    return digest(child.build(tail, order).engine) == done.digest


def digest(engine: bytes | None) -> str:
    return hashlib.sha256(engine or b"").hexdigest()


def show(name: str, model: Model, count: int, capability: str) -> tuple[int, int]:
    """Print the row of one network; return (tails built, tails)."""
    made = [(one(cut, tail, capability), tail) for cut, tail in tails(model, count)]
    built = [done for done, _ in made if done.size]
    whys = [(node, why[:110]) for done, _ in made for node, why in done.refused.items()]
    refused = [f"{n} × `{node}`: {why}" for (node, why), n in Counter(whys).items()]
    told = "<br>".join(refused).replace("|", "/")
    again = sum(same(done, tail, capability) for done, tail in made if done.size)
    wrong = [done.cut for done, _ in made if done.known == bool(done.size)]
    seconds = statistics.median(done.seconds for done in built) if built else float("nan")
    size = max((done.size for done in built), default=0) / 1e6
    print(
        f"| {name} | {len(model.graph.nodes)} | {len(built)} of {len(made)} | {seconds:.1f} "
        f"| {size:.1f} | {again} of {len(built)} | {len(wrong)} | {told} |",
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


def int8(path: Path, folder: Path, options: dict[str, bool]) -> Path:
    """Quantize per channel; with `CALIBRATION` as TensorRT takes it: symmetric, float bias."""
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
        extra_options=options,
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
        yield f"{network.name}, int8", splitc.load(int8(plain, folder, CALIBRATION))
    for network in (n for n in forms[:1] if only in n.name):
        plain = folder / f"{network.name}.plain.onnx"
        yield f"{network.name}, int8 by default", splitc.load(int8(plain, folder, {}))
    for network in (n for n in shared if "silero" in n.name and only in n.name):
        yield f"{network.name}, as loaded", splitc.load(network.make(folder), input=network.inputs)


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
