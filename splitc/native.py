"""What backends compiled, compared with the recorded self-test before a bundle is written.

Compiled artifacts are native code: `compile` runs its own, right after making them, and `verify`
those of a bundle only when it is told to. A backend that runs the portable form has nothing
here, the halves themselves are checked.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from splitc import backend, selftest
from splitc import manifest as manifests
from splitc.backend import Artifact, Target
from splitc.comparison import Check, compare
from splitc.errors import BackendError
from splitc.records import ArtifactRecord, Manifest, Segment
from splitc.selftest import Sample
from splitc.verify import TOLERANCES


def check(
    folder: Path, read: Manifest, artifacts: Mapping[str, Sequence[Artifact]]
) -> Iterator[Check]:
    """Yield a check for each output of each artifact that has files; `not-run` says why not."""
    for side, made in artifacts.items():
        for artifact in made:
            if artifact.files:
                place = folder / side / artifact.target.name
                placed = artifact.at(folder / str(read.segment(side).model), place)
                yield from one(folder, read.segment(side), placed, read)


def recorded(
    folder: Path, side: str | None, announce: Callable[[str, str], None]
) -> Iterator[Check]:
    """Load the compiled artifacts of a bundle and compare them with its self-test.

    `side`: "head" or "tail" alone. `announce`: called as ``("load", what)`` before native code is
    loaded. An artifact that this machine cannot run, or whose backend is not installed, is
    `not-run` with the reason; one that does not load or fails in running is a `fail`.
    """
    read = manifests.read(folder, side)
    gone = manifests.absent(folder, read)
    for segment in read.segments:
        for record in segment.artifacts if segment.name not in gone else ():
            if record.files and side in (None, segment.name):
                yield from _announced(folder, read, segment, record, announce)


def _announced(
    folder: Path,
    read: Manifest,
    segment: Segment,
    record: ArtifactRecord,
    announce: Callable[[str, str], None],
) -> Iterator[Check]:
    label = f"{segment.name} {record.backend}"
    try:
        backend.get(record.backend)
    except BackendError as reason:
        detail = "; ".join(part for part in (str(reason.args[0]), reason.hint) if part)
        yield Check(label, "not-run", detail=detail)
        return
    code = [name for name in record.files if not name.endswith((".json", ".py", ".cc", ".md"))]
    what = "native code" if code else "a recipe, and what was built from it"
    announce("load", f"{what}: {', '.join(code or record.files)} ({record.backend})")
    try:
        yield from one(folder, segment, placed(folder, segment, record), read)
    except BackendError as reason:
        yield Check(label, "fail", detail=str(reason.args[0]))


def placed(folder: Path, segment: Segment, record: ArtifactRecord) -> Artifact:
    """Return an artifact of a bundle as it lies there."""
    made = Artifact(
        backend=record.backend,
        format=record.format,
        target=Target(record.target),
        facts=record.facts,
    )
    return made.at(folder / str(segment.model), folder / segment.name / record.target)


def tolerance(artifact: Artifact, kind: str) -> float:
    """Return what is right for an artifact: of the kind that its facts name as ``selftest``.

    Otherwise that of its backend; one that the table does not know is held to TVM's.
    """
    own = str(artifact.facts.get("selftest", kind))
    if kind in ("fp16", "int8", "int8-fp16") or own in TOLERANCES:
        return TOLERANCES[own if own in TOLERANCES else kind]
    known = {key.removesuffix("-fp32"): value for key, value in TOLERANCES.items()}
    name = artifact.backend
    return next((v for k, v in known.items() if name.startswith(k)), TOLERANCES["tvm-fp32"])


def one(folder: Path, segment: Segment, artifact: Artifact, read: Manifest) -> Iterator[Check]:
    """Yield a check for each output of an artifact that has a place; `not-run` says why not."""
    label = f"{segment.name} {artifact.backend}"
    maker = backend.get(artifact.backend)
    if why := maker.runs_here(artifact):
        yield Check(label, "not-run", detail=why)
        return
    samples = _samples(folder, read)
    session = maker.load(artifact)
    got = [session({name: sample[name] for name in segment.needs}) for sample in samples]
    right = tolerance(artifact, read.selftest.kind)
    steps = {tensor.name for tensor in read.contract.tensors if tensor.scale is not None}
    for name in segment.gives:
        pair = [out[name] for out in got], [sample[name] for sample in samples]
        yield compare(f"{label} {name}", *pair, tolerance=right, quantized=name in steps)


def _samples(folder: Path, read: Manifest) -> list[Sample]:
    """Return inputs, boundary and outputs of each recorded sample, in one mapping."""
    test, count = read.selftest, read.selftest.samples
    parts = (
        (test.inputs, {t.name: t.dtype for t in read.inputs}),
        (test.boundary, {t.name: t.dtype for t in read.contract.tensors}),
        (test.outputs, {t.name: t.dtype for t in read.outputs}),
    )
    columns = [selftest.read(folder / path, count, dtypes) for path, dtypes in parts]
    return [{**a, **b, **c} for a, b, c in zip(*columns, strict=True)]
