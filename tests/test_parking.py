"""Large weights wait in a file: the model stays the same, and the file goes with it."""

import gc
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from splitc import parking
from splitc.execute import evaluate
from splitc.feeds import draw_inputs
from splitc.ingest import load
from splitc.model import Model
from splitc.parking import parked

SIZE = 64


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """Make a network with a large weight, small ones, and a Constant node with a tensor."""
    monkeypatch.setattr(parking, "EXTERNAL_ABOVE", SIZE * SIZE * 4)
    rng = np.random.default_rng(0)
    large = rng.standard_normal((SIZE, SIZE)).astype("f")
    weights = {"a": large, "b": large * 2, "shape": np.array([1, SIZE]), "bias": large[0]}
    inner = numpy_helper.from_array(large[1], "c")
    nodes = [
        helper.make_node("Constant", [], ["k"], value=inner),
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Add", ["h", "bias"], ["i"]),
        helper.make_node("Add", ["i", "k"], ["j"]),
        helper.make_node("MatMul", ["j", "b"], ["z"]),
        helper.make_node("Reshape", ["z", "shape"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, SIZE)) for n in "xy"]
    table = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], table)
    opset = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "n.onnx")
    return load(tmp_path / "n.onnx")


def files(model: Model) -> set[Path]:
    table = model.ir.graph.initializers.values()
    return {Path(v.const_value.path) for v in table if isinstance(v.const_value, ir.ExternalTensor)}


def test_the_model_stays_the_same(model: Model, tmp_path: Path) -> None:
    made = parked(model)
    assert len(files(made)) == 1
    assert not files(model), "the one given is not changed"
    assert made.fingerprint() == model.fingerprint()
    assert made.facts == model.facts, "small values are still seen by shape inference"
    feeds = draw_inputs(model)
    np.testing.assert_array_equal(evaluate(made, feeds)["y"], evaluate(model, feeds)["y"])
    for one, name in ((model, "one.onnx"), (made, "other.onnx")):
        one.save(tmp_path / name)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "other.onnx").read_bytes()
    assert parked(made) is made, "what lies in a file already stays there"


def test_nothing_holds_the_message_that_the_weights_came_in(model: Model) -> None:
    made = parked(model)
    held = [v.const_value for v in made.ir.graph.initializers.values()]
    held += [a.value for node in made.ir.graph for a in node.attributes.values()]
    assert {type(tensor) for tensor in held} == {ir.ExternalTensor, ir.Tensor}


def test_the_file_goes_with_the_last_tensor(model: Model) -> None:
    made = parked(model)
    (file,) = files(made)
    copy = made.clone()
    del made
    gc.collect()
    assert file.exists(), "a clone shares it"
    del copy
    gc.collect()
    assert not file.parent.exists()


def test_small_models_stay_in_memory(tmp_path: Path) -> None:
    text = '<ir_version: 10, opset_import: ["": 21]> g (float[2] x) => (float[2] y) { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "n.onnx")
    model = load(tmp_path / "n.onnx")
    assert parked(model) is model
