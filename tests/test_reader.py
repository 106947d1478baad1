"""The light reader sees the graph that loading sees, and refuses what is no graph."""

from pathlib import Path

import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import (
    InlinePass,
    RemoveInitializersFromInputsPass,
    TopologicalSortPass,
)

import splitc
from splitc.errors import ModelError
from splitc.graph import Graph
from splitc.model import build_graph
from splitc.plan.reader import network, read
from tests.unpriced import CHAIN, NAMES


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return path


TEXTS = {
    "captures": NAMES,
    "chain": CHAIN,
    "unsorted": """<ir_version: 10, opset_import: ["" : 17]>
    g (float[2] x) => (float[2] y) { y = Neg(b)  b = Abs(a)  a = Relu(x) }""",
    "initializers among the inputs": """<ir_version: 3, opset_import: ["" : 8]>
    g (float[2] x, float[2] w) => (float[2] y)
    <float[2] w = {1.0, 2.0}> { y = Add(x, w) }""",
    "functions": """<ir_version: 10, opset_import: ["" : 17, "me" : 1]>
    g (float[2] x) => (float[2] y) { a = me.twice(x)  y = me.twice(a) }
    <domain: "me", opset_import: ["" : 17]> twice (i) => (o) { t = Add(i, i)  o = Neg(t) }""",
    "a loop that captures through a body of its body": """<ir_version: 10, opset_import: ["" : 17]>
    g (float[2] x, bool c) => (float[2] y) {
      n = Constant<value = int64 {3}>()
      a = Neg(x)
      y = Loop(n, , x) <body = b (int64 i, bool t, float[2] v) => (bool t2, float[2] v2) {
        t2 = Identity(t)
        v2 = If(c) <then_branch = p () => (float[2] u) { u = Add(v, a) },
                    else_branch = q () => (float[2] u2) { u2 = Identity(v) }>
      }>
    }""",
    "a body that hands out what it captures": """<ir_version: 10, opset_import: ["" : 17]>
    g (float[2] x, bool c) => (float[2] y) {
      a = Neg(x)
      b = Abs(x)
      y = If(c) <then_branch = p () => (float[2] a) { u = Neg(b) },
                 else_branch = q () => (float[2] v) { v = Identity(b) }>
    }""",
    "a body that draws": """<ir_version: 10, opset_import: ["" : 17]>
    g (float[2] x) => (float[2] y) {
      k = Constant<value = bool {1}>()
      r = If(k) <then_branch = p () => (float[2] u) { u = RandomNormal<shape = [2]>() },
                 else_branch = q () => (float[2] v) { v = RandomNormal<shape = [2]>() }>
      y = Add(x, r)
    }""",
    "inputs and constants as outputs": """<ir_version: 10, opset_import: ["" : 17]>
    g (float[2] x) => (float[2] x, float[2] k, float[2] y)
    <float[2] w = {1.0, 2.0}> { k = Neg(w)  y = Add(x, k) }""",
}


def reference(proto: onnx.ModelProto) -> Graph:
    """The graph by way of onnx_ir and `build_graph`."""
    for index, node in enumerate(proto.graph.node):
        if not any(node.output):
            node.output[0] = f"{node.op_type}_{index}_unnamed"
    model = ir.from_proto(proto)
    InlinePass()(model)
    RemoveInitializersFromInputsPass()(model)
    TopologicalSortPass()(model)
    return build_graph(model.graph)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_light_reader_sees_the_graph_of_build_graph(tmp_path: Path, text: str) -> None:
    assert read(written(tmp_path, text)).graph == reference(onnx.parser.parse_model(text))


LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"


@pytest.mark.parametrize("path", sorted(LIGHT.glob("*.onnx")), ids=lambda path: path.stem)
def test_the_light_reader_on_known_networks(path: Path) -> None:
    assert read(path).graph == reference(onnx.load(path)) == splitc.load(path).graph


@pytest.mark.shared
def test_the_light_reader_on_trained_networks(shared: Path) -> None:
    paths = sorted((shared / "models").glob("*.onnx"))
    assert len(paths) > 3
    for path in paths:
        network = read(path)
        loaded = splitc.load(path)
        assert network.graph == loaded.graph, path.name
        table = loaded.ir.graph.initializers
        want = {n: v.const_value.nbytes for n, v in table.items() if v.const_value is not None}
        assert want.items() <= network.weight_bytes.items()


BROKEN = {
    "made twice": "g (float[2] x) => (float[2] y) { a = Neg(x)  a = Abs(x)  y = Neg(a) }",
    "nobody makes": "g (float[2] x) => (float[2] y) { y = Neg(z) }",
    "graph output 'y'": "g (float[2] x) => (float[2] y) { a = Neg(x) }",
    "malformed graph": "g (float[2] x) => (float[2] y) { a = Add(x, y)  y = Neg(a) }",
}


@pytest.mark.parametrize(("says", "text"), BROKEN.items(), ids=BROKEN)
def test_broken_graphs_are_refused(tmp_path: Path, says: str, text: str) -> None:
    says = says.replace("nobody makes", "no node makes the tensor 'z'")
    with pytest.raises(ModelError, match=says):
        read(written(tmp_path, '<ir_version: 10, opset_import: ["" : 17]>\n' + text))


def test_files_that_are_no_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(ModelError, match="cannot read"):
        read(path)
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="no ONNX graph"):
        read(path)
    path.write_bytes(b"\x08\xff not protobuf")
    with pytest.raises(ModelError, match=r"truncated|no ONNX graph"):
        read(path)
    with pytest.raises(ModelError, match="more than the limit of 10"):
        read(written(tmp_path, CHAIN), max_size=10)


def test_weights_are_counted_alike_however_the_file_is_read(tmp_path: Path) -> None:
    """The same graph in order, out of order, and loaded: initializers and Constant nodes."""
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[2] x) => (float[2] y) <float[2] w = {1.0, 2.0}> {
      k = Constant<value = int64[3] {1, 2, 3}>()
      s = Cast<to = 1>(k)
      n = ReduceSum(s)
      a = Add(x, w)
      y = Mul(a, n)
    }"""
    proto = onnx.parser.parse_model(text)
    paths = [tmp_path / "one.onnx", tmp_path / "two.onnx"]
    onnx.save(proto, paths[0])
    backwards = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(backwards)
    onnx.save(proto, paths[1])
    want = {"w": 8, "k": 24}
    assert read(paths[0]).weight_bytes == want
    assert read(paths[1]).weight_bytes == want
    assert network(splitc.load(paths[0])).weight_bytes == want
