"""Drawn inputs: each rule, and the same arrays for the same seed."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from splitc.execute import evaluate
from splitc.feeds import draw_inputs, draw_samples
from splitc.ingest import load
from splitc.model import Model

TEXT = '<ir_version: 10, opset_import: ["": 21]>\n'


def model(folder: Path, text: str, *inputs: str) -> Model:
    path = folder / "net.onnx"
    path.write_bytes(onnx.parser.parse_model(TEXT + text).SerializeToString())
    return load(path, inputs=inputs)


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
    "compared in a body": (
        "n (int64 i, bool c, float[4] x) => (float[4] y) <int64 a = {16000}> "
        "{ y = If (c) <then_branch = g () => (float[4] t) "
        "{ p = Equal(i, a)  f = Cast<to = 1>(p)  t = Mul(x, f) }, "
        "else_branch = h () => (float[4] e) { e = Identity(x) }> }",
        "int64", {16000}),
}  # fmt: skip


@pytest.mark.parametrize(("text", "dtype", "values"), RULES.values(), ids=RULES)
def test_the_values_drawn(tmp_path: Path, text: str, dtype: str, values: set[Any]) -> None:
    drawn = [sample["i"] for sample in draw_samples(model(tmp_path, text), 20)]
    assert {array.dtype.name for array in drawn} == {dtype}
    assert {value for array in drawn for value in array.ravel().tolist()} == values


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
    whole = load(path, inputs=("input=1x512", "state=2x1x128"))
    for sample in draw_samples(whole, 2):
        assert all(np.isfinite(array).all() for array in evaluate(whole, sample).values())
