"""Whether two halves compute the model: comparison, checks, and the report.

A check is `pass`, `fail`, or `not-run` with its reason. The error of an output is
max|a−b| / max|b| over all its samples' worst, `b` being what is expected; 0 if both are 0. An
output that is equal for all inputs proves nothing: its check is `not-run`, never `pass`. A
report is `ok` when no check failed; one in which no output could prove anything is `ok` too, and
says so in its notes, because a model with constant outputs can be compiled.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from splitc import gate, runtime, selftest
from splitc import manifest as manifests
from splitc.comparison import Check, compare
from splitc.errors import RequestError, VerifyError, WireError, did_you_mean
from splitc.records import CheckRecord, Manifest
from splitc.selftest import Sample
from splitc.wire import frame

if TYPE_CHECKING:
    from splitc.model import Model

TOLERANCES: Mapping[str, float] = {
    "onnxruntime-fp32": 1e-5,
    "tvm-fp32": 1e-4,
    "tensorrt-fp32": 1e-3,
    "fp16": 1e-2,
    "int8": 1e-1,
    "int8-fp16": 1e-1,
}
"""Largest relative error by kind: what runs the halves, and how precise its floats are. TensorRT
computes fp32 in TF32. Integers and booleans are compared exactly.

Behind a QuantizeLinear the last bit of a float decides between two steps, so a kernel that is fused
in the whole and not in a half may move an output by some steps ("int8"). Node by node, without
fused kernels, halves of quantized networks are held to `onnxruntime-fp32` like any other, or to
`fp16` where half floats are computed with too."""

STEPS = {"int8": "onnxruntime-fp32", "int8-fp16": "fp16"}
"""Kind of a quantized network → the tolerance that its halves keep node by node."""


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
        checks = [check.to_json() for check in self.checks]
        return {"ok": self.ok, "bundle": self.bundle, "plan": dict(self.plan), "checks": checks}

    def records(self) -> tuple[CheckRecord, ...]:
        """Return the checks as the manifest keeps them."""
        return tuple(check.record() for check in self.checks)


def kind(model: "Model") -> str:
    """Return the key of `TOLERANCES` for a model whose halves onnxruntime runs."""
    graph, facts = model.graph, model.facts
    half = ("float16", "bfloat16", "float8")
    narrow = any(facts[t].dtype.startswith(half) for t in graph.tensors if t in facts)
    if any(node.op == "QuantizeLinear" for node in graph.nodes):
        return "int8-fp16" if narrow else "int8"
    return "fp16" if narrow else "onnxruntime-fp32"


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
    first = ""
    if checks[-1].status == "pass":
        test = _Selftest(folder, read)
        checks += test.checks(gone)
        if model is not None:
            checks += _against(test, model, Path(data) if data else None, gone)
            first = test.first(model) if _failed(checks) and not gone else ""
    return _report(bundle, read, checks, first, gone)


def _failed(checks: Sequence[Check]) -> list[Check]:
    return [check for check in checks if check.status == "fail"]


def _compares(check: Check, kinds: Sequence[str]) -> bool:
    """Tell whether a check compares a tensor of one of these kinds ('output', 'boundary')."""
    words = check.name.removesuffix(check.tensor).split() if check.tensor else ()
    return any(kind in words for kind in kinds)


def _report(
    bundle: str | Path, read: Manifest, checks: Sequence[Check], first: str, gone: set[str]
) -> Report:
    """Sum up; every failed check also says which tensor was the first to diverge."""
    failed = _failed(checks)
    notes: list[str] = []
    if first := first or next((check.tensor for check in failed if check.tensor), ""):
        first = f"first diverging tensor: {first!r}"
        notes.append(first)
        checks = [
            replace(check, detail=f"{check.detail}; {first}") if check in failed else check
            for check in checks
        ]
    elif failed:
        notes.append(f"{failed[0].name} fails: {failed[0].detail}")
    proofs = ("output", "boundary") if gone else ("output",)
    if not failed and not any(c.status == "pass" and _compares(c, proofs) for c in checks):
        notes.append("no output proves anything here: see the checks that are not-run")
    return Report(not failed, str(bundle), read.plan, tuple(checks), tuple(notes))


def with_checks(report: Report, more: Sequence[Check]) -> Report:
    """Return the report with more checks, and `ok` only if none of them failed."""
    failed = _failed(more)
    notes = tuple(f"{check.name} fails: {check.detail}" for check in failed)
    return replace(
        report,
        ok=report.ok and not failed,
        checks=(*report.checks, *more),
        notes=(*report.notes, *notes),
    )


def _contract(read: Manifest) -> Check:
    """Say whether the halves' interfaces and the contract fit each other."""
    if wrong := runtime.misfit(read):
        return Check("contract", "fail", detail=wrong)
    count, pair = len(read.contract.tensors), read.contract.pair
    detail = f"{count} tensor{'s' * (count != 1)}, pair {pair[:16]}…"
    return Check("contract", "pass", detail=detail)


