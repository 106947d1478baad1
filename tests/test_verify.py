"""Verification: what the error is, what proves nothing, and that planted defects are found."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from splitc import bundle
from splitc.comparison import Check, compare, relative_error, round_up
from splitc.cuts import resolve
from splitc.errors import RequestError, VerifyError
from splitc.ingest import load
from splitc.model import Model
from splitc.records import Source
from splitc.split import split
from splitc.verify import TOLERANCES, kind, verify

NAN, INF = math.nan, math.inf


def f32(*values: float) -> NDArray[Any]:
    return np.array(values, np.float32)


ERRORS: dict[str, tuple[NDArray[Any], NDArray[Any], float]] = {
    "equal": (f32(1, 2), f32(1, 2), 0),
    "half of the largest": (f32(1, 2), f32(0, 2), 0.5),
    "both zero": (f32(0, 0), f32(0, -0.0), 0),
    "expected zero": (f32(1e-9), f32(0), INF),
    "both NaN": (f32(NAN, 1), f32(NAN, 1), 0),
    "NaN beside an error": (f32(NAN, 1), f32(NAN, 2), 0.5),
    "NaN of one side": (f32(NAN, 1), f32(0, 1), INF),
    "NaN of the other": (f32(0, 1), f32(NAN, 1), INF),
    "same infinity": (f32(INF, 1), f32(INF, 4), 0.75),
    "other infinity": (f32(INF), f32(-INF), INF),
    "infinity of one side": (f32(INF), f32(1), INF),
    "shape": (f32(1), f32(1, 1), INF),
    "broadcast": (f32(1), np.ones((1, 1), np.float32), INF),
    "type": (f32(1), np.array([1.0]), INF),
    "empty": (f32(), f32(), 0),
    "scalar": (np.float32(2) * np.ones(()).astype("f"), np.array(4, "f"), 0.5),
    "integers": (np.array([5, 6]), np.array([5, 6]), 0),
    "integers by one": (np.array([2**60]), np.array([2**60 + 1]), INF),
    "booleans": (np.array([True]), np.array([False]), INF),
    "float16 overflow": (np.array([6e4], "e"), np.array([-6e4], "e"), 2),
    "complex": (np.array([1j]), np.array([2j]), 0.5),
}


@pytest.mark.parametrize(("got", "want", "error"), ERRORS.values(), ids=ERRORS)
def test_relative_error(got: NDArray[Any], want: NDArray[Any], error: float) -> None:
    assert relative_error(np.asarray(got), np.asarray(want)) == pytest.approx(error)


def test_relative_error_of_bfloat16() -> None:
    import ml_dtypes

    one, two = (np.array([v], ml_dtypes.bfloat16) for v in (1, 2))
    assert relative_error(one, two) == 0.5


CHECKS: dict[str, tuple[list[NDArray[Any]], list[NDArray[Any]], str]] = {
    "pass": ([f32(1), f32(2)], [f32(1), f32(2)], "pass"),
    "one sample": ([f32(1)], [f32(1)], "pass"),
    "constant": ([f32(1), f32(1)], [f32(1), f32(1)], "not-run"),
    "constant and wrong": ([f32(1), f32(2)], [f32(1), f32(1)], "fail"),
    "wrong": ([f32(1), f32(2)], [f32(1), f32(3)], "fail"),
    "nothing": ([], [], "not-run"),
    "too few": ([f32(1)], [f32(1), f32(2)], "fail"),
    "empty outputs": ([f32(), f32()], [f32(), f32()], "not-run"),
    "sizes that vary": ([f32(1), f32(1, 2)], [f32(1), f32(1, 2)], "pass"),
}


@pytest.mark.parametrize(("got", "want", "status"), CHECKS.values(), ids=CHECKS)
def test_compare(got: list[NDArray[Any]], want: list[NDArray[Any]], status: str) -> None:
    check = compare("y", got, want, tolerance=1e-5)
    assert check.status == status
    assert check.worst_error is None or math.isfinite(check.worst_error)
    assert bool(check.detail) == (status != "pass"), "a reason, unless it passed"


def test_a_tolerance_is_never_a_default() -> None:
    with pytest.raises(TypeError, match="tolerance"):
        compare("y", [], [])  # type: ignore[call-arg]


def test_the_table_of_tolerances() -> None:
    assert sorted({*TOLERANCES.values()}) == [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]


ROUNDED = {0: 0, 3.2e-7: 4e-7, 3e-7: 3e-7, 9.7e-6: 1e-5, 0.91: 1.0, 1e-5: 1e-5, 123: 200}


@pytest.mark.parametrize(("error", "rounded"), ROUNDED.items())
def test_round_up(error: float, rounded: float) -> None:
    assert round_up(error) == rounded
    assert Check("y", "pass", error).record().worst_error == rounded


# Whole bundles.

TEXT = '<ir_version: 10, opset_import: ["": 21]>\n'
WHOLE = """net (float[1,3] x, float[1,3] m) => (float[1,3] y, float[1,3] a, int64[2] s)
{ h = Sigmoid(x)  a = Softplus(h)  y = Mul(a, m)  s = Shape(x) }"""
HEAD = """head (float[1,3] x) => (float[1,3] a, int64[2] s)
{ h = Sigmoid(x)  a = Softplus(h)  s = Shape(x) }"""
TAIL = "tail (float[1,3] a, float[1,3] m) => (float[1,3] y) { y = Mul(a, m) }"


def model(folder: Path, text: str) -> Model:
    path = folder / "net.onnx"
    path.write_bytes(onnx.parser.parse_model(TEXT + text).SerializeToString())
    return load(path)


def write(folder: Path, head: str | None = None, tail: str | None = None) -> Path:
    whole = model(folder, WHOLE)
    halves = split(whole, resolve(whole.graph, "m,a"))
    halves = replace(halves, head=model(folder, head)) if head else halves
    halves = replace(halves, tail=model(folder, tail)) if tail else halves
    parts = bundle.Parts(
        model=whole,
        split=halves,
        source=Source(model="net.onnx", fingerprint=whole.fingerprint()),
        passes="",
        request={},
        plan={"kind": "inner"},
        certificate={},
    )
    bundle.write(folder / "bundle", parts)
    return folder / "bundle"


def save(path: Path, arrays: dict[str, Any]) -> None:
    np.savez(path, allow_pickle=False, **arrays)


def statuses(folder: Path, **options: Any) -> dict[str, str]:
    return {check.name: check.status for check in verify(folder, **options).checks}


SOUND = {
    "digests": "pass",
    "contract": "pass",
    "boundary m": "pass",
    "boundary a": "pass",
    "output a": "pass",
    "output s": "not-run",
    "wire": "pass",
    "output y": "pass",
}
ORIGINAL = {"model output y": "pass", "model output a": "pass", "model output s": "not-run"}


def test_a_sound_bundle(tmp_path: Path) -> None:
    folder = write(tmp_path)
    report = verify(folder)
    assert report.ok
    assert {check.name: check.status for check in report.checks} == SOUND
    plain = report.to_json()
    assert list(plain) == ["ok", "bundle", "plan", "checks"]
    assert set(plain["checks"][0]) == {"name", "status", "worst_error", "tolerance", "detail"}
    assert plain["bundle"] == str(folder)
    assert plain["plan"] == {"kind": "inner"}


def test_against_the_original(tmp_path: Path) -> None:
    folder = write(tmp_path)
    assert statuses(folder, model=model(tmp_path, WHOLE)) == SOUND | ORIGINAL
    other = model(tmp_path, WHOLE.replace("Sigmoid", "Tanh"))
    report = verify(folder, model=other)
    assert not report.ok
    assert report.notes == ("first diverging tensor: 'h'",), "looked for within the head"
    assert all("first diverging tensor" in c.detail for c in report.checks if c.status == "fail")
    stranger = model(tmp_path, "n (float[1,3] q) => (float[1,3] r) { r = Relu(q) }")
    assert "another model" in verify(folder, model=stranger).checks[-1].detail


DEFECTS: dict[str, tuple[dict[str, str], str]] = {
    "head": ({"head": HEAD.replace("Softplus(h)", "Softplus(x)")}, "boundary a"),
    "tail": ({"tail": TAIL.replace("Mul", "Add")}, "output y"),
    "NaN": ({"tail": TAIL.replace("y = Mul(a, m)", "z = Mul(a, m)  y = Sqrt(z)")}, "output y"),
}


@pytest.mark.parametrize(("halves", "first"), DEFECTS.values(), ids=DEFECTS)
def test_a_planted_defect_is_found_and_named(
    tmp_path: Path, halves: dict[str, str], first: str
) -> None:
    report = verify(write(tmp_path, **halves))
    assert not report.ok
    assert report.notes == (f"first diverging tensor: {first.split()[-1]!r}",)
    failed = [check for check in report.checks if check.status == "fail"]
    assert failed[0].name == first
    assert "sample " in failed[0].detail


@pytest.mark.parametrize("delete", [False, True])
@pytest.mark.parametrize("side", ["head", "tail"])
def test_one_side_alone(tmp_path: Path, side: str, delete: bool) -> None:
    folder, other = write(tmp_path), {"head": "tail", "tail": "head"}[side]
    if delete:
        shutil.rmtree(folder / other)
    report = verify(folder, side=side)
    found = {check.name: check.status for check in report.checks}
    assert report.ok
    assert not report.notes
    assert found[other] == "not-run"
    assert (found.get("output a"), found.get("output y")) == (
        ("pass", None) if side == "head" else (None, "pass")
    )
    assert statuses(folder, side=side, model=model(tmp_path, WHOLE))["model"] == "not-run"
    if delete:
        assert statuses(folder) == found, "without --side: as far as it goes"
        with pytest.raises(VerifyError, match=f"this bundle has no {other}"):
            verify(folder, side=other)


def test_a_damaged_bundle_raises(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "tail/model.onnx").write_bytes(b"")
    with pytest.raises(VerifyError, match="wrong length"):
        verify(folder)


def test_recorded_data(tmp_path: Path) -> None:
    folder, rng = write(tmp_path), np.random.default_rng(0)
    given = {name: rng.standard_normal((5, 3)).astype("f") for name in "xm"}
    save(tmp_path / "d.npz", given)
    options = {"model": model(tmp_path, WHOLE), "data": tmp_path / "d.npz"}
    assert statuses(folder, **options) == SOUND | ORIGINAL
    stacked = {name: array[:, None] for name, array in given.items()}
    save(tmp_path / "d.npz", stacked)
    assert statuses(folder, **options) == SOUND | ORIGINAL


WRONG: dict[str, tuple[Callable[[Path], dict[str, Any]], str]] = {
    "no model": (lambda d: {"x": f32(1), "_model": None}, "--data needs the model"),
    "missing": (lambda d: {"x": np.zeros((2, 3), "f")}, "--data has no array 'm'"),
    "counts": (
        lambda d: {"x": np.zeros((2, 3), "f"), "m": np.zeros((4, 3), "f")},
        "2 samples of 'x', 4 of others",
    ),
    "type": (lambda d: {"x": np.zeros((2, 3)), "m": np.zeros((2, 3))}, "'x' is float64"),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_data_that_does_not_fit(
    tmp_path: Path, make: Callable[[Path], dict[str, Any]], message: str
) -> None:
    folder, given = write(tmp_path), make(tmp_path)
    whole = None if "_model" in given else model(tmp_path, WHOLE)
    save(tmp_path / "d.npz", {k: v for k, v in given.items() if k != "_model"})
    with pytest.raises(RequestError, match=message):
        verify(folder, model=whole, data=tmp_path / "d.npz")
    (tmp_path / "d.npz").write_bytes(b"no")
    with pytest.raises(RequestError, match=r"cannot read|needs the model"):
        verify(folder, model=whole, data=tmp_path / "d.npz")


def test_an_unknown_side(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="unknown side 'left'"):
        verify(tmp_path, side="left")


def test_a_model_with_constant_outputs_proves_nothing_and_is_ok(tmp_path: Path) -> None:
    whole = model(tmp_path, "n (float[1,3] x) => (int64[2] s) { s = Shape(x) }")
    halves = split(whole, resolve(whole.graph, "@output"))
    parts = bundle.Parts(whole, halves, Source(model="n", fingerprint=""), "", {}, {}, {})
    bundle.write(tmp_path / "b", parts)
    report = verify(tmp_path / "b")
    assert report.ok
    assert statuses(tmp_path / "b")["output s"] == "not-run"
    assert "no output proves anything" in report.notes[0]


def test_the_kind_follows_the_floats(tmp_path: Path) -> None:
    whole = model(tmp_path, WHOLE)
    assert kind(whole) == "onnxruntime-fp32"
    half = model(tmp_path, "n (float16[1,3] x) => (float16[1,3] y) { y = Relu(x) }")
    assert kind(half) == "fp16"
