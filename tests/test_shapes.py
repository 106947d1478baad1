"""Sizes: what is symbolic, what binds it, and every tensor's fact against onnxruntime's."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from splitc.errors import ModelError, RequestError
from splitc.execute import evaluate
from splitc.feeds import draw_inputs
from splitc.inference import infer
from splitc.ingest import load
from splitc.model import Model, parse_input
from splitc.shapes import bindings

HEAD = '<ir_version: 10, opset_import: ["": 21]>\n'
PAIR = "n (float[N,C,H] x, float[N,C,H] z) => (float[N,C,H] y) { y = Add(x, z) }"
ONE = "n (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"
ANON = (
    "n (float[?,3,?] x, float[?,3] z) => (float[?,3] y, float[?,3,?] w) "
    "{ y = Relu(z)  w = Relu(x) }"
)


def model(folder: Path, text: str, *inputs: str) -> Model:
    path = folder / "net.onnx"
    path.write_bytes(onnx.parser.parse_model(HEAD + text).SerializeToString())
    return load(path, input=inputs)


BOUND: dict[str, tuple[str, tuple[str, ...], dict[str, int], tuple[str, ...]]] = {
    "the batch is one": (ONE, (), {"N": 1}, ()),
    "a range keeps it symbolic": (ONE, ("x=1..8..32x3",), {"N": 8}, ()),
    "a number fixes it, loudly": (ONE, ("x=4x3",), {}, ("size 'N' is fixed at 4 by --input",)),
    "one input binds another's": (
        PAIR,
        ("x=1..2..4x5x6",),
        {"N": 2},
        ("size 'C' is fixed at 5 by --input", "size 'H' is fixed at 6 by --input"),
    ),
    "the same size twice": (
        PAIR,
        ("x=2x5x6", "z=2x5x6"),
        {},
        tuple(
            f"size '{n}' is fixed at {s} by --input" for n, s in zip("NCH", (2, 5, 6), strict=True)
        ),
    ),
    "ranges elsewhere": (PAIR, ("x=1..1..4x1..5..9x1..6..9",), {"N": 1, "C": 5, "H": 6}, ()),
    "nameless sizes": (
        ANON,
        ("x=1..1..2x3x7",),
        {"batch": 1},
        ("size 'x_2' is fixed at 7 by --input",),
    ),
}


@pytest.mark.parametrize(("text", "inputs", "bound", "notes"), BOUND.values(), ids=BOUND)
def test_what_is_bound(
    tmp_path: Path,
    text: str,
    inputs: tuple[str, ...],
    bound: dict[str, int],
    notes: tuple[str, ...],
) -> None:
    made = model(tmp_path, text, *inputs)
    assert bindings(made) == bound
    assert made.notes == notes
    left = {d for t in (*made.inputs, *made.outputs) for d in t.shape if isinstance(d, str)}
    assert left == bound.keys()
    found = evaluate(made, draw_inputs(made))
    assert {n: made.facts[n].shape for n in found} == {n: a.shape for n, a in found.items()}


def test_open_sizes_are_named_all_at_once(tmp_path: Path) -> None:
    made = model(tmp_path, PAIR)
    with pytest.raises(ModelError) as caught:
        _ = made.facts
    said = str(caught.value)
    assert "'C' (axis 1 of input 'x'), 'H' (axis 2 of input 'x')" in said
    assert "--input x=1xCxH" in said


REFUSED: dict[str, tuple[str, tuple[str, ...], str]] = {
    "no such input": (ONE, ("X=1x3",), "known names: x"),
    "another rank": (ONE, ("x=1x3x3",), "x: [N, 3]"),
    "another fixed size": (ONE, ("x=1x4",), "does not fit"),
    "a range over a fixed size": (ONE, ("x=1x2..3..4",), "does not fit"),
    "another type": (ONE, ("x=1x3:int64",), "'x' is float32"),
    "no type": (ONE, ("x=1x3:real",), "unknown dtype 'real'"),
    "one symbol, two sizes": (PAIR, ("x=1x5x6", "z=1x5x7"), "size 'H' is given twice, differently"),
    "one symbol, two ranges": (PAIR, ("x=1..2..3x5x6", "z=1..3..3x5x6"), "'N' is given twice"),
    "no sizes": (ONE, ("x",), "--input NAME=1x3x224x224"),
    "a size of zero": (ONE, ("x=0x3",), "neither a size"),
    "a range of two": (ONE, ("x=1..2x3",), "neither a size"),
    "a falling range": (ONE, ("x=4..2..1x3",), "neither a size"),
}


@pytest.mark.parametrize(("text", "inputs", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit(tmp_path: Path, text: str, inputs: tuple[str, ...], reason: str) -> None:
    with pytest.raises(RequestError) as caught:
        model(tmp_path, text, *inputs)
    assert reason in str(caught.value)


@pytest.mark.parametrize("text", ["x=1x3x224x224", "a=b=2x3:int64", "x=1..8..32x3", "s="])
def test_input_texts_are_read_and_written(text: str) -> None:
    assert str(parse_input(text)) == text


def test_a_rank_that_only_the_user_knows(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(HEAD + ONE)
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.ClearField("shape")
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="--input x=1x"):
        load(tmp_path / "net.onnx")
    made = load(tmp_path / "net.onnx", input=["x=2x5"])
    assert made.facts["y"].shape == (2, 5)


def test_inference_says_why_it_fails_and_keeps_what_it_knows() -> None:
    """`onnx_ir`'s own pass would log the failure and leave the model untouched."""
    text = (
        "n (float[2,3] x, float[4] w) => (float[a,b] y, float[c,d] z) { z = Neg(x)  y = Add(x, w) }"
    )
    raw = ir.from_onnx_text(HEAD + text)
    assert "Add" in infer(raw)
    assert list(raw.graph.outputs[1].shape or ()) == [2, 3]