class _Selftest:
    """The recorded samples of a bundle, and both halves run on them."""

    def __init__(self, folder: Path, read: Manifest) -> None:
        test = read.selftest
        self._folder, self._read = folder, read
        self._steps = test.kind in STEPS
        self._tolerance = TOLERANCES[STEPS.get(test.kind, test.kind)]
        types = {t.name: t.dtype for t in (*read.inputs, *read.outputs)}
        crossing = {tensor.name: tensor.dtype for tensor in read.contract.tensors}
        wanted = {tensor.name: types[tensor.name] for tensor in read.outputs}
        given = {tensor.name: types[tensor.name] for tensor in read.inputs}
        self._inputs = selftest.read(folder / test.inputs, test.samples, given)
        self._boundary = selftest.read(folder / test.boundary, test.samples, crossing)
        self._outputs = selftest.read(folder / test.outputs, test.samples, wanted)
        self._got: list[dict[str, NDArray[Any]]] = []

    def checks(self, gone: set[str]) -> Iterator[Check]:
        """Check what is here: the head alone, the tail alone, and both over the wire."""
        late = [tensor.name for tensor in self._read.contract.gives]
        early = [t.name for t in self._read.outputs if t.name not in late]
        frames: list[bytes] = []
        if "head" in gone:
            yield Check("head", "not-run", detail="head/ is not looked at here")
        else:
            frames, outputs, boundary = _run_head(
                self._folder, self._inputs, optimize=not self._steps
            )
            self._got = [{**a, **b} for a, b in zip(boundary, outputs, strict=True)]
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
        answers: Sequence[Sample] = [{} for _ in frames]
        if late:
            answers = _run_tail(self._folder, frames, optimize=not self._steps)
        self._got = [{**a, **b} for a, b in zip(self._got, answers, strict=False)]
        yield from self._compared("output", answers, self._outputs, late)
        if self._steps and not gone:
            self._got = [{**sample} for sample in _run_both(self._folder, self._inputs)]
            yield from self._fused()

    def _fused(self) -> Iterator[Check]:
        """Compare what the halves give as they are run, with fused kernels: some steps may differ.

        They add up in a network that is far from its floats, or move a class. That the halves are
        right is proved by the checks before; how good the network is, the accuracy gate judges.
        """
        names = [tensor.name for tensor in self._read.outputs]
        for check in _each("fused output", names, self._got, self._outputs, TOLERANCES["int8"]):
            if check.status == "fail":
                reason = "fused kernels round at other places, and the steps add up: no proof"
                yield replace(check, status="not-run", detail=reason)
            else:
                yield check

    def against(self, model: "Model", data: Path | None) -> Iterator[Check]:
        """Compare what both halves gave with `model`, on the recorded inputs or on `data`."""
        if data is None:
            yield from _whole(self._read, model, self._inputs, self._got)
            if not self._read.passes.exact:
                yield gate.recorded(self._read)
            return
        inputs = selftest.samples(data, self._read.inputs)
        got = _run_both(self._folder, inputs)
        yield from _whole(self._read, model, inputs, got)
        if not self._read.passes.exact:
            yield gate.again(self._read, model, data, got)

    def first(self, model: "Model") -> str:
        """Name the first tensor within the halves that is not the model's, on the first sample."""
        from splitc.divergence import first_divergence

        if not self._read.passes.exact:
            return ""
        right = TOLERANCES[self._read.selftest.kind]
        return first_divergence(self._folder, self._read, model, self._inputs[0], right)

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
    folder: Path, inputs: Sequence[Sample], *, optimize: bool = True
) -> tuple[list[bytes], list[Sample], list[Sample]]:
    """Return (frames, the head's outputs, what the frames hold), one of each a sample."""
    head = runtime.open_head(folder, optimize=optimize)
    frames: list[bytes] = []
    outputs: list[Sample] = []
    held: list[Sample] = []
    for sample in inputs:
        frames.append(head(sample))
        outputs.append(head.outputs)
        names = (tensor.name for tensor in head.contract.tensors)
        held.append(dict(zip(names, frame.unpack(frames[-1], head.contract)[1], strict=True)))
    return frames, outputs, held


