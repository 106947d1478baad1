"""Write a bundle: the two halves, their contract, the self-test and the manifest, atomically.

    with bundle.stage(out, parts) as staged:      # a folder beside `out`, complete and readable
        report = verify(staged.folder)
        staged.publish(report.records())          # now it is `out`; without this it is gone

The previous bundle stays until the new one takes its place. Same parts, same bytes, in any folder.
"""

import ctypes
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

import splitc
from splitc import manifest as manifests
from splitc import selftest
from splitc.contract import BoundaryTensor, Contract
from splitc.errors import RequestError
from splitc.model import Model, TensorInfo
from splitc.records import (
    ArtifactRecord,
    CheckRecord,
    FileRecord,
    GateRecord,
    Manifest,
    Passes,
    Segment,
    Selftest,
    Source,
    TensorRecord,
)

if TYPE_CHECKING:
    from splitc.backend import Artifact
    from splitc.split import Split

LIBRARIES = ("msgspec", "numpy", "onnx", "onnx-ir", "onnxruntime", "onnxsim", "zstandard")
_OWN = {manifests.NAME, manifests.FINISHED, *manifests.SIDES, selftest.FOLDER, "report.html"}
"""What lies in a bundle, finished or not."""

SLACK = 16
"""How much larger than at the best size a dimension may grow that no `--input` range bounds,
and that is not the batch: its size depends on the data."""


@dataclass(frozen=True)
class Parts:
    """What a bundle is made of.

    `model`: the whole model after passes, which the self-test records. `source`: file name and
    fingerprint of the model as loaded. `plan`: the chosen entry, `certificate` the plan's. `tiers`:
    device names of head and tail. `artifacts`: side → what backends made of it. `request`: the
    resolved options, without absolute paths. `codec`: of the wire. `exact`: no pass was lossy;
    else `gate` is what all passes cost. `resources`: digests of what they were given; `libraries`:
    distributions that took part beside `LIBRARIES`.
    """

    model: Model
    split: "Split"
    source: Source
    passes: str
    request: Mapping[str, object]
    plan: Mapping[str, object]
    certificate: Mapping[str, object]
    codec: str = "raw"
    tiers: tuple[str, str] = ("device", "server")
    artifacts: Mapping[str, Sequence["Artifact"]] = field(default_factory=dict)
    exact: bool = True
    gate: GateRecord | None = None
    resources: Mapping[str, str] = field(default_factory=dict)
    libraries: Sequence[str] = ()


@dataclass
class Staged:
    """A complete bundle in a temporary folder, not yet in its place."""

    folder: Path
    out: Path
    manifest: Manifest
    published: bool = False

    def publish(self, checks: Sequence[CheckRecord] = ()) -> Manifest:
        """Record the checks, seal the manifest, and put the bundle in its place, in one step."""
        self.manifest = msgspec.structs.replace(self.manifest, checks=tuple(checks))
        (self.folder / manifests.NAME).write_bytes(manifests.dumps(self.manifest))
        _sync(self.folder)
        check_target(self.out)  # it was free or a bundle when all this began
        _swap(self.folder, self.out)
        self.published = True
        return manifests.sealed(self.manifest)


def check_target(out: Path) -> None:
    """Raise `RequestError` unless `out` is free, an empty folder, or a bundle to be replaced."""
    hint = "choose another folder with -o, or remove this one yourself"
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise RequestError("the output exists and is not a folder", where=str(out), hint=hint)
    if out.is_dir() and any(out.iterdir()) and not _is_bundle(out):
        raise RequestError(
            "the output folder exists and is not a bundle", where=str(out), hint=hint
        )


