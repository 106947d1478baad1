"""`splitc check`: what a backend refuses, before anything is planned."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

import splitc
from splitc import backend
from splitc.backend import Examiner
from splitc.backends.tensorrt.child import RTX
from splitc.cli import main

HEADER = '<ir_version: 10, opset_import: ["": 21]>\n'
NET = "g (float[N,2,2] x) => (float[N] y) { a = Relu(x)  b = Det(a)  y = Exp(b) }"
IMAGE = "g (uint8[64] x) => (uint8[4,4,3] y) { a = Identity(x)  y = ImageDecoder(a) }"


def written(folder: Path, text: str) -> str:
    onnx.save(onnx.parser.parse_model(HEADER + text), folder / "net.onnx")
    return str(folder / "net.onnx")


def test_json_and_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, NET)
    assert main(["check", path, "--backend", "tensorrt", "--json"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out) == {
        "backend": "tensorrt",
        "refused": {"b": "Det: the parser has no importer for it"},
        "ok": False,
    }
    assert "note: asked" in said.err
    assert main(["check", path, "--backend", "onnxruntime", "--json"]) == 0
    taken = {"backend": "onnxruntime", "refused": {}, "ok": True}
    assert json.loads(capsys.readouterr().out) == taken


def test_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, IMAGE)
    assert main(["check", path, "--backend", "onnxruntime"]) == 1
    assert "no CPU kernel for operator 'ImageDecoder'" in capsys.readouterr().out
    assert main(["check", written(tmp_path, NET), "--backend", "onnxruntime"]) == 0
    assert capsys.readouterr().out == "onnxruntime takes every node\n"


def test_a_backend_that_cannot_ask_answers_from_what_it_knows(tmp_path: Path) -> None:
    assert not isinstance(backend.get("onnxruntime"), Examiner)
    assert isinstance(backend.get("tensorrt"), Examiner)
    found = splitc.check(written(tmp_path, IMAGE), backend="onnxruntime")
    assert list(found.refused) == ["y"]
    assert found.notes == ()


def test_unknown_backend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", written(tmp_path, NET), "--backend", "tensort"]) == 1
    assert "did you mean 'tensorrt'?" in capsys.readouterr().err


def test_passes_come_first(tmp_path: Path) -> None:
    text = """g (float[2] x) => (float[2] y) {
        d = Constant<value = float[2,2] {1.0, 2.0, 3.0, 5.0}>()  s = Det(d)  y = Add(x, s) }"""
    path = written(tmp_path, text)
    assert list(splitc.check(path, backend="tensorrt").refused) == ["s"]
    assert splitc.check(path, backend="tensorrt", passes="simplify").ok


def test_a_plan_keeps_who_reads_a_refused_constant_on_the_other_side(tmp_path: Path) -> None:
    text = """g (float[N,2] x) => (float[N,2] y) {
        i = Constant<value = int32[2] {3, 5}>()  s = Constant<value = float {0.5}>()
        z = Constant<value = int32 {0}>()  d = DequantizeLinear(i, s, z)  e = Neg(d)
        a = Relu(x)  b = Add(a, e)  y = Exp(b) }"""
    path = written(tmp_path, text)
    assert list(splitc.check(path, backend="tensorrt").refused) == ["d"]
    sides: dict[str, Any] = {"head": "raspberry-pi-4", "tail": "nvidia-a100", "link": "ethernet"}
    found = splitc.plan(path, passes="", tail_backend="tensorrt", **sides)
    assert set(found.head_nodes) >= {"a", "b"}
    (note,) = (line for line in found.notes if "tail's backend" in line)
    assert "b: it reads e: DequantizeLinear" in note


def test_a_device_brings_its_limits(tmp_path: Path) -> None:
    if missing := RTX.missing():
        pytest.skip(missing)
    path = written(tmp_path, "g (float[2] x) => (float[2] y) { a = Relu(x)  y = Exp(a) }")
    assert splitc.check(path, backend="tensorrt-rtx", device="nvidia-a100").ok
    refused = splitc.check(path, backend="tensorrt-rtx", device="nvidia-h100").refused
    assert list(refused) == ["a", "y"]
    assert "capability 9.0" in refused["a"]


def test_the_real_parser_sees_more_than_the_table(tmp_path: Path) -> None:
    if missing := RTX.missing():
        pytest.skip(missing)
    path = written(tmp_path, "g (int8[2] x, int8 m) => (int8[2] y) { y = Clip(x, m) }")
    model = splitc.load(path)
    assert backend.get("tensorrt").supports(model, backend.Target("any")) == {}
    assert list(splitc.check(path, backend="tensorrt").refused) == ["y"]


@pytest.mark.shared
@pytest.mark.slow
def test_a_node_around_bodies_is_named(shared: Path) -> None:
    if missing := RTX.missing():
        pytest.skip(missing)
    path = shared / "models" / "silero_vad_16k_op15.onnx"
    found = splitc.check(path, backend="tensorrt-rtx", input=["input=1x512"])
    assert list(found.refused) == ["/model/decoder/If_1_output_0"]
