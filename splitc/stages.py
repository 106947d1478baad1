"""The first stages of the main job, which `plan` and `compile` share: open, run passes, plan."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from splitc import pipeline
from splitc.cuts import INPUT, OUTPUT, crossing, parted
from splitc.errors import RequestError
from splitc.ingest import load
from splitc.model import DEFAULT_MAX_SIZE, InputSpec, Model
from splitc.request import Request

if TYPE_CHECKING:
    from splitc.plan import Plan

Progress = Callable[[str, str], None]
"""Called as `progress(stage, detail)` when a stage begins."""


def quiet(_stage: str, _detail: str = "") -> None:
    """Report nothing."""


def opened(
    model: str | Path | Model,
    input: Sequence[str | InputSpec] = (),
    max_size: int = DEFAULT_MAX_SIZE,
) -> Model:
    """Return `model` itself, or load the file or factory that it names."""
    if isinstance(model, Model):
        return model
    return load(model, input=input, max_size=max_size)


def planned(model: Model, request: Request, progress: Progress = quiet) -> "tuple[Model, Plan]":
    """Run the passes on `model` and plan the result: (the model that was planned, its plan)."""
    from splitc.plan.choose import plan as choose

    scenario = request.scenario()
    progress("passes", request.passes or "none")
    after = pipeline.run(pipeline.parse(request.passes), model, pin=pins(model, request.cut))
    progress("plan", f"{len(after.graph.nodes)} nodes")
    found = choose(
        after,
        scenario,
        cut=_surviving(request.cut, model, after),
        top=request.top,
        max_tensors=request.max_tensors,
        input_codec=request.input_codec,
        strict=request.strict,
        refusals=refusals(after, request),
    )
    return after, replace(found, notes=(*found.notes, *after.notes))


def refusals(model: Model, request: Request) -> dict[str, Mapping[str, str]]:
    """Say what each side's backend cannot take: {'head': {node: why}, 'tail': {node: why}}."""
    from splitc import backend
    from splitc.backend import Target

    scenario = request.scenario()
    sides = {
        "head": (request.head_backend, scenario.head),
        "tail": (request.tail_backend, scenario.tail),
    }
    return {
        side: backend.get(name).supports(model, Target.of(device))
        for side, (name, device) in sides.items()
    }


def pins(model: Model, cut: str) -> tuple[str, ...]:
    """Tensors of `model` that `--cut` names: passes must keep them."""
    if cut.startswith("@") and cut.endswith(".json"):
        from splitc.plan import replayed_tensors

        return tuple(name for name in replayed_tensors(cut) if name in model.graph.producer)
    return tuple(name for name in _listed(model, cut) if name in model.graph.producer)


def _listed(model: Model, cut: str) -> list[str]:
    """Return the tensors of a `--cut` that is a list of them."""
    ends = cut in ("auto", INPUT, OUTPUT) or (cut.startswith("@") and cut.endswith(".json"))
    return [] if ends else parted(cut, model.graph.rank)


def _surviving(cut: str, before: Model, after: Model) -> str | Sequence[str]:
    """Leave out of a list what the passes made constant or of no use: it crosses for nothing."""
    names = _listed(before, cut)
    left = [n for n in names if n in after.graph.rank or n not in before.graph.producer]
    if names and not left:
        raise RequestError(
            f"after the passes nothing crosses at {', '.join(names)}",
            where=f"--cut {cut}",
            hint='it is constant now, or of no use; --passes "" cuts the network as it is',
        )
    known = {*names} <= {*before.graph.rank} and {*left} <= {*after.graph.rank}
    if not names or not known:
        return left or cut
    fewer = crossing(after.graph, left)
    if {*fewer} < {*left} and fewer and {*crossing(before.graph, names)} == {*names}:
        return fewer
    return left
