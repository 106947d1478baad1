"""`quantize{mixed = true}`: the least that must stay float, by noise and by accuracy."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import splitc
from splitc.data import Dataset
from splitc.execute import evaluate
from splitc.passes.quantize import Quantize
from splitc.quant import mixed
from splitc.quant.noise import NodeCost, Noise
from splitc.quant.share import int8_mac_share
from tests.networks import model
from tests.test_quantize import conv_net, data, lines


def costs(*rows: tuple[float, float]) -> list[NodeCost]:
    """Make costs from (noise, MAC share)."""
    decibels = (-10 * np.log10(noise) for noise, _ in rows)
    return [
        NodeCost(f"n{i}", "Conv", float(db), share, 0)
        for i, (db, (_, share)) in enumerate(zip(decibels, rows, strict=True))
    ]


SEARCHES: dict[str, tuple[list[tuple[float, float]], float, set[str]]] = {
    "nothing": ([(0.01, 0.5), (0.01, 0.5)], 0.1, set()),
    "the worst for its work": ([(0.05, 0.5), (0.08, 0.1), (0.01, 0.4)], 0.07, {"n1"}),
    "a small one that was not needed goes back": (
        [(0.5, 0.5), (0.3, 0.1), (0.05, 0.01)],
        0.56,
        {"n1"},
    ),
    "everything": ([(2.0, 0.5), (3.0, 0.5)], 0.1, {"n0", "n1"}),
    "no node": ([], 0.1, set()),
}


@pytest.mark.parametrize(("rows", "limit", "kept"), SEARCHES.values(), ids=SEARCHES)
def test_search(rows: list[tuple[float, float]], limit: float, kept: set[str]) -> None:
    """Noise adds up here exactly; the limit always holds in the end."""
    known = {cost.id: cost.noise for cost in costs(*rows)}

    def holds(floats: Any) -> bool:
        return bool(sum(noise for name, noise in known.items() if name not in floats) <= limit)

    found = mixed.search(costs(*rows), holds)
    assert found.kept == kept
    assert holds(found.kept)


def test_a_search_among_many_measures_few() -> None:
    rng = np.random.default_rng(0)
    many = costs(
        *zip(rng.uniform(0, 1, 200).tolist(), rng.uniform(0, 1, 200).tolist(), strict=True)
    )
    known = {cost.id: cost.noise for cost in many}
    asked: list[int] = []

    def holds(floats: Any) -> bool:
        asked.append(len(floats))
        return bool(sum(noise for name, noise in known.items() if name not in floats) <= 30)

    found = mixed.search(many, holds)
    assert found.tried == len(asked) <= 9 + mixed.MOST_RETRIED
    assert holds(found.kept)
    share = {cost.id: cost.mac_share for cost in many}
    assert sum(share[n] for n in found.kept) < 0.4 * sum(share.values())


def test_mixed_keeps_what_is_worst_in_float(tmp_path: Path) -> None:
    """One layer has a weight of 1000 beside small ones; with one scale it loses the small ones."""
    text = """g (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y)
        <float[2,2,1,1] fine = {1, -0.5, 0.5, 1}, float[2,2,1,1] coarse = {1000, 0.3, 0.2, 0.1},
         float[2,1,1] back = {0.001, 1}>
        { a = Conv(x, fine)  b = Tanh(a)  c = Conv(b, coarse)  y = Mul(c, back) }"""
    before = model(text, tmp_path)
    step = Quantize(mixed=True, min_snr=25.0, per_channel=False, data=data(before))
    after = step.run(before)
    assert "c = Conv(b, coarse)" in lines(after)
    assert "in float: c" in after.notes[-1]
    assert "50.0% of all MACs" in after.notes[-1]
    assert int8_mac_share(after) == 0.5
    known = data(before)
    assert Noise(before, known).snr_db(after) >= 25
    assert "keep 20 dB" in Quantize(mixed=True, data=known).run(before).notes[0]


def test_mixed_until_the_accuracy_holds(tmp_path: Path) -> None:
    """Labels are what the float network says: one node alone may cost more than is allowed."""
    before = conv_net(tmp_path)
    many = data(before, 200, seed=5)
    logits = evaluate(before, {"x": many.inputs["x"]})["y"].mean(axis=(2, 3))
    text = """g (float[N, 4, 8, 8] y) => (float[N, 4] z)
        { p = GlobalAveragePool(y)  z = Flatten(p) }"""
    made = onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 21]>\n' + text)
    joined = onnx.compose.merge_models(
        onnx.load(tmp_path / "conv.onnx"), made, io_map=[("y", "y")], name="both"
    )
    onnx.save(joined, tmp_path / "both.onnx")
    whole = splitc.load(tmp_path / "both.onnx")
    known = Dataset(many.inputs, logits.argmax(axis=1))
    for limit, least in ((100.0, 1.0), (0.0, 0.0)):
        given = Quantize(mixed=True, per_channel=False, min_snr=0.0, data=many)
        step = replace(given, evaluation=known, max_drop=limit)
        after = step.run(whole)
        assert int8_mac_share(after) >= least
        got = evaluate(after, {"x": many.inputs["x"]})["z"].argmax(axis=1)
        lost = 100 * float((got != known.labels).mean())
        assert lost <= limit
        assert f"top1 drops by at most {limit:g} on 200" in after.notes[0]
        apart = replace(step, apart=True).run(whole)
        assert f"at most {limit:g}, less one standard error, on 200" in apart.notes[0]
        assert step.tunes
