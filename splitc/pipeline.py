"""What a pass is, and how a pipeline of passes is written and run.

A pipeline is text, in the order it runs: ``simplify, prune{ratio = 0.3}``. Options are a TOML
inline table, so their types need no rules of our own.
"""

import dataclasses
import json
import re
import time
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

from splitc import plugins
from splitc.errors import ModelError, PassError, SplitcError, did_you_mean
from splitc.model import Model, identity
from splitc.scope import HEAD, TAIL

if TYPE_CHECKING:
    import onnx_ir as ir

    from splitc.accuracy import Metric
    from splitc.backend import Target
    from splitc.data import Dataset
    from splitc.scope import Boundary
    from splitc.train import Recipe, Recorder

GROUP = "splitc.passes"
BUILT_IN = {
    "fp16": "splitc.passes.fp16:Fp16",
    "low-rank": "splitc.passes.low_rank:LowRank",
    "narrow-boundary": "splitc.passes.narrow_boundary:NarrowBoundary",
    "prune": "splitc.passes.prune:Prune",
    "quantize": "splitc.passes.quantize:Quantize",
    "share-weights": "splitc.passes.share_weights:ShareWeights",
    "simplify": "splitc.passes.simplify:Simplify",
}
DEFAULT = "simplify"
"""`simplify` stands alone and first: a fused, folded graph is what every backend will run, so it
is what must be priced."""


class Pass(Protocol):
    """A named model-to-model function: a frozen dataclass whose fields are its options."""

    name: ClassVar[str]
    exact: ClassVar[bool]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def run(self, model: Model) -> Model:
        """Return the rewritten model; the one given is never modified."""
        ...


Prices = Callable[[Model, Collection[str]], float]
"""Model, nodes of it → seconds that these take on the machine that a pass works for."""

Observer = Callable[[Pass, Model, Model, float], None]
"""Called after each pass as `observe(step, before, after, seconds)`."""


@dataclasses.dataclass(frozen=True)
class Resources:
    """What text cannot carry: bound to those passes that have a field of the same name.

    `data`: to calibrate or train with; `evaluation`: labelled, to judge with; `metric`, `max_drop`:
    of the accuracy gate; `recipe`, `recorder`: of training; `boundary`: where the model is cut;
    `target`: the machine of the side that a pass works on; `prices`: seconds of a model there;
    `apart`: other samples than `evaluation` judge.
    """

    data: "Dataset | None" = None
    evaluation: "Dataset | None" = None
    metric: "Metric | None" = None
    max_drop: float | None = None
    recipe: "Recipe | None" = None
    recorder: "Recorder | None" = None
    boundary: "Boundary | None" = None
    target: "Target | None" = None
    prices: "Prices | None" = None
    apart: bool | None = None

    def digests(self) -> dict[str, str]:
        """Return SHA-256 (hex) of the data and the recipe that are there, by field."""
        given = {"data": self.data, "evaluation": self.evaluation, "recipe": self.recipe}
        return {name: value.digest for name, value in given.items() if value is not None}


def resource() -> Any:
    """Return the field of a pass that the runner binds, and text cannot set; None until then."""
    return dataclasses.field(default=None, repr=False, metadata={"resource": True})


def settable(step: "Pass | type[Pass]") -> tuple[str, ...]:
    """Return the names of the options that text may set."""
    plain = (f for f in dataclasses.fields(step) if not f.metadata.get("resource"))
    return tuple(field.name for field in plain)


def bind(step: Pass, resources: Resources) -> Pass:
    """Return the pass with those of its resources that are there; a field it has not is skipped."""
    wanted = {f.name for f in dataclasses.fields(step) if f.metadata.get("resource")}
    have = {name: getattr(resources, name) for name in wanted if hasattr(resources, name)}
    given = {name: value for name, value in have.items() if value is not None}
    return cast("Pass", dataclasses.replace(cast("Any", step), **given)) if given else step


def late(step: Pass) -> bool:
    """Tell whether a pass belongs to the second round: it needs to know where the model is cut."""
    return bool(side(step)) or bool(getattr(step, "after_plan", False))


def trains(step: Pass) -> bool:
    """Tell whether a pass trains where it is given a recipe."""
    return any(field.name == "recipe" for field in dataclasses.fields(step))


def side(step: Pass) -> str:
    """Return 'head' or 'tail' for a pass that works on one side of a cut, else ''."""
    scope = getattr(step, "scope", "")
    return str(scope) if scope in (HEAD, TAIL) else ""


_NAME = re.compile(r"\s*([a-z][a-z0-9-]*)\s*")


def known() -> Mapping[str, type[Pass] | SplitcError]:
    """Return every pass by name: its class, or the error that says why it cannot be used."""
    found: dict[str, type[Pass] | SplitcError] = {}
    for name in plugins.lookup(GROUP, BUILT_IN, error=PassError):
        try:
            found[name] = get(name)
        except SplitcError as error:
            found[name] = error
    return found


def get(name: str) -> type[Pass]:
    """Return the class of the pass called `name`."""
    return cast("type[Pass]", plugins.load(GROUP, name, BUILT_IN, error=PassError))


