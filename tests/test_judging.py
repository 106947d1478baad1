"""Lossy passes are judged on samples, against the loaded model, and the one that fails is named."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
import pytest

import splitc
from splitc import accuracy, pipeline
from splitc.data import Dataset
from splitc.errors import GateError, RequestError
from splitc.judging import Judge
from splitc.model import Model
from splitc.pipeline import Resources, resource
from tests.networks import model
from tests.registered import register

TEXT = """g (float[N, 4] x) => (float[N, 4] y)
<float[4, 4] w = {4,0,0,0, 0,4,0,0, 0,0,4,0, 0,0,0,4}> { h = MatMul(x, w)  y = Relu(h) }"""
RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Spoil:
    """Add `much` to a class for every sample: a lossy pass whose cost is known."""

    name: ClassVar[str] = "spoil"
    exact: ClassVar[bool] = False
    much: float = 0.0
    tuned: int = 0
    evaluation: Dataset | None = resource()

    @property
    def tunes(self) -> bool:
        return bool(self.tuned)

    def run(self, model: Model) -> Model:
        copy = model.clone()
        weight = copy.ir.graph.initializers["w"]
        assert weight.const_value is not None
        changed = weight.const_value.numpy() + np.float32(self.much) * np.eye(4, k=-1)
        weight.const_value = ir.Tensor(changed.astype(np.float32), name="w")
        seen = len(self.evaluation) if self.evaluation else 0
        return copy.with_notes(f"spoil sees {seen} samples")


@pytest.fixture
def net(tmp_path: Path) -> Model:
    return model(TEXT, tmp_path)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, Spoil)


def samples(count: int = 40) -> Dataset:
    """One-hot-like inputs: the label is the largest, which the network finds without fail."""
    labels = np.arange(count) % 4
    x = RNG.uniform(0, 0.5, (count, 4)).astype(np.float32)
    x[np.arange(count), labels] = 1
    return Dataset({"x": x}, labels)


def archive(folder: Path, name: str, data: Dataset) -> str:
    path = folder / name
    np.savez(path, x=data.inputs["x"], label=np.asarray(data.labels))
    return str(path)


def judge(net: Model, *steps: pipeline.Pass, max_drop: float | None = None, **more: Any) -> Judge:
    data = samples()
    resources = Resources(evaluation=data, metric=accuracy.metric(None, data), max_drop=max_drop)
    made = Judge(net, resources, **more)
    made.run(steps, net)
    return made


def test_each_lossy_pass_is_judged_against_the_loaded_model(net: Model) -> None:
    made = judge(net, Spoil(1.0), pipeline.parse("simplify")[0], Spoil(100.0))
    first, exact, second = made.steps
    assert (first.before, exact.verdict) == (100.0, None)
    assert first.verdict is not None
    assert second.verdict is not None
    assert first.verdict.drop == 0.0
    assert second.before == first.verdict.after
    assert second.verdict.before == 100.0
    assert second.verdict.drop > 50
    assert second.to_json()["samples"] == 40


def test_the_pass_that_breaks_the_gate_is_named_and_the_last(net: Model) -> None:
    with pytest.raises(GateError, match="'spoil' breaks the accuracy gate") as raised:
        judge(net, Spoil(100.0), max_drop=1.0)
    assert "top1 100" in raised.value.where
    assert raised.value.exit_code == 3
    made = judge(net, Spoil(0.1), Spoil(100.0), Spoil(0.1), max_drop=1.0, lenient=True)
    assert (len(made.steps), made.broken_by) == (2, "spoil")


def test_what_tunes_a_pass_does_not_judge_it(net: Model) -> None:
    made = judge(net, Spoil(0.1, tuned=1), split=True)
    assert made.steps[0].to_json()["samples"] == 20
    assert made.notes()[0] == "tuned on 20 samples, judged on 20 others"
    assert judge(net, Spoil(0.1)).steps[0].to_json()["samples"] == 40


def test_whoever_judges_on_what_a_pass_learned_from_hears_of_it(net: Model) -> None:
    data, others = samples(), samples()
    for evaluation, doubted in ((None, True), (data.take(slice(None)), True), (others, False)):
        made = Judge(net, Resources(data=data, evaluation=evaluation))
        made.run((Spoil(0.1),), net)
        assert ("judged on the calibration data" in made.notes()[0]) is doubted


def test_without_data_the_result_says_so(net: Model) -> None:
    made = Judge(net, Resources())
    made.run((Spoil(0.1),), net)
    assert any("RANDOM INPUTS" in line for line in made.notes())
    with pytest.raises(RequestError, match="--max-drop needs data"):
        Judge(net, Resources(max_drop=1.0)).run((Spoil(0.1),), net)


def test_exact_passes_need_no_samples(net: Model) -> None:
    made = Judge(net, Resources(max_drop=1.0))
    made.run(pipeline.parse("simplify"), net)
    assert (made.last, made.notes()) == (None, ())


def test_optimize_writes_nothing_when_the_gate_breaks(
    net: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    from splitc.cli import main

    out, data = tmp_path / "out.onnx", archive(tmp_path, "eval.npz", samples())
    source = str(tmp_path / "net.onnx")
    argv = ["optimize", source, "--eval", data, "-o", str(out), "--max-drop", "1", "--json"]
    assert main([*argv, "--passes", "simplify, spoil{much = 100.0}"]) == 3
    made = json.loads(capsys.readouterr().out)
    assert (made["ok"], made["gate"]["broken_by"], made["output"]) == (False, "spoil", None)
    assert not out.exists()
    assert main([*argv, "--passes", "simplify, spoil{much = 0.1}"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["passes"][1]["metric_after"] == 100.0
    assert made["gate"]["max_drop"] == 1.0
    assert out.exists()


def test_compile_stops_at_a_broken_gate(net: Model, tmp_path: Path) -> None:
    scenario: dict[str, Any] = {
        "head": "raspberry-pi-4",
        "tail": "nvidia-a100",
        "link": "wifi",
        "eval": archive(tmp_path, "eval.npz", samples()),
        "max_drop": 1.0,
    }
    with pytest.raises(GateError):
        splitc.compile(net, passes="spoil{much = 100.0}", output=tmp_path / "b", **scenario)
    assert not (tmp_path / "b").exists()
    made = splitc.compile(net, passes="spoil{much = 0.1}", output=tmp_path / "b", **scenario)
    (check,) = [c for c in made.report.checks if c.name == "accuracy gate"]
    assert check.status == "pass"
    assert "top1 100 → 100" in check.detail


def test_verify_judges_again_on_other_data(net: Model, tmp_path: Path) -> None:
    scenario: dict[str, Any] = {"head": "raspberry-pi-4", "tail": "nvidia-a100", "link": "wifi"}
    good = archive(tmp_path, "eval.npz", samples())
    splitc.compile(
        net, passes="spoil{much = 2.0}", output=tmp_path / "b", eval=good, max_drop=1.0, **scenario
    )
    report = splitc.verify(tmp_path / "b", model=net, data=good)
    assert {c.name: c.status for c in report.checks}["accuracy gate"] == "pass"
    hard = samples()
    hard.inputs["x"][:, 1] = 0.9  # the neighbour's class is nearly as large: it wins when spoilt
    report = splitc.verify(tmp_path / "b", model=net, data=archive(tmp_path, "hard.npz", hard))
    assert {c.name: c.status for c in report.checks}["accuracy gate"] == "fail"
    assert not report.ok


def test_options_that_do_not_fit(net: Model) -> None:
    with pytest.raises(RequestError, match="--max-drop -1"):
        splitc.optimize(net, passes="spoil", max_drop=-1.0)
    with pytest.raises(RequestError, match="--metric needs data"):
        splitc.optimize(net, passes="spoil", metric="top1")
    with pytest.raises(RequestError, match="--preprocess reads"):
        splitc.optimize(net, passes="spoil", preprocess="a.b:c")
    with pytest.raises(RequestError, match="--resume takes up training"):
        splitc.optimize(net, passes="spoil", resume=True)
