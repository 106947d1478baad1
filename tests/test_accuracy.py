"""Metrics, intervals and the gate: right numbers, honest doubts, no check that cannot fail."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from splitc.accuracy import (
    Agreement,
    Custom,
    Gate,
    Results,
    Top1,
    Verdict,
    judge,
    measure,
    metric,
    predict,
    snr_db,
)
from splitc.accuracy.interval import bootstrap, matched, paired, proportion
from splitc.accuracy.metrics import predictions
from splitc.data import Dataset, drawn, load
from splitc.errors import ModelError, RequestError
from splitc.ingest import load as load_model
from splitc.model import Model
from tests.networks import model as network

PASS = "n (float[N,3] x) => (float[N,3] y) <float[3] b = {0,0,0}> { y = Add(x, b) }"
"""Its answers are its inputs, plus a bias that a test changes."""
LOGITS = np.array([[3, 1, 0], [0, 2, 1], [0, 1, 5], [4, 0, 1], [1, 0, 2]], np.float32)
LABELS = np.array([0, 1, 2, 0, 1])


def biased(model: Model, *values: float) -> Model:
    copy = model.clone()
    copy.ir.graph.initializers["b"].const_value = ir.tensor(np.array(values, np.float32), name="b")
    return copy


def test_top1_is_a_percentage(tmp_path: Path) -> None:
    score = measure(network(PASS, tmp_path), Dataset({"x": LOGITS}, LABELS), Top1())
    assert (score.metric, score.value, score.samples) == ("top1", 80.0, 5)
    assert score.stderr == pytest.approx(100 * math.sqrt(0.8 * 0.2 / 5), rel=1e-12)


def test_agreement_needs_no_labels_but_the_original(tmp_path: Path) -> None:
    whole = network(PASS, tmp_path)
    data = Dataset({"x": LOGITS})
    assert measure(whole, data, Agreement(), whole).value == 100
    # +2.5 for class 1 changes the first (3 < 3.5) and the last sample (2 < 2.5)
    assert measure(biased(whole, 0, 2.5, 0), data, Agreement(), whole).value == 60
    with pytest.raises(RequestError, match="needs the original"):
        measure(whole, data, Agreement())


def test_the_gate_pairs_the_same_samples(tmp_path: Path) -> None:
    whole = network(PASS, tmp_path)
    gate = Gate(whole, Dataset({"x": LOGITS}, LABELS), Top1())
    verdict = gate.judge(biased(whole, 0, 2.5, 0), max_drop=0.0)
    # the first is lost, the last (label 1) is won
    assert (verdict.before, verdict.after, verdict.drop) == (80, 80, 0)
    assert verdict.ok
    assert verdict.interval == tuple(100 * bound for bound in matched(1, 1, 5))
    assert verdict.snr_db == pytest.approx(10 * math.log10(np.sum(LOGITS**2) / (5 * 2.5**2)))
    worse = gate.judge(biased(whole, 0, 0, 9), max_drop=59.0)
    assert (worse.after, worse.drop, worse.ok) == (20, 60, False)
    assert gate.judge(biased(whole, 0, 0, 9), max_drop=60.0).ok
    assert gate.judge(biased(whole, 0, 0, 9)).ok, "nothing was asked"


def test_a_verdict_as_json_and_as_lines(tmp_path: Path) -> None:
    whole = network(PASS, tmp_path)
    data = Dataset({"x": LOGITS}, LABELS)
    same = judge(whole, whole, data, Top1(), 0.5)
    assert json.loads(json.dumps(same.to_json(), allow_nan=False)) == same.to_json()
    assert (same.to_json()["snr_db"], same.to_json()["ok"]) == (None, True)
    assert same.snr_db == math.inf
    text = "\n".join(same.summary())
    assert "top1 80 → 80, drop 0 points" in text
    assert "nothing differs" in text
    assert "gate kept: at most 0.5 points" in text
    assert "the interval reaches beyond the gate" in text
    ungated = judge(whole, biased(whole, 0, 0, 9), data, Top1())
    assert ungated.to_json()["ok"] is None
    assert "ungated: no --max-drop was given" in ungated.summary()
    broken = judge(whole, biased(whole, 0, 0, 9), data, Top1(), 1.0)
    assert "gate BROKEN: at most 1 points" in broken.summary()


def test_random_inputs_say_so(tmp_path: Path) -> None:
    whole = network(PASS, tmp_path)
    verdict = judge(whole, whole, drawn(whole, 8), Agreement())
    assert verdict.random
    assert any("RANDOM INPUTS" in line for line in verdict.summary())


def results(output: NDArray[Any], labels: Any = None, reference: Any = None) -> Results:
    known = None if reference is None else {"y": np.asarray(reference)}
    return Results({"y": output}, None if labels is None else np.asarray(labels), known)


PREDICTIONS: dict[str, tuple[NDArray[Any], list[Any]]] = {
    "logits": (LOGITS, [0, 1, 2, 0, 2]),
    "float16": (LOGITS.astype(np.float16), [0, 1, 2, 0, 2]),
    "axes of size 1": (LOGITS[:, :, None, None], [0, 1, 2, 0, 2]),
    "positions": (np.stack([LOGITS, LOGITS[::-1]], 1), [[0, 2], [1, 0], [2, 2], [0, 1], [2, 0]]),
    "pixels": (np.arange(16).reshape(1, 4, 2, 2) * np.array([1.0, -1]), [[[3, 0], [3, 0]]]),
    "probabilities": (np.array([[0.2], [0.7], [0.5]]), [0, 1, 0]),
    "one logit": (np.array([0.2, -0.7, 3.0]), [1, 0, 1]),
    "classes already": (np.array([2, 0, 1]), [2, 0, 1]),
    "yes and no": (np.array([True, False]), [1, 0]),
    "a NaN predicts nothing": (np.array([[0, np.nan, 1.0], [0, 1, 2]]), [-1, 2]),
    "a lone NaN": (np.array([np.nan, 1.0]), [-1, 1]),
}


@pytest.mark.parametrize(("output", "wanted"), PREDICTIONS.values(), ids=PREDICTIONS)
def test_predictions(output: NDArray[Any], wanted: list[Any]) -> None:
    assert predictions(results(output)).tolist() == wanted


def test_a_decision_is_made_as_on_the_original() -> None:
    """Quantization pushes a probability above 1: the threshold stays that of probabilities."""
    made = results(np.array([0.3, 1.01]), reference=np.array([0.3, 0.99]))
    assert predictions(made).tolist() == [0, 1]


def test_nan_is_never_right() -> None:
    broken = np.full((4, 3), np.nan, np.float32)
    assert Top1().hits(results(broken, [0, 1, 2, 0])).sum() == 0
    assert Agreement().hits(results(broken, reference=broken)).sum() == 0
    assert Top1().hits(results(np.full(3, np.nan), [0, 1, 0])).sum() == 0
    assert snr_db(np.ones(3), np.array([1, np.nan, 1])) == -math.inf


def test_positions_count_in_parts() -> None:
    output = np.stack([LOGITS, LOGITS], 1)
    labels = np.stack([LABELS, np.array([0, 0, 0, 0, 0])], 1)
    assert Top1().hits(results(output, labels)).tolist() == [1, 0.5, 0.5, 1, 0]


WRONG: dict[str, tuple[NDArray[Any], Any, str]] = {
    "no labels": (LOGITS, None, "top1 needs labels"),
    "labels of another shape": (LOGITS, [[0, 1]] * 5, "labels have the shape [5, 2]"),
    "labels that are text": (LOGITS, ["a"] * 5, "top1 needs integers"),
    "labels that are floats": (LOGITS, [0.5] * 5, "top1 needs integers"),
    "labels counted from 1": (LOGITS, [1, 2, 3, 1, 2], "labels from 1 to 3, but 3 classes"),
    "labels below 0": (LOGITS, [-1, 2, 0, 1, 2], "labels from -1 to 2, but 3 classes"),
    "more than yes and no": (LOGITS[:, 0], [0, 1, 2, 0, 1], "labels from 0 to 2, but 2 classes"),
}


@pytest.mark.parametrize(("output", "labels", "reason"), WRONG.values(), ids=WRONG)
def test_labels_that_do_not_fit(output: NDArray[Any], labels: Any, reason: str) -> None:
    with pytest.raises(RequestError) as caught:
        Top1().hits(results(output, labels))
    assert reason in str(caught.value)


def test_which_metric_a_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "splitc_test_scores.py").write_text("def mine(outputs, labels): return 1, True\n")
    monkeypatch.chdir(tmp_path)
    plain, labelled = Dataset({"x": LOGITS}), Dataset({"x": LOGITS}, LABELS)
    assert metric(None, labelled) == Top1()
    assert metric(None, plain) == Agreement()
    assert metric("agreement", labelled) == Agreement()
    assert metric("top1", labelled) == Top1()
    assert metric("splitc_test_scores:mine", plain).name == "splitc_test_scores:mine"
    for name, reason in {
        "top1": "top1 needs labels",
        "top-1": "did you mean 'top1'?",
        "splitc_test_scores:min": "did you mean 'mine'?",
        "no_such_module:fn": "no module called 'no_such_module'",
        "a b:c": "name a metric as pkg.mod:fn",
    }.items():
        with pytest.raises(RequestError) as caught:
            metric(name, plain)
        assert reason in str(caught.value)


def error_rate(outputs: dict[str, NDArray[Any]], labels: NDArray[Any]) -> tuple[float, bool]:
    return float(np.mean(outputs["y"].argmax(1) != labels)), False


def test_a_users_metric(tmp_path: Path) -> None:
    whole = network(PASS, tmp_path)
    mine = Custom("m:error_rate", error_rate)
    data = Dataset({"x": np.tile(LOGITS, (40, 1))}, np.tile(LABELS, 40))
    verdict = judge(whole, biased(whole, 0, 0, 9), data, mine, 0.5)
    assert (verdict.before, verdict.after, verdict.unit) == (0.2, 0.8, "units")
    assert verdict.drop == pytest.approx(0.6, abs=1e-12)
    assert not verdict.ok
    assert verdict.interval is not None
    low, high = verdict.interval
    # the differences are 1, 1, 0, 1, 0: their mean's standard error over 200 is 0.0346
    assert low == pytest.approx(0.6 - 1.96 * 0.0346, abs=0.02)
    assert high == pytest.approx(0.6 + 1.96 * 0.0346, abs=0.02)
    assert verdict.interval == judge(whole, biased(whole, 0, 0, 9), data, mine).interval
    assert measure(whole, data, mine).value == 0.2
    assert not measure(whole, data, mine).higher_is_better


def whole_set_only(outputs: dict[str, NDArray[Any]], labels: object) -> tuple[float, bool]:
    if len({row.tobytes() for row in outputs["y"]}) < 5:
        raise ValueError("every class must be there")
    return 1.0, True


def no_interval(outputs: dict[str, NDArray[Any]], labels: object) -> tuple[float, bool]:
    return 1.0, True


no_interval.resamples = 0  # type: ignore[attr-defined]


def nan_on_few(outputs: dict[str, NDArray[Any]], labels: object) -> tuple[float, bool]:
    return (1.0 if len({row.tobytes() for row in outputs["y"]}) == 5 else math.nan), True


ALONE: dict[str, tuple[Callable[..., Any], str]] = {
    "it fails on resampled data": (whole_set_only, "every class must be there"),
    "it wants none": (no_interval, "asks for no resampling"),
    "it is no number there": (nan_on_few, "is no number"),
}


@pytest.mark.parametrize(("fn", "reason"), ALONE.values(), ids=ALONE)
def test_no_interval_says_why(tmp_path: Path, fn: Callable[..., Any], reason: str) -> None:
    whole = network(PASS, tmp_path)
    verdict = judge(whole, whole, Dataset({"x": LOGITS}, LABELS), Custom("m:fn", fn), 0.0)
    assert verdict.interval is None
    assert reason in verdict.method
    assert any(reason in line for line in verdict.summary())
    assert verdict.ok


def spoils(outputs: dict[str, NDArray[Any]], labels: object) -> tuple[float, bool]:
    outputs["y"][:] = 0
    return 1.0, True


BROKEN: dict[str, tuple[Callable[..., Any], str]] = {
    "it raises": (lambda outputs, labels: outputs["missing"], "KeyError: 'missing'"),
    "a number alone": (lambda outputs, labels: 3.0, "returns 3.0"),
    "text": (lambda outputs, labels: ("good", True), "returns ('good', True)"),
    "it writes into the outputs": (spoils, "read-only"),
    "no number": (lambda outputs, labels: (math.nan, True), "of the original network is nan"),
}


@pytest.mark.parametrize(("fn", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_function_that_does_not_work(tmp_path: Path, fn: Callable[..., Any], reason: str) -> None:
    whole = network(PASS, tmp_path)
    with pytest.raises(RequestError) as caught:
        judge(whole, whole, Dataset({"x": LOGITS}, LABELS), Custom("m:fn", fn))
    assert reason in str(caught.value)


def test_a_changed_network_without_a_number_breaks_the_gate(tmp_path: Path) -> None:
    whole = network(PASS, tmp_path)
    total = Custom("m:total", lambda outputs, labels: (float(outputs["y"].sum()), True))
    verdict = judge(whole, biased(whole, math.nan, 0, 0), Dataset({"x": LOGITS}), total, 1e9)
    assert not verdict.ok
    assert verdict.to_json()["after"] is None
    json.dumps(verdict.to_json(), allow_nan=False)


def test_matched_is_the_published_formula() -> None:
    """By hand for 20 lost, 10 won of 100: (20.5 − 10.5) / 102 ± 1.96·√(31 − 100/102) / 102."""
    half = 1.959964 * math.sqrt(31 - 100 / 102) / 102
    assert matched(20, 10, 100) == pytest.approx((10 / 102 - half, 10 / 102 + half), abs=1e-7)
    assert matched(0, 0, 1)[0] < 0 < matched(0, 0, 1)[1]
    assert matched(1, 0, 1)[1] <= 1


@pytest.mark.parametrize("samples", [10, 50, 400])
@pytest.mark.parametrize("chances", [(0.1, 0.05), (0.02, 0.02), (0.3, 0.1)])
def test_matched_covers_the_truth(samples: int, chances: tuple[float, float]) -> None:
    lose, win = chances
    rng = np.random.default_rng(0)
    drawn_ = rng.multinomial(samples, [lose, win, 1 - lose - win], 2000)
    bounds = np.array([matched(int(a), int(b), samples) for a, b, _ in drawn_])
    covered = (bounds[:, 0] <= lose - win) & (lose - win <= bounds[:, 1])
    assert covered.mean() > 0.935


def test_proportion_is_wilsons() -> None:
    """Known values: 0 of 10 reaches 0.2775, 5 of 10 lies between 0.2366 and 0.7634."""
    assert proportion(0, 10) == pytest.approx((0, 0.27753), abs=1e-5)
    assert proportion(5, 10) == pytest.approx((0.23659, 0.76341), abs=1e-5)


def test_shares_have_students_interval() -> None:
    before, after = np.array([1, 0.5, 0.75, 1]), np.array([0.5, 0.5, 0.5, 1])
    found, method = paired(before, after)
    assert found is not None
    # differences 0.5, 0, 0.25, 0: mean 0.1875, s 0.2394, t(3) 3.1824
    half = 3.182446 * 0.239357 / 2
    assert found == pytest.approx((0.1875 - half, 0.1875 + half), abs=1e-5)
    assert "Student" in method
    assert paired(np.array([0.5]), np.array([0.2]))[0] is None


def test_the_bootstrap_is_seeded_and_right() -> None:
    values = np.random.default_rng(1).standard_normal(400)
    found = bootstrap(lambda at: float(values[at].mean()), 400, 1000)
    assert found == bootstrap(lambda at: float(values[at].mean()), 400, 1000)
    half = 1.96 * values.std() / 20
    assert found[0] == pytest.approx(values.mean() - half, abs=0.01)
    assert found[1] == pytest.approx(values.mean() + half, abs=0.01)


STATES = {
    "dynamic": "float[N,2] x, float[2,N,3] s) => (float[N,2] y, float[2,N,3] z)",
    "fixed": "float[1,2] x, float[2,1,3] s) => (float[1,2] y, float[2,1,3] z)",
}


@pytest.mark.parametrize("interface", STATES.values(), ids=STATES)
def test_states_are_stacked(tmp_path: Path, interface: str) -> None:
    whole = network(f"n ({interface} {{ y = Relu(x)  z = Relu(s) }}", tmp_path)
    x, s = np.ones((2, 2), np.float32), np.arange(12, dtype=np.float32).reshape(2, 2, 1, 3)
    np.savez(tmp_path / "d.npz", x=x, s=s)
    made = predict(whole, load(tmp_path / "d.npz", whole))
    np.testing.assert_array_equal(made["y"], x)
    np.testing.assert_array_equal(made["z"], s)


def test_an_output_that_no_longer_has_the_batch_is_seen(tmp_path: Path) -> None:
    """Two samples, and an output whose first axis is 2 for another reason: rows, not samples."""
    text = "n (float[N,2,3] x) => (float[2,3] y) { y = ReduceSum<keepdims = 0>(x, a) }"
    text = text.replace("{ y", "<int64[1] a = {0}> { y")
    whole = network(text, tmp_path)
    x = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    np.testing.assert_array_equal(predict(whole, Dataset({"x": x}))["y"], x)
    four = network(text.replace("N,2,3", "4,2,3"), tmp_path)
    with pytest.raises(ModelError, match="no axis in front that counts"):
        predict(four, Dataset({"x": np.ones((8, 2, 3), np.float32)}))


def test_a_batch_that_is_filled_up_counts_once(tmp_path: Path) -> None:
    whole = network(PASS.replace("N", "4"), tmp_path)
    data = Dataset({"x": LOGITS}, LABELS)
    assert predict(whole, data)["y"].tolist() == LOGITS.tolist()
    assert measure(whole, data, Top1()).value == 80
    one = data.take([4])
    assert predict(whole, one)["y"].tolist() == LOGITS[4:].tolist()


@pytest.mark.shared
def test_keywords_score_as_published(shared: Path) -> None:
    """91.6 % of 2445 clips, by the independent `evaluate.py`; noise on the weights costs some."""
    whole = load_model(shared / "models" / "kws_dscnn_mlperf.onnx")
    with np.load(shared / "data" / "kws_mfcc_2445.npz") as stored:
        data = Dataset(
            {"input": stored["x"].astype(np.float32)[:, None]}, stored["y"].astype(np.int64)
        )
    gate = Gate(whole, data, Top1())
    noisy = whole.clone()
    rng = np.random.default_rng(0)
    for name, value in noisy.ir.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.dtype == ir.DataType.FLOAT and len(tensor.shape) == 4:
            weights = tensor.numpy()
            noise = 0.15 * weights.std() * rng.standard_normal(weights.shape)
            value.const_value = ir.tensor((weights + noise).astype(np.float32), name=name)
    verdict = gate.judge(noisy, 0.0)
    assert verdict.before == pytest.approx(91.6, abs=0.05)
    assert not verdict.ok
    assert verdict.interval is not None
    assert verdict.interval[0] < verdict.drop < verdict.interval[1]
    assert 5 < (verdict.snr_db or 0) < 30


CLEAR = {
    "far within": (0.2, (-0.6, 1.0), 1.0, True),
    "within, but no error away": (0.8, (0.0, 1.6), 1.0, False),
    "beyond": (1.2, (1.1, 1.3), 1.0, False),
    "nothing lost, few samples": (0.0, (-9.0, 9.0), 1.0, True),
    "no interval": (0.9, None, 1.0, True),
    "nothing asked": (50.0, (40.0, 60.0), None, True),
}


@pytest.mark.parametrize(("drop", "interval", "limit", "clear"), CLEAR.values(), ids=CLEAR)
def test_clear_keeps_one_standard_error_away(
    drop: float, interval: tuple[float, float] | None, limit: float | None, clear: bool
) -> None:
    verdict = Verdict("top1", 90.0, 90.0 - drop, drop, interval, "", 100, None, limit)
    assert verdict.clear is clear
