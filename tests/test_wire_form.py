"""`--wire int8|fp16[+zstd]`: what it means, what it costs, and what then crosses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import splitc
from splitc import cost, manifest, runtime
from splitc import data as datasets
from splitc.errors import RequestError, WireError
from splitc.model import Model
from splitc.request import Request
from splitc.wire.form import form
from tests.networks import model

SCENARIO: dict[str, Any] = {"head": "raspberry-pi-4", "tail": "nvidia-a100", "link": "wifi"}
TEXT = """g (float[N, 512] x) => (float[N, 512] y, int64[N, 512] k) {
    a = Relu(x)  k = Cast<to = 7>(a)  b = Exp(a)  c = Sin(b)  y = Tanh(c) }"""

FORMS = {
    "raw": (None, "raw"),
    "zstd": (None, "zstd"),
    "int8": ("int8", "raw"),
    "fp16": ("float16", "raw"),
    "int8+zstd": ("int8", "zstd"),
}


@pytest.fixture
def net(tmp_path: Path) -> Model:
    return model(TEXT, tmp_path)


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "data.npz"
    np.savez(path, x=np.random.default_rng(1).normal(size=(32, 512)).astype(np.float32))
    return str(path)


@pytest.mark.parametrize(("text", "want"), FORMS.items())
def test_form(text: str, want: tuple[str | None, str]) -> None:
    assert form(text) == want


@pytest.mark.parametrize("text", ["int4", "int8+lzma", "zstd+int8", "+zstd"])
def test_an_unknown_form_is_refused(text: str) -> None:
    with pytest.raises(WireError, match="unknown codec"):
        form(text)


@pytest.mark.parametrize("text", ["int8+", "int8+fp16"])
def test_a_form_that_is_no_codec_has_a_hint(text: str) -> None:
    with pytest.raises(RequestError, match="cannot read --wire"):
        form(text)


def test_floats_that_nodes_make_are_priced_by_their_width(net: Model) -> None:
    sizes = {
        wire: cost.table(net, Request(wire=wire, **SCENARIO).scenario()).wire.bytes
        for wire in ("raw", "int8", "fp16")
    }
    raw, int8, fp16 = sizes.values()
    assert (raw["b"] - int8["b"], raw["b"] - fp16["b"]) == (3 * 512, 2 * 512)
    assert int8["x"] == raw["x"], "graph inputs cross as they are given"
    assert int8["k"] == raw["k"], "integers cross as they are"


@pytest.mark.parametrize(("wire", "dtype"), [("int8", "int8"), ("fp16", "float16")])
def test_what_crosses_is_narrow(
    net: Model, data: str, tmp_path: Path, wire: str, dtype: str
) -> None:
    made = splitc.compile(net, output=tmp_path / "b", cut="b", wire=wire, data=data, **SCENARIO)
    assert made.ok
    read = manifest.read(tmp_path / "b")
    (tensor,) = read.contract.tensors
    assert (tensor.name, tensor.dtype) == (f"b_{dtype}", dtype)
    assert (tensor.scale is not None, tensor.zero_point) == (
        wire == "int8",
        0 if wire == "int8" else None,
    )
    assert (made.plan.chosen.tensors, made.plan.chosen.wire_dtype) == (("b",), dtype)
    assert not read.passes.exact
    assert read.request["data"] == "data.npz"
    assert read.passes.resources == {"data": datasets.load(data, net).digest}
    report = splitc.verify(tmp_path / "b", model=net, data=data)
    assert report.ok
    status = {check.name: check.status for check in report.checks}
    assert status["model output y"] == "not-run"
    assert status["accuracy gate"] == "not-run"


def test_the_answer_is_near_the_original(net: Model, data: str, tmp_path: Path) -> None:
    splitc.compile(net, output=tmp_path / "b", cut="b", wire="int8", data=data, **SCENARIO)
    x = np.load(data)["x"][:1]
    got, want = runtime.run(tmp_path / "b", {"x": x}), np.tanh(np.sin(np.exp(np.maximum(x, 0))))
    assert 0 < np.abs(got["y"] - want).max() < 0.2
    np.testing.assert_array_equal(got["k"], np.maximum(x, 0).astype(np.int64))


def test_both_prices_are_shown(net: Model, data: str) -> None:
    found = splitc.plan(net, cut="b", wire="int8", data=data, **SCENARIO)
    assert found.notes[0].startswith("the cut was chosen at ")
    assert "after the passes of its sides it costs " in found.notes[0]


def test_packed_narrow_tensors_need_no_more_than_raw_ones(net: Model, data: str) -> None:
    entries = [
        splitc.plan(net, cut="b", wire=wire, data=data, **SCENARIO).chosen.price.wire_bytes
        for wire in ("raw", "int8", "int8+zstd")
    ]
    assert entries[0] > entries[1] >= entries[2]


@pytest.mark.parametrize("cut", ["@input", "@output"])
def test_the_ends_have_nothing_to_narrow(net: Model, cut: str) -> None:
    found = splitc.plan(net, cut=cut, wire="int8", **SCENARIO)
    assert found.chosen.wire_dtype is None
    assert found.chosen.cut.kind == cut[1:]


def test_same_bytes_twice(net: Model, data: str, tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        splitc.compile(net, output=tmp_path / name, wire="int8", cut="b", data=data, **SCENARIO)
        digests.append(manifest.read(tmp_path / name).digest)
    assert digests[0] == digests[1]
