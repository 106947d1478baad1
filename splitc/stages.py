"""The first stages of the main job, which `plan` and `compile` share: open, run passes, plan."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitc import cost, pipeline
from splitc.cuts import INPUT, OUTPUT, Cut, crossing, of_head, parted, resolve
from splitc.errors import RequestError
from splitc.ingest import load
from splitc.judging import Judge, Step
from splitc.model import DEFAULT_MAX_SIZE, InputSpec, Model
from splitc.pipeline import Pass, Resources, late, side, trains
from splitc.request import Request
from splitc.scope import Boundary
from splitc.units import si
from splitc.wire.form import form

if TYPE_CHECKING:
    from splitc.accuracy import Verdict
    from splitc.graph import Graph
    from splitc.plan import Plan
    from splitc.train import Recipe, Recorder

Progress = Callable[[str, str], None]
"""Called as `progress(stage, detail)` when a stage begins."""


def quiet(_stage: str, _detail: str = "") -> None:
    """Report nothing."""


def opened(
    model: str | Path | Model,
    input: Sequence[str | InputSpec] = (),
    max_size: int = DEFAULT_MAX_SIZE,
    passes: str = "",
) -> Model:
    """Return `model` itself, or load the file or factory that it names.

    A BatchNorm of a torch model stays apart where one of `passes` trains; the rest is simplified.
    """
    if isinstance(model, Model):
        return model
    fold = not any(map(trains, pipeline.parse(passes)))
    read = load(model, input=input, max_size=max_size, fold=fold)
    from_torch = str(model).endswith(".pt2") or not Path(model).exists()
    if fold or not from_torch:
        return read
    (tidy,) = pipeline.parse("simplify{fuse_batch_norm = false}")
    return tidy.run(read)


@dataclass(frozen=True)
class Planned:
    """What the first stages made. `model`: after the passes; `steps`: what each of them did.

    `verdict`: what all lossy passes cost together, None if there was none. `resources`: what the
    passes were given → digest.
    """

    model: Model
    plan: "Plan"
    steps: tuple[Step, ...] = ()
    verdict: "Verdict | None" = None
    resources: Mapping[str, str] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        """Whether no pass that changed anything may change what the model computes."""
        return all(step.exact or not step.changed for step in self.steps)


def planned(
    model: Model,
    request: Request,
    progress: Progress = quiet,
    recorder: "Recorder | None" = None,
) -> Planned:
    """Run the passes on `model` and plan the result.

    Passes that need the cut run in a second round, after the plan; then the cut is priced again.
    Raises `GateError` when a lossy pass breaks `--max-drop`.
    """
    passes = steps_of(request, model)
    if any(not step.exact for step in passes):
        _check_names(model, request.cut)
    judge = Judge(
        model,
        replace(resources(model, request), recorder=recorder),
        told=progress,
    )
    progress("passes", request.passes or "none")
    whole, rest = _rounds(passes, model)
    head = partial(cost.alone, device=request.scenario().head)
    first = judge.run(whole, model, pin=pins(model, request.cut), prices=head)
    progress("plan", f"{len(first.graph.nodes)} nodes")
    found = _chosen(first, request, _surviving(request.cut, model, first))
    after = first
    if rest:
        boundary = Boundary(found.chosen.cut.tensors, early(first, found.chosen.cut))
        after = _second_round(judge, rest, first, boundary, request)
        again = _chosen(after, request, of_head(after.graph, boundary.sending(after)))
        found = replace(
            again, head_nodes=found.head_nodes, notes=(_both(found, again), *again.notes)
        )
    notes = (*found.notes, *judge.notes(), *after.notes)
    return Planned(
        after,
        replace(found, notes=notes),
        tuple(judge.steps),
        judge.last,
        judge.resources.digests(),
    )


def _check_names(model: Model, cut: str) -> None:
    """Raise `RequestError` for a tensor that is not there, before passes that take their time."""
    for name in _listed(model, cut):
        if name not in model.graph.rank:
            resolve(model.graph, [name])


def steps_of(request: Request, model: Model) -> tuple[Pass, ...]:
    """Return the passes of `--passes`, and the one that `--wire int8` or `fp16` stands for.

    Where the model has a BatchNorm and a pass trains, it is fused after that pass, not before.
    """
    dtype, _ = form(request.wire)
    text = f'narrow-boundary{{dtype = "{dtype}"}}' if dtype else ""
    typed = [_ruled(step, request) for step in pipeline.parse(request.passes)]
    passes = (*typed, *pipeline.parse(text))
    last = max((at for at, step in enumerate(passes) if trains(step)), default=-1)
    if last < 0 or not _has_batch_norm(model):
        return passes
    early = [_apart(step) for step in passes[: last + 1]]
    later = pipeline.parse("" if any(s.name == "simplify" for s in passes[last:]) else "simplify")
    return (*early, *later, *passes[last + 1 :])


def _has_batch_norm(model: Model) -> bool:
    return any(node.op_type == "BatchNormalization" for node in model.ir.graph)


def _rounds(passes: Sequence[Pass], model: Model) -> tuple[list[Pass], list[Pass]]:
    """Return the passes before the plan and those after it.

    A lossy pass that is written behind one of one side follows it there: what is pruned and then
    quantized must not be quantized first. So does a `simplify` that fuses each BatchNorm behind a
    pass that trains.
    """
    rounds: tuple[list[Pass], list[Pass]] = ([], [])
    apart = _has_batch_norm(model)
    for step in passes:
        fuses = apart and step.name == "simplify" and any(map(trains, rounds[1]))
        follows = bool(rounds[1]) and not step.exact
        rounds[late(step) or fuses or follows].append(step)
    return rounds


def _ruled(step: Pass, request: Request) -> Pass:
    """Return the pass with the rules for quantized graphs of the backend that gets its work."""
    if "rules" not in pipeline.settable(step):
        return step
    from splitc import backend

    names = {"head": request.head_backend, "tail": request.tail_backend}
    chosen = [names[side(step)]] if side(step) else list(names.values())
    rules = [str(getattr(backend.get(name), "rules", "")) for name in dict.fromkeys(chosen)]
    wanted: dict[str, Any] = {"rules": next(filter(None, rules), ""), "symmetric": True}
    known = {*pipeline.settable(step)}
    if not wanted["rules"]:
        return step
    return replace(step, **{name: value for name, value in wanted.items() if name in known})


def _apart(step: Pass) -> Pass:
    """Return the pass, told to leave each BatchNorm alone if it would fuse it."""
    if step.name != "simplify":
        return step
    (apart,) = pipeline.parse("simplify{fuse_batch_norm = false}")
    return apart


def resources(model: Model, request: Request) -> Resources:
    """Load what `--data`, `--eval`, `--metric` and `--train` name."""
    given = {"--data": request.data, "--eval": request.eval, "--metric": request.metric}
    if request.preprocess and not (request.data or request.eval):
        raise RequestError("--preprocess reads the images of --data or --eval", hint="--data DIR")
    if request.max_drop is not None and not 0 <= request.max_drop < math.inf:
        raise RequestError(
            f"--max-drop {request.max_drop} is no number from 0 on", hint="--max-drop 1.0"
        )
    for option, text in {**given, "--train": request.train}.items():
        if text == "":
            raise RequestError(f"{option} is empty", hint="leave it out, or name something")
    if not any(given.values()) and request.train is None:
        return Resources(max_drop=request.max_drop)
    from splitc import accuracy, data

    read = [
        data.load(path, model, _preprocess(path, request)) if path else None
        for path in (request.data, request.eval)
    ]
    judged = read[1] or read[0]
    if request.metric and judged is None:
        raise RequestError("--metric needs data to measure on", hint="--eval FILE or --data FILE")
    return Resources(
        data=read[0],
        evaluation=read[1],
        metric=accuracy.metric(request.metric, judged) if judged is not None else None,
        max_drop=request.max_drop,
        recipe=_recipe(request),
    )


def _preprocess(path: str | Path, request: Request) -> str | None:
    """Return the user's function for a folder; an archive needs none, though the other may."""
    both = request.data and request.eval
    return request.preprocess if Path(path).is_dir() or not both else None


