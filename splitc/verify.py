"""Whether two halves compute the model: comparison, checks, and the report.

A check is `pass`, `fail`, or `not-run` with its reason. The error of an output is
max|a−b| / max|b| over all its samples' worst, `b` being what is expected; 0 if both are 0. An
output that is equal for all inputs proves nothing: its check is `not-run`, never `pass`. A
report is `ok` when no check failed; one in which no output could prove anything is `ok` too, and
says so in its notes, because a model with constant outputs can be compiled.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from splitc import manifest as manifests
from splitc import runtime, selftest
from splitc.errors import RequestError, VerifyError, WireError, did_you_mean
from splitc.manifest import CheckRecord, Manifest
from splitc.selftest import Sample
from splitc.wire import frame

if TYPE_CHECKING:
    from splitc.model import Model

TOLERANCES: Mapping[str, float] = {
    "onnxruntime-fp32": 1e-5,
    "tvm-fp32": 1e-4,
    "tensorrt-fp32": 1e-3,
    "fp16": 1e-2,
}
"""Largest relative error by kind: what runs the halves, and how precise its floats are. TensorRT
computes fp32 in TF32. Integers and booleans are compared exactly."""

Status = Literal["pass", "fail", "not-run"]


@dataclass(frozen=True)
class Check:
    """One claim and what became of it. An error that is infinite or NaN is None; see `detail`."""

    name: str
    status: Status
    worst_error: float | None = None
    tolerance: float | None = None
    detail: str = ""

    def record(self) -> CheckRecord:
        """Return the check as the manifest keeps it, its error rounded up to one digit."""
        worst = None if self.worst_error is None else round_up(self.worst_error)
        return CheckRecord(**{**asdict(self), "worst_error": worst})


@dataclass(frozen=True)
class Report:
    """What `verify` found. `plan`: the chosen entry that the manifest records."""

    ok: bool
    bundle: str
    plan: Mapping[str, Any]
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        checks = [asdict(check) for check in self.checks]
        return {"ok": self.ok, "bundle": self.bundle, "plan": dict(self.plan), "checks": checks}

    def records(self) -> tuple[CheckRecord, ...]:
        """Return the checks as the manifest keeps them."""
        return tuple(check.record() for check in self.checks)


def kind(model: "Model") -> str:
    """Return the key of `TOLERANCES` for a model whose halves onnxruntime runs."""
    half = ("float16", "bfloat16", "float8")
    narrow = any(fact.dtype.startswith(half) for fact in model.facts.values())
    return "fp16" if narrow else "onnxruntime-fp32"


def round_up(error: float) -> float:
    """Return `error` rounded up to one significant digit: 3.2e-7 is 4e-07."""
    if not error or not math.isfinite(error):
        return error
    place = math.floor(math.log10(abs(error)))
    rounded = float(f"{error:.0e}")
    return rounded if rounded >= error else float(f"{rounded + 10.0**place:.0e}")


def relative_error(got: NDArray[Any], want: NDArray[Any]) -> float:
    """Return max|got−want| / max|want|; 0 if both are 0, infinite where one side alone is NaN.

    Infinities must stand in the same places with the same sign. Integers and booleans: 0 if
    equal, else infinite. Another shape or type is infinitely wrong.
    """
    if got.shape != want.shape or got.dtype != want.dtype:
        return math.inf
    if got.dtype.kind in "biuSUO":
        return 0.0 if np.array_equal(got, want) else math.inf
    if got.dtype.kind == "V":  # ml_dtypes
        got, want = got.astype(np.float32), want.astype(np.float32)
    wide = np.complex128 if got.dtype.kind == "c" else np.float64
    a, b = got.astype(wide), want.astype(wide)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if not np.all(same | (np.isfinite(a) & np.isfinite(b))):
        return math.inf
    if np.all(same):
        return 0.0
    scale = np.max(np.abs(b), where=np.isfinite(b), initial=0.0)
    difference = np.max(np.abs(np.where(same, 0, a) - np.where(same, 0, b)))
    return float(difference / scale) if scale else math.inf


def compare(
    name: str,
    got: Sequence[NDArray[Any]],
    want: Sequence[NDArray[Any]],
    *,
    tolerance: float,
) -> Check:
    """Compare a tensor, sample by sample; the check's error is the worst sample's."""
    if len(got) != len(want):
        return Check(name, "fail", None, tolerance, f"{len(got)} samples, expected {len(want)}")
    if not want:
        return Check(name, "not-run", None, tolerance, "there are no samples")
    errors = [relative_error(a, b) for a, b in zip(got, want, strict=True)]
    worst = max(errors)
    shown = worst if math.isfinite(worst) else None
    if worst > tolerance:
        place = errors.index(worst)
        return Check(name, "fail", shown, tolerance, _why(got[place], want[place], place))
    if len(want) > 1 and all(_equal(one, want[0]) for one in want):
        reason = "equal for all inputs, which proves nothing"
        return Check(name, "not-run", shown, tolerance, reason)
    return Check(name, "pass", shown, tolerance)


def verify(
    bundle: str | Path,
    model: "Model | None" = None,
    data: str | Path | None = None,
    side: str | None = None,
) -> Report:
    """Check a bundle: digests and contract, then the self-test of head ∘ wire ∘ tail.

    `model`: the original; then outputs are compared with its own, on the recorded inputs, or on
    those of `data`, an ``.npz`` with one array for each input, samples along the first axis.
    `side`: check "head" or "tail" alone; the other's folder may be absent. A bundle with one side
    is checked as far as it goes. Raises `VerifyError` for a damaged bundle, `RequestError` for
    options that do not fit; halves that compute something else give a report that is not `ok`.
    """
    folder = Path(bundle)
    if side not in (None, *manifests.SIDES):
        raise RequestError(f"unknown side {side!r}", hint="head or tail")
    if data is not None and model is None:
        raise RequestError("--data needs the model to compare with", hint="--model FILE")
    read = manifests.read(folder, side)
    if read.selftest.kind not in TOLERANCES:
        raise VerifyError(f"unknown kind of tolerance {read.selftest.kind!r}", where=manifests.NAME)
    away = manifests.absent(folder, read)
    if side in away:
        raise VerifyError(
            f"this bundle has no {side}", where=f"{side}/", hint="check the other side"
        )
    gone = {*away, *(s for s in manifests.SIDES if side and s != side)}
    checks = [Check("digests", "pass", detail=f"{len(read.files)} files"), _contract(read)]
    if checks[-1].status == "pass":
        checks += _Selftest(folder, read).checks(gone)
        if model is not None:
            checks += _against(folder, read, model, Path(data) if data else None, gone)
    return _report(bundle, read, checks)


def _report(bundle: str | Path, read: Manifest, checks: Sequence[Check]) -> Report:
    """Sum up; every failed check also says which tensor was the first to diverge."""
    failed = [check for check in checks if check.status == "fail"]
    notes: list[str] = []
    if failed:
        first = f"first diverging tensor: {failed[0].name}"
        notes.append(first)
        checks = [
            replace(check, detail=f"{check.detail}; {first}") if check in failed else check
            for check in checks
        ]
    elif not any(check.status == "pass" and "output" in check.name for check in checks):
        notes.append("no output proves anything here: see the checks that are not-run")
    return Report(not failed, str(bundle), read.plan, tuple(checks), tuple(notes))


def _contract(read: Manifest) -> Check:
    """Say whether the halves' interfaces and the contract fit each other."""
    head, tail = (read.segment(name) for name in manifests.SIDES)
    inputs = {tensor.name for tensor in read.inputs}
    crossing = {tensor.name for tensor in read.contract.tensors}
    late = {tensor.name for tensor in read.contract.gives}
    outputs = {tensor.name for tensor in read.outputs}
    lacking = {
        "the head needs": set(head.needs) - inputs,
        "nobody makes": crossing - inputs - set(head.gives),
        "the tail needs": set(tail.needs) - crossing,
        "the tail does not make": late - set(tail.gives) - crossing,
        "no side gives": outputs - late - set(head.gives) - inputs,
    }
    if wrong := [f"{what} {sorted(names)[0]!r}" for what, names in lacking.items() if names]:
        return Check("contract", "fail", detail="; ".join(wrong))
    return Check("contract", "pass", detail=f"{len(crossing)} tensors, pair {read.contract.pair}")


