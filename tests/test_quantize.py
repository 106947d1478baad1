"""`quantize`: before and after, onnxruntime's own numbers, what must not be touched, the search."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import splitc
from splitc import pipeline
from splitc.accuracy import Top1
from splitc.accuracy import judge as judge_accuracy
from splitc.backends.tensorrt.child import RTX
from splitc.backends.tensorrt.judge import judge
from splitc.data import Dataset, drawn
from splitc.errors import ModelError, PassError
from splitc.execute import evaluate
from splitc.model import Model
from splitc.passes.quantize import Quantize
from splitc.quant import ranges
from splitc.quant.share import int8_mac_share
from splitc.scope import Boundary
from tests.networks import model, random_model

NET = """g (float[batch, 2, 4, 4] x) => (float[batch, 3] y)
    <float[2,2,1,1] w = {1, 2, -3, 4}, float[2] b = {0.5, -0.5}, float[2,3] u = {1, 2, 3, 4, 5, 6}>
    { c = Conv(x, w, b)  r = Relu(c)  p = GlobalAveragePool(r)  f = Flatten(p)  y = Gemm(f, u) }"""
SYMMETRIC = [
    "x_QuantizeLinear_Output = QuantizeLinear(x, x_scale, x_zero_point)",
    "x_DequantizeLinear_Output = DequantizeLinear(x_QuantizeLinear_Output, x_scale, x_zero_point)",
    "w_DequantizeLinear_Output = DequantizeLinear(w_quantized, w_scale, w_zero_point)",
    "c = Conv(x_DequantizeLinear_Output, w_DequantizeLinear_Output, b)",
    "r = Relu(c)",
    "r_QuantizeLinear_Output = QuantizeLinear(r, r_scale, r_zero_point)",
    "r_DequantizeLinear_Output = DequantizeLinear(r_QuantizeLinear_Output, r_scale, r_zero_point)",
    "p = GlobalAveragePool(r_DequantizeLinear_Output)",
    "p_QuantizeLinear_Output = QuantizeLinear(p, p_scale, p_zero_point)",
    "p_DequantizeLinear_Output = DequantizeLinear(p_QuantizeLinear_Output, p_scale, p_zero_point)",
    "f = Flatten(p_DequantizeLinear_Output)",
    "f_QuantizeLinear_Output = QuantizeLinear(f, p_scale, p_zero_point)",
    "f_DequantizeLinear_Output = DequantizeLinear(f_QuantizeLinear_Output, p_scale, p_zero_point)",
    "u_DequantizeLinear_Output = DequantizeLinear(u_quantized, u_scale, u_zero_point)",
    "y = Gemm(f_DequantizeLinear_Output, u_DequantizeLinear_Output)",
]


def lines(found: Model) -> list[str]:
    return [
        f"{', '.join(str(o.name) for o in node.outputs)} = {node.op_type}"
        f"({', '.join(str(v.name) if v is not None else '' for v in node.inputs)})"
        for node in found.ir.graph
    ]


def arrays(found: Model) -> dict[str, Any]:
    table = found.ir.graph.initializers
    return {n: v.const_value.numpy() for n, v in table.items() if v.const_value is not None}


def data(found: Model, count: int = 32, seed: int = 0) -> Dataset:
    made = drawn(found, count, seed)
    return Dataset(made.inputs, made.labels, "some.npz")


def test_before_and_after(tmp_path: Path) -> None:
    before = model(NET, tmp_path)
    after = Quantize(data=data(before), bias_correction=False).run(before)
    assert lines(after) == SYMMETRIC
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    zero_points = [a for name, a in arrays(after).items() if name.endswith("zero_point")]
    assert len(zero_points) == 5
    assert arrays(after)["x_scale"].shape == arrays(after)["x_zero_point"].shape == ()
    assert all(z.dtype == np.int8 and not z.any() for z in zero_points), "TensorRT's rule"
    assert [o.version for o in ir.to_proto(after.ir).opset_import] == [21]


def test_the_form_for_onnxruntimes_kernels(tmp_path: Path) -> None:
    before = model(NET, tmp_path)
    after = Quantize(data=data(before), symmetric=False, bias_correction=False).run(before)
    added = [line for line in lines(after) if line.split(" =")[0] not in {*before.nodes}]
    assert [line for line in lines(after) if line not in SYMMETRIC] == [
        "b_DequantizeLinear_Output = DequantizeLinear(b_quantized, b_scale, b_zero_point)",
        "c = Conv(x_DequantizeLinear_Output, w_DequantizeLinear_Output, b_DequantizeLinear_Output)",
    ]
    assert len(added) == 11
    table = arrays(after)
    assert table["b_quantized"].dtype == np.int32
    assert table["x_zero_point"].dtype == table["r_zero_point"].dtype == np.uint8
    np.testing.assert_array_equal(table["b_scale"], table["x_scale"] * table["w_scale"])


def test_outputs_are_near_and_again_changes_nothing(tmp_path: Path) -> None:
    before = model(NET, tmp_path)
    step = Quantize(data=data(before))
    after = step.run(before)
    feeds = {"x": data(before, 5, seed=9).inputs["x"]}
    want, got = evaluate(before, feeds)["y"], evaluate(after, feeds)["y"]
    assert got.shape == (5, 3)
    assert 0 < np.abs(got - want).max() < 0.03 * np.abs(want).max()
    assert step.run(after).fingerprint() == after.fingerprint()
    assert step.run(before).fingerprint() == after.fingerprint(), "same input, same graph"
    ends = [ir.to_proto(step.run(before).ir).SerializeToString() for _ in range(2)]
    assert ends[0] == ends[1]
    assert "0 of" not in after.notes[-1]
    assert "100.0% of all MACs" in after.notes[-1]


def test_text_and_options() -> None:
    (step,) = pipeline.parse('quantize{nodes = ["c"], method = "entropy", symmetric = false}')
    assert step == Quantize(nodes=("c",), method="entropy", symmetric=False)
    hash(step)
    for text, why in (
        ('scheme = "int4"', "did you mean 'int8'"),
        ('method = "max"', "did you mean 'minmax'"),
        ('scope = "heads"', "did you mean 'head'"),
        ('rules = "tensorrt", symmetric = false', "needs symmetric"),
        ("min_snr = 12.0", "mixed"),
        ("data = 1", "no option 'data'"),
    ):
        with pytest.raises(PassError) as caught:
            pipeline.parse(f"quantize{{{text}}}")
        assert why in str(caught.value)


def test_only_the_chosen_nodes_read_what_was_rounded(tmp_path: Path) -> None:
    """The If body, the Neg and the output read the float; the weight stays for the other Conv."""
    text = """g (float[1, 1, 2, 2] x, bool t) => (float[1, 1, 2, 2] c, float[1, 1, 2, 2] z)
        <float[1,1,1,1] w = {0.7}>
        { a = Conv(x, w)  n = Neg(a)  c = Conv(a, w)  d = Conv(c, w)
          i = If(t) <then_branch = g1 () => (float[1,1,2,2] p) { p = Add(a, d) },
                     else_branch = g2 () => (float[1,1,2,2] q) { q = Sub(a, c) }>
          z = Add(i, n) }"""
    before = model(text, tmp_path)
    step = Quantize(nodes=("c", "d"), bias_correction=False, data=data(before))
    after = step.run(before)
    found = {line.split(" = ")[0]: line for line in lines(after)}
    assert found["a"] == "a = Conv(x, w)"
    assert found["n"] == "n = Neg(a)"
    assert found["z"] == "z = Add(i, n)"
    assert found["c"].startswith("c = Conv(a_DequantizeLinear_Output, w_DequantizeLinear_Output")
    assert found["d"].startswith("d = Conv(c_DequantizeLinear_Output, w_DequantizeLinear_Output")
    assert "w" in after.ir.graph.initializers
    assert after.graph.by_id["i"].inputs == before.graph.by_id["i"].inputs
    feeds = {"x": data(before).inputs["x"][0], "t": np.array(True)}
    one, other = evaluate(after, feeds), evaluate(before, feeds)
    assert 0 < np.abs(one["z"] - other["z"]).max() < 0.05


SIDES = {
    "head": ("a = Conv(x_DequantizeLinear", "b = Conv(a, v)"),
    "tail": ("a = Conv(x, w)", "b = Conv(a_DequantizeLinear"),
}


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("side", "expected"), SIDES.items(), ids=SIDES)
def test_one_side(side: str, expected: tuple[str, str], symmetric: bool, tmp_path: Path) -> None:
    text = """g (float[1, 1, 2, 2] x) => (float[1, 1, 2, 2] y)
        <float[1,1,1,1] w = {0.7}, float[1,1,1,1] v = {-2}>
        { a = Conv(x, w)  b = Conv(a, v)  y = Sigmoid(b) }"""
    before = model(text, tmp_path)
    step = Quantize(
        scope=side,
        boundary=Boundary(("a",)),
        data=data(before),
        bias_correction=False,
        symmetric=symmetric,
    )
    after = pipeline.run([step], before, pin=("a",))
    found = lines(after)
    assert all(any(line.startswith(start) for line in found) for start in expected)
    assert after.outputs == before.outputs
    with pytest.raises(PassError, match="needs a cut"):
        Quantize(scope=side, data=data(before)).run(before)


def test_nodes_that_cannot_be_int8(tmp_path: Path) -> None:
    before = model(NET, tmp_path)
    with pytest.raises(PassError, match="no node called 'z'"):
        Quantize(nodes=("z",)).run(before)
    with pytest.raises(PassError) as caught:
        Quantize(nodes=("r",)).run(before)
    assert "r (Relu)" in str(caught.value)
    text = "g (float[2] x) => (float[2] y) { y = Relu(x) }"
    assert "no node here" in Quantize().run(model(text, tmp_path)).notes[-1]


def test_without_data_it_is_loud(tmp_path: Path) -> None:
    after = Quantize().run(model(NET, tmp_path))
    assert any("RANDOM INPUTS, NO DATA" in note for note in after.notes)


def test_names_that_are_taken(tmp_path: Path) -> None:
    text = """g (float[1, 1, 2, 2] x) => (float[1, 1, 2, 2] y)
        <float[1,1,1,1] x_scale = {0.7}, float[1,1,1,1] v = {-2}>
        { x_QuantizeLinear_Output = Conv(x, x_scale)  y = Conv(x_QuantizeLinear_Output, v) }"""
    before = model(text, tmp_path)
    after = Quantize(data=data(before)).run(before)
    after.check()
    assert {"x_QuantizeLinear_Output", "x_QuantizeLinear_Output_2"} <= after.values.keys()
    feeds = {"x": data(before).inputs["x"][:1]}
    np.testing.assert_allclose(evaluate(after, feeds)["y"], evaluate(before, feeds)["y"], atol=0.1)


def test_an_old_opset_is_raised_and_names_stay(tmp_path: Path) -> None:
    header = '<ir_version: 8, opset_import: ["": 9]>\n'
    text = """g (float[N, 2, 4, 4] x) => (float[N, 2] y) <float[2,2,1,1] w = {1, 2, -3, 4}>
        { k = Conv(x, w)  c, mask = Dropout(k)
          r = ReduceMean<axes = [2, 3], keepdims = 0>(c)
          s = Softmax<axis = 1>(r)  u = Unsqueeze<axes = [0]>(s)  y = Squeeze<axes = [0]>(u) }"""
    onnx.save(onnx.parser.parse_model(header + text), tmp_path / "old.onnx")
    before = splitc.load(tmp_path / "old.onnx")
    after = Quantize(data=data(before)).run(before)
    assert after.ir.opset_imports[""] == 13
    assert (before.facts["mask"].dtype, after.facts["mask"].dtype) == ("float32", "bool")
    assert {*before.nodes} <= {*after.nodes}
    assert after.inputs == before.inputs
    feeds = {"x": data(before).inputs["x"][:3]}
    np.testing.assert_allclose(evaluate(after, feeds)["y"], evaluate(before, feeds)["y"], atol=0.02)


def test_what_is_not_finite_is_named(tmp_path: Path) -> None:
    text = """g (float[1, 1] x) => (float[1, 1] y) <float[1, 1] w = {1}>
        { l = Log(x)  y = MatMul(l, w) }"""
    before = model(text, tmp_path)
    for method in ranges.METHODS:
        with pytest.raises(ModelError, match="'l' is not finite"):
            Quantize(data=data(before), method=method).run(before)


def test_factors_of_gemm_and_a_channel_that_is_almost_zero(tmp_path: Path) -> None:
    """A tiny weight scale would not let int32 hold the bias: the scale is raised."""
    text = """g (float[1, 2] x) => (float[1, 2] y, float[1, 2] z)
        <float[2,2] w = {1, 1e-20, 2, 3e-20}, float[2] b = {0.25, 3}>
        { y = Gemm(x, w, b)  z = Gemm<alpha = 0.5, beta = 2.0>(x, w, b) }"""
    before = model(text, tmp_path)
    for symmetric in (True, False):
        after = Quantize(data=data(before), symmetric=symmetric).run(before)
        feeds = {"x": data(before).inputs["x"][:1]}
        got, want = evaluate(after, feeds), evaluate(before, feeds)
        for name in ("y", "z"):
            np.testing.assert_allclose(got[name], want[name], atol=0.1, err_msg=name)


def conv_net(folder: Path, seed: int = 0, bias: bool = True) -> Model:
    """Load three layers with weights large enough that rounding moves their means."""
    text = f"""g (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) {{
        a = Conv<pads = [1,1,1,1]>(x, w{", wb" if bias else ""})  b = Relu(a)
        c = Conv<pads = [1,1,1,1], group = 6>(b, v)  d = Relu(c)  y = Conv(d, u) }}"""
    rng = np.random.default_rng(seed)
    made = onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 21]>\n' + text)
    shapes = {
        "w": (6, 3, 3, 3),
        "v": (6, 1, 3, 3),
        "u": (4, 6, 1, 1),
        **({"wb": (6,)} if bias else {}),
    }
    for name, shape in shapes.items():
        array = rng.standard_normal(shape).astype(np.float32)
        made.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(made, folder / "conv.onnx")
    return splitc.load(folder / "conv.onnx")


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("has_bias", [True, False])
def test_bias_correction_gives_the_means_back(
    symmetric: bool, has_bias: bool, tmp_path: Path
) -> None:
    before = conv_net(tmp_path, bias=has_bias)
    known = data(before)
    feeds = {"x": known.inputs["x"]}
    layers = ("a", "c", "y")
    want = evaluate(before, feeds, layers)

    def gap(step: Quantize) -> dict[str, float]:
        got = evaluate(step.run(before), feeds, layers)
        mean = {n: (got[n] - want[n]).mean(axis=(0, 2, 3)) for n in layers}
        return {n: float(np.abs(mean[n]).max()) for n in layers}

    plain = gap(Quantize(data=known, symmetric=symmetric, per_channel=False, bias_correction=False))
    fixed = gap(Quantize(data=known, symmetric=symmetric, per_channel=False))
    assert all(fixed[n] < max(1e-3, plain[n] / 10) for n in layers), (plain, fixed)
    assert max(plain.values()) > 1e-2


class Reader:
    """Feeds onnxruntime's own quantizer, which wants an object with `get_next`."""

    def __init__(self, found: Model, known: Dataset) -> None:
        self.feeds = iter(list(known.feeds(found, 16)))

    def get_next(self) -> Any:
        return next(self.feeds, None)


