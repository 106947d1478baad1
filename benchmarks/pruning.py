"""Prune ResNet-56 to half its MACs: `pruning.py [--images N] [--resume] [--kind blocks] …`.

CIFAR-10 of ../shared. Channels are ranked and refitted in closed form on 1024 training images (the
pass `prune`); then the network learns from the unpruned one on `--images` training images in all,
flipped and shifted. Top-1 is of the 2,000 test images, paired with the original's on the same
images. Latency: onnxruntime and TVM at 1 thread, pruned and original interleaved in one process,
medians. The training runs in bfloat16 (autocast, weights in float32) where the processor has it.
`--folder` keeps checkpoints and results; `--measure` only measures what lies there. `--kind
blocks` leaves out whole residual blocks instead. `--ways` compares ways to prune, untrained.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import _cifar
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tvm_heads import here

import splitc
from splitc.accuracy import judge, metric
from splitc.backend import Artifact
from splitc.backends.tvm import Tvm
from splitc.data import Dataset
from splitc.errors import BackendError
from splitc.execute import session
from splitc.fx import lift, write_back
from splitc.macs import macs
from splitc.model import Model
from splitc.passes.prune import Prune
from splitc.passes.simplify import Simplify
from splitc.pruning.run import TOLERANCE
from splitc.train import FolderRecorder, fit, recipe

NETWORK = "cifar10_resnet56_jpegft"
RECIPE = {"optimizer": "adam", "learning_rate": 1e-4, "schedule": "one-cycle", "batch": 64}
CALIBRATION, TRAINING = 1024, 50_000
ROUNDS = 300
STAGES = ("refitted", "trained")
WAYS: tuple[dict[str, Any], ...] = (
    {"importance": "energy"},
    {"importance": "taylor"},
    {"importance": "magnitude"},
    {"importance": "energy", "globally": False},
    {"importance": "energy", "round_to": 4},
    {"importance": "energy", "kind": "blocks"},
)


class Narrow(nn.Module):
    """Runs a module in bfloat16, channels last, where the processor has instructions for it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.narrow = bool(torch.backends.cpu.get_cpu_capability().startswith("AVX512"))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.narrow):
            made: Tensor = self.module(x.contiguous(memory_format=torch.channels_last))
        return made.float()


