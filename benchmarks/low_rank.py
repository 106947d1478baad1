"""Accuracy against MACs and bytes of low rank, without training and after a short one.

    python benchmarks/low_rank.py [--only NAME] [--train]

Each network of ../shared, simplified, loses a share of its MACs by `low-rank{ratio = …}`; the
metric is top-1 on labelled data that nothing was tuned on, the drop is paired on the same samples
with its 95 % interval. "data": factors fitted to calibration data. `--train`: fine-tuned towards
the original too, by the recipe that is printed. One thread. Prints Markdown.
"""

import argparse
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from splitc.accuracy import Gate, Top1
from splitc.data import Dataset
from splitc.errors import PassError
from splitc.ingest import load
from splitc.macs import macs
from splitc.model import Model
from splitc.passes.low_rank import LowRank
from splitc.passes.simplify import Simplify
from splitc.train import Recipe

SHARED = Path(os.environ.get("SPLITC_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@dataclass(frozen=True)
class Case:
    """A network, the data that tune and judge it, shares of MACs to remove, those to train at."""

    name: str
    tune: Callable[[Any], Any]
    judge: Callable[[Any], Any]
    shares: tuple[float, ...]
    trained: tuple[float, ...]
    recipe: Recipe


CASES = (
    Case(
        "sst2_tiny_transformer",
        lambda own: own.sst2("train"),
        lambda own: own.sst2("dev"),
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.65),
        (0.6, 0.65),
        Recipe(optimizer="adam", learning_rate=1e-4, epochs=1, batch=64, loss="match"),
    ),
    Case(
        "imagenet_mobilenet_v1_0.25_224_fp32",
        lambda own: own.imagenet(224, "train1000_224"),
        lambda own: own.imagenet(224),
        (0.02, 0.05, 0.1, 0.2, 0.3),
        (0.1, 0.2),
        Recipe(optimizer="adam", learning_rate=5e-5, epochs=2, batch=32),
    ),
    Case(
        "kws_dscnn_mlperf",
        lambda own: tuple(array[::2] for array in own.keywords()),
        lambda own: tuple(array[1::2] for array in own.keywords()),
        (0.1, 0.2, 0.3, 0.4, 0.5),
        (0.1, 0.2, 0.3, 0.4, 0.5),
        Recipe(optimizer="adam", learning_rate=2e-3, epochs=6, batch=32),
    ),
)


def scorer() -> Any:
    """Import ../shared/evaluate.py, which knows the data and how each network wants them."""
    spec = importlib.util.spec_from_file_location("evaluate", SHARED / "evaluate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dataset(model: Model, made: tuple[Any, Any]) -> Dataset:
    images, labels = made
    return Dataset({model.inputs[0].name: images}, np.asarray(labels, np.int64))


def curve(case: Case, *, train: bool) -> None:
    whole = Simplify().run(load(SHARED / "models" / f"{case.name}.onnx"))
    own = scorer()
    tune, judged = dataset(whole, case.tune(own)), dataset(whole, case.judge(own))
    gate = Gate(whole, judged, Top1())
    base = gate.judge(whole)
    spread = 100 * (base.before / 100 * (1 - base.before / 100) / base.samples) ** 0.5
    print(
        f"\n**{case.name}**: top-1 {base.before:.1f} % of {base.samples}, standard error ", end=""
    )
    print(
        f"{spread:.1f}; {sum(macs(whole).values()) / 1e6:.1f} M MACs; tuned on {len(tune)}", end=""
    )
    print(f"; recipe: {case.recipe}\n" if train else "\n")
    print("| MACs removed asked | how | MACs left | bytes left | top-1 | drop (95 %) | SNR dB |")
    print("|--:|---|--:|--:|--:|---|--:|")
    for share in case.shares:
        plain = LowRank(ratio=share)
        kinds = {"weights": plain, "data": LowRank(**{**vars(plain), "data": tune})}
        if train and share in case.trained:
            more = {"data": tune, "recipe": case.recipe}
            kinds["data, trained"] = LowRank(**{**vars(plain), **more})
        for label, step in kinds.items():
            row(gate, whole, step, share, label)


def row(gate: Gate, whole: Model, step: LowRank, share: float, label: str) -> None:
    try:
        made = step.run(whole)
    except PassError as error:
        print(f"| {share:.0%} | {label} | {error.args[0]}; {error.hint} ||||||", flush=True)
        return
    verdict = gate.judge(made)
    left = sum(macs(made).values()) / sum(macs(whole).values())
    size = made.weight_bytes() / whole.weight_bytes()
    assert verdict.interval is not None
    low, high = verdict.interval
    print(
        f"| {share:.0%} | {label} | {left:.3f} | {size:.3f} | {verdict.after:.1f} | "
        f"{verdict.drop:+.1f} ({low:+.1f} to {high:+.1f}) | {verdict.snr_db:.1f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only")
    parser.add_argument("--train", action="store_true")
    args = parser.parse_args()
    for case in CASES:
        if args.only in (None, case.name):
            curve(case, train=args.train)


if __name__ == "__main__":
    main()
