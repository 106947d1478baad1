"""`--search` picks the largest ratio and the narrowest precision that the gate allows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
import pytest

import splitc
from splitc import accuracy, pipeline
from splitc.data import Dataset
from splitc.errors import PassError, RequestError
from splitc.model import Model
from splitc.pipeline import Resources
from splitc.scope import Boundary
from splitc.search import RATIOS, bops, search
from tests.networks import model
from tests.registered import register

TEXT = """g (float[N, 16] x) => (float[N, 4] y)
<float[16, 16] w = {WIDE}, float[16, 4] v = {LAST}> {
    h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, v) }"""
RNG = np.random.default_rng(0)


def numbers(array: Any) -> str:
    return ", ".join(f"{value:.4f}" for value in np.asarray(array).reshape(-1))


@dataclass(frozen=True)
class Shave:
    """Cut off the last columns of `w`: beyond 60 %, a class loses its evidence."""

    name: ClassVar[str] = "shave"
    exact: ClassVar[bool] = False
    ratio: float = 0.5

    def run(self, model: Model) -> Model:
        copy = model.clone()
        weight = copy.ir.graph.initializers["w"]
        assert weight.const_value is not None
        changed = weight.const_value.numpy().copy()
        changed[:, 16 - round(self.ratio * 16) :] = 0
        weight.const_value = ir.Tensor(changed, name="w")
        return copy


@dataclass(frozen=True)
class Stuck:
    """Never works."""

    name: ClassVar[str] = "stuck"
    exact: ClassVar[bool] = True

    def run(self, model: Model) -> Model:
        raise PassError("stuck for good")


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, Shave)


@pytest.fixture
def net(tmp_path: Path) -> Model:
    last = np.zeros((16, 4))
    last[:4] = np.eye(4)  # the first four columns of `w` decide
    last[6, 3] = 2.0  # and so does this one: it is gone from ratio 0.6 on
    last[3, 3] = 0.0
    wide = np.eye(16)
    wide[3, 6] = 1.0
    return model(TEXT.replace("WIDE", numbers(wide)).replace("LAST", numbers(last)), tmp_path)


def samples(count: int = 80) -> Dataset:
    labels = np.arange(count) % 4
    x = RNG.uniform(0, 0.1, (count, 16)).astype(np.float32)
    x[np.arange(count), labels] = 1
    return Dataset({"x": x}, labels)


def resources(max_drop: float | None = 1.0, data: Dataset | None = None) -> Resources:
    data = data or samples()
    return Resources(
        data=data, evaluation=data, metric=accuracy.metric(None, data), max_drop=max_drop
    )


def test_the_largest_ratio_that_holds_is_found_by_bisection(net: Model) -> None:
    found, tried = search(pipeline.parse("shave"), net, resources())
    assert found == (Shave(0.55),)
    assert len(tried) <= 5 < len(RATIOS)
    assert {trial.ok for trial in tried} == {True, False}
    assert all(trial.drop > 1 for trial in tried if not trial.ok and trial.drop is not None)


def test_precision_is_chosen_for_each_side(net: Model) -> None:
    passes = pipeline.parse("quantize")
    found, tried = search(passes, net, resources(), pin=["r"], boundary=Boundary(("r",)))
    texts = [pipeline.text(trial.passes) for trial in tried]
    assert texts == ["quantize", 'quantize{scope = "head"}', 'quantize{scope = "tail"}', ""]
    assert found == passes
    assert tried[0].bops == min(trial.bops for trial in tried)


def test_bops_count_bits(net: Model) -> None:
    assert bops(net) == (16 * 16 + 16 * 4) * 32 * 32
    int8 = splitc.optimize(net, passes="quantize", data=None).model
    assert bops(int8) == (16 * 16 + 16 * 4) * 8 * 8


def test_a_pass_that_never_holds_is_left_out(net: Model) -> None:
    harsh = samples()
    harsh.inputs["x"][:, 6] = 0.0
    data = Dataset({"x": harsh.inputs["x"]}, harsh.labels)
    found, _ = search(pipeline.parse("simplify, shave"), net, resources(data=data))
    assert pipeline.text(found).startswith("simplify")


def test_the_api_judges_the_winner_on_the_other_half(net: Model, tmp_path: Path) -> None:
    data = samples()
    path = tmp_path / "eval.npz"
    np.savez(path, x=data.inputs["x"], label=np.asarray(data.labels))
    made = splitc.optimize(net, passes="shave", eval=path, max_drop=1.0, search=True)
    assert made.ok
    assert made.to_json()["passes"][0]["options"] == {"ratio": 0.55}
    assert made.to_json()["passes"][0]["samples"] == 40
    assert len(made.to_json()["search"]) == len(made.tried) > 1
    assert any("tuned on 40 samples, judged on 40 others" in note for note in made.notes)


ERRORS = {
    "no gate": ("shave", {"max_drop": None}, "needs a gate"),
    "nothing to choose": ("simplify", {}, "nothing to choose"),
}


@pytest.mark.parametrize(("text", "more", "message"), ERRORS.values(), ids=ERRORS)
def test_what_cannot_be_searched(net: Model, text: str, more: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        search(pipeline.parse(text), net, resources(**more))


def test_without_data_there_is_nothing_to_judge_with(net: Model) -> None:
    with pytest.raises(RequestError, match="needs data to judge with"):
        search(pipeline.parse("shave"), net, Resources(max_drop=1.0))


def test_where_no_candidate_can_be_made_the_reason_is_told(net: Model) -> None:
    with pytest.raises(PassError, match="no candidate keeps the accuracy gate") as raised:
        search((Stuck(), Shave()), net, resources())
    assert "stuck for good" in raised.value.where


def test_pipelines_as_text_round_trip() -> None:
    text = 'simplify, shave{ratio = 0.25}, quantize{scope = "head", mixed = true, nodes = ["a"]}'
    assert pipeline.parse(pipeline.text(pipeline.parse(text))) == pipeline.parse(text)
    assert pipeline.text(pipeline.parse(text)) == (
        'simplify, shave{ratio = 0.25}, quantize{scope = "head", nodes = ["a"], mixed = true}'
    )


def test_where_nothing_holds_the_result_says_so(
    net: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = samples()
    path = tmp_path / "eval.npz"
    np.savez(path, x=data.inputs["x"], label=np.asarray(data.labels))
    run = Shave.run
    monkeypatch.setattr(Shave, "run", lambda self, model: run(Shave(1.0), model))
    made = splitc.optimize(net, passes="shave", eval=path, max_drop=1.0, search=True)
    assert made.ok
    assert made.steps == ()
    assert any("NO lossy pass is within the gate" in note for note in made.notes)
