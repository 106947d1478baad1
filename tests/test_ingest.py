"""What comes in from `.onnx`: every kind of file that exporters write, and every broken one."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import TensorProto, helper, numpy_helper

from splitc.errors import ModelError, RequestError, SplitcError
from splitc.execute import evaluate
from splitc.feeds import draw_inputs
from splitc.ingest import load
from splitc.model import Model


def text(body: str, opset: int = 21, ir_version: int = 10, extra: str = "") -> onnx.ModelProto:
    head = f'<ir_version: {ir_version}, opset_import: ["": {opset}{extra}]>\n'
    return onnx.parser.parse_model(head + body)


def loaded(folder: Path, proto: onnx.ModelProto | bytes, *inputs: str, **options: Any) -> Model:
    path = folder / "net.onnx"
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    return load(path, input=inputs, **options)


def made(
    nodes: list[onnx.NodeProto],
    weights: dict[str, Any] | None = None,
    shape: list[Any] | None = None,
    opset: int = 13,
    ir_version: int = 8,
) -> onnx.ModelProto:
    """Build a model from x (N×3 float) to y, for what ONNX's text form cannot say."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape or ["N", 3]) for n in "xy"]
    table = [numpy_helper.from_array(np.asarray(v), n) for n, v in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], table)
    return helper.make_model(
        graph, ir_version=ir_version, opset_imports=[helper.make_opsetid("", opset)]
    )


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(","), [output], **attributes)


def function(*bodies: str) -> str:
    """Return functions of the domain 'local' as text, to stand behind a graph."""
    return " ".join(f'<domain: "local", opset_import: ["": 21, "local": 1]> {b}' for b in bodies)


LAUGHS = [f"f{i + 1} (x) => (y) {{ t = local.f{i}(x)  y = local.f{i}(t) }}" for i in range(30)]
FUNCTION = '<domain: "local", opset_import: ["": 21]> f (a) => (b) { c = Relu(a)  b = Neg(c) }'
TEXTS: dict[str, str] = {
    "dynamic batch": "n (float[N,3] x) => (float[N,3] y) { y = Relu(x) }",
    "several inputs and outputs": "n (float[N,3] a, float[N,3] b) => (float[N,3] y, float[N,3] z) "
        "{ y = Add(a, b)  z = Sub(a, b) }",
    "unused input and weight":
        "n (float[N,3] x, float[N,3] u) => (float[N,3] y) <float w = {1}> { y = Relu(x) }",
    "an input is an output": "n (float[N,3] x) => (float[N,3] x, float[N,3] y) { y = Relu(x) }",
    "a weight is an output": "n (float[N,3] x) => (float[N,3] y, float w) <float w = {1}> "
        "{ y = Relu(x) }",
    "a hole in inference": "n (float[N,3] x) => (float[M] y) "
        "{ i = NonZero(x)  c = Cast<to = 1>(i)  a = Constant<value_ints = [0]>() "
        "y = ReduceSum<keepdims = 0>(c, a) }",
    "a function": "n (float[N,3] x) => (float[N,3] y) { y = local.f(x) } " + FUNCTION,
    "a function in a body":
        "n (float[N,3] x, bool c) => (float[N,3] y) { y = If(c) <then_branch = t () => "
        "(float[N,3] r) { r = local.f(x) }, else_branch = e () => (float[N,3] s) { s = Neg(x) }> } "
        + FUNCTION,
    "a loop": "n (float[N,3] x, int64 n, bool c) => (float[N,3] o) { o = Loop<body = b (int64 i, "
        "bool ci, float[N,3] s) => (bool co, float[N,3] t) { co = Identity(ci)  t = Add(s, x) }>"
        "(n, c, x) }",
    "a scan": "n (float[4,3] x, float[3] i) => (float[3] o, float[4,3] y) { o, y = Scan"
        "<num_scan_inputs = 1, body = b (float[3] s, float[3] e) => (float[3] t, float[3] r) "
        "{ t = Add(s, e)  r = Identity(t) }>(i, x) }",
    "a sequence inside": "n (float[N,3] x) => (float[M,3] y) "
        "{ s = SequenceConstruct(x, x)  y = ConcatFromSequence<axis = 0>(s) }",
    "an optional inside":
        "n (float[2,3] x) => (float[2,3] y) { o = Optional(x)  y = OptionalGetElement(o) }",
    "half precision": "n (float16[N,3] x) => (float16[N,3] y) { y = Relu(x) }",
    "quantised": "n (float[N,3] x) => (float[N,3] y) <float s = {0.1}, int8 z = {0}> "
        "{ q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }",
    "quantised operator": "n (float[N,3] x) => (float[N,3] y) <float s = {0.1}, uint8 z = {128}, "
        "uint8[3,3] w = {1,2,3,4,5,6,7,8,9}> { q = QuantizeLinear(x, s, z) "
        "p = QLinearMatMul(q, s, z, w, s, z, s, z)  y = DequantizeLinear(p, s, z) }",
    "a scalar": "n (float x) => (float y) { y = Relu(x) }",
    "an empty batch": "n (float[0,3] x) => (float[0,3] y) { y = Relu(x) }",
}  # fmt: skip
PROTOS: dict[str, onnx.ModelProto] = {
    "optional inputs": made([node("Clip", "x,,hi", "y")], {"hi": np.float32(1)}),
    "an empty tensor as input": made(
        [node("Resize", "x,r,s", "y")],
        {"r": np.zeros(0, np.float32), "s": np.array([1, 1, 2, 2], np.float32)},
        ["N", 3, 4, 4],
        opset=11,
    ),
    "a dead node without names": made([node("Neg", "x", ""), node("Relu", "x", "y")]),
    "Dropout's mask": made([helper.make_node("Dropout", ["x"], ["y", "mask"])], opset=7),
    "bfloat16 weights": made([node("Cast", "w", "c", to=1), node("Add", "x,c", "y")]),
}
for _kind in ("FLOAT8E4M3FN", "INT4", "UINT4", "BFLOAT16"):
    _proto = made([node("Cast", "w", "c", to=1), node("Add", "x,c", "y")], opset=21, ir_version=10)
    _size = 3 if _kind == "FLOAT8E4M3FN" else 6 if _kind == "BFLOAT16" else 2
    _proto.graph.initializer.append(
        TensorProto(
            name="w", dims=[3], data_type=getattr(TensorProto, _kind), raw_data=bytes(_size)
        )
    )
    PROTOS[f"{_kind.lower()} weights"] = _proto
