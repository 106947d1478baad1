"""Read a `.pt2` archive of `torch.export.save`, behind the wall of `splitc.ingest.wall`.

The archive is opened here first, bounded in size; what passes is written to a clean archive, and
only that one is given to torch.
"""

import io
import json
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path, PurePosixPath
from typing import IO, Any

import onnx_ir as ir

from splitc.errors import ModelError
from splitc.ingest.torch_export import require_torch, to_onnx
from splitc.ingest.wall import clean_program
from splitc.quiet import quiet

_PROGRAM = "models/model.json"
_CONFIGS = {
    "data/weights/": "data/weights/model_weights_config.json",
    "data/constants/": "data/constants/model_constants_config.json",
}
_SAMPLES = "data/sample_inputs/model.pt"
_PLAIN = frozenset(
    ("archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id")
)
_LEGACY = frozenset(("data/weights/model.pt", "data/constants/model.pt", "version"))
_MAX_JSON = 512 * 2**20
_MAX_MEMBERS = 200_000
_CHUNK = 2**20
_HINT = "export it again with torch.export.save of torch 2.9 or newer"


def read(path: Path, max_size: int, fold: bool = True) -> tuple[ir.Model, tuple[str, ...]]:
    """Return the archive's program as an ONNX graph, and lines for the user.

    `max_size`: bytes, bounds the unpacked archive. `fold`: as in `to_onnx`. Raises `ModelError`
    that names the member or operator that is not allowed, or why torch cannot read or export it.
    """
    require_torch(path.name)
    with tempfile.TemporaryDirectory(prefix="splitc-") as folder:
        clean = Path(folder) / "model.pt2"
        write_clean(path, clean, max_size)
        return to_onnx(_load(clean, path.name), path.name, fold), ()


def _load(clean: Path, where: str) -> Any:
    import torch

    from splitc.ingest.torch_export import failures

    try:
        with quiet():
            return torch.export.load(clean)
    except failures() as error:
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"torch cannot read the program: {text[-1][:300]}", where=where, hint=_HINT
        ) from error


