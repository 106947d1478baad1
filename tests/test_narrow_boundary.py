"""Floats cross as int8 or float16; the head goes on with what it had."""

from pathlib import Path

import numpy as np
import pytest

from splitc import data as datasets
from splitc import pipeline
from splitc.errors import PassError
from splitc.execute import evaluate
from splitc.feeds import draw_inputs
from splitc.model import Model
from splitc.passes.narrow_boundary import NarrowBoundary, scale
from splitc.scope import Boundary
from tests.networks import model

TEXT = """g (float[N, 64] x) => (float[N, 64] y, float[N, 64] z) {
    a = Relu(x)  b = Exp(a)  z = Neg(a)  c = Sin(a)  y = Add(b, c) }"""
CUT = Boundary(("a",), ("z",))


@pytest.fixture
def net(tmp_path: Path) -> Model:
    return model(TEXT, tmp_path)


def narrowed(net: Model, dtype: str, boundary: Boundary = CUT) -> Model:
    step = NarrowBoundary(dtype, data=datasets.drawn(net, 16), boundary=boundary)
    return pipeline.run((step,), net, pin=[t for t in boundary.tensors if t != "x"])


AFTER = {
    "int8": """
   a = Relu (x)
   [a_int8] a_int8 = QuantizeLinear (a, a_scale, a_zero_point)
   [a_wide] a_wide = DequantizeLinear (a_int8, a_scale, a_zero_point)
   b = Exp (a_wide)
   z = Neg (a)
   c = Sin (a_wide)
   y = Add (b, c)
""",
    "float16": """
   a = Relu (x)
   [a_float16] a_float16 = Cast <to: int = 10> (a)
   [a_wide] a_wide = Cast <to: int = 1> (a_float16)
   b = Exp (a_wide)
   z = Neg (a)
   c = Sin (a_wide)
   y = Add (b, c)
""",
}


@pytest.mark.parametrize("dtype", AFTER)
def test_the_tail_alone_reads_what_crossed(net: Model, dtype: str) -> None:
    after = narrowed(net, dtype)
    body = after.text().split("{", 1)[1].split("}", 1)[0]
    body = body.replace("[node_", "[").split("<", 1)[0] if "float a_scale" in body else body
    lines = [line.split("] ", 1)[-1].strip() for line in body.strip().splitlines()]
    want = [line.split("] ", 1)[-1].strip() for line in AFTER[dtype].strip().splitlines()]
    assert lines == want
    assert after.graph.narrowed == {}  # `a` has another reader, in the head
    assert after.graph.widened == {f"a_{dtype}": "a"}
    assert after.outputs == net.outputs


@pytest.mark.parametrize(("dtype", "steps"), [("int8", 0.02), ("float16", 1e-3)])
def test_values_change_by_rounding_alone(net: Model, dtype: str, steps: float) -> None:
    after, feeds = narrowed(net, dtype), draw_inputs(net, 3)
    got, want = (
        evaluate(one, feeds, ["a_wide"])["a_wide"]
        if one is after
        else evaluate(one, feeds, ["a"])["a"]
        for one in (after, net)
    )
    assert 0 < np.abs(got - want).max() <= steps * np.abs(want).max()
    np.testing.assert_array_equal(evaluate(after, feeds)["z"], evaluate(net, feeds)["z"])


def test_a_graph_input_crosses_as_it_is(net: Model) -> None:
    step = NarrowBoundary(boundary=Boundary(("x",)))
    assert step.run(net).fingerprint() == net.fingerprint()


def test_random_calibration_is_loud(net: Model) -> None:
    assert "RANDOM CALIBRATION" in NarrowBoundary(boundary=CUT).run(net).notes[-1]


def test_bad_options_and_a_missing_cut(net: Model) -> None:
    with pytest.raises(PassError, match="known: int8, float16"):
        pipeline.parse('narrow-boundary{dtype = "int4"}')
    with pytest.raises(PassError, match="works at a cut"):
        NarrowBoundary().run(net)


def test_an_old_opset_is_raised(net: Model) -> None:
    old = net.clone()
    old.ir.graph.opset_imports[""] = 9
    after = narrowed(old, "int8")
    assert after.ir.graph.opset_imports[""] >= 10
    after.check()


def test_the_scale_beats_the_one_that_never_clips() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(size=4096), [40.0]])
    error = [
        np.square(np.clip(np.rint(values / s), -128, 127) * s - values).sum()
        for s in (scale(values), 40 / 127)
    ]
    assert error[0] < error[1]
    assert scale(np.zeros(4)) == 1 / 127
