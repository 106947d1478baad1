"""Prune a model: lift the side, make it smaller, train it, write it back, say what became of it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import fx

from splitc import scope as scopes
from splitc.data import fixed_batch
from splitc.errors import PassError
from splitc.fx import lift, write_back
from splitc.macs import macs
from splitc.model import Model
from splitc.pruning.blocks import blocks, shortened
from splitc.pruning.calibration import Calibration, calibration, region_data
from splitc.pruning.heads import with_heads
from splitc.pruning.how import How
from splitc.pruning.layers import trained
from splitc.pruning.repair import repair
from splitc.pruning.sparse import SPARSE, masked, sparsify
from splitc.pruning.structured import shrink
from splitc.train import SILENT, Outcome, fit

if TYPE_CHECKING:
    from splitc.data import Dataset
    from splitc.scope import Boundary
    from splitc.train import Recipe, Recorder

TOLERANCE = 1e-4
"""Largest max|a−b| / max|b| of the written network against the trained module."""
_MISSED = 0.02


@dataclass(frozen=True)
class Side:
    """The part that may change: its nodes, and the tensors between which it is lifted."""

    nodes: frozenset[str]
    inputs: tuple[str, ...] | None = None
    outputs: tuple[str, ...] | None = None


def side(model: Model, scope: str, boundary: "Boundary | None") -> Side:
    """Return the side that `scope` names; `PassError` without a boundary for it."""
    nodes = scopes.within(model, scope, boundary)
    if scope == scopes.BOTH or boundary is None:
        return Side(nodes)
    graph = model.graph
    if scope == scopes.HEAD:
        read = {name for node in nodes for name in graph.by_id[node].inputs}
        inputs = tuple(name for name in graph.inputs if name in read)
        return Side(nodes, inputs, tuple(n for n in boundary.names if n in graph.producer))
    head = frozenset(graph.by_id) - nodes
    made = tuple(name for name in graph.outputs if graph.producer.get(name) in nodes)
    return Side(nodes, graph.boundary(head), made)


def pruned(
    model: Model,
    how: How,
    *,
    scope: str = scopes.BOTH,
    boundary: "Boundary | None" = None,
    data: "Dataset | None" = None,
    recipe: "Recipe | None" = None,
    recorder: "Recorder | None" = None,
) -> Model:
    """Return the smaller model, with notes on how much smaller; see `splitc.passes.prune`."""
    if recipe is not None and data is None:
        raise PassError("prune: a recipe trains on data", hint="--data train.npz")
    base = with_heads(model) if how.kind == "heads" else model
    part = side(base, scope, boundary)
    whole = lift(base, inputs=part.inputs, outputs=part.outputs)
    samples = calibration(base, whole, data)
    base, small = _smaller(base, part, whole, how, samples)
    told: tuple[str, ...] = ()
    if recipe is not None and data is not None:
        told = _train(base, small, whole, data, recipe, recorder or SILENT, scope).note("prune")
    made = _tidied(base, write_back(base, small, tolerance=TOLERANCE))
    return made.with_notes(*told, *_notes(model, made, part, how, samples))


def _smaller(
    model: Model, part: Side, whole: fx.GraphModule, how: How, samples: Calibration
) -> tuple[Model, fx.GraphModule]:
    """Return the module that is smaller, and the graph that it belongs to."""
    if how.kind in SPARSE:
        return model, sparsify(whole, how, samples)
    if how.kind != "blocks":
        total = measured(model, part, how.target)
        return model, shrink(whole, how, samples, total, macs(model))
    costs = each(model, part, how.target)
    found = blocks(model, part.nodes)
    base = shortened(model, whole, how, samples, found, costs, sum(costs.values()))
    small = lift(base, inputs=part.inputs, outputs=part.outputs)
    if how.repair and not samples.drawn:
        repair(small, whole, samples.batches, trained(small), {})
    return base, small


def measured(model: Model, part: Side, target: str) -> float:
    """Return the MACs of a side, or else the bytes of its weights, each counted once."""
    if target == "macs":
        return sum(each(model, part, target).values())
    weights = {name for node in part.nodes for name in model.graph.by_id[node].weights}
    return float(model.weight_bytes(weights))


def each(model: Model, part: Side, target: str) -> dict[str, float]:
    """Return node -> its MACs, or else the bytes of its weights, for the nodes of a side."""
    if target == "macs":
        work = macs(model)
        return {node: float(work.get(node, 0)) for node in part.nodes}
    by_id = model.graph.by_id
    return {node: float(model.weight_bytes(by_id[node].weights)) for node in part.nodes}


def _train(
    model: Model,
    small: fx.GraphModule,
    whole: fx.GraphModule,
    data: "Dataset",
    recipe: "Recipe",
    recorder: "Recorder",
    scope: str,
) -> Outcome:
    """Train by the recipe; a head, which gives no answers of its own, matches the whole one's."""
    chosen = replace(recipe, loss="match") if scope == scopes.HEAD else recipe
    teacher = None if chosen.loss == "cross-entropy" else whole
    size = fixed_batch(model)
    given = region_data(model, small, data)
    with masked(small):
        return fit(small, given, chosen, teacher=teacher, recorder=recorder, micro=size)


def _tidied(before: Model, after: Model) -> Model:
    """Drop initializers that lost their last reader."""
    table = after.ir.graph.initializers
    used = {name for name, value in before.ir.graph.initializers.items() if value.uses()}
    ends = {value.name for value in (*after.ir.graph.outputs, *after.ir.graph.inputs)}
    gone = [n for n, value in table.items() if n in used and not value.uses() and n not in ends]
    for name in gone:
        del table[name]
    return replace(after) if gone else after


def _notes(
    before: Model, after: Model, part: Side, how: How, samples: Calibration
) -> Iterator[str]:
    """Say how much went, and what the user must know."""
    if samples.drawn:
        yield "prune: RANDOM INPUTS, NO DATA: what is missed least is a guess; give --data"
        yield "prune: nothing was refitted, for that takes data"
    if how.kind in SPARSE:
        yield "prune: zeros save neither time nor memory, unless a backend makes use of them"
        return
    left = replace(part, nodes=part.nodes & frozenset(after.graph.by_id))
    for target, unit in (("macs", "MACs"), ("bytes", "bytes of weights")):
        old, new = measured(before, part, target), measured(after, left, target)
        gone = 1 - new / old if old else 0.0
        yield f"prune: {old:,.0f} -> {new:,.0f} {unit} ({gone:.1%} less)"
        if target == how.target and abs(gone - how.ratio) > _MISSED:
            yield f"prune: {how.ratio:.1%} was asked for; widths in these steps allow no nearer"