PROTOS["an empty tensor as input"].graph.output[0].type.tensor_type.shape.dim[2].dim_value = 8
PROTOS["an empty tensor as input"].graph.output[0].type.tensor_type.shape.dim[3].dim_value = 8
CASES = {name: text(body, extra=', "local": 1') for name, body in TEXTS.items()} | PROTOS


def reference(proto: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, Any]:
    """Run ONNX's own interpreter; its OptionalGetElement adds a dimension, ours must not."""
    names = [output.name for output in proto.graph.output]
    found = onnx.reference.ReferenceEvaluator(proto).run(None, feeds)
    optional = any(n.op_type == "OptionalGetElement" for n in proto.graph.node)
    return {n: v[0] if optional else v for n, v in zip(names, found, strict=True)}


@pytest.mark.parametrize("proto", CASES.values(), ids=CASES)
def test_it_comes_in_and_computes_the_same(tmp_path: Path, proto: onnx.ModelProto) -> None:
    """The oracle is ONNX's reference implementation, on the file as it was."""
    model = loaded(tmp_path, proto)
    facts = model.facts
    other = {
        n for n, v in model.values.items() if v.type is not None and "Tensor" not in str(v.type)
    }
    assert model.values.keys() - facts.keys() <= other | {"s", "o"}
    assert all(facts[name].shape is not None for name in model.graph.inputs)
    feeds = draw_inputs(model)
    got = evaluate(model, feeds)
    want = reference(proto, feeds)
    for name, array in got.items():
        np.testing.assert_allclose(array, want[name], rtol=1e-3, atol=1e-3)
        assert facts[name].shape == array.shape
        assert facts[name].dtype == array.dtype.name


del PROTOS["bfloat16 weights"], CASES["bfloat16 weights"]


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 15, 17, 18, 20, 21, 22, 23])
@pytest.mark.parametrize("ir_version", [3, 4, 7, 10])
def test_opsets_and_ir_versions(tmp_path: Path, opset: int, ir_version: int) -> None:
    proto = made([node("Add", "x,w", "y")], {"w": np.ones(3, np.float32)}, None, opset, ir_version)
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3]))
    model = loaded(tmp_path, proto)
    assert [tensor.name for tensor in model.inputs] == ["x"]
    assert model.inputs[0].shape == ("N", 3)
    assert model.ir.ir_version >= 8
    x = np.ones((1, 3), np.float32)
    assert evaluate(model, {"x": x})["y"].tolist() == [[2, 2, 2]]


