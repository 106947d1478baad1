"""The manifest of a bundle: all that is needed to load, audit and repeat it.

``manifest.json`` names every file of the bundle with its SHA-256 and carries its own digest. The
*canonical form* of a JSON value is UTF-8 text with sorted keys, separators ``,`` and ``:``,
nothing escaped that need not be, and no NaN; a *digest* is the SHA-256 of that. A bundle is
untrusted input: `read` believes nothing it has not checked. Needs neither onnx nor torch.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import msgspec

from splitc.errors import VerifyError
from splitc.records import FileRecord, Manifest, Segment

VERSION = 1
NAME = "manifest.json"
FINISHED = "finished.json"
SIDES = ("head", "tail")
MAX_MANIFEST = 64 * 2**20
"""The largest manifest that is read, in bytes."""

_REMEMBER_ABOVE = 16 * 2**20


def canonical_json(value: object) -> bytes:
    """Return the canonical form; raises `ValueError` for NaN, infinities and lone surrogates."""
    plain = msgspec.to_builtins(value)
    text = json.dumps(
        plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def digest(value: object) -> str:
    """SHA-256 (hex) of the canonical form."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def pair_digest(
    contract: Mapping[str, object], head: Mapping[str, str] | None, tail: Mapping[str, str] | None
) -> str:
    """Return the pair digest that binds two halves.

    `contract`: without its pair (`Contract.without_pair`). `head`, `tail`: bundle path → SHA-256
    of each file of the portable half, external weights included; None for an empty side.
    """
    return digest({"contract": contract, "head": head, "tail": tail})


def portable(manifest: Manifest, side: str) -> dict[str, str] | None:
    """Return bundle path → SHA-256 of the side's portable form, as the pair digest covers it."""
    model = manifest.segment(side).model
    if model is None:
        return None
    names = (name for name in (model, f"{model}.data") if name in manifest.files)
    return {name: manifest.files[name].sha256 for name in names}


def sealed(manifest: Manifest) -> Manifest:
    """Return the manifest with its own digest."""
    return msgspec.structs.replace(manifest, digest=own_digest(msgspec.to_builtins(manifest)))


def own_digest(plain: Mapping[str, object]) -> str:
    """Return the digest of a manifest, given as JSON, without its key ``digest``."""
    return digest({key: value for key, value in plain.items() if key != "digest"})


def dumps(manifest: Manifest) -> bytes:
    """Return the text of `manifest.json`: sorted and indented, for people; the value is sealed."""
    plain = msgspec.to_builtins(sealed(manifest))
    text = json.dumps(plain, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def schema() -> dict[str, Any]:
    """Return the JSON schema of `manifest.json`, as published in ``docs/``."""
    made = msgspec.to_builtins(msgspec.json.schema(Manifest))
    plain: dict[str, Any] = json.loads(json.dumps(made))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **plain}


def read(folder: str | Path, side: str | None = None) -> Manifest:
    """Read and check a bundle: versions, digests, paths, links, and that nothing else lies there.

    One whole side (``head/`` or ``tail/``) may be absent. With `side`, the other side's files are
    not read at all. Raises `VerifyError` saying which file, and why.
    """
    folder = Path(folder)
    manifest = parse(_text(folder / NAME))
    lying = dict(_walk(folder))
    finished = _finished(folder, lying)
    _check_listed(lying, manifest, finished)
    gone = absent(folder, manifest)
    if len(gone) > 1:
        _damaged("both sides are absent", "head/, tail/", "copy one side into the folder")
    other = {*gone, *(name for name in SIDES if side in SIDES and name != side)}
    for name, record in (manifest.files | finished).items():
        if name.split("/")[0] not in other:
            _check_file(folder / name, name, record)
    return manifest


