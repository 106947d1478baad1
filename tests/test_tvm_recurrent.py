"""LSTM and GRU for TVM: lowered exactly, compiled, or refused."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from splitc import backend
from splitc.execute import evaluate
from splitc.model import Model
from tests.test_tvm import HERE, compare, feeds_of

pytestmark = pytest.mark.skipif(find_spec("tvm") is None, reason="needs the extra splitc[tvm]")


def recurrent(kind: str, direction: str, **attributes: Any) -> Model:
    """A recurrent layer over 5 steps, with all its optional inputs and outputs."""
    ways, gates, hidden, width = (
        (2 if direction == "bidirectional" else 1),
        (4 if kind == "LSTM" else 3),
        6,
        4,
    )
    rng = np.random.default_rng(1)
    shapes = {
        "w": (ways, gates * hidden, width),
        "r": (ways, gates * hidden, hidden),
        "b": (ways, 2 * gates * hidden),
    }
    weights = [
        numpy_helper.from_array(0.4 * rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    state = ["h", "c"] if kind == "LSTM" else ["h"]
    node = helper.make_node(
        kind,
        ["x", "w", "r", "b", "", *state],
        ["y", *(f"{name}_out" for name in state)],
        hidden_size=hidden,
        direction=direction,
        **attributes,
    )
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", floats, [5, 2, width])]
        + [helper.make_tensor_value_info(name, floats, [ways, 2, hidden]) for name in state],
        [helper.make_tensor_value_info("y", floats, [5, ways, 2, hidden])]
        + [
            helper.make_tensor_value_info(f"{name}_out", floats, [ways, 2, hidden])
            for name in state
        ],
        weights,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return Model(onnx_ir.from_proto(proto))


RECURRENT = {
    "LSTM": recurrent("LSTM", "forward"),
    "LSTM reverse": recurrent("LSTM", "reverse"),
    "LSTM both ways": recurrent("LSTM", "bidirectional"),
    "GRU": recurrent("GRU", "forward"),
    "GRU both ways": recurrent("GRU", "bidirectional", linear_before_reset=1),
}


@pytest.mark.parametrize("model", RECURRENT.values(), ids=RECURRENT)
def test_the_lowering_of_recurrent_layers_is_exact_in_onnxruntime(model: Model) -> None:
    from splitc.backends.tvm.prepare import prepare

    lowered = Model(prepare(model))
    assert not {node.op_type for node in lowered.ir.graph} & {"LSTM", "GRU"}
    feeds = feeds_of(model)
    want, got = evaluate(model, feeds), evaluate(lowered, feeds)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", ["LSTM both ways", "GRU both ways"])
def test_recurrent_layers_compile(name: str, tmp_path: Path) -> None:
    compare(RECURRENT[name], HERE, tmp_path)


def test_recurrent_forms_that_are_not_lowered_are_refused() -> None:
    model = recurrent("LSTM", "forward", input_forget=1)
    assert backend.get("tvm").supports(model, HERE) == {"y": "LSTM with input_forget"}
