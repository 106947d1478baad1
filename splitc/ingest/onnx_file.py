"""Read an `.onnx` file: bounded in size, its external data kept inside its own folder.

External data is not read here: `onnx_ir` maps it when a tensor is asked for, so a 3 GB model
costs a few megabytes until something needs the weights.
"""

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from splitc.errors import ModelError


def read(path: Path, max_size: int) -> ir.Model:
    """Read the file; `ModelError` names the reason when it cannot be a usable model."""
    return _deserialise(parse(path, max_size), path)


def parse(path: Path, max_size: int) -> onnx.ModelProto:
    """Parse the file and check its size and where its external data lies."""
    where = path.name
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ModelError("not a file", where=where)
        _bounded(size, max_size, where)
        proto = onnx.ModelProto()
        proto.ParseFromString(path.read_bytes())
    except OSError as error:
        raise ModelError(f"cannot read the model: {error.strerror}", where=str(path)) from error
    except (DecodeError, UnicodeDecodeError) as error:
        raise ModelError(
            "not an ONNX file, or a truncated one",
            where=f"{where}: {error}",
            hint="copy or export it again; splitc reads .onnx, .pt2 and pkg.mod:factory",
        ) from error
    if not proto.HasField("graph") or not proto.graph.node:
        raise ModelError("the file holds no ONNX graph", where=where)
    total = size + sum(_external(t, path) for t in _tensors(proto.graph))
    _bounded(total, max_size, where)
    return proto


def _bounded(size: int, limit: int, where: str) -> None:
    if size > limit:
        raise ModelError(
            f"the model has {size:,} bytes, more than the limit of {limit:,}",
            where=where,
            hint="raise --max-size if you trust it",
        )


def _deserialise(proto: onnx.ModelProto, path: Path) -> ir.Model:
    try:
        model = ir.from_proto(proto)
        ir.external_data.set_base_dir(model.graph, path.resolve().parent)
    except (ValueError, TypeError, KeyError, NotImplementedError, UnicodeDecodeError) as error:
        raise ModelError(f"malformed graph: {error}", where=path.name) from error
    return model


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for body in (attribute.g, *attribute.graphs):
                yield from _tensors(body)


def _external(tensor: onnx.TensorProto, path: Path) -> int:
    """Check that a tensor's external data lies whole inside the folder; return its bytes."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return 0
    entry = {item.key: item.value for item in tensor.external_data}
    where = f"{path.name}, tensor {tensor.name!r}"
    location = entry.get("location", "")
    folder = path.resolve().parent
    file = folder / location
    if not location or Path(location).is_absolute() or ".." in Path(location).parts:
        raise ModelError(f"external data at {location!r} leaves the model's folder", where=where)
    if not file.is_file():
        raise ModelError(f"external data file {location!r} is missing", where=where)
    if not file.resolve().is_relative_to(folder):
        raise ModelError(f"external data at {location!r} leaves the model's folder", where=where)
    try:
        offset, length = int(entry.get("offset", 0)), int(entry.get("length", 0))
    except ValueError as error:
        raise ModelError("external data has a malformed offset or length", where=where) from error
    if offset < 0 or length < 0 or offset + length > file.stat().st_size:
        raise ModelError(f"external data file {location!r} is truncated", where=where)
    return length or file.stat().st_size - offset
