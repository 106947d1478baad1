"""The backend protocol, and onnxruntime behind it."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir
import pytest
from numpy.typing import NDArray

import splitc
from splitc import backend
from splitc.backend import Artifact, Target
from splitc.errors import BackendError
from splitc.model import Model

TARGET = Target("here")
HEADER = '<ir_version: 10, opset_import: ["": 21, "com.acme": 1]>\n'


def model(text: str) -> Model:
    return Model(onnx_ir.from_onnx_text(HEADER + text))


def session(text: str) -> backend.Session:
    data = onnx.parser.parse_model(HEADER + text).SerializeToString()
    return backend.get("onnxruntime").load(Artifact("onnxruntime", "onnx", TARGET, model=data))


REFUSED = {
    "unknown domain": (
        "g (float[2] x) => (float[2] y) { a = Relu(x)  y = com.acme.Magic(a) }",
        {"y": "no CPU kernel for operator 'com.acme.Magic' in opset 1"},
    ),
    "type": (
        "g (uint16[2,2] x) => (uint16[2,2] y) { y = MatMul(x, x) }",
        {"y": "no CPU kernel for operator 'MatMul' on tensor(uint16), tensor(uint16)"},
    ),
    "half floats are cast": ("g (float16[2] x) => (float16[2] y) { y = Erf(x) }", {}),
    "operators with a definition": ("g (float[2] x) => (float[2] y) { y = Mish(x) }", {}),
    "inside a body": (
        """g (bool c, float[2] x) => (float[2] y) {
            y = If(c) <then_branch = t () => (float[2] p) { p = com.acme.Magic(x) },
                       else_branch = e () => (float[2] q) { q = Relu(x) }>
        }""",
        {"y": "no CPU kernel for operator 'com.acme.Magic' in opset 1"},
    ),
}


@pytest.mark.parametrize(("text", "refused"), REFUSED.values(), ids=REFUSED)
def test_refusals_name_node_and_reason(text: str, refused: dict[str, str]) -> None:
    ort = backend.get("onnxruntime")
    found = ort.supports(model(text), TARGET)
    assert found == refused
    if refused:
        with pytest.raises(BackendError, match="node 'y'"):
            ort.compile(model(text), TARGET)


@pytest.mark.shared
def test_takes_every_real_network(shared: Path) -> None:
    for path in sorted((shared / "models").glob("*.onnx")):
        assert backend.get("onnxruntime").supports(splitc.load(path), TARGET) == {}, path.name


def test_compiles_to_the_portable_form_and_runs_it(tmp_path: Path) -> None:
    ort = backend.get("onnxruntime")
    segment = model(
        "g (float[N] x, float[N] z) => (float[N] y, int64[1] s) { y = Add(x, z)  s = Shape(y) }"
    )
    artifact = ort.compile(segment, TARGET)
    assert artifact.files == {}
    assert ort.runs_here(artifact) is None
    segment.save(tmp_path / "model.onnx")
    x = np.arange(3, dtype=np.float32)
    got = ort.load(artifact.at(tmp_path / "model.onnx"))({"z": x, "x": x, "unused": x})
    assert list(got) == ["y", "s"]
    np.testing.assert_array_equal(got["y"], 2 * x)
    with pytest.raises(BackendError, match="portable form"):
        ort.load(artifact)


def test_external_data_lies_beside_the_model(tmp_path: Path) -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    proto = onnx.parser.parse_model(
        HEADER + "g (float[1,2] x) => (float[1,3] y) { y = MatMul(x, w) }"
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(
        proto,
        tmp_path / "model.onnx",
        save_as_external_data=True,
        size_threshold=0,
        location="model.onnx.data",
    )
    artifact = Artifact("onnxruntime", "onnx", TARGET, model=tmp_path / "model.onnx")
    got = backend.get("onnxruntime").load(artifact)({"x": np.ones((1, 2), np.float32)})
    np.testing.assert_array_equal(got["y"], weight.sum(0, keepdims=True))


NARROW: dict[str, NDArray[Any]] = {
    "some": np.array([1, -2.5], ml_dtypes.bfloat16),
    "none": np.zeros(0, ml_dtypes.bfloat16),
}


@pytest.mark.parametrize("x", NARROW.values(), ids=NARROW)
def test_bfloat16_goes_in_and_out(x: NDArray[Any]) -> None:
    run = session(
        "g (bfloat16[N] x) => (bfloat16[N] z, float[N] y) "
        "{ y = Cast<to = 1>(x)  z = Cast<to = 16>(y) }"
    )
    got = run({"x": x})
    assert got["z"].dtype == ml_dtypes.bfloat16
    assert got["z"].tobytes() == x.tobytes()
    np.testing.assert_array_equal(got["y"], x.astype(np.float32))


def test_failures_are_backend_errors() -> None:
    run = session("g (float[N] x, float[M] z) => (float[K] y) { y = Add(x, z) }")
    with pytest.raises(BackendError, match="onnxruntime"):
        run({"x": np.zeros(2, np.float32), "z": np.zeros(3, np.float32)})
    with pytest.raises(BackendError, match=r"onnxruntime: .*protobuf parsing failed"):
        backend.get("onnxruntime").load(Artifact("onnxruntime", "onnx", TARGET, model=b"noise"))


def test_what_there_is() -> None:
    found = {line.name: line for line in backend.available()}
    assert found["onnxruntime"].available
    with pytest.raises(BackendError, match=r"unknown backend 'onnxruntim'(.|\n)*did you mean"):
        backend.get("onnxruntim")


def test_a_missing_dependency_is_a_line_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backend.BUILT_IN, "ghost", "no_such_package_of_anybody:Ghost")
    line = next(line for line in backend.available() if line.name == "ghost")
    assert not line.available
    assert "no_such_package_of_anybody" in line.reason
    assert "no_such_package_of_anybody" in line.hint


def test_products_of_8_bit_numbers_do_not_saturate() -> None:
    weights = ", ".join(["127"] * 64 * 16)
    text = f"""g (uint8[4, 64] x) => (int32[4, 16] y) <int8[64, 16] w = {{{weights}}}>
    {{ y = MatMulInteger(x, w) }}"""
    made = session(text)({"x": np.full((4, 64), 255, np.uint8)})["y"]
    np.testing.assert_array_equal(made, np.full((4, 16), 64 * 127 * 255, np.int32))
