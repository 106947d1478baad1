import random

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from splitc.cost.groups import Group, acyclic, breaks, fuse, groups
from splitc.graph import Graph, Node
from splitc.model import Model

CASES = {
    "Conv, BatchNormalization, Relu": (
        """(float[1,4,8,8] x, float[4,4,3,3] w, float[4] s) => (float[1,4,4,4] y) {
             c = Conv<pads=[1,1,1,1]>(x, w)
             b = BatchNormalization(c, s, s, s, s)
             r = Relu(b)
             y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) }""",
        ["c b r", "y"],
    ),
    "a residual Add joins the later branch": (
        """(float[1,4,8,8] x, float[4,4,3,3] w) => (float[1,4,8,8] y) {
             p = MaxPool<kernel_shape=[1,1]>(x)
             c = Conv<pads=[1,1,1,1]>(p, w)
             r = Relu(c)
             d = Conv<pads=[1,1,1,1]>(r, w)
             a = Add(d, p)
             y = Relu(a) }""",
        ["p", "c r", "d a y"],
    ),
    "MatMul, bias, GELU as exporters write it": (
        """(float[1,6,8] x, float[8,8] w, float[8] b, float k, float one, float half)
             => (float[1,6,8] y) {
             m = MatMul(x, w)
             h = Add(m, b)
             d = Div(h, k)
             e = Erf(d)
             o = Add(e, one)
             p = Mul(h, o)
             y = Mul(p, half) }""",
        ["m h d e o p y"],
    ),
    "SiLU is a diamond": (
        """(float[1,4,8,8] x, float[4,4,1,1] w) => (float[1,4,8,8] y) {
             c = Conv(x, w)
             s = Sigmoid(c)
             m = Mul(c, s)
             y = Softmax(m) }""",
        ["c s m", "y"],
    ),
    "GELU by tanh reads its input three times": (
        """(float[1,6,8] x, float[8,8] w, float three, float k, float one) => (float[1,6,8] y) {
             m = MatMul(x, w)
             p = Pow(m, three)
             q = Mul(p, k)
             a = Add(m, q)
             t = Tanh(a)
             o = Add(t, one)
             h = Mul(m, k)
             y = Mul(h, o) }""",
        ["m p q a t o h y"],
    ),
    "readers that never meet stay alone": (
        """(float[1,6,8] x, float[8,8] w) => (float[1,6,8] y, float[1,6,8] z) {
             m = MatMul(x, w)
             y = Sigmoid(m)
             z = Tanh(m) }""",
        ["m", "y", "z"],
    ),
    "DQ begins an island, Q ends it": (
        """(int8[1,4,8,8] x, float[4,4,1,1] w, float s, int8 z) => (int8[1,4,8,8] y) {
             d = DequantizeLinear(x, s, z)
             c = Conv(d, w)
             r = Relu(c)
             q = QuantizeLinear(r, s, z)
             e = DequantizeLinear(q, s, z)
             f = Conv(e, w)
             y = QuantizeLinear(f, s, z) }""",
        ["d c r q", "e f y"],
    ),
    "both DQs of an Add join it": (
        """(int8[1,4,8,8] x, float s, int8 z) => (int8[1,4,8,8] y) {
             v = MaxPool<kernel_shape=[1,1]>(x)
             d = DequantizeLinear(x, s, z)
             e = DequantizeLinear(v, s, z)
             a = Add(d, e)
             y = QuantizeLinear(a, s, z) }""",
        ["v", "d e a y"],
    ),
    "a DQ with two readers stays alone": (
        """(int8[1,4,8,8] x, float[4,4,1,1] w, float s, int8 z) => (float[1,4,8,8] y) {
             d = DequantizeLinear(x, s, z)
             c = Conv(d, w)
             y = Concat<axis=1>(c, d) }""",
        ["d", "c", "y"],
    ),
    "a graph output ends a group": (
        """(float[1,4,8,8] x, float[4,4,1,1] w) => (float[1,4,8,8] c, float[1,4,8,8] y) {
             c = Conv(x, w)
             y = Relu(c) }""",
        ["c", "y"],
    ),
    "a tensor with a stranger among its readers is no inner tensor": (
        """(float[1,4,8,8] x, float[4,4,1,1] w) => (float[1,4,8,8] y) {
             c = Conv(x, w)
             r = Relu(c)
             p = MaxPool<kernel_shape=[1,1]>(c)
             y = Concat<axis=1>(r, p) }""",
        ["c", "r", "p", "y"],
    ),
    "an Add of two convolutions joins one of them": (
        """(float[1,4,8,8] x, float[4,4,1,1] w) => (float[1,4,8,8] y) {
             a = Conv(x, w)
             b = Conv(x, w)
             y = Add(a, b) }""",
        ["a", "b y"],
    ),
}


