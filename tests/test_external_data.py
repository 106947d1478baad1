"""Weights beside the `.onnx` file: read where they lie, inside its folder, or not at all."""

import resource
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from splitc.errors import ModelError
from splitc.execute import evaluate
from splitc.ingest import load

HEAD = '<ir_version: 10, opset_import: ["": 21]>\n'


def external(folder: Path, **entries: str) -> Path:
    """Write a model whose weight w (3 floats) lies in w.data, with entries replaced."""
    proto = onnx.parser.parse_model(HEAD + "n (float[N,3] x) => (float[N,3] y) { y = Add(x, w) }")
    tensor = proto.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[3])
    tensor.data_location = TensorProto.EXTERNAL
    values = {"location": "w.data", "offset": "4", "length": "12"} | entries
    for key, value in values.items():
        tensor.external_data.add(key=key, value=value)
    (folder / "w.data").write_bytes(np.array([9, 1, 2, 3], np.float32).tobytes())
    (folder / "net.onnx").write_bytes(proto.SerializeToString())
    return folder / "net.onnx"


def test_external_data_is_read_where_it_lies(tmp_path: Path) -> None:
    model = load(external(tmp_path))
    assert evaluate(model, {"x": np.zeros((1, 3), np.float32)})["y"].tolist() == [[1, 2, 3]]
    (tmp_path / "out").mkdir()
    model.save(tmp_path / "out" / "copy.onnx")
    again = load(tmp_path / "out" / "copy.onnx")
    assert evaluate(again, {"x": np.ones((1, 3), np.float32)})["y"].tolist() == [[2, 3, 4]]
    with pytest.raises(ModelError, match="more than the limit"):
        load(tmp_path / "net.onnx", max_size=(tmp_path / "net.onnx").stat().st_size + 11)


LOCATIONS: dict[str, tuple[dict[str, str], str]] = {
    "above": ({"location": "../w.data"}, "leaves the model's folder"),
    "absolute": ({"location": "/etc/passwd"}, "leaves the model's folder"),
    "hidden above": ({"location": "a/../../w.data"}, "leaves the model's folder"),
    "a link": ({"location": "link.data"}, "leaves the model's folder"),
    "backslash": ({"location": "..\\w.data"}, "has the location"),
    "none": ({"location": ""}, "has the location"),
    "missing": ({"location": "no.data"}, "'no.data' is missing"),
    "short": ({"offset": "8"}, "truncated"),
    "negative": ({"offset": "-4"}, "truncated"),
    "no number": ({"offset": "four"}, "malformed offset"),
    "another length": ({"length": "8"}, "8 bytes for sizes [3], which take 12"),
}


@pytest.mark.parametrize(("entries", "reason"), LOCATIONS.values(), ids=LOCATIONS)
def test_external_data_stays_in_its_folder(
    tmp_path: Path, entries: dict[str, str], reason: str
) -> None:
    (tmp_path / "outside.data").write_bytes(bytes(64))
    (tmp_path / "w.data").write_bytes(bytes(64))
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "link.data").symlink_to(tmp_path / "outside.data")
    with pytest.raises(ModelError) as caught:
        load(external(folder, **entries))
    assert reason in str(caught.value)
    assert "tensor 'w'" in str(caught.value)


def test_weights_above_two_gigabytes_are_not_read(tmp_path: Path) -> None:
    """A sparse file of 3 GB: loading, checking and inferring touch none of it."""
    side, layers = 16384, 3
    proto = onnx.parser.parse_model(
        HEAD + f"n (float[N,{side}] x) => (float[N,{side}] y) "
        "{ a = MatMul(x, w0)  b = MatMul(a, w1)  y = MatMul(b, w2) }"
    )
    for index in range(layers):
        tensor = proto.graph.initializer.add(
            name=f"w{index}", data_type=TensorProto.FLOAT, dims=[side, side]
        )
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "w.data"), ("offset", str(index * 4 * side**2))):
            tensor.external_data.add(key=key, value=value)
    with (tmp_path / "w.data").open("wb") as file:
        file.truncate(layers * 4 * side**2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    model = load(tmp_path / "net.onnx")
    assert model.weight_bytes() == layers * 4 * side**2
    assert model.facts["y"].shape == (1, side)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes
