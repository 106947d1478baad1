"""What int8 costs in accuracy and gives in speed, on networks with true float weights.

    python benchmarks/int8.py [--only NAME] [--repeat 40]
    python benchmarks/int8.py --builds      does TensorRT-RTX build these graphs?

Calibrated on training images (kws: on 256 clips that are not scored; yolox: on ImageNet's), scored
with exact 8-bit products (session.x64quantprecision = 1) on the labelled samples of ../shared.
drop: points of top-1, or of mAP, with its standard error, paired on the same samples. Speed: time
of the CPU in float32 / in int8, in onnxruntime, batch 1, one thread, interleaved, medians;
`exact`: with exact products; `plain`: with onnxruntime's default, which saturates without VNNI.
"""

import argparse
import csv
import io
import os
import platform
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import _coco
import numpy as np
import onnx_ir
import onnxruntime
from _cifar import SHARED, cifar10
from numpy.typing import NDArray
from PIL import Image

import splitc
from splitc.accuracy import predict
from splitc.backends.tensorrt.child import RTX
from splitc.backends.tensorrt.judge import judge
from splitc.data import Dataset
from splitc.model import Model
from splitc.narrow import EXACT_INT8
from splitc.passes.quantize import Quantize
from splitc.profiler.machine import cpuinfo, features
from splitc.quant.share import int8_mac_share

Array = NDArray[Any]
Score = Callable[[Model], Array]
"""Returns each sample's result: 1 for a hit, 0 for a miss; for mAP what `_coco.matched` made."""

VARIANTS = {
    "per tensor": Quantize(per_channel=False, bias_correction=False),
    "per channel": Quantize(bias_correction=False),
    "+ bias correction": Quantize(),
}
_MIXED = Quantize(mixed=True)
FORMS = {"int8, symmetric": True, "uint8, onnxruntime's": False}


@dataclass(frozen=True)
class Network:
    """`known`: to calibrate with; `results`: a value for each sample that is scored."""

    name: str
    load: Callable[[str], tuple[Dataset, Score]]
    unit: str = "top-1"
    method: str = "minmax"
    limits_db: tuple[float, ...] = (20.0,)

    @property
    def variants(self) -> dict[str, Quantize]:
        """What is measured: title → pass."""
        made = {f"mixed, {db:g} dB": replace(_MIXED, min_snr=db) for db in self.limits_db}
        return {n: replace(step, method=self.method) for n, step in (VARIANTS | made).items()}


def _imagenet(part: str, size: int, step: int) -> tuple[Array, Array]:
    with tarfile.open(SHARED / "data" / f"imagenet_{part}.tar") as tar:
        text = tar.extractfile("labels.csv")
        assert text is not None
        rows = list(csv.DictReader(io.StringIO(text.read().decode())))[::step]
        pictures = [Image.open(_coco._member(tar, row["file"])).convert("RGB") for row in rows]
    sized = [p.resize((size, size), Image.Resampling.BILINEAR) for p in pictures]
    x = np.stack([np.asarray(p, np.float32).transpose(2, 0, 1) for p in sized])
    return x / np.float32(127.5) - 1, np.array([int(row["label"]) for row in rows])


def hits(data: Dataset) -> Score:
    """Return a function that says of each sample whether its largest logit is the label's."""
    assert data.labels is not None
    labels = data.labels

    def score(model: Model) -> Array:
        logits = next(iter(predict(model, data).values()))
        made: Array = logits.reshape(len(labels), -1).argmax(axis=1) == labels
        return made.astype(np.float64)

    return score


def imagenet(name: str) -> tuple[Dataset, Score]:
    """Return 250 training images, and the score on 650 of validation."""
    x, y = _imagenet("val650_227", 224, 1)
    known, _ = _imagenet("train1000_224", 224, 4)
    return Dataset({name: known}), hits(Dataset({name: x}, y))


def cifar(name: str) -> tuple[Dataset, Score]:
    """Return 256 training images, and the score on 2,000 of the test split."""
    return cifar10("train", name, 256), hits(cifar10("test2000", name))


def keywords(name: str) -> tuple[Dataset, Score]:
    """Return 256 clips, and the score on the other 2,189."""
    clips = np.load(SHARED / "data" / "kws_mfcc_2445.npz")
    order = np.random.default_rng(0).permutation(len(clips["y"]))
    x, y = clips["x"].astype(np.float32)[:, None][order], clips["y"].astype(int)[order]
    return Dataset({name: x[:256]}), hits(Dataset({name: x[256:]}, y[256:]))


def coco(name: str) -> tuple[Dataset, Score]:
    """Return 64 images of ImageNet, and what is found on 80 of COCO."""
    x, scales, truths = _coco.coco80()

    def score(model: Model) -> Array:
        (raw,) = predict(model, Dataset({name: x})).values()
        found = [_coco.decoded(one, scale) for one, scale in zip(raw, scales, strict=True)]
        made = np.empty(len(found), object)
        made[:] = [_coco.matched(f, t) for f, t in zip(found, truths, strict=True)]
        return made

    return Dataset({name: _coco.calibration(64)}), score


