"""`low-rank` with data: factors near a node's outputs, ranks where they are missed least."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from splitc.accuracy import predict
from splitc.comparison import relative_error
from splitc.data import Dataset
from splitc.execute import evaluate
from splitc.factor.harm import harms
from splitc.factor.layers import Layer, layers
from splitc.factor.moments import fitted
from splitc.feeds import draw_inputs
from splitc.macs import macs
from splitc.passes.low_rank import LowRank
from tests.test_low_rank import net, outputs, thin

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