def test_inference_leaves_the_weights_alone() -> None:
    raw = ir.from_onnx_text(HEAD + "n (float[N,3] x) => (float[N,3] y) { y = Add(x, w) }")
    weight = np.ones((500, 3), np.float32)
    value = ir.Value(name="w", const_value=ir.tensor(weight, name="w"))
    raw.graph.register_initializer(value)
    raw.graph[0].replace_input_with(1, value)
    before = [*raw.graph.initializers], value.const_value
    assert infer(raw) == ""
    assert ([*raw.graph.initializers], value.const_value) == before
    assert [v.name for v in raw.graph.inputs] == ["x"]


def test_sequences_keep_their_type(tmp_path: Path) -> None:
    made = model(
        tmp_path, "n (float[N,3] x) => (seq(float[N,3]) y) { y = SequenceConstruct(x, x) }"
    )
    assert made.outputs[0].dtype == "seq(float32)"
    assert made.facts.keys() == {"x"}


def against_onnxruntime(made: Model) -> None:
    """Compare every fact with what onnxruntime makes."""
    names = [name for name in made.graph.tensors if name in made.facts]
    assert names == list(made.graph.tensors)
    found = evaluate(made, draw_inputs(made), names, optimize=False)
    for name, array in found.items():
        fact = made.facts[name]
        assert (fact.shape, fact.dtype) == (array.shape, array.dtype.name), name
        assert fact.nbytes == array.nbytes, name


SMALL = ("ad_autoencoder_mlperf", "cifar10_resnet8_mlperf", "kws_dscnn_mlperf", "mnist_cnn",
         "silero_vad_16k_op15", "sst2_tiny_transformer", "coco_yolox_nano_416")  # fmt: skip
SIZES = {
    "silero_vad_16k_op15": ("input=1x512",),
    "sst2_tiny_transformer": ("ids=1..3..8x48",),
    "kws_dscnn_mlperf": ("input=1..2..4x1x49x10",),
}


@pytest.mark.shared
@pytest.mark.parametrize("name", SMALL)
def test_facts_are_what_onnxruntime_makes(shared: Path, name: str) -> None:
    against_onnxruntime(load(shared / "models" / f"{name}.onnx", input=SIZES.get(name, ())))


@pytest.mark.parametrize("name", ["light_squeezenet", "light_shufflenet", "light_densenet121"])
def test_facts_of_the_light_models(name: str) -> None:
    folder = Path(onnx.__file__).parent / "backend/test/data/light"
    against_onnxruntime(load(folder / f"{name}.onnx"))


def test_a_size_below_zero_is_unknown(tmp_path: Path) -> None:
    relu = onnx.parser.parse_model(HEAD + ONE)
    for value in (relu.graph.input[0], relu.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    (tmp_path / "net.onnx").write_bytes(relu.SerializeToString())
    found = load(tmp_path / "net.onnx")
    assert found.inputs[0].shape == ("batch", 3)
    assert found.facts["y"].shape == (1, 3)


def test_a_tensor_beyond_any_memory(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has more than 281,474,976,710,656 bytes"):
        model(tmp_path, ONE.replace("N", str(2**62))).facts.get("y")
