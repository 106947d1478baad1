"""Low rank: nearest products, ranks by energy or target, graphs that compute the products."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import splitc
from splitc.accuracy import predict
from splitc.comparison import relative_error
from splitc.data import Dataset, drawn
from splitc.errors import PassError
from splitc.execute import evaluate
from splitc.factor import decompose
from splitc.feeds import draw_inputs
from splitc.macs import macs
from splitc.model import Model
from splitc.passes.low_rank import LowRank
from splitc.passes.simplify import Simplify
from splitc.scope import Boundary
from tests.networks import model as network


def thin(seed: int, *shape: int, rank: int) -> NDArray[np.float32]:
    """Draw a matrix of that rank."""
    rng = np.random.default_rng(seed)
    made = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))
    return (made / math.sqrt(rank)).astype(np.float32)


def net(
    folder: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, NDArray[Any]],
    shape: list[Any],
    *,
    opset: int = 21,
    dtype: int = TensorProto.FLOAT,
) -> Model:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.save(made, folder / "net.onnx")
    return splitc.load(folder / "net.onnx")


def outputs(model: Model, seed: int = 0) -> NDArray[Any]:
    return evaluate(model, draw_inputs(model, seed))["y"]


W = "float[4,4] w = {2,0,0,0, 0,1,0,0, 0,0,0,0, 0,0,0,0}"
TEXTS = {
    "a matrix product": (
        f"n (float[N,4] x) => (float[N,4] y) <{W}> {{ y = MatMul(x, w) }}",
        [("MatMul", ["x", "w_low_rank_0"], ["y_low_rank_0"], (4, 1)),
         ("MatMul", ["y_low_rank_0", "w_low_rank_1"], ["y"], (1, 4))]),
    "a weight on the left": (
        f"n (float[N,4,5] x) => (float[N,4,5] y) <{W}> {{ y = MatMul(w, x) }}",
        [("MatMul", ["w_low_rank_1", "x"], ["y_low_rank_0"], (1, 4)),
         ("MatMul", ["w_low_rank_0", "y_low_rank_0"], ["y"], (4, 1))]),
    "a Gemm": (
        f"n (float[N,4] x) => (float[N,4] y) <{W}, float[4] b = {{1,2,3,4}}> "
        "{ y = Gemm<alpha = 0.5, beta = 2.0, transB = 1>(x, w, b) }",
        [("MatMul", ["x", "w_low_rank_0"], ["y_low_rank_0"], (4, 1)),
         ("Gemm", ["y_low_rank_0", "w_low_rank_1", "b"], ["y"], (1, 4))]),
}  # fmt: skip


@pytest.mark.parametrize(("text", "wanted"), TEXTS.values(), ids=TEXTS)
def test_two_nodes_for_one(tmp_path: Path, text: str, wanted: list[Any]) -> None:
    """The weight is diag(2, 1): rank 1 keeps 4/5 of its energy and answers with that part."""
    before = network(text, tmp_path)
    print_ = before.fingerprint()
    after = LowRank(energy=0.8).run(before)
    assert before.fingerprint() == print_
    after.check()
    found = []
    for node in after.ir.graph:
        read = [str(v.name) for v in node.inputs if v is not None]
        weight = next(v for v in node.inputs if v is not None and "low_rank" in str(v.name)
                      and v.const_value is not None)  # fmt: skip
        found.append(
            (node.op_type, read, [o.name for o in node.outputs], tuple(weight.shape or ()))
        )
    assert found == wanted
    assert set(after.ir.graph.initializers) == {n for _, r, _, _ in found for n in r} - {
        "x", "y_low_rank_0"}  # fmt: skip
    zeroed = before.clone()
    kept = np.zeros((4, 4), np.float32)
    kept[0, 0] = 2
    zeroed.ir.graph.initializers["w"].const_value = ir.tensor(kept, name="w")
    assert relative_error(outputs(after), outputs(zeroed)) <= 1e-6
    assert any("4×4 at rank 1, relative Frobenius error 0.447" in line for line in after.notes)


PRODUCTS: dict[str, tuple[onnx.NodeProto, tuple[int, ...], list[Any]]] = {
    "MatMul": (helper.make_node("MatMul", ["x", "w"], ["y"]), (12, 10), ["N", 12]),
    "MatMul of sequences": (helper.make_node("MatMul", ["x", "w"], ["y"]), (12, 10), ["N", 7, 12]),
    "MatMul from the left": (helper.make_node("MatMul", ["w", "x"], ["y"]), (12, 10), ["N", 10, 7]),
    "Gemm": (helper.make_node("Gemm", ["x", "w"], ["y"]), (12, 10), ["N", 12]),
    "Gemm turned": (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), (10, 12), ["N", 12]),
    "Gemm of columns": (
        helper.make_node("Gemm", ["x", "w"], ["y"], transA=1, alpha=0.5), (12, 10), [12, 6]),
    "a 1×1 convolution": (
        helper.make_node("Conv", ["x", "w"], ["y"]), (12, 10, 1, 1), ["N", 10, 5, 5]),
    "of one dimension": (helper.make_node("Conv", ["x", "w"], ["y"]), (12, 10, 1), ["N", 10, 5]),
    "1×1 with strides and pads": (
        helper.make_node("Conv", ["x", "w", "b"], ["y"], strides=[2, 2], pads=[1, 0, 1, 2]),
        (12, 10, 1, 1), ["N", 10, 6, 5]),
}  # fmt: skip


@pytest.mark.parametrize(("node", "shape", "x"), PRODUCTS.values(), ids=PRODUCTS)
def test_a_weight_of_low_rank_loses_nothing(
    tmp_path: Path, node: onnx.NodeProto, shape: tuple[int, ...], x: list[Any]
) -> None:
    weights = {"w": thin(0, *shape[:2], rank=3).reshape(shape)}
    if "b" in node.input:
        weights["b"] = np.arange(12, dtype=np.float32)
    before = net(tmp_path, [node], weights, x)
    after = LowRank(energy=1 - 1e-9).run(before)
    after.check()
    assert len(after.ir.graph) == 2
    assert after.outputs[0].name == "y"
    assert relative_error(outputs(after), outputs(before)) <= 2e-5
    ratio = 3 * (shape[0] + shape[1]) / (shape[0] * shape[1])
    assert sum(macs(after).values()) == pytest.approx(ratio * sum(macs(before).values()))


def kernel(seed: int, outs: int, ins: int, *size: int, ranks: tuple[int, int]) -> NDArray[Any]:
    """Draw a kernel of those Tucker-2 ranks."""
    rng = np.random.default_rng(seed)
    core = rng.standard_normal((*ranks, *size))
    left, right = rng.standard_normal((outs, ranks[0])), rng.standard_normal((ins, ranks[1]))
    return np.asarray(np.einsum("or,rs...,is->oi...", left, core, right), np.float32)


KERNELS: dict[str, tuple[dict[str, Any], tuple[int, int], int]] = {
    "both sides": ({"pads": [1, 1, 1, 1]}, (3, 2), 3),
    "the inputs alone": ({"pads": [1, 1, 1, 1]}, (10, 2), 2),
    "the outputs alone": ({}, (3, 8), 2),
    "strides": ({"strides": [2, 1], "pads": [0, 1, 1, 0]}, (3, 2), 3),
    "dilations": ({"dilations": [2, 1]}, (3, 2), 3),
    "automatic pads": ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (3, 2), 3),
}


@pytest.mark.parametrize(("options", "ranks", "nodes"), KERNELS.values(), ids=KERNELS)
def test_a_kernel_of_low_rank_loses_nothing(
    tmp_path: Path, options: dict[str, Any], ranks: tuple[int, int], nodes: int
) -> None:
    weights = {"w": kernel(1, 10, 8, 3, 3, ranks=ranks), "b": np.arange(10, dtype=np.float32)}
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], kernel_shape=[3, 3], **options)
    before = net(tmp_path, [node], weights, ["N", 8, 9, 9])
    after = LowRank(energy=1 - 1e-9).run(before)
    after.check()
    assert [n.op_type for n in after.ir.graph] == ["Conv"] * nodes
    assert relative_error(outputs(after), outputs(before)) <= 5e-5


def test_cp_is_a_depthwise_kernel_between_two(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = decompose.Canonical(*(rng.standard_normal((size, 2)) for size in (10, 8, 9))).whole()
    weights = {"w": made.reshape(10, 8, 3, 3).astype(np.float32)}
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])
    before = net(tmp_path, [node], weights, ["N", 8, 9, 9])
    after = LowRank(energy=0.999, conv="cp").run(before)
    after.check()
    groups = [n.attributes["group"].as_int() for n in after.ir.graph]
    rank = groups[1]
    assert groups == [1, rank, 1]
    assert rank >= 2
    assert relative_error(outputs(after), outputs(before)) <= 0.05
    assert sum(macs(after).values()) < sum(macs(before).values())


UNTOUCHED: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], list[Any]]] = {
    "a grouped convolution": (
        [helper.make_node("Conv", ["x", "w"], ["y"], group=4)],
        {"w": np.ones((8, 2, 3, 3), np.float32)}, ["N", 8, 9, 9]),
    "no saving": (
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"w": np.eye(6, dtype=np.float32)}, ["N", 6]),
    "a product of two tensors": (
        [helper.make_node("MatMul", ["x", "x"], ["y"])], {}, [6, 6]),
    "a batch of weights": (
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"w": np.ones((3, 6, 6), np.float32)}, [3, 6, 6]),
    "a weight that the graph computes": (
        [helper.make_node("Abs", ["w"], ["v"]), helper.make_node("MatMul", ["x", "v"], ["y"])],
        {"w": np.ones((6, 6), np.float32)}, ["N", 6]),
    "one row": (
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"w": np.ones((6, 1), np.float32)}, ["N", 6]),
}  # fmt: skip


@pytest.mark.parametrize(("nodes", "weights", "shape"), UNTOUCHED.values(), ids=UNTOUCHED)
def test_what_stays(
    tmp_path: Path, nodes: list[onnx.NodeProto], weights: dict[str, Any], shape: list[Any]
) -> None:
    before = net(tmp_path, nodes, weights, shape)
    after = LowRank(energy=0.9).run(before)
    assert after.fingerprint() == before.fingerprint()
    assert any("nothing changed" in line for line in after.notes)


@pytest.mark.parametrize("kind", ["float16", "float64"])
def test_types_are_kept(tmp_path: Path, kind: str) -> None:
    weights = {"w": thin(0, 12, 10, rank=2).astype(kind)}
    number = TensorProto.FLOAT16 if kind == "float16" else TensorProto.DOUBLE
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    before = net(tmp_path, [node], weights, ["N", 12], dtype=number)
    after = LowRank(energy=0.99).run(before)
    after.check()
    assert {v.const_value.dtype.numpy() for v in after.ir.graph.initializers.values()
            if v.const_value is not None} == {np.dtype(kind)}  # fmt: skip
    assert relative_error(outputs(after), outputs(before)) <= (5e-3 if kind == "float16" else 1e-6)


def test_a_shared_weight_is_stored_once_and_kept_for_others(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
        helper.make_node("Add", ["b", "w"], ["y"]),
    ]
    before = net(tmp_path, nodes, {"w": thin(3, 12, 12, rank=2)}, [12, 12])
    after = LowRank(energy=0.99).run(before)
    assert set(after.ir.graph.initializers) == {"w", "w_low_rank_0", "w_low_rank_1"}
    assert relative_error(outputs(after), outputs(before)) <= 1e-5


def test_names_that_are_taken(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y_low_rank_0"]),
        helper.make_node("MatMul", ["y_low_rank_0", "w_low_rank_0"], ["y"]),
    ]
    weights = {"w": thin(3, 12, 12, rank=2), "w_low_rank_0": thin(4, 12, 12, rank=3)}
    before = net(tmp_path, nodes, weights, ["N", 12])
    after = LowRank(energy=0.999).run(before)
    after.check()
    assert relative_error(outputs(after), outputs(before)) <= 1e-4


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "a target without a ratio": ({"target": "bytes"}, "needs the ratio to remove"),
    "both": ({"ratio": 0.3, "energy": 0.9}, "energy or ratio, not both"),
    "all of it": ({"target": "macs", "ratio": 1.0}, "between 0 and 1"),
    "no energy": ({"energy": 0.0}, "between 0 and 1"),
    "another target": ({"target": "flops", "ratio": 0.3}, "target = 'flops'"),
    "another method": ({"conv": "svd"}, "conv = 'svd'"),
    "another fit": ({"fit": "date"}, "did you mean 'data'?"),
    "another scope": ({"scope": "heat"}, "did you mean 'head'?"),
}


@pytest.mark.parametrize(("options", "reason"), OPTIONS.values(), ids=OPTIONS)
def test_options_that_do_not_fit(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=r"=|energy") as caught:
        LowRank(**options)
    assert reason in str(caught.value)


def test_a_pass_says_what_it_cannot_reach(tmp_path: Path) -> None:
    before = network(f"n (float[N,4] x) => (float[N,4] y) <{W}> {{ y = MatMul(x, w) }}", tmp_path)
    with pytest.raises(PassError, match="rank 1 everywhere removes 50%"):
        LowRank(target="macs", ratio=0.6).run(before)
    from splitc.train import Recipe

    with pytest.raises(PassError, match="needs data"):
        LowRank(energy=0.7, recipe=Recipe()).run(before)


@pytest.fixture(scope="session")
def transformer(shared: Path) -> Model:
    return Simplify().run(splitc.load(shared / "models" / "sst2_tiny_transformer.onnx"))


@pytest.mark.shared
@pytest.mark.parametrize("target", ["macs", "bytes"])
def test_a_transformer_loses_what_is_asked(transformer: Model, target: str) -> None:
    after = LowRank(target=target, ratio=0.15).run(transformer)
    after.check()
    before_, after_ = ((sum(macs(m).values()), m.weight_bytes()) for m in (transformer, after))
    place = 0 if target == "macs" else 1
    assert 0.80 < after_[place] / before_[place] <= 0.85
    made = predict(after, drawn(transformer, 8))["logits"]
    want = predict(transformer, drawn(transformer, 8))["logits"]
    assert relative_error(made, want) < 0.5


@pytest.mark.shared
def test_one_side_alone(shared: Path) -> None:
    whole = Simplify().run(splitc.load(shared / "models" / "cifar10_resnet20_jpegft.onnx"))
    cut = whole.graph.nodes[24].outputs[0]
    boundary = Boundary((cut,))
    head = boundary.head(whole)
    after = LowRank(target="macs", ratio=0.3, scope="head", boundary=boundary).run(whole)
    counted, now = macs(whole), macs(after)
    inside = sum(counted[n] for n in head)
    left = sum(now[n] for n in boundary.head(after))
    assert 0.65 < left / inside <= 0.70
    tail = set(whole.graph.by_id) - head
    table, old = after.ir.graph.initializers, whole.ir.graph.initializers
    for node in tail:
        assert after.graph.by_id[node] == whole.graph.by_id[node]
        for name in whole.graph.by_id[node].weights:
            assert table[name].const_value is old[name].const_value
    feeds = draw_inputs(whole)
    exact = evaluate(whole, feeds, [cut])[cut]
    assert 0 < relative_error(evaluate(after, feeds, [cut])[cut], exact) < 1


@pytest.mark.shared
@pytest.mark.torch
def test_training_brings_back_what_was_lost(shared: Path) -> None:
    """On the keyword network, towards the original alone: the head's weights, no others."""
    pytest.importorskip("torch", reason="needs splitc[torch]")
    from splitc.accuracy import Agreement, judge
    from splitc.train import Recipe

    whole = Simplify().run(splitc.load(shared / "models" / "kws_dscnn_mlperf.onnx"))
    with np.load(shared / "data" / "kws_mfcc_2445.npz") as stored:
        clips = stored["x"].astype(np.float32)[:, None]
    seen, unseen = Dataset({"input": clips[::5]}), Dataset({"input": clips[1::5]})
    cut = whole.graph.nodes[12].outputs[0]
    step = LowRank(
        target="macs",
        ratio=0.3,
        scope="head",
        boundary=Boundary((cut,)),
        data=seen,
        fit="weights",
    )
    plain = step.run(whole)
    recipe = Recipe(epochs=2, batch=16, learning_rate=0.002, optimizer="adam")
    trained = LowRank(**{**vars(step), "recipe": recipe}).run(whole)
    agreed = [judge(whole, one, unseen, Agreement()).after for one in (plain, trained)]
    assert agreed[1] > agreed[0] + 5
    assert [t.name for t in trained.outputs] == [t.name for t in whole.outputs]
    assert sum(macs(trained).values()) == sum(macs(plain).values())
    after, before = trained.ir.graph.initializers, plain.ir.graph.initializers
    for node in set(whole.graph.by_id) - Boundary((cut,)).head(whole):
        for name in trained.graph.by_id[node].weights:
            np.testing.assert_array_equal(
                after[name].const_value.numpy(),  # type: ignore[union-attr]
                before[name].const_value.numpy(),  # type: ignore[union-attr]
            )
