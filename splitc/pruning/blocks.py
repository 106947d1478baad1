"""Leave out whole residual blocks: what is added to a shortcut, and the sum.

    f = Conv(…Relu(Conv(x)))
    y = Add(f, x)              becomes      (nothing: who read y reads x)
    z = Relu(y)                             z = Relu(x)

A block is what lies between x and the sum and nobody else reads; both ends have the same shape.
The names in front of it and behind it stay.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from onnx_ir.convenience import replace_all_uses_with
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import Tensor, fx

from splitc.errors import PassError
from splitc.model import Model
from splitc.pruning.calibration import Calibration
from splitc.pruning.how import How
from splitc.pruning.importance import answers
from splitc.train import cross_entropy


@dataclass(frozen=True)
class Block:
    """`total` = `entry` + a branch of it; `nodes`: the branch and the sum."""

    total: str
    entry: str
    nodes: frozenset[str]


def blocks(model: Model, allowed: frozenset[str]) -> tuple[Block, ...]:
    """Return the residual blocks that consist of allowed nodes, in order; some may hold others."""
    found: list[Block] = []
    for node in model.graph.nodes:
        if node.op == "Add" and len(node.inputs) == 2 and not node.weights:
            both = (node.inputs, node.inputs[::-1])
            made = (_block(model, node.id, entry, branch) for entry, branch in both)
            found += [block for block in made if block is not None and block.nodes <= allowed][:1]
    return tuple(found)


def _block(model: Model, total: str, entry: str, branch: str) -> Block | None:
    graph, facts = model.graph, model.facts
    known = total in facts and entry in facts
    if not known or facts[total].shape != facts[entry].shape or total in graph.outputs:
        return None
    nodes = _between(model, entry, branch)
    if not nodes:
        return None
    inside = nodes | {total}
    made = [tensor for node in nodes for tensor in graph.by_id[node].outputs]
    closed = all({*graph.readers[t]} <= inside and t not in graph.outputs for t in made)
    return Block(total, entry, inside) if closed else None


def _between(model: Model, entry: str, branch: str) -> frozenset[str]:
    """Return the nodes that depend on `entry` and that `branch` needs."""
    graph = model.graph
    after: set[str] = set()
    reached = {entry}
    for node in graph.nodes:
        if reached & {*node.inputs}:
            after.add(node.id)
            reached |= {*node.outputs}
    before: set[str] = set()
    waiting = [branch]
    while waiting:
        maker = graph.producer.get(waiting.pop())
        if maker in after and maker not in before:
            before.add(maker)
            waiting += graph.by_id[maker].inputs
    return frozenset(before)


def shortened(
    model: Model,
    whole: fx.GraphModule,
    how: How,
    samples: Calibration,
    found: Sequence[Block],
    costs: Mapping[str, float],
    total: float,
) -> Model:
    """Return `model` without the blocks that are missed least, about `how.ratio` of `total`.

    `costs`: node → what it costs. Raises `PassError` where there are no blocks, or too few.
    """
    if not found:
        hint = "kind = 'channels' prunes filters"
        raise PassError("there are no residual blocks that could be left out", hint=hint)
    marks = _MEASURES[how.importance](whole, found, samples)
    each = {b.total: sum(costs.get(node, 0.0) for node in b.nodes) / total for b in found}
    order = sorted(found, key=lambda b: marks[b.total] / max(each[b.total], 1e-12))
    chosen, saved = list[Block](), 0.0
    for block in order:
        if any(block.nodes & other.nodes for other in chosen):
            continue
        if abs(saved + each[block.total] - how.ratio) < abs(saved - how.ratio):
            chosen.append(block)
            saved += each[block.total]
    if saved < how.ratio / 2:
        raise PassError(f"blocks that can be left out make up {saved:.1%}, not {how.ratio:.1%}")
    return without(model, [block for block in found if block in chosen])


def without(model: Model, chosen: Sequence[Block]) -> Model:
    """Return `model` without these blocks, given in the graph's order."""
    copy = model.clone()
    values, nodes = copy.values, copy.nodes
    now: dict[str, str] = {}
    for block in chosen:
        entry = now.get(block.entry, block.entry)
        now[block.total] = entry
        replace_all_uses_with(values[block.total], values[entry])
        copy.ir.graph.remove([nodes[node] for node in block.nodes], safe=True)
    RemoveUnusedNodesPass()(copy.ir)
    return replace(copy)


class _Tensors(fx.Interpreter):
    """Runs a module and keeps the tensors of some ONNX names."""

    def __init__(self, module: fx.GraphModule, names: set[str]) -> None:
        super().__init__(module)
        self.names = names
        self.seen: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        made = super().run_node(n)
        name = n.meta.get("tensor")
        if name in self.names and isinstance(made, Tensor):
            self.seen[name] = made
        return made


def _energy(
    whole: fx.GraphModule, found: Sequence[Block], samples: Calibration
) -> dict[str, float]:
    """Return √ of the branch's share of the sum's energy, E[(y − x)²] / E[y²]."""
    marks = {block.total: 0.0 for block in found}
    for batch in samples.batches:
        walk = _Tensors(whole, {n for b in found for n in (b.entry, b.total)})
        with torch.no_grad():
            walk.run(*batch)
        for block in found:
            y, x = walk.seen[block.total], walk.seen[block.entry]
            share = (y - x).square().sum() / y.square().sum().clamp_min(1e-30)
            marks[block.total] += float(share) / len(samples.batches)
    return {name: share**0.5 for name, share in marks.items()}


def _taylor(
    whole: fx.GraphModule, found: Sequence[Block], samples: Calibration
) -> dict[str, float]:
    """Return √ of the mean of (Σ g·(y − x))²: the loss's first-order change without the branch."""
    marks = {block.total: 0.0 for block in found}
    for batch, labels in zip(samples.batches, samples.labels, strict=True):
        walk = _Tensors(whole, {n for b in found for n in (b.entry, b.total)})
        with torch.enable_grad():
            made = walk.run(*batch)
            first = made if isinstance(made, Tensor) else made[0]
            loss = cross_entropy((first,), None, answers(first) if labels is None else labels)
            ends = [walk.seen[block.total] for block in found]
            grads = torch.autograd.grad(loss, ends, allow_unused=True)
        for block, y, grad in zip(found, ends, grads, strict=True):
            if grad is not None:
                change = (grad * (y - walk.seen[block.entry])).sum().detach()
                marks[block.total] += float(change) ** 2 / len(samples.batches)
    return {name: share**0.5 for name, share in marks.items()}


def _unknown(
    whole: fx.GraphModule, found: Sequence[Block], samples: Calibration
) -> dict[str, float]:
    hint = "importance = 'energy' or 'taylor'"
    raise PassError("blocks are ranked by what they add, not by their weights", hint=hint)


_MEASURES = {
    "energy": _energy,
    "taylor": _taylor,
    "magnitude": _unknown,
    "bn-scale": _unknown,
}