@pytest.mark.parametrize("method", ranges.METHODS)
def test_the_numbers_are_onnxruntimes(method: str, tmp_path: Path) -> None:
    """Same scales, zero points and integers as its own `quantize_static`, symmetric or not."""
    from onnxruntime import quantization as theirs

    before = conv_net(tmp_path)
    known = data(before, 16)  # one batch: histograms do not depend on how they grew
    methods = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
    for symmetric in (True, False):
        kind = theirs.QuantType.QInt8 if symmetric else theirs.QuantType.QUInt8
        theirs.quantize_static(
            tmp_path / "conv.onnx",
            tmp_path / "theirs.onnx",
            Reader(before, known),
            per_channel=True,
            activation_type=kind,
            weight_type=theirs.QuantType.QInt8,
            calibrate_method=getattr(theirs.CalibrationMethod, methods[method]),
            extra_options={
                "ActivationSymmetric": symmetric,
                "WeightSymmetric": True,
                "QuantizeBias": not symmetric,
                "QDQKeepRemovableActivations": True,
                "CalibTensorRangeSymmetric": False,
            },
        )
        made = onnx.load(tmp_path / "theirs.onnx").graph.initializer
        want = {t.name: onnx.numpy_helper.to_array(t) for t in made}
        step = Quantize(data=known, method=method, symmetric=symmetric, bias_correction=False)
        got = arrays(step.run(before))
        assert {"w_quantized", "v_scale", "x_scale", "b_scale", "d_zero_point"} <= got.keys()
        for name in got.keys() & want.keys():
            wanted = want[name].reshape(got[name].shape)
            np.testing.assert_allclose(got[name], wanted, rtol=3e-7, err_msg=name)