def log(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def start(model: Model, data: Dataset, kind: str, folder: Path) -> Model:
    """Return the pruned, refitted network; kept in the folder: to resume, it must be the same."""
    path = folder / "refitted.onnx"
    if not path.exists():
        begun = time.monotonic()
        step = Prune(ratio=0.5, kind=kind, round_to=4, data=data.take(slice(CALIBRATION)))
        made = step.run(model)
        log(f"pruned in {time.monotonic() - begun:.0f} s: {'; '.join(made.notes)}")
        made.save(path)
    return splitc.load(path)


def train(model: Model, kind: str, images: int, resume: bool, folder: Path) -> None:
    """Prune, refit, and train on so many images in all; leave both networks in the folder."""
    count = min(TRAINING, images)
    data = _cifar.cifar10("train", model.graph.inputs[0], count)
    base = start(model, data, kind, folder)
    small = lift(base)
    wanted = recipe({**RECIPE, "epochs": max(round(images / count), 1)})
    student, teacher = Narrow(small), Narrow(lift(model))

    def tell(stage: str, detail: str) -> None:
        (folder / "progress.txt").write_text(f"{time.strftime('%H:%M:%S')} {stage}: {detail}\n")

    recorder = FolderRecorder(folder / "checkpoints", resume=resume, progress=tell)
    begun = time.monotonic()
    fit(student, data, wanted, teacher=teacher, augment=_cifar.augmented, recorder=recorder)
    log(f"trained on {wanted.epochs * count} images in {time.monotonic() - begun:.0f} s")
    small.to(memory_format=torch.contiguous_format)
    write_back(base, small, tolerance=TOLERANCE).save(folder / "trained.onnx")


def ways(model: Model) -> None:
    """Print top-1 at half the MACs, with and without repair, for each way to choose."""
    name = model.graph.inputs[0]
    data = _cifar.cifar10("train", name, CALIBRATION // 2)
    test = _cifar.cifar10("test2000", name)
    for options in WAYS:
        for repair in (False, True):
            made = Prune(ratio=0.5, repair=repair, data=data, **options).run(model)
            verdict = compared(model, made, test)
            print(f"{options} repair {repair}: {verdict['after']:.2f} ± {verdict['stderr']:.2f}")


def share(model: Model, of: Model) -> float:
    return sum(macs(model).values()) / sum(macs(of).values())


def compared(original: Model, changed: Model, test: Dataset) -> dict[str, Any]:
    """Return top-1 before and after, and the drop with its 95 % interval, on the same images."""
    verdict = judge(original, changed, test, metric("top1", test), None)
    error = 100 * math.sqrt(verdict.after / 100 * (1 - verdict.after / 100) / verdict.samples)
    return {**verdict.to_json(), "stderr": round(error, 2)}


def interleaved(first: Callable[[], object], second: Callable[[], object]) -> float:
    """Return the median of CPU times of the second over that of the first, taken in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for run, kept in zip((first, second), times, strict=True):
            start = time.process_time()
            run()
            kept.append(time.process_time() - start)
    return median(times[1]) / median(times[0])


def onnxruntime_ratio(original: Model, changed: Model, x: NDArray[Any]) -> float:
    name = original.graph.inputs[0]
    one, other = session(original, threads=1), session(changed, threads=1)
    return interleaved(lambda: one.run(None, {name: x}), lambda: other.run(None, {name: x}))


def tvm_ratio(original: Model, changed: Model, x: NDArray[Any]) -> float | None:
    """Return the ratio with both compiled for this processor; None where TVM is not installed."""
    feeds = {original.graph.inputs[0]: x}
    with TemporaryDirectory() as folder:
        try:
            one = compiled(original, Path(folder) / "original")
            other = compiled(changed, Path(folder) / "changed")
        except BackendError as error:
            log(str(error))
            return None
        return round(interleaved(lambda: one(feeds), lambda: other(feeds)), 3)


def compiled(model: Model, folder: Path) -> Callable[[Mapping[str, NDArray[Any]]], object]:
    artifact = Tvm().compile(Simplify().run(model), here())
    folder.mkdir()
    for name, data in artifact.files.items():
        (folder / name).write_bytes(data)
    return Tvm().load(Artifact("tvm", "tvm-vm", here(), folder=folder))


def measured(original: Model, folder: Path) -> dict[str, Any]:
    """Return every figure of the networks in the folder, against the original."""
    name = original.graph.inputs[0]
    test = _cifar.cifar10("test2000", name)
    x = test.inputs[name][:1]
    rows: dict[str, Any] = {}
    original.save(folder / "original.onnx")
    for stage in STAGES:
        if not (folder / f"{stage}.onnx").exists():
            continue
        changed = splitc.load(folder / f"{stage}.onnx")
        rows[stage] = {
            "macs": round(share(changed, original), 4),
            "bytes": round(size(folder / f"{stage}.onnx") / size(folder / "original.onnx"), 4),
            "onnxruntime": round(onnxruntime_ratio(original, changed, x), 3),
            "tvm": tvm_ratio(original, changed, x),
            **compared(original, changed, test),
        }
    return rows


def size(path: Path) -> int:
    return path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--kind", choices=("channels", "blocks"), default="channels")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--ways", action="store_true")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("build/pruning"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    model = splitc.load(_cifar.SHARED / "models" / f"{NETWORK}.onnx")
    if args.ways:
        ways(model)
        return
    if not args.measure:
        train(model, args.kind, args.images, args.resume, args.folder)
    rows = measured(model, args.folder)
    (args.folder / "figures.json").write_text(json.dumps(rows, indent=1))
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
