"""Drawn inputs: each rule, and the same arrays for the same seed."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from splitc.errors import ModelError
from splitc.execute import evaluate
from splitc.feeds import draw_inputs, draw_samples
from splitc.ingest import load
from splitc.model import Model

TEXT = '<ir_version: 10, opset_import: ["": 21]>\n'


def model(folder: Path, text: str, *inputs: str) -> Model:
    path = folder / "net.onnx"
    path.write_bytes(onnx.parser.parse_model(TEXT + text).SerializeToString())
    return load(path, input=inputs)


TABLE = "<float[5,2] w = {0,1,2,3,4,5,6,7,8,9}>"
RULES: dict[str, tuple[str, str, set[Any]]] = {
    "rows of a table": (f"n (int64[40] i) => (float[40,2] y) {TABLE} {{ y = Gather(w, i) }}",
        "int64", {0, 1, 2, 3, 4}),
    "rows behind a cast": (
        f"n (int32[40] i) => (float[40,2] y) {TABLE} {{ c = Cast<to = 7>(i)  y = Gather(w, c) }}",
        "int32", {0, 1, 2, 3, 4}),
    "columns": (
        f"n (int64[40] i) => (float[5,40] y) {TABLE} {{ y = Gather<axis = -1>(w, i) }}",
        "int64", {0, 1}),
    "other integers": ("n (int64[40] i) => (float[40] y) { y = Cast<to = 1>(i) }", "int64", {0, 1}),
    "booleans": ("n (bool[40] i) => (bool[40] y) { y = Not(i) }", "bool", {False, True}),
    "what a scalar is compared with": (
        "n (int64 i, float[40] x) => (float[40] y) <int64 a = {16000}, int64 b = {8000}> "
        "{ p = Equal(i, a)  q = Equal(b, i)  r = Or(p, q)  f = Cast<to = 1>(r)  y = Mul(x, f) }",
        "int64", {8000, 16000}),
    "rows less what is added": (
        f"n (int64[40] i) => (float[40,2] y) {TABLE.replace('>', ', int64 c = {2}>')} "
        "{ j = Add(i, c)  y = Gather(w, j) }", "int64", {0, 1, 2}),
    "rows by what is multiplied": (
        f"n (int64[40] i) => (float[40,2] y) {TABLE.replace('>', ', int64 c = {2}>')} "
        "{ j = Mul(c, i)  y = Gather(w, j) }", "int64", {0, 1, 2}),
    "columns added to": (
        "n (int64[40,2] i) => (float[40,2,1] y) <float[9,1] w = {0,1,2,3,4,5,6,7,8}, "
        "int64[2] c = {0, 5}> { j = Add(i, c)  y = Gather(w, j) }", "int64", {0, 1, 2, 3}),
    "the smaller of two tables": (
        "n (int64[40] i) => (float[40] y, float[40,2] z) <float[3] v = {0,1,2}, "
        "float[5,2] w = {0,1,2,3,4,5,6,7,8,9}> { y = Gather(v, i)  z = Gather(w, i) }",
        "int64", {0, 1, 2}),
    "rows of what the graph makes": (
        "n (float[N,5,2] x, int64[40] i) => (float[N,40,2] y) "
        "{ h = Relu(x)  y = Gather<axis = 1>(h, i) }", "int64", {0, 1, 2, 3, 4}),
    "elements": (
        "n (float[N,4] x, int64[N,40] i) => (float[N,40] y) "
        "{ y = GatherElements<axis = 1>(x, i) }", "int64", {0, 1, 2, 3}),
    "coordinates": (
        "n (float[3,5] x, int64[40,2] i) => (float[40] y) { y = GatherND(x, i) }",
        "int64", {0, 1, 2}),
    "where it is scattered": (
        "n (float[4,2] x, int64[3,1] i, float[3,2] u) => (float[4,2] y) "
        "{ y = ScatterND(x, i, u) }", "int64", {0, 1, 2, 3}),
    "classes": (
        "n (int64[40] i) => (float[40,6] y) <int64 d = {6}, float[2] v = {0, 1}> "
        "{ y = OneHot(i, d, v) }", "int64", {0, 1, 2, 3, 4, 5}),
    "rows, read in a body": (
        f"n (int64[40] i, bool c, float[40,2] x) => (float[40,2] y) {TABLE} {{ j = Identity(i) "
        "y = If (c) <then_branch = g () => (float[40,2] t) { t = Gather(w, j) }, "
        "else_branch = h () => (float[40,2] e) { e = Identity(x) }> }",
        "int64", {0, 1, 2, 3, 4}),
    "rows, through a body": (
        f"n (int64[40] i, bool c) => (float[40,2] y) {TABLE} {{ "
        "j = If (c) <then_branch = g () => (int64[40] t) { t = Identity(i) }, "
        "else_branch = h () => (int64[40] e) { e = Identity(i) }>  y = Gather(w, j) }",
        "int64", {0, 1, 2, 3, 4}),
    "rows, carried by a loop": (
        f"n (int64[40] i, int64 n, bool c) => (float[40,2] y) {TABLE} {{ "
        "j = Loop<body = b (int64 k, bool ci, int64[40] s) => (bool co, int64[40] t) "
        "{ co = Identity(ci)  t = Identity(s) }>(n, c, i)  y = Gather(w, j) }",
        "int64", {0, 1, 2, 3, 4}),
    "one token, padding compared": (
        f"n (int64[1] i) => (float[1,2] y) {TABLE.replace('>', ', int64 p = {3}>')} "
        "{ q = Equal(i, p)  f = Cast<to = 1>(q)  g = Gather(w, i)  y = Mul(g, f) }",
        "int64", {0, 1, 2, 3, 4}),
    "a mask": (
        f"n (int64[40] i) => (float[40,2] y) {TABLE.replace('>', ', int64 p = {3}>')} "
        "{ q = Less(i, p)  f = Cast<to = 7>(q)  y = Gather(w, f) }", "int64", {0, 1}),
    "compared in a body": (
        "n (int64 i, bool c, float[4] x) => (float[4] y) <int64 a = {16000}> "
        "{ y = If (c) <then_branch = g () => (float[4] t) "
        "{ p = Equal(i, a)  f = Cast<to = 1>(p)  t = Mul(x, f) }, "
        "else_branch = h () => (float[4] e) { e = Identity(x) }> }",
        "int64", {16000}),
}  # fmt: skip


@pytest.mark.parametrize(("text", "dtype", "values"), RULES.values(), ids=RULES)
def test_the_values_drawn(tmp_path: Path, text: str, dtype: str, values: set[Any]) -> None:
    drawn = [sample["i"] for sample in draw_samples(model(tmp_path, text), 60)]
    assert {array.dtype.name for array in drawn} == {dtype}
    assert {value for array in drawn for value in array.ravel().tolist()} == values


@pytest.mark.parametrize("text", [text for text, _, _ in RULES.values()], ids=RULES)
def test_onnxruntime_runs_on_what_is_drawn(tmp_path: Path, text: str) -> None:
    whole = model(tmp_path, text)
    for sample in draw_samples(whole, 5):
        assert evaluate(whole, sample)


def test_an_index_out_of_range_names_the_inputs(tmp_path: Path) -> None:
    whole = model(tmp_path, f"n (int64[4] i) => (float[4,2] y) {TABLE} {{ y = Gather(w, i) }}")
    with pytest.raises(ModelError, match=r"integer inputs were 'i' from 0 to 9"):
        evaluate(whole, {"i": np.array([0, 3, 9, 1])})


KINDS = {
    "strings": ("n (string[N] x) => (float[N] y) { y = Cast<to = 1>(x) }", "'x' is string"),
    "sequences": (
        "n (seq(float[N,3]) x) => (int64 y) { y = SequenceLength(x) }",
        "'x' is seq(float32)",
    ),
    "complex": ("n (complex64[N] x) => (complex64[N] y) { y = Identity(x) }", "'x' is complex64"),
}


@pytest.mark.parametrize(("text", "reason"), KINDS.values(), ids=KINDS)
def test_what_cannot_be_drawn_is_said(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ModelError) as caught:
        draw_inputs(model(tmp_path, text))
    assert reason in str(caught.value)


@pytest.mark.parametrize("kind", ["float8e4m3fn", "int8", "uint8", "int4", "uint16", "double"])
def test_every_numeric_type_is_drawn(tmp_path: Path, kind: str) -> None:
    whole = model(tmp_path, f"n ({kind}[N,3] x) => ({kind}[N,3] y) {{ y = Identity(x) }}")
    assert draw_inputs(whole)["x"].shape == (1, 3)
    assert draw_inputs(whole)["x"].dtype.name == kind.replace("double", "float64").replace(
        "float8e4m3fn", "float8_e4m3fn"
    )


@pytest.mark.parametrize(("onnx_name", "dtype"), [("float", "float32"), ("float16", "float16"),
    ("double", "float64"), ("bfloat16", "bfloat16")])  # fmt: skip
def test_floats_are_standard_normal(tmp_path: Path, onnx_name: str, dtype: str) -> None:
    whole = model(tmp_path, f"n ({onnx_name}[4000] x) => ({onnx_name}[4000] y) {{ y = Neg(x) }}")
    drawn = draw_inputs(whole, 3)["x"]
    assert drawn.dtype.name == dtype
    wide = drawn.astype(np.float64)
    assert abs(wide.mean()) < 0.1
    assert wide.std() == pytest.approx(1, abs=0.1)


def test_sizes_and_seeds(tmp_path: Path) -> None:
    text = "n (float[N,3] x, float z) => (float[N,3] y) { y = Mul(x, z) }"
    whole = model(tmp_path, text, "x=2..4..8x3")

    def drawn(seed: int) -> dict[str, NDArray[Any]]:
        return draw_inputs(whole, seed)

    assert {name: array.shape for name, array in drawn(0).items()} == {"x": (4, 3), "z": ()}
    assert drawn(0)["x"].tobytes() == drawn(0)["x"].tobytes()
    assert drawn(0)["x"].tobytes() != drawn(1)["x"].tobytes()
    assert draw_inputs(model(tmp_path, text))["x"].shape == (1, 3)


@pytest.mark.shared
def test_silero_runs_on_what_is_drawn(shared: Path) -> None:
    """Its `sr` is multiplied, not compared, in the 16 kHz export: 0 or 1, like any integer."""
    path = shared / "models" / "silero_vad_16k_op15.onnx"
    whole = load(path, input=("input=1x512", "state=2x1x128"))
    for sample in draw_samples(whole, 2):
        assert all(np.isfinite(array).all() for array in evaluate(whole, sample).values())
