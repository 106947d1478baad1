"""Halves of a quantized network are exact node by node; fused kernels may move a step."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import splitc
from splitc import manifest
from splitc.cuts import cuttable, listed
from splitc.model import Model
from splitc.passes.quantize import Quantize
from splitc.verify import TOLERANCES, kind
from tests.networks import model

SCENARIO: dict[str, Any] = {"head": "raspberry-pi-4", "tail": "nvidia-a100", "link": "wifi"}
RNG = np.random.default_rng(0)


def numbers(*shape: int) -> str:
    return ", ".join(f"{v:.4f}" for v in RNG.normal(size=shape).reshape(-1))


TEXT = f"""g (float[N, 3, 8, 8] x) => (float[N, 4] y)
<float[8, 3, 3, 3] w = {{{numbers(8, 3, 3, 3)}}}, float[8, 8, 3, 3] v = {{{numbers(8, 8, 3, 3)}}},
 float[8, 4] u = {{{numbers(8, 4)}}}> {{
    c = Conv<pads = [1, 1, 1, 1]>(x, w)  r = Relu(c)  d = Conv<pads = [1, 1, 1, 1]>(r, v)
    s = Add(d, r)  p = GlobalAveragePool(s)  f = Flatten(p)  y = MatMul(f, u) }}"""


@pytest.fixture
def net(tmp_path: Path) -> Model:
    return model(TEXT, tmp_path)


def test_a_network_that_rounds_has_its_own_kind(net: Model) -> None:
    assert kind(net) == "onnxruntime-fp32"
    assert kind(Quantize().run(net)) == "int8"


@pytest.mark.parametrize("symmetric", ["true", "false"])
@pytest.mark.parametrize("cut", ["r", "d,r", "p"])
def test_every_half_is_exact(net: Model, tmp_path: Path, cut: str, symmetric: str) -> None:
    passes = f"simplify, quantize{{symmetric = {symmetric}}}"
    made = splitc.compile(net, output=tmp_path / "b", passes=passes, cut=cut, **SCENARIO)
    assert made.ok
    checks = {check.name: check for check in made.report.checks}
    exact = checks["output y"]
    assert (exact.status, exact.worst_error) == ("pass", 0.0)
    assert exact.tolerance == TOLERANCES["onnxruntime-fp32"]
    assert checks["fused output y"].tolerance == TOLERANCES["int8"]
    assert made.plan.chosen.wire_dtype in ("int8", "uint8")
    assert all(t.scale for t in manifest.read(tmp_path / "b").contract.tensors)


def test_a_wrong_half_fails_whatever_the_steps(net: Model, tmp_path: Path) -> None:
    splitc.compile(net, output=tmp_path / "b", passes="quantize", cut="r", **SCENARIO)
    test = tmp_path / "b" / "selftest" / "outputs.npz"
    whole = manifest.read(tmp_path / "b")
    from splitc import selftest
    from splitc.verify import _Selftest

    recorded = selftest.read(test, whole.selftest.samples, {"y": "float32"})
    assert recorded[0]["y"].std() > 0
    checker = _Selftest(tmp_path / "b", whole)
    checker._outputs = [{"y": s["y"] * np.float32(1.001)} for s in recorded]
    found = {check.name: check.status for check in checker.checks(set())}
    assert (found["output y"], found["fused output y"]) == ("fail", "pass")


def test_readers_on_both_sides_share_integers_not_floats(net: Model) -> None:
    after = Quantize().run(net)
    cuts = {cut.tensors for cut in listed(after.graph, allowed=cuttable(after))}
    both = [c for c in cuts if len(c) == 2]
    assert both
    assert all(after.facts[t].dtype == "int8" for t in both[0])