def test_what_is_newer_than_the_runtime_is_lowered_loudly(tmp_path: Path) -> None:
    model = loaded(tmp_path, made([node("Relu", "x", "y")], ir_version=14))
    assert model.notes == ("ir_version 14 is read as 13, the newest that onnxruntime reads",)
    assert evaluate(model, draw_inputs(model))["y"].shape == (1, 3)


def test_an_output_without_shape_gets_its_rank_from_a_run(tmp_path: Path) -> None:
    proto = made([node("FusedMatMul", "x,w", "z", domain="com.microsoft"), node("Relu", "z", "y")],
                 {"w": np.ones((3, 5), np.float32)})  # fmt: skip
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    model = loaded(tmp_path, proto)
    assert model.outputs[0].shape == ("?", "?")
    assert model.facts["z"].shape == (1, 5)
    assert model.facts["y"].shape == (1, 5)


def test_wrong_sizes_in_the_file_are_corrected_or_noted(tmp_path: Path) -> None:
    proto = made([node("Transpose", "x", "h", perm=[1, 0]), node("Relu", "h", "y")], shape=[2, 3])
    proto.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [9, 9]))
    model = loaded(tmp_path, proto)
    assert model.facts["h"].shape == (3, 2)
    assert model.facts["y"].shape == (3, 2)
    assert any("shape inference" in note for note in model.notes)


def test_nodes_are_sorted(tmp_path: Path) -> None:
    model = loaded(tmp_path, made([node("Neg", "h", "y"), node("Relu", "x", "h")]))
    assert [n.id for n in model.graph.nodes] == ["h", "y"]


def test_sizes_of_the_batch_that_the_exporter_saw_are_not_believed(tmp_path: Path) -> None:
    proto = made([node("Neg", "x", "h"), node("Relu", "h", "y")])
    proto.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [1, 3]))
    model = loaded(tmp_path, proto, "x=1..8..32x3")
    assert model.facts["h"].shape == (8, 3)
    assert model.facts["y"].shape == (8, 3)


def test_exporters_traces_do_not_stay(tmp_path: Path) -> None:
    proto = made([node("Relu", "x", "y", doc_string="File /home/somebody/net.py")])
    for holder in (proto, proto.graph, proto.graph.node[0], proto.graph.input[0]):
        holder.metadata_props.add(key="trace", value="/home/somebody/net.py")
    model = loaded(tmp_path, proto)
    model.save(tmp_path / "out.onnx")
    assert b"somebody" not in (tmp_path / "out.onnx").read_bytes()


