"""`simplify`: before and after, names that do not lie, fallbacks that are recorded."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import splitc
from splitc import names, pipeline
from splitc.errors import ModelError
from splitc.execute import evaluate
from splitc.feeds import draw_inputs
from splitc.model import Model
from splitc.passes import simplify
from splitc.passes.simplify import Simplify
from tests.networks import HEADER, model

CONV = "Conv <kernel_shape = [1, 1]>"


def norm(shape: str = "1, 2, 4, 4") -> str:
    """A Conv with BatchNorm and Relu, an Identity, a constant to fold and a dead node."""
    return f"""g (float[{shape}] x) => (float[{shape}] y)
    <float[2,2,1,1] w = {{1, 2, 3, 4}}, float[2] s = {{2, 3}}, float[2] b = {{1, -1}},
     float[2] m = {{0.5, 0.25}}, float[2] v = {{4, 9}}> {{
        c = {CONV} (x, w)  n = BatchNormalization (c, s, b, m, v)  i = Identity(n)  dead = Neg(x)
        k = Constant <value_float = 2.0> ()  k2 = Mul(k, k)  r = Relu(i)  y = Mul(r, k2) }}"""


def ops(found: Model) -> list[str]:
    return [node.op for node in found.graph.nodes]


def test_folds_fuses_and_drops(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = model(norm(), tmp_path)
    after = Simplify().run(before)
    assert ops(after) == ["Conv", "Relu", "Mul"]
    assert after.notes == before.notes
    assert capfd.readouterr() == ("", ""), "something printed"


def test_a_fused_tensor_gets_the_name_of_its_value(tmp_path: Path) -> None:
    before = model(norm(), tmp_path)
    after = Simplify().run(before)
    made = after.graph.nodes[0].id
    assert made in ("n", "i"), "the Conv carries what BatchNorm made"
    feeds = draw_inputs(before, 3)
    got, want = evaluate(after, feeds, [made]), evaluate(before, feeds, [made])
    np.testing.assert_allclose(got[made], want[made], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pinned", [("c",), ("i",), ("c", "i", "r")])
def test_pinned_tensors_survive(pinned: tuple[str, ...], tmp_path: Path) -> None:
    before = model(norm(), tmp_path)
    after = pipeline.run(pipeline.parse("simplify"), before, pin=pinned)
    assert after.outputs == before.outputs
    feeds = draw_inputs(before, 3)
    got, want = evaluate(after, feeds, pinned), evaluate(before, feeds, pinned)
    for name in pinned:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-5)


def lie(before: Model, op: str = "Relu", other: str = "Neg") -> Model:
    """Plant a defect: the node with this operator computes something else under its name."""
    after = before.clone()
    next(node for node in after.ir.graph if node.op_type == op).op_type = other
    return after


def test_a_planted_lie_is_renamed(tmp_path: Path) -> None:
    text = "g (float[4] x) => (float[4] y) { a = Abs(x)  b = Abs(a)  y = Identity(b) }"
    before = model(text, tmp_path)
    after = lie(before, "Abs", "Neg")  # a = -x, and b = |a| is still right
    assert names.honest(before, after) == ""
    assert [node.id for node in after.graph.nodes] == ["a__simplified", "b", "y"]


def test_a_lying_output_is_refused_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = model(norm(), tmp_path)
    assert names.honest(before, lie(before)) == "output 'y' differs"
    monkeypatch.setattr(simplify, "_onnxsim", lambda given, fuse: lie(given))
    after = Simplify().run(before)
    assert any("onnxscript did it" in note and "output 'y' differs" in note for note in after.notes)
    feeds = draw_inputs(before, 3)
    np.testing.assert_allclose(evaluate(after, feeds)["y"], evaluate(before, feeds)["y"], rtol=1e-5)


def test_when_nothing_works_the_graph_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(given: Model, fuse: bool) -> Model:
        raise RuntimeError("no luck\nat all")

    for tool in ("_onnxsim", "_onnxscript"):
        monkeypatch.setattr(simplify, tool, fail)
    before = model(norm(), tmp_path)
    after = Simplify().run(before)
    assert after.fingerprint() == before.fingerprint()
    (note,) = after.notes
    assert "stays as it was (onnxsim: no luck; onnxscript: no luck)" in note


def test_a_dynamic_batch_stays_dynamic(tmp_path: Path) -> None:
    before = model(norm("batch, 2, 4, 4"), tmp_path)
    after = Simplify().run(before)
    assert after.inputs == before.inputs
    assert after.outputs[0].shape == ("batch", 2, 4, 4)
    feeds = {"x": np.random.default_rng(0).standard_normal((5, 2, 4, 4)).astype(np.float32)}
    got, want = evaluate(after, feeds)["y"], evaluate(before, feeds)["y"]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_open_sizes_are_asked_for(tmp_path: Path) -> None:
    before = model("g (float[1, N] x) => (float[1, N] y) { y = Relu(x) }", tmp_path)
    with pytest.raises(ModelError, match="sizes are open: 'N'"):
        Simplify().run(before)


def test_random_numbers_are_not_folded(tmp_path: Path) -> None:
    text = "g (float[2] x) => (float[2] y) { r = RandomNormal <shape = [2]> ()  y = Add(x, r) }"
    after = Simplify().run(model(text, tmp_path))
    assert ops(after) == ["RandomNormal", "Add"]


@pytest.mark.shared
def test_silero(shared: Path) -> None:
    """onnxsim cannot write this one in order: another does it, and the note says who."""
    path = shared / "models" / "silero_vad_16k_op15.onnx"
    before = splitc.load(path, input=["input=1x512"])
    after = Simplify().run(before)
    assert len(after.ir.graph) <= len(before.ir.graph)
    assert "If" in ops(after) or after.notes
    feeds = draw_inputs(before, 5)
    got, want = evaluate(after, feeds), evaluate(before, feeds)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-5)


@pytest.mark.shared
def test_real_names_do_not_lie(shared: Path) -> None:
    before = splitc.load(shared / "models" / "imagenet_mobilenet_v1_0.25_128.onnx")
    after = Simplify().run(before)
    both = [t for t in after.graph.producer if t in before.graph.producer]
    assert len(both) > len(after.graph.nodes) * 0.9
    feeds = draw_inputs(before, 7)
    old, new = evaluate(before, feeds, both), evaluate(after, feeds, both)
    for tensor in both:
        scale = float(np.abs(old[tensor]).max())
        np.testing.assert_allclose(new[tensor], old[tensor], rtol=0, atol=1e-4 * scale)


def test_optimize_command(tmp_path: Path) -> None:
    source, target = tmp_path / "net.onnx", tmp_path / "out.onnx"
    onnx.save(onnx.parser.parse_model(HEADER + norm()), source)
    command = [sys.executable, "-m", "splitc", "optimize", str(source), "--passes", "simplify"]
    done = subprocess.run(
        [*command, "-o", str(target), "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    assert printed["output"] == str(target)
    assert [step["name"] for step in printed["passes"]] == ["simplify"]
    assert ops(splitc.load(target)) == ["Conv", "Relu", "Mul"]


def test_a_sequence_as_output(tmp_path: Path) -> None:
    text = (
        "g (float[1, 2] x) => (seq(float[1, 2]) s) { i = Identity(x)  s = SequenceConstruct(i, x) }"
    )
    after = pipeline.run([Simplify()], model(text, tmp_path))
    assert ops(after) == ["SequenceConstruct"]
    assert not after.notes
    assert [row.cut.tensors for row in splitc.cuts(after).cuts] == [("x",), ()]


QUANTIZED = """<ir_version: 10, opset_import: ["": 21]>
g (float[1,2,4,4] x) => (float[1,2,4,4] y)
<float s = {0.0625}, int8 z = {0}, float[2] c = {0.01, 0.02},
 int8[2,2,1,1] v = {90, 1, 2, -90}, int8[2] zv = {0, 0},
 int8[2,2,1,1] w = {-3, -120, 120, 0}, int8[2] zw = {0, 0}, float[2] n = {1, 2}> {
    xq = QuantizeLinear(x, s, z)
    xd = DequantizeLinear(xq, s, z)
    vd = DequantizeLinear<axis = 0>(v, c, zv)
    a = Conv(xd, vd, n)
    aq = QuantizeLinear(a, s, z)
    ad = DequantizeLinear(aq, s, z)
    wd = DequantizeLinear<axis = 0>(w, c, zw)
    b = Conv(ad, wd, n)
    bq = QuantizeLinear(b, s, z)
    y = DequantizeLinear(bq, s, z)
}"""


def test_quantized_weights_that_share_a_zero_point_can_be_opened() -> None:
    model = Model(ir.from_proto(onnx.parser.parse_model(QUANTIZED)))
    after = Simplify().run(model)
    feeds = {"x": np.linspace(-3, 3, 32, dtype=np.float32).reshape(1, 2, 4, 4)}
    want = evaluate(model, feeds, optimize=False)["y"]
    np.testing.assert_allclose(
        evaluate(after, feeds, optimize=True)["y"], want, rtol=0, atol=0.0625
    )
    assert Simplify().run(after).fingerprint() == after.fingerprint()
