"""Low rank: nearest products, ranks by energy or target, graphs that compute the products."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import splitc
from splitc.accuracy import predict
from splitc.comparison import relative_error
from splitc.data import Dataset, drawn
from splitc.errors import PassError
from splitc.execute import evaluate
from splitc.factor import decompose
from splitc.factor.choose import by_energy, by_target, most
from splitc.factor.harm import harms
from splitc.factor.layers import Layer, Option, layers
from splitc.factor.moments import fitted
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


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 20), st.integers(2, 20), st.integers(0, 99), st.data())
def test_svd_reaches_the_eckart_young_bound(
    rows: int, columns: int, seed: int, data: st.DataObject
) -> None:
    """The bound from singular values, which a dense eigensolver finds another way."""
    matrix = np.random.default_rng(seed).standard_normal((rows, columns))
    rank = data.draw(st.integers(1, min(rows, columns)))
    a, b = decompose.pair(matrix, rank)
    assert (a.shape, b.shape) == ((rows, rank), (rank, columns))
    squares = np.maximum(np.sort(np.linalg.eigvalsh(matrix @ matrix.T))[::-1], 0)
    bound = math.sqrt(squares[rank:].sum() / squares.sum())
    assert decompose.relative(matrix, a @ b) == pytest.approx(bound, abs=1e-6)
    assert decompose.eckart_young(decompose.singular(matrix), rank) == pytest.approx(
        bound, abs=1e-6
    )
    np.testing.assert_allclose(np.linalg.norm(a, axis=0), np.linalg.norm(b, axis=1), rtol=1e-6)


def test_the_reported_error_is_eckart_and_youngs(tmp_path: Path) -> None:
    weight = np.random.default_rng(5).standard_normal((24, 16)).astype(np.float32)
    before = net(
        tmp_path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight}, ["N", 24]
    )
    (layer,) = layers(before, frozenset({"y"}))
    values = np.linalg.svd(weight.astype(np.float64), compute_uv=False)
    for option in layer.options:
        bound = decompose.eckart_young(values, option.ranks[0])
        assert math.sqrt(option.error) == pytest.approx(bound, abs=1e-9)
        (a, b), error = layer.factors(option)
        assert error == pytest.approx(bound, abs=1e-9)
        assert decompose.relative(layer.array, a @ b) == pytest.approx(bound, abs=1e-9)
        assert option.macs == option.ranks[0] * (24 + 16)
        assert option.macs < layer.macs == 24 * 16


@pytest.mark.parametrize("shape", [(8, 6, 9), (6, 8, 4), (12, 2, 3), (3, 20, 1)])
def test_tucker_is_exact_at_full_rank_and_refining_never_hurts(shape: tuple[int, ...]) -> None:
    tensor = np.random.default_rng(2).standard_normal(shape)
    full = decompose.hosvd(tensor)
    assert decompose.relative(tensor, full.whole()) <= 1e-12
    kept, gains = decompose.retained(full.core), []
    for out, into in itertools.product((1, 2, 3), (1, 2)):
        if out > into * shape[2] or into > out * shape[2]:
            continue
        cut = full.cut(out, into)
        rough = decompose.relative(tensor, cut.whole())
        assert rough**2 == pytest.approx(1 - kept[out - 1, into - 1] / kept[-1, -1], abs=1e-12)
        made = decompose.refined(tensor, cut)
        assert decompose.relative(tensor, made.whole()) <= rough + 1e-12
        gains.append(rough - decompose.relative(tensor, made.whole()))
        np.testing.assert_allclose(made.out.T @ made.out, np.eye(out), atol=1e-10)
    assert shape[2] == 1 or max(gains) > 1e-3


def test_cp_finds_the_terms_of_a_sum() -> None:
    rng = np.random.default_rng(0)
    true = decompose.Canonical(*(rng.standard_normal((n, 4)) for n in (20, 12, 9))).whole()
    errors = [decompose.relative(true, decompose.cp(true, rank).whole()) for rank in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] > 0.1
    assert errors[3] < 1e-2
    beyond = decompose.cp(true, 25)  # more terms than rows: random columns fill up
    assert decompose.relative(true, beyond.whole()) < 1e-2


def _layer(name: str, seed: int, rows: int, columns: int, positions: int) -> Layer:
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((rows, columns)) * (0.5 ** np.arange(columns))
    return Layer(name, 1, name, matrix, True, positions, positions, 4)


def _cost(found: dict[str, Option], some: list[Layer]) -> tuple[int, float]:
    saved = sum(layer.macs - found[layer.node].macs for layer in some if layer.node in found)
    return saved, sum(option.error for option in found.values())


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.6])
def test_a_target_is_met_at_the_least_error(share: float) -> None:
    """Against brute force over every choice of ranks of three layers."""
    some = [_layer("a", 0, 8, 6, 5), _layer("b", 1, 10, 7, 2), _layer("c", 2, 6, 6, 9)]
    total = sum(layer.macs for layer in some)
    choices = [
        _cost({one.node: o for one, o in zip(some, choice, strict=True) if o}, some)
        for choice in itertools.product(*([None, *layer.options] for layer in some))
    ]
    found = by_target(some, "macs", math.ceil(share * total))
    assert found is not None
    saved, error = _cost(found, some)
    assert saved >= share * total
    finer = share * total * (1 + len(some) / 4096)
    assert error <= min(e for s, e in choices if s >= finer) + 1e-12
    assert error >= min(e for s, e in choices if s >= share * total) - 1e-12


def test_a_target_out_of_reach() -> None:
    some = [_layer("a", 0, 8, 6, 5)]
    assert by_target(some, "macs", most(some, "macs")) is not None
    assert by_target(some, "macs", most(some, "macs") + 1) is None


def test_energy_is_kept() -> None:
    some = [_layer("a", 0, 8, 6, 5), _layer("b", 1, 10, 7, 2)]
    for energy in (0.3, 0.8, 0.95, 0.9999):
        chosen = by_energy(some, energy)
        for layer in some:
            cheaper = [o for o in layer.options if o.error <= 1 - energy]
            assert (layer.node in chosen) == bool(cheaper)
            if cheaper:
                assert chosen[layer.node].macs == min(o.macs for o in cheaper)


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


PLANES: dict[str, tuple[onnx.NodeProto, tuple[int, ...], tuple[int, ...], int]] = {
    "rows": (helper.make_node("MatMul", ["x", "w"], ["y"]), (12, 10), (12,), -1),
    "columns": (helper.make_node("MatMul", ["w", "x"], ["y"]), (10, 12), (12, 7), 1),
    "a Gemm": (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), (10, 12), (12,), -1),
    "pixels": (helper.make_node("Conv", ["x", "w"], ["y"]), (10, 12, 1, 1), (12, 4, 4), 1),
    "a kernel": (
        helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1]),
        (10, 12, 3, 3), (12, 4, 4), 1),
}  # fmt: skip


@pytest.mark.parametrize(("node", "shape", "sample", "axis"), PLANES.values(), ids=PLANES)
@pytest.mark.parametrize("drawn_", [False, True])
def test_data_in_a_plane_need_no_more_than_its_rank(
    tmp_path: Path,
    node: onnx.NodeProto,
    shape: tuple[int, ...],
    sample: tuple[int, ...],
    axis: int,
    drawn_: bool,
) -> None:
    """The weight has full rank, the data three dimensions: on such data nothing is lost.

    Random arrays are no data: the same ones marked so leave the weight to itself.
    """
    rng = np.random.default_rng(0)
    before = net(tmp_path, [node], {"w": rng.standard_normal(shape).astype(np.float32)},
        ["N", *sample])  # fmt: skip

    def draw(count: int) -> NDArray[np.float32]:
        flat = rng.standard_normal((count, *sample[1:], 3)) @ plane
        return np.ascontiguousarray(np.moveaxis(flat, -1, axis), np.float32)

    plane = rng.standard_normal((3, 12))
    # up to the ridge of 1e-4, which keeps directions without data from exploding
    after = LowRank(energy=1 - 1e-3, data=Dataset({"x": draw(200)}, drawn=drawn_)).run(before)
    after.check()
    fresh = Dataset({"x": draw(50)})
    if drawn_:
        assert after.fingerprint() == before.fingerprint()
        return
    assert relative_error(predict(after, fresh)["y"], predict(before, fresh)["y"]) <= 0.02
    assert sum(macs(after).values()) < 0.8 * sum(macs(before).values())
    other = draw_inputs(before)
    assert relative_error(evaluate(after, other)["y"], evaluate(before, other)["y"]) > 0.3


def test_the_error_on_data_is_that_of_the_outputs(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((24, 16)).astype(np.float32)
    data = (rng.standard_normal((500, 24)) * 0.7 ** np.arange(24)).astype(np.float32)
    before = net(
        tmp_path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight}, ["N", 24]
    )
    (layer,) = fitted(before, layers(before, frozenset({"y"})), Dataset({"x": data[:256]}))
    plain = layers(before, frozenset({"y"}))[0]
    want = data[:256] @ weight
    for rank in (2, 5, 8):
        option, naive = layer.options[-rank], plain.options[-rank]
        assert option.ranks == naive.ranks == (rank,)
        (a, b), error = layer.factors(option)
        measured = np.linalg.norm(want - data[:256] @ a @ b) / np.linalg.norm(want)
        assert measured == pytest.approx(error, rel=0.05)
        (a, b), _ = plain.factors(naive)
        assert measured < 0.8 * np.linalg.norm(want - data[:256] @ a @ b) / np.linalg.norm(want)


@pytest.mark.parametrize("axis", [0, 1])
def test_every_output_channel_counts_alike(axis: int) -> None:
    """One output is 1000 times louder: only if loudness does not count are the others kept."""
    rng = np.random.default_rng(4)
    loud = np.where(np.arange(12) == 3, 1000.0, 1.0)
    quiet_ = rng.standard_normal((16, 2)) @ rng.standard_normal((2, 12))
    matrix = (quiet_ * loud) if axis == 0 else (quiet_ * loud).T
    matrix = matrix + 1e-3 * rng.standard_normal(matrix.shape)
    layer = Layer("y", 1, "w", matrix, True, 1, 1, 4, axis=axis, root=np.eye(16), even=True)
    (a, b), error = layer.factors(layer.options[-2])
    assert layer.options[-2].ranks == (2,)
    assert error < 1e-2
    columns = np.linalg.norm(matrix - a @ b, axis=axis) / np.linalg.norm(matrix, axis=axis)
    assert columns.max() < 2e-2


def test_a_target_falls_where_the_outputs_suffer_least(tmp_path: Path) -> None:
    """Two equal layers, of which one is heard 100 times less: that one gives all it can."""
    rng = np.random.default_rng(2)
    nodes = [
        helper.make_node("MatMul", ["x", "loud"], ["a"]),
        helper.make_node("MatMul", ["x", "faint"], ["b"]),
        helper.make_node("Mul", ["b", "little"], ["c"]),
        helper.make_node("Add", ["a", "c"], ["y"]),
    ]
    weights = {name: rng.standard_normal((16, 16)).astype(np.float32) for name in ("loud", "faint")}
    before = net(tmp_path, nodes, {**weights, "little": np.array(0.01, np.float32)}, ["N", 16])
    data = Dataset({"x": rng.standard_normal((64, 16)).astype(np.float32)})
    after = LowRank(target="macs", ratio=0.3, data=data).run(before)
    assert "loud" in after.ir.graph.initializers
    assert "faint" not in after.ir.graph.initializers
    deaf = LowRank(target="macs", ratio=0.3, data=data, fit="weights").run(before)
    assert "loud" not in deaf.ir.graph.initializers


def test_harm_is_what_the_outputs_suffer(tmp_path: Path) -> None:
    """Of one layer alone the outputs' error is the layer's own; behind a Clip large ones fade."""
    rng = np.random.default_rng(6)
    weight = (rng.standard_normal((20, 20)) * 0.8 ** np.arange(20)).astype(np.float32)
    data = Dataset({"x": rng.standard_normal((32, 20)).astype(np.float32)})
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    before = net(tmp_path, [product], {"w": weight}, ["N", 20])
    known = fitted(before, layers(before, frozenset({"y"})), data)
    (harm,) = harms(before, known, data).values()
    errors = [option.error for option in known[0].options]
    assert harm == pytest.approx(errors, rel=0.3)
    assert harm == sorted(harm)
    product = helper.make_node("MatMul", ["x", "w"], ["a"])
    clip = helper.make_node("Clip", ["a", "low", "high"], ["y"])
    ends = {"low": np.array(-0.1, np.float32), "high": np.array(0.1, np.float32)}
    before = net(tmp_path, [product, clip], {"w": weight, **ends}, ["N", 20])
    known = fitted(before, layers(before, frozenset({"a"})), data)
    clipped = harms(before, known, data)["a"]
    assert clipped[0] > harm[0]
    assert clipped[-1] / clipped[0] < 0.5 * harm[-1] / harm[0]


def test_nodes_that_share_a_weight_share_its_factors(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w"], ["y"]),
    ]
    rng = np.random.default_rng(3)
    before = net(tmp_path, nodes, {"w": thin(5, 12, 12, rank=3)}, ["N", 12])
    data = Dataset({"x": rng.standard_normal((64, 12)).astype(np.float32)})
    after = LowRank(energy=0.999, data=data).run(before)
    assert set(after.ir.graph.initializers) == {"w_low_rank_0", "w_low_rank_1"}
    assert relative_error(predict(after, data)["y"], predict(before, data)["y"]) <= 0.05


def test_data_that_are_zero_leave_the_weight_to_itself(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    before = net(tmp_path, [node], {"w": thin(0, 12, 10, rank=3)}, ["N", 12])
    after = LowRank(energy=0.999, data=Dataset({"x": np.zeros((8, 12), np.float32)})).run(before)
    assert relative_error(outputs(after), outputs(before)) <= 1e-4


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