RELU = made([node("Relu", "x", "y")])
TWICE = made([node("Relu", "x", "y"), node("Neg", "x", "y", name="again")])
CYCLE = made(
    [node("Relu", "x", "d"), node("Add", "d,b", "a"), node("Neg", "a", "b"), node("Neg", "b", "y")]
)
BROKEN: dict[str, tuple[onnx.ModelProto | bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "zeros": (bytes(1000), "not an ONNX file"),
    "text": (b"hello, I am no model", "not an ONNX file"),
    "truncated": (RELU.SerializeToString()[:-9], "not an ONNX file, or a truncated one"),
    "no graph": (onnx.ModelProto(ir_version=8), "no ONNX graph"),
    "no nodes": (text("n (float[N,3] x) => (float[N,3] x) { }"), "nothing to split"),
    "no outputs": (text("n (float[N,3] x) => () { y = Relu(x) }"), "no outputs"),
    "made twice": (TWICE, "'y' is made twice, by node 'y' (Relu) and by node 'again' (Neg)"),
    "weight made": (made([node("Relu", "x", "y")], {"y": np.float32(1)}), "an initializer and by"),
    "inputs of one name": (
        text("n (float[N,3] x, float[N,3] x) => (float[N,3] y) { y = Relu(x) }"), "two inputs"),
    "cycle": (CYCLE, "the graph has a cycle"),
    "nothing makes it": (
        made([node("Add", "x,b", "y", name="sum")]), "node 'sum' (Add) reads tensor 'b'"),
    "nothing makes the output": (made([node("Relu", "x", "z")]), "nothing makes the output 'y'"),
    "unknown operator": (made([node("Foo", "x", "y", name="f")]), "opset 13 has no operator 'Foo'"),
    "newer operator": (made([node("Gelu", "x", "y")]), "opset 13 has no operator 'Gelu'"),
    "unknown domain": (
        text("n (float[N,3] x) => (float[N,3] y) { y = my.Foo(x) }", extra=', "my": 1'), "my.Foo"),
    "a required attribute": (made([node("Concat", "x,x", "y")]), "axis"),
    "sizes contradict": (
        made([node("Add", "x,w", "y", name="sum")], {"w": np.ones(4, np.float32)}), "sum"),
    "types contradict": (
        made([node("Add", "x,w", "y", name="sum")], {"w": np.ones(3, np.int64)}), "sum"),
    "a circle of functions": (
        text("n (float[N,3] x) => (float[N,3] y) { y = local.a(x) } "
             + function("a (x) => (y) { y = local.b(x) }", "b (x) => (y) { y = local.a(x) }"),
             extra=', "local": 1'),
        "functions call each other in a circle: local."),
    "a billion laughs": (
        text("n (float[N,3] x) => (float[N,3] y) { y = local.f30(x) } "
             + function("f0 (x) => (y) { y = Neg(x) }", *LAUGHS), extra=', "local": 1'),
        "1,073,741,824 nodes once its functions are inlined"),
    "a zero byte": (made([node("Relu", "x", "a\0"), node("Neg", "a\0", "y")]), "a zero byte"),
    "a long name": (
        made([node("Relu", "x", "a" * 40000), node("Neg", "a" * 40000, "y")]), "longer than"),
    "rank unknown": (b"", ""),
    "a short weight": (b"", ""),
}  # fmt: skip
_short = made([node("Add", "x,w", "y")], {"w": np.ones(3, np.float32)})
_short.graph.initializer[0].dims[0] = 2**40
BROKEN["a short weight"] = (_short, "tensor 'w'")
_rankless = made([node("Relu", "x", "y")])
_rankless.graph.input[0].type.tensor_type.ClearField("shape")
BROKEN["rank unknown"] = (_rankless, "give it: --input x=1x")


@pytest.mark.parametrize(("proto", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_gets_one_screen(
    tmp_path: Path, proto: onnx.ModelProto | bytes, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError) as caught:
        loaded(tmp_path, proto)
    said = str(caught.value)
    assert reason in said
    assert len(said.splitlines()) < 12
    assert "net.onnx" in said or "--input" in said
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load(tmp_path / "none.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ModelError, match="not a file"):
        load(tmp_path / "folder.onnx")


def test_an_oversized_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"more than the limit of 10(.|\n)*--max-size"):
        loaded(tmp_path, RELU, max_size=10)


FUZZED = [
    text(TEXTS["a function in a body"], extra=', "local": 1').SerializeToString(),
    text(TEXTS["a loop"]).SerializeToString(),
    text("n (float[N,3,8,8] x, int64[N,4] i) => (float[N,3,8,8] y, float[N,4,2] z) "
         "<float[3,1,1,1] w = {1,2,3}, float[3,2] e = {0,1,2,3,4,5}> "
         "{ y = Conv<group = 3>(x, w)  z = Gather(e, i) }").SerializeToString(),
]  # fmt: skip


def complaint(folder: Path, data: bytes) -> str:
    """Return what splitc says against a file, "" if it takes it. Nothing else may be raised."""
    try:
        assert loaded(folder, data).facts
    except SplitcError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("seed", range(3))
def test_damaged_bytes_give_errors_and_nothing_else(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    refused = 0
    for _ in range(120):
        data = bytearray(FUZZED[seed])
        for _ in range(chance.choice([1, 1, 2, 3])):
            place = chance.randrange(len(data))
            data[place] = chance.choice([chance.randrange(256), data[place] ^ 1, data[place] ^ 128])
        said = complaint(tmp_path, bytes(data))
        assert len(said) < 2500
        refused += bool(said)
    assert 20 < refused < 120


@pytest.mark.parametrize("name", ["batch", "Über größe", "a b/c:0"])
def test_names_are_kept(tmp_path: Path, name: str) -> None:
    proto = made([node("Relu", "x", name), node("Neg", name, "y")])
    assert name in loaded(tmp_path, proto).cuttable


def test_a_name_is_not_a_factory_when_it_ends_like_a_file() -> None:
    with pytest.raises(ModelError, match="no such file"):
        load("models:v2.onnx")


def test_the_same_input_twice(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--input x is given twice"):
        loaded(tmp_path, RELU, "x=1x3", "x=2x3")


LIGHT = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("*.onnx"))


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_onnx_light_models(path: Path) -> None:
    model = load(path)
    assert model.facts.keys() == model.values.keys()
    assert set(model.graph.tensors) == model.cuttable


@pytest.mark.shared
def test_real_networks(shared: Path) -> None:
    sizes = {"silero_vad_16k_op15": ("input=1x512",)}
    for path in sorted((shared / "models").glob("*.onnx")):
        model = load(path, input=sizes.get(path.stem, ()))
        assert model.facts.keys() == model.values.keys(), path.stem
