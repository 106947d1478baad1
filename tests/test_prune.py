"""prune: what nobody needs goes, what the target says is met, and the rest keeps its names."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs splitc[torch]")
pytest.importorskip("torch_pruning", reason="needs splitc[torch]")

import torch

from splitc import pipeline
from splitc.comparison import relative_error
from splitc.data import Dataset
from splitc.errors import PassError
from splitc.execute import evaluate
from splitc.macs import macs
from splitc.model import Model
from splitc.passes.prune import Prune
from splitc.train import Recipe
from tests import networks

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread")]
EXACT = 1e-5

CASES = {
    "channels that nobody reads": (
        """net (float[N,2,2,2] x) => (float[N,1,2,2] y)
        <float[4,2,1,1] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[4] b = {0.1, 0.2, 0.3, 0.4},
         float[1,4,1,1] v = {1, 0, 2, 0}>
        { c = Conv(x, w, b) r = Relu(c) y = Conv(r, v) }""",
        """net (float[N,2,2,2] x) => (float[N,1,2,2] y)
        <float[2,2,1,1] w = {1, 2, 5, 6}, float[2] b = {0.1, 0.3}, float[1,2,1,1] v = {1, 2}>
        { c = Conv(x, w, b) r = Relu(c) y = Conv(r, v) }""",
    ),
    "a depthwise convolution between them": (
        """net (float[N,2,2,2] x) => (float[N,1,2,2] y)
        <float[4,2,1,1] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[4,1,1,1] d = {1, 2, 3, 4},
         float[1,4,1,1] v = {0, 1, 0, 2}>
        { c = Conv(x, w) e = Conv<group = 4>(c, d) y = Conv(e, v) }""",
        """net (float[N,2,2,2] x) => (float[N,1,2,2] y)
        <float[2,2,1,1] w = {3, 4, 7, 8}, float[2,1,1,1] d = {2, 4}, float[1,2,1,1] v = {1, 2}>
        { c = Conv(x, w) e = Conv<group = 2>(c, d) y = Conv(e, v) }""",
    ),
    "a flattened tensor: four positions to a channel": (
        """net (float[N,1,2,2] x) => (float[N,1] y)
        <float[2,1,1,1] w = {1, 2}, float[8,1] m = {0, 0, 0, 0, 1, 2, 3, 4},
         int64[2] shape = {-1, 8}>
        { c = Conv(x, w) r = Reshape(c, shape) y = MatMul(r, m) }""",
        """net (float[N,1,2,2] x) => (float[N,1] y)
        <float[1,1,1,1] w = {2}, float[4,1] m = {1, 2, 3, 4}, int64[2] r_sizes = {-1, 4}>
        { c = Conv(x, w) r = Reshape(c, r_sizes) y = MatMul(r, m) }""",
    ),
    "a sum: both sides lose the channel": (
        """net (float[N,1,2,2] x) => (float[N,1,2,2] y)
        <float[2,1,1,1] w = {1, 2}, float[2,1,1,1] u = {3, 4}, float[1,2,1,1] v = {0, 1}>
        { a = Conv(x, w) b = Conv(x, u) s = Add(a, b) y = Conv(s, v) }""",
        """net (float[N,1,2,2] x) => (float[N,1,2,2] y)
        <float[1,1,1,1] w = {2}, float[1,1,1,1] u = {4}, float[1,1,1,1] v = {1}>
        { a = Conv(x, w) b = Conv(x, u) s = Add(a, b) y = Conv(s, v) }""",
    ),
}


@pytest.mark.parametrize(("before", "after"), CASES.values(), ids=CASES)
def test_what_nobody_reads_goes(before: str, after: str, tmp_path: Path) -> None:
    made = Prune(ratio=0.5, importance="energy").run(networks.model(before, tmp_path))
    want = networks.model(after, tmp_path)
    assert weights(made) == weights(want)
    assert [str(n.attributes) for n in made.ir.graph] == [str(n.attributes) for n in want.ir.graph]
    channels = (1, 2)["float[N,2" in before]
    x = np.random.default_rng(0).standard_normal((3, channels, 2, 2)).astype(np.float32)
    whole = evaluate(networks.model(before, tmp_path), {"x": x})["y"]
    assert relative_error(evaluate(made, {"x": x})["y"], whole) <= EXACT


def weights(model: Model) -> dict[str, Any]:
    """Return initializer -> its values, rounded to float32."""
    table = model.ir.graph.initializers
    return {
        n: v.const_value.numpy().tolist() for n, v in table.items() if v.const_value is not None
    }


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def share(after: Model, before: Model) -> float:
    """Return the share of MACs that is gone."""
    return 1 - sum(macs(after).values()) / sum(macs(before).values())


def floats(model: Model) -> set[str]:
    """Return the names of the weights."""
    table = model.ir.graph.initializers
    return {n for n, v in table.items() if v.const_value is not None and v.const_value.dtype == 1}


def agreement(after: Model, before: Model, data: Dataset) -> float:
    """Return how often both say the same class, in percent."""
    wanted = [evaluate(before, feeds)[before.graph.outputs[0]] for feeds in data.feeds(before)]
    made = [evaluate(after, feeds)[after.graph.outputs[0]] for feeds in data.feeds(after)]
    same = np.concatenate(wanted).argmax(-1) == np.concatenate(made).argmax(-1)
    return float(100 * same.mean())


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("kind", "filters", "kind = 'filters'"),
        ("target", "mac", "did you mean 'macs'"),
        ("importance", "l1", "importance = 'l1'"),
        ("ratio", 0.0, "above 0 and below 1"),
        ("ratio", 1.0, "above 0 and below 1"),
        ("ratio", "half", "a number"),
        ("round_to", 0, "1 or more"),
        ("scope", "middle", "scope = 'middle'"),
    ],
)
def test_options_that_cannot_be(option: str, value: object, message: str) -> None:
    options: dict[str, Any] = {"ratio": 0.5, option: value}
    with pytest.raises(ValueError, match=message):
        Prune(**options)


def test_options_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match=r"ratio = 0\.5"):
        Prune(ratio=0.4, kind="2:4")
    with pytest.raises(ValueError, match="target = 'channels'"):
        Prune(ratio=0.4, kind="blocks", target="channels")


def test_a_pipeline_names_the_pass_and_what_is_wrong() -> None:
    (step,) = pipeline.parse('prune{target = "macs", ratio = 0.4}')
    assert step == Prune(ratio=0.4)
    assert pipeline.parse("prune") == (Prune(ratio=0.3),)
    with pytest.raises(PassError, match="did you mean 'globally'"):
        pipeline.parse("prune{ratio = 0.4, global = false}")


@pytest.mark.parametrize("importance", ["energy", "magnitude", "taylor"])
def test_the_macs_that_were_asked_for_go(importance: str, kws: tuple[Model, Dataset]) -> None:
    model, data = kws
    made = Prune(ratio=0.4, importance=importance, data=data, repair=False).run(model)
    assert share(made, model) == pytest.approx(0.4, abs=0.01)
    assert any(f"MACs ({share(made, model):.1%} less)" in note for note in made.notes)
    assert (made.inputs, made.outputs) == (model.inputs, model.outputs)
    assert list(made.nodes) == list(model.nodes)
    assert floats(made) == floats(model)


@pytest.mark.parametrize("target", ["bytes", "channels"])
def test_other_targets(target: str, kws: tuple[Model, Dataset], tmp_path: Path) -> None:
    model, data = kws
    made = Prune(ratio=0.3, target=target, data=data, repair=False).run(model)
    for name, one in (("before", model), ("after", made)):
        one.save(tmp_path / name)
    assert (tmp_path / "after").stat().st_size < 0.8 * (tmp_path / "before").stat().st_size
    if target == "bytes":
        assert made.weight_bytes() / model.weight_bytes() == pytest.approx(0.7, abs=0.01)
    else:
        assert sum(widths(made)) / sum(widths(model)) == pytest.approx(0.7, abs=0.03)


def widths(model: Model) -> list[int]:
    """Return how many filters each plain convolution has."""
    nodes = [n for n in model.ir.graph if n.op_type == "Conv"]
    plain = [n for n in nodes if n.attributes.get_int("group", 1) == 1]
    return [model.facts[str(n.outputs[0].name)].shape[1] for n in plain]


def test_each_layer_alone(kws: tuple[Model, Dataset]) -> None:
    model, data = kws
    made = Prune(ratio=0.4, globally=False, repair=False, data=data).run(model)
    assert max(widths(made)) - min(widths(made)) <= 1
    assert share(made, model) == pytest.approx(0.4, abs=0.02)
    ranked = Prune(ratio=0.4, repair=False, data=data).run(model)
    assert max(widths(ranked)) - min(widths(ranked)) > 1


def test_widths_in_steps(kws: tuple[Model, Dataset]) -> None:
    model, data = kws
    made = Prune(ratio=0.4, round_to=8, repair=False, data=data).run(model)
    assert all(width % 8 == 0 for width in widths(made))
    assert share(made, model) == pytest.approx(0.4, abs=0.05)


def test_too_much_is_refused(kws: tuple[Model, Dataset]) -> None:
    with pytest.raises(PassError, match=r"at most 9\d\.\d% can be pruned"):
        Prune(ratio=0.999, importance="magnitude").run(kws[0])


def test_refitted_layers_say_what_the_whole_network_said(kws: tuple[Model, Dataset]) -> None:
    model, data = kws
    train, test = data.halves()
    plain = Prune(ratio=0.4, repair=False, importance="magnitude", data=train).run(model)
    refitted = Prune(ratio=0.4, importance="magnitude", data=train).run(model)
    assert share(refitted, model) == pytest.approx(0.4, abs=0.02)
    assert agreement(refitted, model, test) > agreement(plain, model, test) + 15


def test_the_same_twice(kws: tuple[Model, Dataset]) -> None:
    step = Prune(ratio=0.3, data=kws[1].take(slice(32)))
    assert step.run(kws[0]).fingerprint() == step.run(kws[0]).fingerprint()


def test_random_inputs_are_said_loudly(kws: tuple[Model, Dataset]) -> None:
    made = Prune(ratio=0.2).run(kws[0])
    assert any("RANDOM INPUTS" in note for note in made.notes)
    given = Prune(ratio=0.2, data=kws[1], repair=False).run(kws[0])
    assert not any("RANDOM" in note for note in given.notes)


def test_a_recipe_trains_the_smaller_network(kws: tuple[Model, Dataset]) -> None:
    model, data = kws
    train, test = data.halves()
    recipe = Recipe(optimizer="adam", learning_rate=3e-3, epochs=6, batch=12)
    step = Prune(ratio=0.5, repair=False, data=train)
    before = step.run(model)
    after = replace(step, recipe=recipe).run(model)
    assert share(after, model) == pytest.approx(share(before, model))
    assert agreement(after, model, test) > agreement(before, model, test) + 10
    with pytest.raises(PassError, match="trains on data"):
        Prune(ratio=0.5, recipe=recipe).run(model)


def test_a_folded_network_has_no_bn_scale(kws: tuple[Model, Dataset]) -> None:
    with pytest.raises(PassError, match="folded") as caught:
        Prune(ratio=0.5, importance="bn-scale", data=kws[1]).run(kws[0])
    assert "taylor" in caught.value.hint


def test_a_norm_ranks_its_channels(tmp_path: Path) -> None:
    text = """net (float[N,2,2,2] x) => (float[N,1,2,2] y)
        <float[4,2,1,1] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[4] g = {0.1, 2, -3, 0.2},
         float[4] z = {0, 0, 0, 0}, float[4] one = {1, 1, 1, 1}, float[1,4,1,1] v = {9, 1, 1, 9}>
        { c = Conv(x, w) n = BatchNormalization(c, g, z, z, one) y = Conv(n, v) }"""
    made = Prune(ratio=0.5, importance="bn-scale").run(networks.model(text, tmp_path))
    assert weights(made)["g"] == [2, -3]
    assert weights(made)["w"] == [[[[3]], [[4]]], [[[5]], [[6]]]]


def test_without_the_library(kws: tuple[Model, Dataset], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(PassError, match="torch-pruning") as caught:
        Prune(ratio=0.5).run(kws[0])
    assert caught.value.hint == "pip install 'splitc[torch]'"