def write_clean(source: Path, target: Path, max_size: int) -> None:
    """Check the archive `source` and write what passed to `target`; see `splitc.ingest.wall`."""
    with _opened(source) as archive:
        members = _members(archive, source.name, max_size)
        _stored(members, source)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as out:
            _copy(archive, members, out, source.name, max_size)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip; whatever is wrong with it, then or later, becomes a `ModelError`."""
    where = path.name
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except OSError as error:
        raise ModelError(
            f"cannot read the archive: {error.strerror or error}", where=where
        ) from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise ModelError(
            f"not a .pt2 archive, or a truncated one: {error}", where=where, hint=_HINT
        ) from error
    except (zipfile.LargeZipFile, zlib.error, struct.error, RuntimeError, ValueError) as error:
        raise ModelError(f"malformed archive: {error}", where=where, hint=_HINT) from error


def _members(archive: zipfile.ZipFile, where: str, max_size: int) -> dict[str, zipfile.ZipInfo]:
    """Return name inside the archive's one folder → entry, each allowed and bounded."""
    entries = archive.infolist()
    total = sum(entry.file_size for entry in entries)
    if total > max_size or len(entries) > _MAX_MEMBERS:
        raise ModelError(
            f"the archive unpacks to {total:,} bytes in {len(entries):,} members, more than "
            f"the limit of {max_size:,}",
            where=where,
            hint="raise --max-size if you trust it",
        )
    found: dict[str, zipfile.ZipInfo] = {}
    roots = set()
    for entry in entries:
        path = PurePosixPath(entry.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.filename:
            raise ModelError(f"member {entry.filename!r} leaves the archive", where=where)
        root, _, name = entry.filename.partition("/")
        roots.add(root)
        if name in found:
            raise ModelError(f"member {entry.filename!r} stands in the archive twice", where=where)
        found[name or root] = entry
    if len(roots) != 1 or _PROGRAM not in found:
        raise _no_program(found, where)
    return found


def _stored(members: Mapping[str, zipfile.ZipInfo], path: Path) -> None:
    """Refuse a bomb: torch stores members as they are, so together they fit into the file."""
    for name, entry in members.items():
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ModelError(
                f"member {name!r} is compressed, which torch does not do",
                where=path.name,
                hint=_HINT,
            )
    if sum(entry.file_size for entry in members.values()) > path.stat().st_size:
        raise ModelError("members of the archive overlap", where=path.name, hint=_HINT)


def _no_program(found: Mapping[str, object], where: str) -> ModelError:
    if any(name.endswith("data.pkl") for name in found):
        return ModelError(
            "a pickled checkpoint or TorchScript file, not an exported program",
            where=where,
            hint=_HINT,
        )
    if "version" in found or "serialized_exported_program.json" in found:
        return ModelError(
            "the archive has the format of torch 2.7 or older", where=where, hint=_HINT
        )
    return ModelError("the archive holds no exported program", where=where, hint=_HINT)


def _copy(
    archive: zipfile.ZipFile,
    members: Mapping[str, zipfile.ZipInfo],
    out: zipfile.ZipFile,
    where: str,
    max_size: int,
) -> None:
    """Write each member of the exported program to `out`, checked; refuse what is none."""
    pickled, raw = _payloads(archive, members, where, max_size)
    for name, entry in members.items():
        at = f"{where}, member {name}"
        if name in _PLAIN or name in raw or name in _CONFIGS.values():
            with (
                archive.open(entry) as source,
                out.open(f"model/{name}", "w", force_zip64=True) as sink,
            ):
                _pour(source, sink, entry, at)
        elif name == _PROGRAM:
            out.writestr(f"model/{name}", clean_program(_text(archive, entry, at), at))
        elif name == _SAMPLES or name in pickled:
            out.writestr(f"model/{name}", _repickled(archive.read(entry), at))
        elif not name.endswith("/") and not name.startswith("extra/"):
            raise _refused(name, where)


def _refused(name: str, where: str) -> ModelError:
    if name in _LEGACY:
        return ModelError(f"member {name!r} is of the legacy format", where=where, hint=_HINT)
    if "custom_obj" in name or "opaque_obj" in name:
        return ModelError(f"the archive holds a custom object, {name!r}", where=where)
    if name.startswith("data/aotinductor/"):
        return ModelError(f"the archive holds compiled code, {name!r}", where=where, hint=_HINT)
    return ModelError(
        f"member {name!r} is no part of one exported program", where=where, hint=_HINT
    )


def _pour(source: IO[bytes], sink: IO[bytes], entry: zipfile.ZipInfo, where: str) -> None:
    """Copy a member piece by piece, never more than it claims to hold."""
    left = entry.file_size
    while chunk := source.read(_CHUNK):
        left -= len(chunk)
        if left < 0:
            raise ModelError("a member unpacks to more than it claims", where=where)
        sink.write(chunk)


def _text(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, where: str) -> bytes:
    if entry.file_size > _MAX_JSON:
        raise ModelError(f"{entry.file_size:,} bytes of JSON", where=where)
    return archive.read(entry)


def _payloads(
    archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], where: str, max_size: int
) -> tuple[set[str], set[str]]:
    """Return the members that the weight tables name: (pickled ones, raw tensors)."""
    pickled: set[str] = set()
    raw: set[str] = set()
    total = 0
    for folder, config in _CONFIGS.items():
        if config not in members:
            continue
        at = f"{where}, member {config}"
        try:
            table = json.loads(_text(archive, members[config], at))["config"]
            for item in table.values():
                name = folder + item["path_name"]
                if not item["path_name"].startswith(("weight_", "tensor_")) or name not in members:
                    raise _refused(name, where)
                total += 0 if item["use_pickle"] else _elements(item["tensor_meta"]) * 16
                (pickled if item["use_pickle"] else raw).add(name)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ModelError(f"malformed table of weights: {error!r}", where=at) from error
    if total > 16 * max_size:
        raise ModelError("the table of weights claims more than --max-size", where=where)
    return pickled, raw


def _elements(meta: Mapping[str, Any]) -> int:
    """Return the elements of a tensor as its sizes claim: torch allocates them."""
    return prod(abs(int(size["as_int"])) for size in meta["sizes"])


def _repickled(data: bytes, where: str) -> bytes:
    """Load a pickle with torch's `weights_only` reader, and write anew what came out."""
    import torch

    from splitc.ingest.torch_export import failures

    if not data:
        return b""
    try:
        with quiet():
            loaded = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except failures() as error:
        raise ModelError(
            "a pickle holds more than tensors and plain values: loading it would run its code",
            where=where,
            hint="nothing was run; save the program without such sample inputs or constants",
        ) from error
    sink = io.BytesIO()
    torch.save(loaded, sink)
    return sink.getvalue()
