"""`fp16`: casts in the right places, nothing that overflows, an interface that stays."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx.reference import ReferenceEvaluator

import splitc
from splitc import pipeline
from splitc.data import Dataset
from splitc.errors import PassError
from splitc.execute import evaluate
from splitc.feeds import draw_inputs
from splitc.model import Model
from splitc.passes.fp16 import Fp16
from splitc.passes.quantize import Quantize
from splitc.scope import Boundary
from tests.networks import model

NET = """g (float[N, 2] x) => (float[N, 2] y, float[N, 2] r)
    <float[2,2] w = {1, 2, 3, 4}, float[2] b = {0.5, -0.5}>
    { a = MatMul(x, w)  r = Relu(a)  s = Add(r, b)  y = Sigmoid(s) }"""
CASES: dict[str, tuple[Fp16, list[str]]] = {
    "all of it": (
        Fp16(),
        [
            "x_float16 = Cast(x)",
            "a = MatMul(x_float16, w_float16)",
            "r_float16 = Relu(a)",
            "r = Cast(r_float16)",
            "s = Add(r_float16, b_float16)",
            "y_float16 = Sigmoid(s)",
            "y = Cast(y_float16)",
        ],
    ),
    "not the node that the user keeps": (
        Fp16(keep=("s",)),
        [
            "x_float16 = Cast(x)",
            "a = MatMul(x_float16, w_float16)",
            "r_float16 = Relu(a)",
            "r = Cast(r_float16)",
            "s = Add(r, b)",
            "s_float16 = Cast(s)",
            "y_float16 = Sigmoid(s_float16)",
            "y = Cast(y_float16)",
        ],
    ),
    "the tail": (
        Fp16(scope="tail", boundary=Boundary(("r",))),
        [
            "a = MatMul(x, w)",
            "r = Relu(a)",
            "r_float16 = Cast(r)",
            "s = Add(r_float16, b_float16)",
            "y_float16 = Sigmoid(s)",
            "y = Cast(y_float16)",
        ],
    ),
    "the head": (
        Fp16(scope="head", boundary=Boundary(("a",))),
        [
            "x_float16 = Cast(x)",
            "a = MatMul(x_float16, w_float16)",
            "a_float32 = Cast(a)",
            "r = Relu(a_float32)",
            "s = Add(r, b)",
            "y = Sigmoid(s)",
        ],
    ),
}


def lines(found: Model) -> list[str]:
    read = {node: [str(v.name) for v in node.inputs if v] for node in found.ir.graph}
    return [f"{n.outputs[0].name} = {n.op_type}({', '.join(read[n])})" for n in read]


@pytest.mark.parametrize(("step", "expected"), CASES.values(), ids=CASES)
def test_before_and_after(step: Fp16, expected: list[str], tmp_path: Path) -> None:
    before = model(NET, tmp_path)
    after = step.run(before)
    assert lines(after) == expected
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    after.check()
    feeds = draw_inputs(before, 1)
    want, got = evaluate(before, feeds), evaluate(after, feeds)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=1e-2 * np.abs(want[name]).max())
    assert step.run(after).fingerprint() == after.fingerprint()


def test_a_pinned_tensor_keeps_its_name_and_type(tmp_path: Path) -> None:
    before = model(NET, tmp_path)
    step = Fp16(scope="head", boundary=Boundary(("a",)))
    after = pipeline.run([step], before, pin=("a",))
    assert "a = Cast(a_float16)" in lines(after)
    assert after.facts["a"].dtype == "float32"
    assert after.outputs == before.outputs


def test_a_weight_that_overflows_is_named(tmp_path: Path) -> None:
    text = """g (float[N, 2] x) => (float[N, 2] y)
        <float[2] big = {1e5, 1}, float[2] small = {1e-5, 1}>
        { a = Mul(x, small)  b = Mul(a, big)  y = Neg(b) }"""
    before = model(text, tmp_path)
    after = Fp16().run(before)
    assert "a = Mul(x_float16, small_float16)" in lines(after)
    assert "b = Mul(a_float32, big)" in lines(after)
    assert any("weight 'big' is beyond 65504: 'b' stays" in note for note in after.notes)
    assert any("without --data" in note for note in after.notes)


def test_a_value_that_overflows_on_the_data_is_named(tmp_path: Path) -> None:
    text = """g (float[N, 2] x) => (float[N, 2] y)
        { a = Mul(x, x)  b = Sqrt(a)  y = Neg(b) }"""
    before = model(text, tmp_path)
    known = Dataset({"x": np.array([[1, 2], [300, 400]], np.float32)})
    after = Fp16(data=known).run(before)
    assert lines(after)[:2] == ["a = Mul(x, x)", "b = Sqrt(a)"]
    assert {note.split("'")[1] for note in after.notes if "touches" in note} == {"a", "b"}
    got = evaluate(after, known.inputs)["y"]
    np.testing.assert_allclose(got, -known.inputs["x"], rtol=1e-3)
    danger = ReferenceEvaluator(onnx_ir.to_proto(Fp16().run(before).ir))
    with np.errstate(over="ignore"):
        (wrong,) = danger.run(["y"], dict(known.inputs))
    assert not np.isfinite(np.asarray(wrong)).all()


def test_bodies_integers_and_sizes_stay(tmp_path: Path) -> None:
    text = """g (float[1, 4] x, bool t) => (float[1, 8] y, int64[2] z)
        <int64[2] two = {1, 8}, float[4] scales = {1, 1, 1, 2}, float roi>
        { a = Relu(x)  z = Shape(a)
          i = If(t) <then_branch = g1 () => (float[1, 4] p) { p = Add(a, x) },
                     else_branch = g2 () => (float[1, 4] q) { q = Sub(a, x) }>
          u = Unsqueeze(i, axes)  r = Resize(u, , scales)  y = Reshape(r, two) }"""
    text = text.replace(", float roi", ", int64[2] axes = {0, 1}")
    before = model(text, tmp_path)
    after = Fp16().run(before)
    found = lines(after)
    assert "z = Shape(a)" in found or "z = Shape(a_float32)" in found
    assert "r = Resize(u, scales)" in found
    for choice in (True, False):
        feeds = {**draw_inputs(before, 1), "t": np.array(choice)}
        want, got = evaluate(before, feeds), evaluate(after, feeds)
        np.testing.assert_allclose(got["y"], want["y"], rtol=1e-2, atol=1e-3)
        np.testing.assert_array_equal(got["z"], want["z"])


def test_what_is_int8_stays_int8(tmp_path: Path) -> None:
    before = model(NET, tmp_path)
    after = Fp16().run(Quantize().run(before))
    after.check()
    assert "r_float16 = Relu(a_float16)" in lines(after)
    assert any(line.startswith("a = MatMul(x_DequantizeLinear_Output") for line in lines(after))


def test_errors_and_nothing_to_do(tmp_path: Path) -> None:
    before = model(NET, tmp_path)
    with pytest.raises(PassError, match="no node called 'z'"):
        Fp16(keep=("z",)).run(before)
    text = "g (int64[2] x) => (int64[2] y) { y = Neg(x) }"
    assert "no node here" in Fp16().run(model(text, tmp_path)).notes[-1]
    (step,) = pipeline.parse('fp16{scope = "tail", keep = ["a"]}')
    assert step == Fp16(scope="tail", keep=("a",))


REAL: dict[str, tuple[Any, float]] = {
    "cifar10_resnet20_jpegft": ((), 5e-3),
    "sst2_tiny_transformer": ((), 5e-3),
    "silero_vad_16k_op15": (("input=1x512",), 5e-3),
}


@pytest.mark.shared
@pytest.mark.parametrize("name", REAL)
def test_real_networks(name: str, shared: Path) -> None:
    sizes, tolerance = REAL[name]
    before = splitc.load(shared / "models" / f"{name}.onnx", input=sizes)
    after = Fp16().run(before)
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    assert after.weight_bytes() < 0.85 * before.weight_bytes()
    feeds = draw_inputs(before, 1)
    want, got = evaluate(before, feeds), evaluate(after, feeds)
    for end in want:
        assert np.abs(got[end] - want[end]).max() <= tolerance * np.abs(want[end]).max()


def test_operators_that_do_badly_in_float16_stay(tmp_path: Path) -> None:
    text = """g (float[1, 4] x) => (float[1, 4] y) <int64 axis = {1}>
        { a = Relu(x)  c = CumSum(a, axis)  y = Neg(c) }"""
    found = lines(Fp16().run(model(text, tmp_path)))
    assert "c = CumSum(a_float32, axis)" in found
    assert onnx.defs.get_schema("CumSum", 21).inputs[0].types >= {"tensor(float16)"}
