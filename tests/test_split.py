"""Head and tail together are the model, compute the model, and send nothing that nobody needs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from splitc.cuts import listed, of_head, resolve
from splitc.errors import ModelError
from splitc.execute import evaluate
from splitc.feeds import draw_inputs
from splitc.model import Model
from splitc.split import Split, split
from tests.networks import model, random_model

Values = Mapping[str, NDArray[Any]]


def through(whole: Model, halves: Split, feeds: Values) -> dict[str, NDArray[Any]]:
    """Run head and tail, bit for bit, from the graph inputs and the boundary alone."""
    made = {**feeds, **(evaluate(halves.head, feeds, optimize=False) if halves.head else {})}
    wire = {t.name: made[t.name] for t in halves.boundary}
    late = evaluate(halves.tail, wire, optimize=False) if halves.tail else {}
    assert set(late) == set(halves.tail_outputs)
    assert {t.name for t in whole.outputs} == {*halves.head_outputs, *halves.tail_outputs}
    return {**{name: made[name] for name in halves.head_outputs}, **late}


def check(whole: Model, halves: Split) -> None:
    """Assert that both halves are the model, once, and need all that crosses."""
    graph, sides = whole.graph, [half for half in (halves.head, halves.tail) if half]
    dead = [n for n in graph.nodes if n.id in halves.head_nodes] if not halves.head else []
    dead += [n for n in graph.nodes if n.id not in halves.head_nodes] if not halves.tail else []
    inside = {node.id for node in dead}
    for node in dead:  # a side is left out only when nobody outside it needs it
        assert not set(node.outputs) & set(graph.outputs)
        assert all(set(graph.readers[t]) <= inside for t in node.outputs)
    made = [node.id for half in sides for node in half.graph.nodes]
    assert sorted([*made, *inside]) == sorted(graph.by_id)
    fixed = {node.id for node in graph.constants}
    for half in sides:
        half.check()
        assert {node.id for node in half.graph.constants} <= fixed
        read = {t for node in half.graph.nodes for t in (*node.inputs, *node.weights)}
        read |= {t for node in half.graph.constants for t in node.weights}
        assert set(half.ir.graph.initializers) <= read | set(half.graph.outputs)
        assert set(half.graph.inputs) <= read
    crossing = {t.name for t in halves.boundary}
    if halves.tail:
        assert set(halves.tail.graph.inputs) == crossing
    if halves.head:
        unneeded = set(halves.head.graph.outputs) - crossing - set(graph.outputs)
        assert not unneeded, "the head makes what nobody needs"


@pytest.mark.parametrize("seed", range(30))
def test_every_listed_cut_of_random_networks(seed: int, tmp_path: Path) -> None:
    whole = random_model(seed, tmp_path)
    feeds = draw_inputs(whole, seed)
    want = evaluate(whole, feeds, optimize=False)
    for cut in listed(whole.graph, max_tensors=4):
        halves = split(whole, cut)
        check(whole, halves)
        got = through(whole, halves, feeds)
        for name in want:
            np.testing.assert_array_equal(got[name], want[name], err_msg=f"{cut.tensors} {name}")


@pytest.mark.shared
def test_every_listed_cut_of_real_networks(shared: Path) -> None:
    import splitc

    for name, inputs in (("silero_vad_16k_op15", ["input=1x512"]), ("kws_dscnn_mlperf", [])):
        whole = splitc.load(shared / "models" / f"{name}.onnx", input=inputs)
        feeds = draw_inputs(whole)
        want = evaluate(whole, feeds, optimize=False)
        for cut in listed(whole.graph):
            halves = split(whole, cut)
            check(whole, halves)
            for output, got in through(whole, halves, feeds).items():
                np.testing.assert_array_equal(got, want[output], err_msg=f"{name} {cut.tensors}")


TRAPS = {
    "input skips to the tail": (
        "g (float[2] x, float[2] z) => (float[2] y) { a = Relu(x)  y = Add(a, z) }",
        "a,z",
        ("y",),
    ),
    "an output that the tail reads": (
        "g (float[2] x) => (float[2] a, float[2] y) { a = Relu(x)  y = Neg(a) }",
        "a",
        ("y",),
    ),
    "an output that is an input": (
        "g (float[2] x) => (float[2] x, float[2] y) { a = Relu(x)  y = Neg(a) }",
        "a",
        ("y",),
    ),
    "an output that constants make": (
        "g (float[2] x) => (float[2] c, float[2] y) "
        "{ c = Constant <value_floats = [1.0, 2.0]> ()  a = Relu(x)  y = Add(a, c) }",
        "a",
        ("y",),
    ),
    "the same, with no head": (
        "g (float[2] x) => (float[2] c, float[2] y) "
        "{ c = Constant <value_floats = [1.0, 2.0]> ()  a = Relu(x)  y = Add(a, c) }",
        "@input",
        ("c", "y"),
    ),
    "a dead node": (
        "g (float[2] x) => (float[2] y) { a = Relu(x)  dead = Neg(a)  y = Neg(a) }",
        "a",
        ("y",),
    ),
    "nothing but a dead node on the head": (
        "g (float[2] x, float[2] z) => (float[2] y) { dead = Neg(z)  a = Relu(x)  y = Neg(a) }",
        "x",
        ("y",),
    ),
    "nothing but a dead node on the tail": (
        "g (float[2] x) => (float[2] y) { y = Relu(x)  dead = Neg(y) }",
        "y",
        (),
    ),
    "a loop that captures": (
        "g (float[2] x) => (float[2] y) {"
        "  n = Constant <value_int = 3> ()  t = Constant <value = bool {1}> ()  a = Relu(x)"
        "  y = Loop (n, t, x) <body = b (int64 i, bool go, float[2] s) => (bool on, float[2] r)"
        "  { on = Identity(go)  r = Add(s, a) }> }",
        "x,a",
        ("y",),
    ),
}


@pytest.mark.parametrize(("text", "cut", "late"), TRAPS.values(), ids=TRAPS)
def test_traps(text: str, cut: str, late: tuple[str, ...], tmp_path: Path) -> None:
    whole = model(text, tmp_path)
    halves = split(whole, resolve(whole.graph, cut))
    check(whole, halves)
    assert halves.tail_outputs == late
    feeds = {t.name: np.array([-1, 2], np.float32) for t in whole.inputs}
    want = evaluate(whole, feeds, optimize=False)
    got = through(whole, halves, feeds)
    assert set(got) == set(want)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name])


def test_initializers_are_copied_only_where_they_are_read(tmp_path: Path) -> None:
    text = """g (float[2] x) => (float[2] y)
        <float[2] w = {1, 2}, float[2] v = {3, 4}, float[2] both = {5, 6}> {
        a = Mul(x, w)  b = Add(a, both)  c = Mul(b, v)  y = Add(c, both) }"""
    whole = model(text, tmp_path)
    halves = split(whole, resolve(whole.graph, "b"))
    assert halves.head is not None
    assert halves.tail is not None
    assert set(halves.head.ir.graph.initializers) == {"w", "both"}
    assert set(halves.tail.ir.graph.initializers) == {"v", "both"}


def test_random_nodes_are_never_duplicated(tmp_path: Path) -> None:
    text = """g (float[2] x) => (float[2] y) {
        r = RandomNormal <shape = [2]> ()  a = Add(x, r)  b = Relu(a)  y = Mul(b, r) }"""
    whole = model(text, tmp_path)
    for cut in listed(whole.graph):
        check(whole, split(whole, cut))
    assert ("r", "b") in {cut.tensors for cut in listed(whole.graph)}


def test_refuses_what_is_no_cut(tmp_path: Path) -> None:
    whole = model("g (float[2] x) => (float[2] y) { a = Relu(x)  y = Neg(a) }", tmp_path)
    with pytest.raises(ModelError, match="reads 'a', which the tail makes"):
        of_head(whole.graph, {"y"})
    fixed = "g (float[2] x) => (float[2] c) { c = Constant <value_floats = [1.0, 2.0]> () }"
    (tmp_path / "fixed").mkdir()
    constant = model(fixed, tmp_path / "fixed")
    with pytest.raises(ModelError, match="nothing can be split"):
        split(constant, resolve(constant.graph, "@input"))
