"""Prune ResNet-56 to half its MACs: `pruning.py [--images N] [--resume] [--folder F] [--measure]`.

CIFAR-10 of ../shared. Channels are ranked and refitted in closed form on 1024 training images (the
pass `prune`); then the network learns from the unpruned one on `--images` training images in all,
flipped and shifted. Top-1 is of the 2,000 test images, paired with the original's on the same
images. Latency: onnxruntime and TVM at 1 thread, pruned and original interleaved in one process,
medians. The training runs in bfloat16 (autocast, weights in float32) where the processor has it.
`--folder` keeps checkpoints and results; `--measure` only measures what lies there.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import _cifar
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import splitc
from splitc.accuracy import judge, metric
from splitc.data import Dataset
from splitc.errors import BackendError
from splitc.execute import session
from splitc.fx import lift, write_back
from splitc.macs import macs
from splitc.model import Model
from splitc.pruning.calibration import calibration
from splitc.pruning.how import How
from splitc.pruning.layers import copied
from splitc.pruning.structured import shrink
from splitc.train import FolderRecorder, fit, recipe

NETWORK = "cifar10_resnet56_jpegft"
HOW = How(ratio=0.5, round_to=4)
RECIPE = {"optimizer": "adam", "learning_rate": 1e-4, "schedule": "one-cycle", "batch": 64}
CALIBRATION, TRAINING = 1024, 50_000
ROUNDS = 300
STAGES = ("refitted", "trained")


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


def shrunk(model: Model, data: Dataset, folder: Path) -> nn.Module:
    """Return the pruned, refitted module; kept in the folder, for it must be the same to resume."""
    path = folder / "refitted.onnx"
    if path.exists():
        return lift(splitc.load(path))
    whole = lift(model)
    samples = calibration(model, whole, data.take(slice(CALIBRATION)))
    made = shrink(whole, HOW, samples, float(sum(macs(model).values())), macs(model))
    write_back(model, made, tolerance=1e-4).save(path)
    return made


def trained(model: Model, images: int, resume: bool, folder: Path) -> Model:
    """Return the network pruned, refitted and trained on so many images in all."""
    name = model.graph.inputs[0]
    count = min(TRAINING, images)
    data = _cifar.cifar10("train", name, count)
    small = shrunk(model, data, folder)
    wanted = recipe({**RECIPE, "epochs": max(round(images / count), 1)})
    student, teacher = Narrow(small), Narrow(copied(lift(model)))

    def tell(stage: str, detail: str) -> None:
        (folder / "progress.txt").write_text(f"{time.strftime('%H:%M:%S')} {stage}: {detail}\n")

    recorder = FolderRecorder(folder / "checkpoints", resume=resume, progress=tell)
    start = time.monotonic()
    fit(student, data, wanted, teacher=teacher, augment=_cifar.augmented, recorder=recorder)
    log(f"trained on {wanted.epochs * count} images in {time.monotonic() - start:.0f} s")
    made = write_back(model, small.to(memory_format=torch.contiguous_format), tolerance=1e-4)
    made.save(folder / "trained.onnx")
    return made


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
    from tvm_heads import here

    from splitc.backends.tvm import Tvm

    backend, target = Tvm(), here()
    try:
        one, other = (backend.load(backend.compile(m, target)) for m in (original, changed))
    except BackendError as error:
        log(str(error))
        return None
    feeds = {original.graph.inputs[0]: x}
    return interleaved(lambda: one.run(feeds), lambda: other.run(feeds))


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
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("build/pruning"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    model = splitc.load(_cifar.SHARED / "models" / f"{NETWORK}.onnx")
    if not args.measure:
        trained(model, args.images, args.resume, args.folder)
    rows = measured(model, args.folder)
    (args.folder / "figures.json").write_text(json.dumps(rows, indent=1))
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