def _is_bundle(out: Path) -> bool:
    """Tell whether a folder is splitc's own: others have a ``manifest.json``, and files, too."""
    try:
        plain = json.loads((out / manifests.NAME).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    marks = {"splitc", "segments", "contract", "digest"}
    foreign = {path.name for path in out.iterdir()} - _OWN
    return isinstance(plain, dict) and marks <= plain.keys() and not foreign


@contextmanager
def stage(out: Path, parts: Parts) -> Iterator[Staged]:
    """Write everything beside `out`, and take it away again unless it was published.

    Raises `RequestError` where `out` is neither free nor a bundle.
    """
    out = Path(os.path.abspath(out))
    check_target(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        folder.chmod(0o755)
        yield Staged(folder, out, _fill(folder, parts))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write(out: Path, parts: Parts, checks: Sequence[CheckRecord] = ()) -> Manifest:
    """Write the bundle `out` without verifying it first; see `stage`."""
    with stage(out, parts) as staged:
        return staged.publish(checks)


def contract(parts: Parts, pair: str = "") -> Contract:
    """Return what may cross: the boundary there, what the tail makes of the outputs back."""
    late = set(parts.split.tail_outputs)
    back = [tensor for tensor in parts.model.outputs if tensor.name in late]
    return Contract(
        tensors=tuple(_crossing(parts, tensor) for tensor in parts.split.boundary),
        gives=tuple(_crossing(parts, tensor) for tensor in back),
        pair=pair,
    )


def _fill(folder: Path, parts: Parts) -> Manifest:
    """Write all files of the bundle; return its manifest, sealed, without checks."""
    segments = tuple(
        _segment(folder, parts, side, tier)
        for side, tier in zip(manifests.SIDES, parts.tiers, strict=True)
    )
    test = _selftest(folder, parts)
    files = {
        path.relative_to(folder).as_posix(): FileRecord(
            sha256=manifests.file_digest(path), bytes=path.stat().st_size
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    made = Manifest(
        version=manifests.VERSION,
        splitc=splitc.__version__,
        source=parts.source,
        inputs=tuple(_interface(tensor) for tensor in parts.model.inputs),
        outputs=tuple(_interface(tensor) for tensor in parts.model.outputs),
        passes=Passes(
            text=parts.passes,
            exact=parts.exact,
            notes=parts.model.notes,
            gate=parts.gate,
            resources=dict(parts.resources),
        ),
        request=_plain(parts.request),
        segments=segments,
        head_nodes=tuple(sorted(parts.split.head_nodes)),
        contract=contract(parts),
        plan=_plain(parts.plan),
        certificate=_plain(parts.certificate),
        checks=(),
        selftest=test,
        libraries=_versions((*LIBRARIES, *parts.libraries)),
        files=files,
    )
    halves = {side: manifests.portable(made, side) for side in manifests.SIDES}
    pair = manifests.pair_digest(made.contract.without_pair(), **halves)
    made = manifests.sealed(msgspec.structs.replace(made, contract=contract(parts, pair)))
    (folder / manifests.NAME).write_bytes(manifests.dumps(made))
    return made


def _versions(names: Sequence[str]) -> dict[str, str]:
    """Return distribution → version of those that are installed."""
    found = {name.lower(): str(version) for name in names for version in _version(name)}
    return dict(sorted(found.items()))


def _version(name: str) -> list[str]:
    try:
        return [metadata.version(name)]
    except metadata.PackageNotFoundError:
        return []


def _segment(folder: Path, parts: Parts, side: str, tier: str) -> Segment:
    """Write one side's portable form and artifacts; an empty side has no files."""
    half = parts.split.head if side == "head" else parts.split.tail
    if half is None:
        return Segment(name=side, tier=tier, needs=(), gives=(), model=None)
    (folder / side).mkdir()
    half.save(folder / side / "model.onnx")
    return Segment(
        name=side,
        tier=tier,
        needs=tuple(tensor.name for tensor in half.inputs),
        gives=tuple(tensor.name for tensor in half.outputs),
        model=f"{side}/model.onnx",
        artifacts=tuple(_artifact(folder, side, a) for a in parts.artifacts.get(side, ())),
    )


def _artifact(folder: Path, side: str, made: "Artifact") -> ArtifactRecord:
    paths = []
    for name, data in sorted(made.files.items()):
        path = f"{side}/{made.target.name}/{name}"
        manifests.check_path(path)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        paths.append(path)
    return ArtifactRecord(
        backend=made.backend,
        format=made.format,
        target=made.target.name,
        files=tuple(paths),
        facts=dict(made.facts),
    )


def _selftest(folder: Path, parts: Parts) -> Selftest:
    from splitc.verify import STEPS, TOLERANCES, kind

    boundary = [tensor.name for tensor in parts.split.boundary]
    right = kind(parts.model)
    recorded = selftest.record(parts.model, boundary, optimize=right not in STEPS)
    names = ("inputs", "boundary", "outputs")
    paths = {name: f"{selftest.FOLDER}/{name}.npz" for name in names}
    (folder / selftest.FOLDER).mkdir()
    for name, samples in zip(names, recorded, strict=True):
        selftest.write(folder / paths[name], samples)
    return Selftest(
        samples=len(recorded[0]),
        inputs=paths["inputs"],
        boundary=paths["boundary"],
        outputs=paths["outputs"],
        kind=right,
        tolerance=TOLERANCES[right],
    )


def _crossing(parts: Parts, tensor: TensorInfo) -> BoundaryTensor:
    """Describe a tensor that crosses; a size without a name gets one of its own."""
    scale, zero_point = _quantized(parts.model, tensor.name)
    fact = parts.model.facts[tensor.name]
    shape = tensor.shape if len(tensor.shape) == len(fact.shape) else ("?",) * len(fact.shape)
    limits = _limits(parts.model)
    largest = fact.nbytes // max(fact.elements, 1) or 1
    for size, best in zip(shape, fact.shape, strict=True):
        largest *= best if isinstance(size, int) else limits.get(size, max(best, 1) * SLACK)
    return BoundaryTensor(
        name=tensor.name,
        dtype=fact.dtype,
        shape=tuple(f"{tensor.name}#{i}" if s == "?" else s for i, s in enumerate(shape)),
        codec=parts.codec,
        max_bytes=largest,
        scale=scale,
        zero_point=zero_point,
    )


def _quantized(model: Model, name: str) -> tuple[float | None, int | None]:
    """Return scale and zero point of the integers that a QuantizeLinear makes, per tensor."""
    node = model.values[name].producer() if name in model.values else None
    if node is None or node.op_type != "QuantizeLinear":
        return None, None
    scale, zero = (
        v.const_value.numpy() if v is not None and v.const_value is not None else None
        for v in (*node.inputs[1:3], None)[:2]
    )
    if scale is None or scale.size != 1:
        return None, None
    return float(scale.reshape(-1)[0]), 0 if zero is None else int(zero.reshape(-1)[0])


def _limits(model: Model) -> dict[str, int]:
    """Return symbol → its largest size: from `--input`, 1 for a batch that nobody sized."""
    limits: dict[str, int] = {}
    for tensor in model.inputs:
        limits |= {size: 1 for size in tensor.shape if isinstance(size, str) and size not in limits}
        if spec := model.specs.get(tensor.name):
            sizes = zip(tensor.shape, spec.dims, strict=True)
            limits |= {size: high for size, (_, _, high) in sizes if isinstance(size, str)}
    return limits


def _interface(tensor: TensorInfo) -> TensorRecord:
    shape = tuple(None if size == "?" else size for size in tensor.shape)
    return TensorRecord(name=tensor.name, dtype=tensor.dtype, shape=shape)


def _plain(value: Mapping[str, object]) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(dict(value), str_keys=True)
    return plain


def _sync(folder: Path) -> None:
    """Put everything below `folder` on the disk."""
    for path in (*folder.rglob("*"), folder):
        _sync_one(path)


def _swap(new: Path, out: Path) -> None:
    """Put `new` in the place of `out`; what was there is removed only after that."""
    if _placed(new, out):
        pass
    elif _exchange(new, out):
        shutil.rmtree(new, ignore_errors=True)
    else:
        old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
        out.rename(old / "bundle")
        try:
            new.rename(out)
        except OSError:
            (old / "bundle").rename(out)
            raise
        shutil.rmtree(old, ignore_errors=True)
    _sync_one(out.parent)


def _placed(new: Path, out: Path) -> bool:
    """Move `new` to `out` if that is free; False if it is not, or another was quicker."""
    if out.exists():
        return False
    try:
        new.rename(out)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _sync_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step, where the system can (Linux `renameat2`)."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return True
    if (code := ctypes.get_errno()) in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))