def absent(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    """Return the sides that have files but no folder here: they were shipped elsewhere."""
    sides = (segment.name for segment in manifest.segments if segment.model is not None)
    return tuple(name for name in sides if not (folder / name).exists())


def parse(text: bytes) -> Manifest:
    """Parse and check the text of a manifest; `VerifyError` names the key that is wrong."""
    plain = _json(text, NAME)
    version = plain.get("version")
    if version != VERSION or isinstance(version, bool):
        _damaged(
            f"manifest version {version!r} is unknown",
            NAME,
            f"this splitc reads version {VERSION}; another release wrote it",
        )
    try:
        manifest = msgspec.convert(plain, Manifest)
    except msgspec.ValidationError as error:
        raise VerifyError(f"the manifest is malformed: {error}", where=NAME) from error
    if manifest.digest != own_digest(plain):
        _damaged("the manifest's digest is wrong", NAME, "it was changed after it was written")
    _check_consistent(manifest)
    return manifest


def check_path(path: str) -> None:
    """Raise `VerifyError` unless `path` is relative, plain, and stays inside the bundle."""
    parts = path.split("/")
    plain = not (set(path) & set("\\\0:")) and not ({"", ".", ".."} & set(parts))
    if not plain or PurePosixPath(path).is_absolute():
        _damaged(f"the path {path!r} leaves the bundle", NAME, "paths are relative, without '..'")


def _check_consistent(manifest: Manifest) -> None:
    """Check what the manifest says against itself."""
    for path in manifest.files:
        check_path(path)
        if path in (NAME, FINISHED):
            _damaged(f"the manifest lists {path!r}", NAME)
    if tuple(segment.name for segment in manifest.segments) != SIDES:
        _damaged("the segments are not head and tail", NAME)
    for segment in manifest.segments:
        _check_segment(segment, manifest)
    test = manifest.selftest
    for path in (test.inputs, test.boundary, test.outputs):
        if path not in manifest.files or path.split("/")[0] != "selftest":
            _damaged(f"the self-test's file {path!r} is not listed", NAME)
    halves = {side: portable(manifest, side) for side in SIDES}
    if manifest.contract.pair != pair_digest(manifest.contract.without_pair(), **halves):
        _damaged("the pair digest is wrong", NAME, "contract and halves do not belong together")


def _check_segment(segment: Segment, manifest: Manifest) -> None:
    paths = [] if segment.model is None else [segment.model]
    paths += [path for artifact in segment.artifacts for path in artifact.files]
    for path in paths:
        if path not in manifest.files or path.split("/")[0] != segment.name:
            _damaged(f"file {path!r} of the {segment.name} is not listed under it", NAME)


def _check_listed(
    lying: Mapping[str, os.stat_result],
    manifest: Manifest,
    finished: Mapping[str, FileRecord],
) -> None:
    """Refuse a file that nobody lists, or that both lists claim."""
    if both := sorted(finished.keys() & manifest.files.keys()):
        _damaged(f"{FINISHED} lists {both[0]!r}, which is the manifest's", FINISHED)
    known = {NAME, FINISHED, *manifest.files, *finished}
    if unlisted := sorted(lying.keys() - known):
        _damaged("a file is not listed in the manifest", unlisted[0], "take it out of the bundle")


def _finished(folder: Path, lying: Mapping[str, os.stat_result]) -> dict[str, FileRecord]:
    """Return what ``finished.json``, written on the target, adds to the bundle."""
    if FINISHED not in lying:
        return {}
    plain = _json(_text(folder / FINISHED), FINISHED)
    try:
        files = msgspec.convert(plain.get("files"), dict[str, FileRecord])
    except msgspec.ValidationError as error:
        raise VerifyError(f"{FINISHED} is malformed: {error}", where=FINISHED) from error
    for path in files:
        check_path(path)
    return files


def _walk(folder: Path, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Yield (bundle path, stat) of every file; refuses links and special files."""
    if prefix.count("/") > 32:
        _damaged("folders are nested too deeply", f"{prefix:.80}")
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise VerifyError(f"cannot read a folder: {error.strerror}", where=str(folder)) from error
    for entry in found:
        path = f"{prefix}{entry.name}"
        state = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(state.st_mode):
            yield from _walk(Path(entry.path), f"{path}/")
        elif stat.S_ISREG(state.st_mode):
            yield path, state
        else:
            _damaged("a bundle holds plain files only, no links", path, "copy the file itself")


def _check_file(path: Path, name: str, record: FileRecord) -> None:
    try:
        size = path.stat().st_size
        right = size == record.bytes and file_digest(path) == record.sha256
    except OSError as error:
        raise VerifyError(
            f"a file of the bundle is missing: {error.strerror}",
            where=name,
            hint="copy the bundle again, whole or without one side's folder",
        ) from error
    if not right:
        what = "digest" if size == record.bytes else f"length ({size}, expected {record.bytes})"
        _damaged(f"a file of the bundle has a wrong {what}", name, "copy the bundle again")


_DIGESTS: dict[tuple[int, ...], str] = {}


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file; of a large one that has not changed since, computed once."""
    with path.open("rb") as file:
        state = os.fstat(file.fileno())
        times = (state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        key = (state.st_dev, state.st_ino, *times)
        if key in _DIGESTS:
            return _DIGESTS[key]
        made = hashlib.file_digest(file, "sha256").hexdigest()
    if state.st_size > _REMEMBER_ABOVE:
        _DIGESTS[key] = made
    return made


def _text(path: Path) -> bytes:
    try:
        if path.is_symlink() or not path.is_file():
            _damaged("this is not a bundle", str(path), f"a bundle is a folder with {NAME}")
        if path.stat().st_size > MAX_MANIFEST:
            _damaged(f"{path.name} is larger than {MAX_MANIFEST} bytes", path.name)
        return path.read_bytes()
    except OSError as error:
        raise VerifyError(f"cannot read {path.name}: {error.strerror}", where=str(path)) from error


def _json(text: bytes, name: str) -> dict[str, Any]:
    """Parse a JSON object, strictly: no NaN, no key twice."""
    try:
        plain = json.loads(text.decode(), parse_constant=_no, object_pairs_hook=_unique)
        canonical_json(plain)  # refuses numbers that are infinite, and lone surrogates
    except (ValueError, RecursionError) as error:
        raise VerifyError(f"{name} is not sound JSON: {error}", where=name) from error
    if not isinstance(plain, dict):
        _damaged(f"{name} is not a JSON object", name)
    return plain


def _no(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return made


def _damaged(message: str, where: str, hint: str = "") -> NoReturn:
    raise VerifyError(message, where=where, hint=hint)