def _run_tail(folder: Path, frames: Sequence[bytes], *, optimize: bool = True) -> list[Sample]:
    tail = runtime.open_tail(folder, optimize=optimize)
    return [tail(packed) for packed in frames]


def _run_both(folder: Path, inputs: Sequence[Sample]) -> list[Sample]:
    """Return what crosses and all outputs of both halves, for each sample."""
    frames, early, held = _run_head(folder, inputs)
    late = _run_tail(folder, frames)
    return [{**h, **e, **t} for h, e, t in zip(held, early, late, strict=True)]


def _against(test: _Selftest, model: "Model", data: Path | None, gone: set[str]) -> Iterable[Check]:
    if gone:
        detail = f"needs both sides; {', '.join(sorted(gone))} is not looked at here"
        return [Check("model", "not-run", detail=detail)]
    return test.against(model, data)


def _whole(
    read: Manifest, model: "Model", inputs: Sequence[Sample], got: Sequence[Sample]
) -> Iterator[Check]:
    """Compare outputs with the model's own; where one diverges, the boundary before it too."""
    from splitc.execute import run, session

    if problem := _another(read, model):
        yield Check("model", "fail", detail=f"the bundle is of another model: {problem}")
        return
    outputs = [tensor.name for tensor in read.outputs]
    opened = session(model)
    want = [run(opened, sample, outputs, model.source) for sample in inputs]
    del opened
    tolerance = TOLERANCES[read.selftest.kind]
    checks = list(_each("model output", outputs, got, want, tolerance))
    if not read.passes.exact:
        yield from map(_measured, checks)
        return
    if _failed(checks):  # where does it begin?
        boundary = [t.name for t in read.contract.tensors if t.name in model.graph.producer]
        opened = session(model, outputs=boundary)
        want = [run(opened, sample, boundary, model.source) for sample in inputs]
        yield from _each("model boundary", boundary, got, want, tolerance)
    yield from checks


def _another(read: Manifest, model: "Model") -> str:
    """Say why the model cannot be the one that was compiled; '' if its interface is the same."""
    for what, mine, theirs in (
        ("input", read.inputs, model.inputs),
        ("output", read.outputs, model.outputs),
    ):
        names, others = [t.name for t in mine], [t.name for t in theirs]
        if lacking := sorted({*names} ^ {*others}):
            name = lacking[0]
            hint = did_you_mean(name, others if name in names else names)
            return f"{what} {name!r} is of one of them only; {hint}"
    return ""


def _measured(check: Check) -> Check:
    """Report a lossy pass's distance from the original, which the accuracy gate judges."""
    reason = "the passes are lossy: measured here, judged by the accuracy gate"
    return replace(check, status="not-run", tolerance=None, detail=reason)


def _each(
    what: str,
    names: Sequence[str],
    got: Sequence[Sample],
    want: Sequence[Sample],
    tolerance: float,
) -> Iterator[Check]:
    for name in names:
        pair = [sample[name] for sample in got], [sample[name] for sample in want]
        made = compare(f"{what} {name}", *pair, tolerance=tolerance)
        yield replace(made, tensor=name)