def _recipe(request: Request) -> "Recipe | None":
    if request.train is None:
        return None
    from splitc.train import recipe

    return recipe(request.train)


def _chosen(model: Model, request: Request, cut: str | Sequence[str] | Cut) -> "Plan":
    from splitc.plan.choose import plan as choose

    return choose(
        model,
        request.scenario(),
        cut=cut,
        top=request.top,
        max_tensors=request.max_tensors,
        input_codec=request.input_codec,
        strict=request.strict,
        refusals=refusals(model, request),
    )


def early(model: Model, cut: Cut) -> tuple[str, ...]:
    """Return the graph outputs that the head makes."""
    maker = model.graph.producer
    return tuple(o for o in model.graph.outputs if maker.get(o) in cut.head_nodes)


def _second_round(
    judge: Judge, passes: Sequence[Pass], model: Model, boundary: Boundary, request: Request
) -> Model:
    """Run the passes that need the cut, each with the machine of its side."""
    from splitc.backend import Target

    scenario = request.scenario()
    machines = {"head": scenario.head, "tail": scenario.tail}
    pin = [name for name in boundary.tensors if name in model.graph.producer]
    for step in passes:
        machine = machines.get(side(step), scenario.head)
        model = judge.run(
            (step,),
            model,
            pin=pin,
            boundary=boundary,
            target=Target.of(machine) if side(step) else None,
            prices=partial(cost.alone, device=machine),
        )
    return model


def _both(first: "Plan", again: "Plan") -> str:
    """Say what the second round did to the price of the cut."""
    unit = "s" if first.objective == "latency" else "J"
    costs = [si(one.chosen.cost(one.objective), unit) for one in (first, again)]
    return f"the cut was chosen at {costs[0]}; after the passes of its sides it costs {costs[1]}"


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
        side: _of_readers(model.graph, backend.get(name).supports(model, Target.of(device)))
        for side, (name, device) in sides.items()
    }


def _of_readers(graph: "Graph", refused: Mapping[str, str]) -> dict[str, str]:
    """Refuse who reads a refused constant: a constant has no place of its own in a plan."""
    lost: dict[str, str] = {}
    for node in graph.constants:
        why = next((lost[name] for name in node.weights if name in lost), "")
        if why := refused.get(node.id, why):
            lost |= dict.fromkeys(node.outputs, why)
    found = {
        node.id: f"it reads {name}: {lost[name]}"
        for node in graph.nodes
        for name in node.weights
        if name in lost
    }
    return found | {node: why for node, why in refused.items() if node in graph.by_id}


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
