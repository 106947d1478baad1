"""What backends compiled, compared with the recorded self-test before a bundle is written.

Compiled artifacts are native code: only `compile` runs its own, right after making them. A
backend that runs the portable form has nothing here, the halves themselves are checked.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from splitc import backend, selftest
from splitc.backend import Artifact
from splitc.comparison import Check, compare
from splitc.manifest import Manifest, Segment
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


def tolerance(artifact: Artifact, kind: str) -> float:
    """Return what is right for an artifact: of the kind that its facts name as ``selftest``.

    Otherwise that of its backend; one that the table does not know is held to TVM's.
    """
    own = str(artifact.facts.get("selftest", kind))
    if kind == "fp16" or own in TOLERANCES:
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
    for name in segment.gives:
        pair = [out[name] for out in got], [sample[name] for sample in samples]
        yield compare(f"{label} {name}", *pair, tolerance=right)


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
