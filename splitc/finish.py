"""Finish a bundle on its target: build engines from recipes, prove them, write ``finished.json``.

The manifest is not touched. An engine is written only after the self-test passed on it; then
``finished.json`` lists it with its digest, and says what built it, for which GPU, and how far its
outputs were from what is expected. Finishing again with the same recipe, version and GPU builds
nothing; the self-test runs again.
"""

import hashlib
import json
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from splitc import __version__, backend, native
from splitc import manifest as manifests
from splitc.backend import Artifact, Finisher
from splitc.comparison import Check
from splitc.errors import BackendError, VerifyError
from splitc.records import ArtifactRecord, FileRecord, Manifest, Segment

VERSION = 1
"""Of ``finished.json``."""


@dataclass(frozen=True)
class Finish:
    """What `finish` did. `built`: bundle paths that ``finished.json`` lists now."""

    ok: bool
    bundle: str
    built: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "ok": self.ok,
            "bundle": self.bundle,
            "built": {path: dict(facts) for path, facts in self.built.items()},
            "checks": [check.to_json() for check in self.checks],
        }


class _Told(msgspec.Struct, frozen=True):
    """What is read again of ``finished.json``."""

    files: dict[str, FileRecord]
    built: dict[str, dict[str, str | int]]


@dataclass(frozen=True)
class _Built:
    """One artifact with its new files: bundle path → bytes, and how its self-test went."""

    files: Mapping[str, bytes]
    facts: Mapping[str, object]
    checks: tuple[Check, ...]


def finish(bundle: str | Path) -> Finish:
    """Build what the bundle's recipes describe, for this machine; see the module.

    A side whose folder is absent is left out. Raises `VerifyError` for a damaged bundle,
    `BackendError` with the reason where a GPU, a version or a digest does not fit the recipe, or
    where nothing can be built because a backend is missing here; one that has nothing to build may
    be (a head's compiler on the server), and is noted. When a self-test fails, nothing is written
    and the result is not `ok`.
    """
    folder = Path(bundle)
    read = manifests.read(folder)
    gone = manifests.absent(folder, read)
    notes: list[str] = []
    done: list[_Built] = []
    lacking: list[BackendError] = []
    for segment, record in _records(read, gone):
        try:
            recipe = isinstance(backend.get(record.backend), Finisher)
        except BackendError as error:
            lacking.append(error)
            notes.append(f"{segment.name}: left as it is: {error.args[0]}")
            continue
        if recipe:
            done.append(_finished(folder, read, segment, record))
        elif record.files:
            notes.append(f"{segment.name}: {record.format} is complete, nothing to build")
    if lacking and not done:
        raise lacking[0]
    checks = tuple(check for built in done for check in built.checks)
    ok = not any(check.status == "fail" for check in checks)
    if not done:
        notes.append("nothing was built: no artifact here is a recipe")
    elif ok:
        _write(folder, read, done)
    built = {path: one.facts for one in done for path in one.files} if ok else {}
    return Finish(ok, str(bundle), built, checks, tuple(notes))


def _records(read: Manifest, gone: Collection[str]) -> Iterator[tuple[Segment, ArtifactRecord]]:
    """Walk the artifacts of the sides that are here."""
    for segment in read.segments:
        if segment.name not in gone:
            yield from ((segment, record) for record in segment.artifacts)


def key(
    read: Manifest, segment: Segment, record: ArtifactRecord, facts: Mapping[str, str | int]
) -> str:
    """SHA-256 (hex) over the portable form, the recipe, and what builds it for which GPU."""
    value = {
        "portable": manifests.portable(read, segment.name),
        "recipe": {path: read.files[path].sha256 for path in record.files},
        "by": {name: value for name, value in facts.items() if name != "driver"},
    }
    return manifests.digest(value)


def _finished(folder: Path, read: Manifest, segment: Segment, record: ArtifactRecord) -> _Built:
    """Build one artifact, or take what an earlier `finish` built, and run its self-test."""
    made = backend.get(record.backend)
    assert isinstance(made, Finisher)  # the caller looked
    artifact = native.placed(folder, segment, record)
    facts = made.ready(artifact)
    mark = key(read, segment, record, facts)
    files = _earlier(folder, mark) or {
        f"{segment.name}/{record.target}/{name}": data
        for name, data in made.finish(artifact).items()
    }
    checks = _selftest(folder, read, segment, artifact, files)
    about = {"backend": record.backend, "key": mark, **facts}
    return _Built(files, about, checks)


def _earlier(folder: Path, mark: str) -> dict[str, bytes]:
    """Return the files that an earlier `finish` built under the same key; their digests hold."""
    path = folder / manifests.FINISHED
    if not path.exists():
        return {}
    try:
        told = msgspec.json.decode(path.read_bytes(), type=_Told)
    except msgspec.DecodeError as error:
        raise VerifyError(f"{path.name} is malformed: {error}", where=path.name) from error
    same = [name for name in told.files if told.built.get(name, {}).get("key") == mark]
    return {name: (folder / name).read_bytes() for name in same}


def _selftest(
    folder: Path, read: Manifest, segment: Segment, artifact: Artifact, files: Mapping[str, bytes]
) -> tuple[Check, ...]:
    """Open what was built, outside the bundle, and compare it with the recorded outputs."""
    assert artifact.folder is not None  # `placed` gave it one
    with tempfile.TemporaryDirectory(prefix="splitc-finish-") as name:
        place = Path(name)
        for path in artifact.folder.iterdir():
            (place / path.name).symlink_to(path.resolve())
        for inner, data in files.items():
            target = place / PurePosixPath(inner).name
            target.unlink(missing_ok=True)
            target.write_bytes(data)
        return tuple(native.one(folder, segment, replace(artifact, folder=place), read))


def _write(folder: Path, read: Manifest, done: Sequence[_Built]) -> None:
    """Put the new files and then ``finished.json`` in their places, each in one step."""
    files = {path: data for built in done for path, data in built.files.items()}
    told = {
        "version": VERSION,
        "splitc": __version__,
        "manifest": read.digest,
        "files": {
            path: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            for path, data in files.items()
        },
        "built": {path: dict(built.facts) for built in done for path in built.files},
        "checks": [check.to_json() for built in done for check in built.checks],
    }
    text = json.dumps(told, sort_keys=True, indent=1, allow_nan=False) + "\n"
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as name:
        for path, data in {**files, manifests.FINISHED: text.encode()}.items():
            fresh = Path(name) / "file"
            fresh.write_bytes(data)
            fresh.chmod(0o644)
            fresh.replace(folder / path)