def parse(text: str) -> tuple[Pass, ...]:
    """Build the passes that `text` names; `PassError` points at what cannot be read."""
    passes: list[Pass] = []
    at = 0
    while text[at:].strip():
        where = f"{text}\n{' ' * (at + len(text[at:]) - len(text[at:].lstrip()))}^"
        item = _NAME.match(text, at)
        if not item:
            raise PassError("expected 'name' or 'name{option = value}'", where=where)
        options, at = _options(text, item.end(), where)
        passes.append(_build(item[1], options, where))
        rest = text[at:].lstrip()
        if rest and not rest.startswith(","):
            raise PassError("expected ',' between passes", where=f"{text}\n{' ' * at}^")
        at = len(text) - len(rest) + 1
    return tuple(passes)


def text(passes: Sequence[Pass]) -> str:
    """Return passes as text that `parse` reads back; options at their defaults are left out."""
    return ", ".join(map(_text, passes))


def _text(step: Pass) -> str:
    fields = {field.name: field for field in dataclasses.fields(step)}
    given = {name: getattr(step, name) for name in settable(step)}
    named = [
        f"{name} = {json.dumps(value, ensure_ascii=False)}"
        for name, value in given.items()
        if value is not None and value != fields[name].default
    ]
    return step.name + (f"{{{', '.join(named)}}}" if named else "")


def _options(text: str, at: int, where: str) -> tuple[dict[str, Any], int]:
    """Read an inline table that starts at `at`, if one does; return it and where it ends."""
    if text[at : at + 1] != "{":
        return {}, at
    reason = "no closing '}'"
    for end in (place for place in range(at, len(text)) if text[place] == "}"):
        try:
            table: dict[str, Any] = tomllib.loads(f"options = {text[at : end + 1]}")["options"]
            return table, end + 1
        except (ValueError, RecursionError) as error:
            reason = str(error).partition(" (at line")[0]
    hint = 'options are TOML: {mixed = true, ratio = 0.3, scope = "head"}'
    raise PassError(f"cannot read options: {reason}", where=where, hint=hint)


def _build(name: str, options: Mapping[str, Any], where: str) -> Pass:
    names = plugins.lookup(GROUP, BUILT_IN, error=PassError)
    if name not in names:
        raise PassError(f"unknown pass {name!r}", where=where, hint=did_you_mean(name, names))
    made = get(name)
    fields = {*settable(made)}
    for option in sorted(options.keys() - fields):
        hint = did_you_mean(option, fields) if fields else f"{name!r} takes no options"
        raise PassError(f"{name!r} has no option {option!r}", where=where, hint=hint)
    for option, value in options.items():
        if wanted := _misfit(value, next(f for f in dataclasses.fields(made) if f.name == option)):
            raise PassError(f"{name!r}: {option} = {value!r} is not {wanted}", where=where)
    try:
        return made(**options)
    except (TypeError, ValueError) as error:
        raise PassError(f"{name!r}: {error}", where=where) from error


def _misfit(value: object, field: "dataclasses.Field[Any]") -> str:
    """Say what kind of value an option takes, by its default, where `value` is of another kind."""
    kinds = {bool: "true or false", str: "text", int: "a number", float: "a number"}
    usual = type(field.default)
    numbers = usual in (int, float) and type(value) in (int, float)
    return "" if usual not in kinds or numbers or type(value) is usual else kinds[usual]


def run(
    passes: Sequence[Pass],
    model: Model,
    observe: Observer | None = None,
    *,
    pin: Sequence[str] = (),
) -> Model:
    """Run passes in order and check the model after each.

    `pin`: tensors that must survive by name; they are graph outputs while the passes run.
    """
    if not passes:
        return model
    count = len(model.ir.graph.outputs)
    current = model.with_outputs(pin, model.facts) if pin else model
    for step in passes:
        begin = time.perf_counter()
        before, current = current, step.run(current)
        _check(step, before, current)
        if observe:
            observe(step, before, current, time.perf_counter() - begin)
    return _unpinned(current, count) if pin else current


def _check(step: Pass, before: Model, after: Model) -> None:
    try:
        after.check()
    except ModelError as error:
        message = f"pass {step.name!r} broke the graph: {error.args[0]}"
        raise PassError(message, where=error.where) from error
    for what in ("inputs", "outputs"):
        old = [(t.name, t.dtype) for t in getattr(before, what)]
        new = [(t.name, t.dtype) for t in getattr(after, what)]
        if old != new:
            raise PassError(f"pass {step.name!r} changed the {what}", where=f"{old} -> {new}")


def _unpinned(model: Model, count: int) -> Model:
    """Take back the temporary outputs, and nodes that only they had a use for.

    Where such a node only cast what others read (half floats), that gets the pinned name.
    """
    copy = model.clone()
    graph = copy.ir.graph
    while len(graph.outputs) > count:
        pinned = graph.outputs.pop()
        maker = pinned.producer()
        kept = maker is None or any(t.uses() or t.is_graph_output() for t in maker.outputs)
        if maker is not None and not kept:
            twin = maker.inputs[0] if maker.op_type == "Cast" else None
            graph.remove(maker, safe=True)
            if twin is not None and twin.uses() and twin.name not in model.cuttable:
                _renamed(twin, str(pinned.name))
    return copy


def _renamed(value: "ir.Value", name: str) -> None:
    """Give a tensor that a node makes, and is no output, another name."""
    producer = value.producer()
    if producer is not None and not value.is_graph_output():
        value.name = name
        producer.name = identity(producer)