class _Selftest:
    """The recorded samples of a bundle, and both halves run on them."""

    def __init__(self, folder: Path, read: Manifest) -> None:
        test = read.selftest
        self._folder, self._read = folder, read
        self._tolerance = TOLERANCES[test.kind]
        types = {t.name: t.dtype for t in (*read.inputs, *read.outputs)}
        crossing = {tensor.name: tensor.dtype for tensor in read.contract.tensors}
        wanted = {tensor.name: types[tensor.name] for tensor in read.outputs}
        given = {tensor.name: types[tensor.name] for tensor in read.inputs}
        self._inputs = selftest.read(folder / test.inputs, test.samples, given)
        self._boundary = selftest.read(folder / test.boundary, test.samples, crossing)
        self._outputs = selftest.read(folder / test.outputs, test.samples, wanted)

    def checks(self, gone: set[str]) -> Iterator[Check]:
        """Check what is here: the head alone, the tail alone, and both over the wire."""
        late = [tensor.name for tensor in self._read.contract.gives]
        early = [t.name for t in self._read.outputs if t.name not in late]
        frames: list[bytes] = []
        if "head" in gone:
            yield Check("head", "not-run", detail="head/ is not looked at here")
        else:
            frames, outputs, boundary = _run_head(self._folder, self._inputs)
            yield from self._compared("boundary", boundary, self._boundary)
            yield from self._compared("output", outputs, self._outputs, early)
        yield self._wire()
        if "tail" in gone:
            yield Check("tail", "not-run", detail="tail/ is not looked at here")
            return
        contract = self._read.contract
        if not frames:  # the tail alone, on the boundary as recorded
            frames = [
                frame.pack([sample[t.name] for t in contract.tensors], contract, index)
                for index, sample in enumerate(self._boundary)
            ]
        yield from self._compared("output", _run_tail(self._folder, frames), self._outputs, late)

    def against(self, model: "Model") -> Iterator[Check]:
        """Compare both halves with `model` on the recorded inputs."""
        yield from _whole(self._folder, self._read, model, self._inputs)

    def _compared(
        self,
        what: str,
        got: Sequence[Sample],
        want: Sequence[Sample],
        names: Sequence[str] | None = None,
    ) -> Iterator[Check]:
        every = list(want[0] if want else ())
        return _each(what, every if names is None else names, got, want, self._tolerance)

    def _wire(self) -> Check:
        """Pack and unpack the recorded boundary: the same bits must come back."""
        contract = self._read.contract
        try:
            for number, sample in enumerate(self._boundary):
                sent = [sample[tensor.name] for tensor in contract.tensors]
                sequence, back = frame.unpack(frame.pack(sent, contract, number), contract)
                same = [a.tobytes() == b.tobytes() for a, b in zip(sent, back, strict=True)]
                if sequence != number or not all(same):
                    name = contract.tensors[same.index(False)].name if False in same else "sequence"
                    return Check("wire", "fail", detail=f"{name!r} came back changed")
        except WireError as error:
            return Check("wire", "fail", detail=str(error.args[0]))
        return Check("wire", "pass", 0.0, 0.0, f"{len(self._boundary)} frames")


