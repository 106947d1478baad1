"""`splitc optimize`: passes alone, judged, with the cut that those of one side need."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from splitc import cost, pipeline
from splitc.errors import PassError
from splitc.judging import Judge, Step
from splitc.macs import macs
from splitc.model import EXTERNAL_ABOVE, Model
from splitc.pipeline import Observer, Pass, Prices, late
from splitc.plan.naming import named
from splitc.recording import recording
from splitc.request import Request
from splitc.scenario import Device
from splitc.scenario import device as find_device
from splitc.scope import Boundary
from splitc.search import Trial
from splitc.search import search as look
from splitc.stages import Progress, early, pins, resources, steps_of

if TYPE_CHECKING:
    from splitc.accuracy import Verdict


@dataclass(frozen=True)
class Size:
    """How large a model is. `int8_mac_share`: 0 to 1, of the MACs whose operands are 8-bit."""

    macs: int
    int8_mac_share: float
    weight_bytes: int
    file_bytes: int
    nodes: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def size(model: Model) -> Size:
    """Measure a model as it would be saved; large weights lie beside the file and count too."""
    import onnx_ir as ir

    from splitc.quant.share import int8_mac_share

    held = model.weight_bytes()
    bare = model.clone()
    if beside := held > EXTERNAL_ABOVE:
        for value in bare.ir.graph.initializers.values():
            value.const_value = ir.Tensor(np.zeros(0, np.float32), name=value.name)
    written = ir.to_proto(bare.ir).ByteSize()
    return Size(
        macs=sum(macs(model).values()),
        int8_mac_share=int8_mac_share(model),
        weight_bytes=held,
        file_bytes=written + (held if beside else 0),
        nodes=len(model.ir.graph),
    )


@dataclass(frozen=True)
class Optimized:
    """The result: `model`, what each pass did, sizes before and after, and whether the gate held.

    `verdict`: what all passes together cost against the loaded model; None if all are exact.
    `broken_by`: the pass that broke the gate, and was the last to run.
    """

    model: Model
    steps: tuple[Step, ...]
    before: Size
    after: Size
    verdict: "Verdict | None" = None
    broken_by: str = ""
    output: str | None = None
    notes: tuple[str, ...] = ()
    tried: Sequence[dict[str, Any]] = ()

    @property
    def ok(self) -> bool:
        """Whether no pass broke the gate."""
        return not self.broken_by

    def to_json(self) -> dict[str, Any]:
        """Return {"ok", "output", "passes", "before", "after", "gate"}, and "search" if asked."""
        gate = None
        if self.verdict is not None:
            gate = {**self.verdict.to_json(), "broken_by": self.broken_by or None}
        made = {
            "ok": self.ok,
            "output": self.output,
            "passes": [step.to_json() for step in self.steps],
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "gate": gate,
        }
        return {**made, "search": list(self.tried)} if self.tried else made


def optimized(
    model: Model,
    request: Request,
    output: Path | None,
    *,
    search: bool,
    resume: bool,
    observe: Observer | None,
    progress: Progress,
) -> Optimized:
    """Run the passes of `request` on `model`; see `splitc.optimize`."""
    passes = steps_of(request, model)
    boundary = _boundary(model, passes, request)
    given = resources(model, request)
    pin = pins(model, request.cut) if boundary is None else _kept(model, boundary)
    tried: tuple[Trial, ...] = ()
    if search:
        passes, tried = look(passes, model, given, pin=pin, boundary=boundary, told=progress)
    with recording(request, output, resume, progress) as recorder:
        judge = Judge(
            model,
            replace(given, recorder=recorder),
            told=progress,
            observe=observe,
            lenient=True,
            split=search,
        )
        after = judge.run(passes, model, pin=pin, boundary=boundary, prices=_prices(request))
    made = Optimized(
        model=after,
        steps=tuple(judge.steps),
        before=size(model),
        after=size(after),
        verdict=judge.last,
        broken_by=judge.broken_by,
        output=None if output is None or judge.broken_by else str(output),
        notes=(*_found(passes, tried), *judge.notes(), *after.notes),
        tried=tuple(trial.to_json() for trial in tried),
    )
    if made.output is not None:
        after.save(Path(made.output))
    return made


def _found(passes: Sequence[Pass], tried: Sequence[Trial]) -> tuple[str, ...]:
    if not tried:
        return ()
    line = f"search: {len(tried)} candidates tried; chosen: {pipeline.text(passes) or 'nothing'}"
    if any(not step.exact for step in passes):
        return (line,)
    first = next((trial for trial in tried if not trial.ok), None)
    why = "they drop too much" if first is None or not first.why else first.why
    return (line, f"search: NO lossy pass is within the gate; the first of those tried: {why}")


def _prices(request: Request) -> Prices | None:
    """Return what prices a model on `--device`, if there is one."""
    if request.head is None:
        return None
    device = request.head if isinstance(request.head, Device) else find_device(request.head)
    return partial(cost.alone, device=device)


def _boundary(model: Model, passes: Sequence[Pass], request: Request) -> Boundary | None:
    """Return where `--cut` cuts; `PassError` where a pass needs it and there is none."""
    if request.cut == "auto":
        for step in filter(late, passes):
            raise PassError(f"pass {step.name!r} works at a cut", hint="give --cut TENSOR")
        return None
    cut = named(model.graph, request.cut, loose=True)
    return Boundary(cut.tensors, early(model, cut))


def _kept(model: Model, boundary: Boundary) -> list[str]:
    return [name for name in boundary.tensors if name in model.graph.producer]