NETWORKS = (
    Network("imagenet_mobilenet_v1_0.25_224_fp32", imagenet, limits_db=(20.0, 26.0)),
    Network("cifar10_resnet20_jpegft", cifar),
    Network("cifar10_resnet56_jpegft", cifar),
    Network("kws_dscnn_mlperf", keywords),
    Network("coco_yolox_nano_416", coco, "mAP", "entropy", (12.0,)),
)


def value(results: Array) -> float:
    """Return top-1 or mAP, percent."""
    if results.dtype == object:
        return _coco.average_precision(list(results))
    return 100 * float(results.mean())


def drop(before: Array, after: Array) -> tuple[float, float]:
    """Return the drop in points and its standard error, paired on the samples.

    For top-1 that of the mean of differences; for mAP the spread of 200 paired resamples.
    """
    lost = value(before) - value(after)
    if before.dtype != object:
        return lost, 100 * float((before - after).std(ddof=1)) / len(before) ** 0.5
    rng = np.random.default_rng(0)
    drawn = (rng.integers(0, len(before), len(before)) for _ in range(200))
    return lost, float(np.std([value(before[at]) - value(after[at]) for at in drawn], ddof=1))


def session(model: Model, exact: bool) -> onnxruntime.InferenceSession:
    """Open a session on one thread; onnxruntime's default products unless `exact`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if exact:
        options.add_session_config_entry(*EXACT_INT8)
    source = onnx_ir.to_proto(model.ir).SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def ratios(before: Model, after: Model, feeds: dict[str, Array], repeat: int) -> list[float]:
    """Return time of float32 / time of int8 with exact and with plain products, interleaved."""
    opened = [session(before, False), session(after, True), session(after, False)]
    times: list[list[float]] = [[], [], []]
    for turn in range(repeat + 3):
        for place, one in enumerate(opened):
            begin = time.thread_time()
            one.run(None, feeds)
            if turn >= 3:
                times[place].append(time.thread_time() - begin)
    base, *others = (float(np.median(found)) for found in times)
    return [base / other for other in others]


def rows(network: Network, repeat: int) -> None:
    """Print the rows of one network."""
    before = splitc.load(SHARED / "models" / f"{network.name}.onnx")
    known, score = network.load(before.inputs[0].name)
    reference = score(before)
    print(
        f"\n**{network.name}**: {network.unit} in float32 {value(reference):.2f} %, "
        f"{len(reference)} samples; "
        f"{network.method} ranges of {len(known)}\n"
    )
    print("| form | variant | drop, points | int8 MACs | weights | exact | plain |")
    print("|---|---|--:|--:|--:|--:|--:|", flush=True)
    for form, symmetric in FORMS.items():
        for title, step in network.variants.items():
            made = replace(step, symmetric=symmetric, data=known).run(before)
            lost, spread = drop(reference, score(made))
            feeds = next(known.take(slice(1)).feeds(before, 1))
            exact, plain = ratios(before, made, feeds, repeat)
            small = made.weight_bytes() / before.weight_bytes()
            print(
                f"| {form} | {title} | {lost:.2f} ± {spread:.2f} | {int8_mac_share(made):.1%} "
                f"| × {small:.2f} | × {exact:.2f} | × {plain:.2f} |",
                flush=True,
            )


def builds(network: Network) -> None:
    """Print whether TensorRT-RTX's parser and builder, which need no GPU, take the graphs."""
    if missing := RTX.missing():
        print(f"not asked: {missing}")
        return
    before = splitc.load(SHARED / "models" / f"{network.name}.onnx")
    for form, symmetric in FORMS.items():
        verdict = judge(Quantize(symmetric=symmetric, bias_correction=False).run(before), "8.9")
        why = next(iter(verdict.refused.values()), "refused")
        found = "builds" if verdict.outcome.engine is not None else f"refused: {why}"
        print(f"| {network.name} | {form} | {found} |", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", default="", help="networks whose name contains this")
    options.add_argument("--repeat", type=int, default=40, help="timed runs of each session")
    options.add_argument("--builds", action="store_true", help="build, do not measure")
    given = options.parse_args()
    if not (SHARED / "models").is_dir():
        print("The folder 'shared' with real networks is absent: nothing can be measured.")
        return
    found = " ".join(features(cpuinfo())) or "unknown instruction sets"
    print(f"{platform.machine()}, {os.cpu_count()} CPUs ({found}), ", end="")
    print(f"onnxruntime {onnxruntime.__version__}, one thread; medians of {given.repeat}.")
    for network in NETWORKS:
        if given.only in network.name and given.builds:
            builds(network)
        elif given.only in network.name:
            rows(network, given.repeat)


if __name__ == "__main__":
    main()