def _run_head(
    folder: Path, inputs: Sequence[Sample]
) -> tuple[list[bytes], list[Sample], list[Sample]]:
    """Return (frames, the head's outputs, what the frames hold), one of each a sample."""
    head = runtime.open_head(folder)
    frames: list[bytes] = []
    outputs: list[Sample] = []
    held: list[Sample] = []
    for sample in inputs:
        frames.append(head(sample))
        outputs.append(head.outputs)
        names = (tensor.name for tensor in head.contract.tensors)
        held.append(dict(zip(names, frame.unpack(frames[-1], head.contract)[1], strict=True)))
    return frames, outputs, held


def _run_tail(folder: Path, frames: Sequence[bytes]) -> list[Sample]:
    tail = runtime.open_tail(folder)
    return [tail(packed) for packed in frames]


def _against(
    folder: Path, read: Manifest, model: "Model", data: Path | None, gone: set[str]
) -> list[Check]:
    if gone:
        detail = f"needs both sides; {', '.join(sorted(gone))} is not looked at here"
        return [Check("model", "not-run", detail=detail)]
    if data is None:
        return list(_Selftest(folder, read).against(model))
    return list(_whole(folder, read, model, selftest.samples(data, read.inputs)))


def _whole(
    folder: Path, read: Manifest, model: "Model", inputs: Sequence[Sample]
) -> Iterator[Check]:
    """Compare outputs with the model's own; where one diverges, the boundary before it too."""
    from splitc.execute import run, session

    known = [tensor.name for tensor in model.inputs]
    if lacking := sorted({t.name for t in read.inputs} ^ set(known)):
        detail = f"input {lacking[0]!r} is of one of them only"
        yield Check("model", "fail", detail=f"the bundle is of another model: {detail}")
        return
    outputs = [tensor.name for tensor in read.outputs]
    if missing := [name for name in outputs if name not in {t.name for t in model.outputs}]:
        hint = did_you_mean(missing[0], [t.name for t in model.outputs])
        yield Check("model", "fail", detail=f"the model has no output {missing[0]!r}; {hint}")
        return
    frames, early, held = _run_head(folder, inputs)
    late = _run_tail(folder, frames) if read.contract.gives else [{} for _ in frames]
    got = [{**h, **e, **t} for h, e, t in zip(held, early, late, strict=True)]
    opened = session(model)
    want = [run(opened, sample, outputs, model.source) for sample in inputs]
    tolerance = TOLERANCES[read.selftest.kind]
    checks = list(_each("model output", outputs, got, want, tolerance))
    if any(check.status == "fail" for check in checks):  # where does it begin?
        boundary = [t.name for t in read.contract.tensors if t.name in model.graph.producer]
        opened = session(model, outputs=boundary)
        want = [run(opened, sample, boundary, model.source) for sample in inputs]
        yield from _each("model boundary", boundary, got, want, tolerance)
    yield from checks


def _each(
    what: str,
    names: Sequence[str],
    got: Sequence[Sample],
    want: Sequence[Sample],
    tolerance: float,
) -> Iterator[Check]:
    for name in names:
        pair = [sample[name] for sample in got], [sample[name] for sample in want]
        yield compare(f"{what} {name}", *pair, tolerance=tolerance)


def _equal(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.shape == other.shape and one.tobytes() == other.tobytes()


def _why(got: NDArray[Any], want: NDArray[Any], sample: int) -> str:
    """Say in words what is wrong with a tensor that diverges."""
    if got.shape != want.shape:
        return f"sample {sample}: shape {list(got.shape)}, expected {list(want.shape)}"
    if got.dtype != want.dtype:
        return f"sample {sample}: {got.dtype.name}, expected {want.dtype.name}"
    if got.dtype.kind in "fc" and np.any(np.isnan(got) != np.isnan(want)):
        return f"sample {sample}: NaN on one side"
    return f"sample {sample}: {np.count_nonzero(got != want)} of {got.size} elements differ"
