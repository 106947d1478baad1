"""Read an `.onnx` file: bounded in size, its external data kept inside its own folder.

External data is not read here: `onnx_ir` maps it when a tensor is asked for, so a 3 GB model
costs a few megabytes until something needs the weights.
"""

import mmap
from contextlib import closing
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from splitc.errors import ModelError
from splitc.ingest.checks import check_payload, check_structure, tensor_bytes, tensors
from splitc.ingest.guard import malformed

_AGAIN = "copy or export it again; splitc reads .onnx, .pt2 and pkg.mod:factory"


def read(path: Path, max_size: int) -> ir.Model:
    """Read the file; `ModelError` names the reason when it cannot be a usable model."""
    return _deserialise(parse(path, max_size), path)


def parse(path: Path, max_size: int) -> onnx.ModelProto:
    """Parse the file and check its names, its sizes, and where its external data lies."""
    where = path.name
    try:
        if not path.is_file():
            raise ModelError(
                f"no such file: {path}" if not path.exists() else "not a file", where=where
            )
        size = path.stat().st_size
        _bounded(size, max_size, where)
        proto = _parsed(path, size)
        if not proto.HasField("graph"):
            raise ModelError("the file holds no ONNX graph", where=where, hint=_AGAIN)
        check_structure(proto, where)
        _bounded(size + sum(_weight(t, path) for t in tensors(proto.graph)), max_size, where)
    except OSError as error:
        raise ModelError(f"cannot read the model: {error.strerror}", where=str(path)) from error
    return proto


def _parsed(path: Path, size: int) -> onnx.ModelProto:
    """Parse from a mapping of the file, so that its bytes are not held beside the message."""
    proto = onnx.ModelProto()
    if not size:
        raise ModelError("the file is empty", where=path.name, hint=_AGAIN)
    try:
        with (
            path.open("rb") as file,
            closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as mapped,
            memoryview(mapped) as view,
        ):
            proto.ParseFromString(view)
    except (DecodeError, UnicodeDecodeError) as error:
        raise ModelError(
            "not an ONNX file, or a truncated one", where=f"{path.name}: {error}", hint=_AGAIN
        ) from error
    return proto


def _bounded(size: int, limit: int, where: str) -> None:
    if size > limit:
        raise ModelError(
            f"the model has {size:,} bytes, more than the limit of {limit:,}",
            where=where,
            hint="raise --max-size if you trust it",
        )


def _deserialise(proto: onnx.ModelProto, path: Path) -> ir.Model:
    with malformed(path.name):
        model = ir.from_proto(proto)
        ir.external_data.set_base_dir(model.graph, path.resolve().parent)
        return model


def _weight(tensor: onnx.TensorProto, path: Path) -> int:
    """Check one tensor's values; return the bytes that lie outside the file."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return _external(tensor, path)
    check_payload(tensor, path.name)
    return 0


def _external(tensor: onnx.TensorProto, path: Path) -> int:
    """Check that a tensor's external data lies whole inside the folder; return its bytes."""
    entry = {item.key: item.value for item in tensor.external_data}
    where = f"{path.name}, tensor {tensor.name!r}"
    claimed = tensor_bytes(tensor, path.name)
    file = _data_file(entry.get("location", ""), path, where)
    try:
        offset, length = int(entry.get("offset", 0)), int(entry.get("length", claimed))
    except ValueError as error:
        raise ModelError("external data has a malformed offset or length", where=where) from error
    if length != claimed:
        raise ModelError(
            f"external data of {length:,} bytes for sizes {[*tensor.dims]}, which take {claimed:,}",
            where=where,
        )
    if offset < 0 or offset + length > file.stat().st_size:
        raise ModelError(
            f"external data file {file.name!r} is truncated: it has {file.stat().st_size:,} bytes, "
            f"the tensor ends at {offset + length:,}",
            where=where,
            hint="copy it again, next to the .onnx file",
        )
    return length


def _data_file(location: str, path: Path, where: str) -> Path:
    """Return the file of an external location; refuse one outside the model's folder."""
    folder = path.resolve().parent
    file = folder / location
    outside = ModelError(f"external data at {location!r} leaves the model's folder", where=where)
    if not location or "\0" in location or "\\" in location:
        raise ModelError(f"external data has the location {location!r}", where=where)
    if Path(location).is_absolute() or ".." in Path(location).parts:
        raise outside
    if not file.resolve().is_relative_to(folder):
        raise outside
    if not file.is_file():
        raise ModelError(
            f"external data file {location!r} is missing",
            where=where,
            hint=f"copy it next to {path.name}",
        )
    return file