def parse(graph: str) -> Model:
    """Read a graph; weights are those inputs that are not called x."""
    text = f'<ir_version: 8, opset_import: ["" : 18]> test {graph}'
    proto = onnx.parser.parse_model(text)
    for value in [v for v in proto.graph.input if v.name != "x"]:
        kind = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        zeros = np.zeros([d.dim_value for d in kind.shape.dim], dtype)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(zeros, value.name))
        proto.graph.input.remove(value)
    return Model(ir.from_proto(proto))


@pytest.mark.parametrize(("graph", "wanted"), CASES.values(), ids=CASES)
def test_groups_are_what_backends_fuse(graph: str, wanted: list[str]) -> None:
    assert [" ".join(group) for group in groups(parse(graph))] == wanted


KINDS = ("conv", "elementwise", "elementwise", "elementwise", "gemm", "layout", "reduce")


def random_graph(rng: random.Random, size: int) -> tuple[Graph, dict[str, str]]:
    """A DAG with fan-out, diamonds, several inputs and outputs, two-output and QDQ nodes."""
    tensors, nodes = ["x0", "x1"], []
    kinds: dict[str, str] = {}
    for at in range(size):
        near = tensors[-2:] if rng.random() < 0.9 else tensors
        read = tuple(rng.sample(near, rng.choice((1, 1, 1, 2))))
        made = (f"n{at}", f"n{at}b") if rng.random() < 0.1 else (f"n{at}",)
        kinds[made[0]] = rng.choice(KINDS)
        op = "Op"
        if kinds[made[0]] == "elementwise" and rng.random() < 0.3:
            op = rng.choice(("QuantizeLinear", "DequantizeLinear"))
        nodes.append(Node(made[0], op, read, made))
        tensors += made
    read_names = {t for node in nodes for t in node.inputs}
    ends = [t for t in tensors[2:] if t not in read_names or rng.random() < 0.03]
    return Graph(("x0", "x1"), tuple(ends), tuple(nodes)), kinds


def ancestors(graph: Graph) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for node in graph.nodes:
        makers = {graph.producer[t] for t in node.inputs if t in graph.producer}
        found[node.id] = makers.union(*(found[m] for m in makers))
    return found


def legal_head(graph: Graph, rng: random.Random) -> set[str]:
    above = ancestors(graph)
    chosen = rng.sample(list(graph.by_id), rng.randint(0, min(4, len(graph.nodes))))
    return set(chosen).union(*(above[name] for name in chosen))


@pytest.mark.parametrize("seed", range(200))
def test_groups_of_random_graphs(seed: int) -> None:
    rng = random.Random(seed)
    graph, kinds = random_graph(rng, rng.randint(2, 24))
    found = fuse(graph, kinds)
    assert sorted(n for group in found for n in group) == sorted(graph.by_id)
    assert acyclic(graph, found)
    above = ancestors(graph)
    for group in found:
        check_group(graph, group, above)
    for _ in range(5):
        head = legal_head(graph, rng)
        torn = any(0 < len(head.intersection(group)) < len(group) for group in found)
        assert breaks(found, head) == torn


def check_group(graph: Graph, group: Group, above: dict[str, set[str]]) -> None:
    """Inner tensors stay inside, the group is convex, its ends are its first and last node."""
    inside = set(group)
    for name in group[:-1]:
        for tensor in graph.by_id[name].outputs:
            assert tensor not in graph.outputs
            assert set(graph.readers[tensor]) <= inside
    for node in graph.by_id:
        if node not in inside:
            assert not (above[node] & inside and any(node in above[name] for name in inside))
    assert all(group[0] in above[name] for name in group[1:])
    assert inside - {group[-1]} <= above[group[-1]]


def test_random_graphs_do_fuse() -> None:
    """The property above would hold for singletons too."""
    sizes = []
    for seed in range(50):
        graph, kinds = random_graph(random.Random(seed), 20)
        sizes += [len(group) for group in fuse(graph, kinds)]
    assert max(sizes) >= 4
    assert sum(size > 1 for size in sizes) > 50


def test_a_cycle_of_groups_is_seen() -> None:
    nodes = (Node("a", "Op", ("x",), ("a",)), Node("b", "Op", ("a",), ("b",)))
    graph = Graph(("x",), ("c",), (*nodes, Node("c", "Op", ("a", "b"), ("c",))))
    assert not acyclic(graph, [("a", "c"), ("b",)])
    assert acyclic(graph, [("a", "b"), ("c",)])