@pytest.mark.parametrize("seed", range(6))
def test_random_networks(seed: int, tmp_path: Path) -> None:
    """Every name survives, the model given stays, twice is once, outputs are near."""
    before = random_model(seed, tmp_path)
    known = data(before, 16)
    print_ = before.fingerprint()
    for symmetric in (True, False):
        step = Quantize(data=known, symmetric=symmetric)
        after = step.run(before)
        assert before.fingerprint() == print_
        after.check()
        assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
        assert before.graph.producer.keys() <= after.graph.producer.keys()
        assert step.run(after).fingerprint() == after.fingerprint()
        feeds = next(known.feeds(before, 1))
        want, got = evaluate(before, feeds), evaluate(after, feeds)
        for name in want:
            assert np.abs(got[name] - want[name]).max() < 0.2 * np.abs(want[name]).max() + 1e-6


REAL = ("imagenet_mobilenet_v1_0.25_224_fp32", "cifar10_resnet20_jpegft", "kws_dscnn_mlperf")


@pytest.mark.shared
@pytest.mark.parametrize("name", REAL)
def test_real_networks_build_in_tensorrt(name: str, shared: Path) -> None:
    """NVIDIA's own parser and builder take the default form, and refuse the other one."""
    if missing := RTX.missing():
        pytest.skip(missing)
    before = splitc.load(shared / "models" / f"{name}.onnx")
    after = Quantize(rules="tensorrt", bias_correction=False).run(before)
    assert before.graph.producer.keys() <= after.graph.producer.keys()
    assert int8_mac_share(after) == 1.0
    verdict = judge(after, "8.9")
    assert verdict.outcome.engine is not None, verdict.refused
    other = Quantize(symmetric=False, bias_correction=False).run(before)
    assert judge(other, "8.9").outcome.engine is None


@pytest.mark.shared
def test_keywords_keep_their_accuracy(shared: Path) -> None:
    path = shared / "models" / "kws_dscnn_mlperf.onnx"
    before = splitc.load(path)
    clips = np.load(shared / "data" / "kws_mfcc_2445.npz")
    x, y = clips["x"].astype(np.float32)[:, None], clips["y"].astype(np.int64)
    name = before.inputs[0].name
    after = Quantize(data=Dataset({name: x[:128]})).run(before)
    verdict = judge_accuracy(before, after, Dataset({name: x[500:1500]}, y[500:1500]), Top1())
    assert -1.0 < verdict.drop < 1.5, "points of 1000 clips"
    assert after.weight_bytes() < 0.4 * before.weight_bytes()
