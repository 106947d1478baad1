"""Pruned on one side, quantized on both, split: a real network compiles, verifies, has a price."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import splitc
from splitc import manifest

CUT = "t11_relu"
SCENARIO: dict[str, Any] = {
    "head": "raspberry-pi-4",
    "tail": "nvidia-a100",
    "link": "wifi",
    "cut": CUT,
}
PASSES = 'simplify, prune{ratio = 0.2, scope = "head"}, quantize'


@pytest.fixture(scope="module")
def clips(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Write clips to learn from and others to judge with."""
    folder = tmp_path_factory.mktemp("clips")
    stored = np.load(shared / "data/kws_mfcc_2445.npz")
    order = np.random.default_rng(0).permutation(len(stored["x"]))
    for name, at in (("data", order[:256]), ("eval", order[256:1256])):
        x = stored["x"][at].astype(np.float32)[:, None]
        np.savez(folder / f"{name}.npz", input=x, label=stored["y"][at].astype(np.int64))
    return {name: str(folder / f"{name}.npz") for name in ("data", "eval")}


@pytest.mark.shared
@pytest.mark.torch
def test_pruned_quantized_and_split(shared: Path, clips: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning")
    model = shared / "models/kws_dscnn_mlperf.onnx"
    plain = splitc.plan(model, **SCENARIO)
    options = {**SCENARIO, **clips, "passes": PASSES, "max_drop": 10.0}
    made = splitc.compile(model, output=tmp_path / "b", **options)
    assert made.ok
    chosen, before = made.plan.chosen, plain.chosen
    assert (chosen.tensors, chosen.wire_dtype) == ((CUT,), "int8")
    assert chosen.price.head_weight_bytes < 0.5 * before.price.head_weight_bytes
    assert chosen.price.wire_bytes < 0.3 * before.price.wire_bytes
    assert chosen.price.addends["head_s"] < before.price.addends["head_s"]
    read = manifest.read(tmp_path / "b")
    assert set(read.passes.resources) == {"data", "evaluation"}
    assert read.passes.gate is not None
    assert read.passes.gate.samples == 1000
    assert read.passes.gate.ok
    checks = {check.name: check for check in made.report.checks}
    assert (checks["output logits"].status, checks["output logits"].worst_error) == ("pass", 0.0)
    report = splitc.verify(tmp_path / "b", model=model, data=clips["eval"])
    assert {c.name: c.status for c in report.checks}["accuracy gate"] == "pass"
