"""One network pruned, quantized and split: `python benchmarks/smaller.py`.

cifar10_resnet20_jpegft of ../shared, cut at `layer2_0_out` between a Raspberry Pi 4 and an A100 on
Wi-Fi, through `splitc.compile` as the command does it: calibrated and refitted on 512 training
images, judged on the 2,000 test images. Prices are those of the profiles; nothing is timed.
"""

import tempfile
from pathlib import Path
from typing import Any

import _cifar
import numpy as np

import splitc
from splitc import manifest
from splitc.units import si

NETWORK = "cifar10_resnet20_jpegft"
CUT = "layer2_0_out"
WAYS: dict[str, dict[str, Any]] = {
    "as it is": {"passes": "simplify"},
    "wire int8": {"passes": "simplify", "wire": "int8"},
    "int8": {"passes": "simplify, quantize"},
    "pruned": {"passes": "simplify, prune{ratio = 0.2}"},
    "pruned, int8": {"passes": "simplify, prune{ratio = 0.2}, quantize"},
}
COLUMNS = ("", "head", "tail", "head, priced", "tail, priced", "wire", "latency", "top-1", "drop")


def main() -> None:
    print(f"| {' | '.join(COLUMNS)} |\n|---|{'--:|' * (len(COLUMNS) - 1)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = samples(folder)
        for way, options in WAYS.items():
            print(f"| {way} | {' | '.join(row(folder / 'bundle', options, data))} |", flush=True)


def samples(folder: Path) -> dict[str, str]:
    """Write the images that calibrate and those that judge; return the options that name them."""
    parts = {"data": _cifar.cifar10("train", limit=512), "eval": _cifar.cifar10("test2000")}
    for part, made in parts.items():
        np.savez(folder / f"{part}.npz", **made.inputs, label=made.labels)
    return {part: str(folder / f"{part}.npz") for part in ("data", "eval")}


def row(output: Path, options: dict[str, Any], data: dict[str, str]) -> tuple[str, ...]:
    """Compile one way; return the cells of its row."""
    machines = {"head": "raspberry-pi-4", "tail": "nvidia-a100", "link": "wifi"}
    made = splitc.compile(
        _cifar.SHARED / "models" / f"{NETWORK}.onnx",
        output=output,
        cut=CUT,
        **machines,
        **data,
        **options,
    )
    assert made.ok, [check for check in made.report.checks if check.status == "fail"]
    read, price = manifest.read(output), made.plan.chosen.price
    gate = read.passes.gate
    sizes = [f"{read.files[f'{side}/model.onnx'].bytes / 1e3:.0f} kB" for side in ("head", "tail")]
    seconds = [si(price.addends[f"{side}_s"], "s") for side in ("head", "tail")]
    told = ("85.45", "") if gate is None else (f"{gate.after:.2f}", _drop(gate))
    return (*sizes, *seconds, f"{price.wire_bytes:,} B", si(price.latency_s, "s"), *told)


def _drop(gate: Any) -> str:
    low, high = gate.interval
    return f"{gate.drop:.2f} ({low:.1f} … {high:.1f})"


if __name__ == "__main__":
    main()
