"""Nodes that become one layer together: found before the lift, node by node."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import fx, nn

from splitc.fx.builder import Builder, Made
from splitc.fx.rules import RULES
from splitc.fx.rules.linear import linear
from splitc.fx.site import Site
from splitc.model import identity

Rule = Callable[[Site], Made]


@dataclass(frozen=True)
class Pattern:
    """The last node of a group, the nodes before it, and the rule for the whole."""

    last: ir.Node
    before: tuple[ir.Node, ...]
    rule: Rule


def found(
    builder: Builder, nodes: Iterable[ir.Node], ends: Collection[str]
) -> Mapping[ir.Node, Pattern]:
    """Return last node → pattern. `ends`: tensors that must be there, region outputs."""
    made: dict[ir.Node, Pattern] = {}
    for node in nodes:
        match = _MATCHES.get(node.op_type)
        pattern = match(builder, node, ends) if match else None
        if pattern is not None:
            made[node] = pattern
    return made


def _only(value: ir.Value | None, op_type: str, ends: Collection[str]) -> ir.Node | None:
    """Return the node that makes a value if it is of this kind and nobody else reads it."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != op_type or value is None or value.name in ends:
        return None
    return node if len(list(value.uses())) == 1 and not value.is_graph_output() else None


def _biased(builder: Builder, node: ir.Node, ends: Collection[str]) -> Pattern | None:
    """Find MatMul + Add of a vector: an nn.Linear with its bias."""
    for place in (0, 1):
        inner = _only(node.inputs[place], "MatMul", ends)
        if inner is None or Site(builder, inner).weight(1) is None:
            continue
        bias = Site(builder, node).weight(1 - place)
        if bias is None or Site(builder, inner).array(0) is not None:
            continue

        def rule(site: Site, inner: ir.Node = inner, place: int = place) -> Made:
            behind = Site(site.builder, inner)
            made = linear(behind, behind.x(0), behind.weight(1), site.weight(1 - place))
            return made or _apart(site, behind)

        return Pattern(node, (inner,), rule)
    return None


def _apart(site: Site, inner: Site) -> Made:
    """Lift two nodes one by one after all."""
    made = RULES[inner.op](inner)
    assert isinstance(made, fx.Node)
    site.builder.env[inner.name] = made
    return RULES[site.op](site)


def _shortcut(builder: Builder, node: ir.Node, ends: Collection[str]) -> Pattern | None:
    """Find Slice with strides in the plane + Pad of channels: a 1×1 convolution, frozen.

    Residual networks of CIFAR have it ("option A"); as a convolution its channels can be pruned.
    """
    inner = _only(node.inputs[0], "Slice", ends)
    if inner is None:
        return None
    site, behind = Site(builder, node), Site(builder, inner)
    steps, pads, shape = _strides(behind), _channels(site), behind.shape(0)
    if steps is None or pads is None or shape is None:
        return None

    def rule(site: Site) -> Made:
        return _selection(site, behind, steps, pads, shape[1])

    return Pattern(node, (inner,), rule)


def _selection(
    site: Site, behind: Site, steps: tuple[int, int], pads: tuple[int, int], width: int
) -> fx.Node:
    out = width + sum(pads)
    module = nn.Conv2d(width, out, 1, steps, bias=False, device="meta")
    dtype = getattr(torch, site.builder.facts[behind.name].dtype)
    chosen = torch.zeros(out, width, 1, 1, dtype=dtype)
    chosen[pads[0] : pads[0] + width, :, 0, 0] = torch.eye(width, dtype=dtype)
    module.weight = nn.Parameter(chosen, requires_grad=False)
    path = site.builder.place(site.name)
    site.builder.selections[path] = (behind.name, site.name)
    return site.builder.module(path, module, behind.x(0))


def _strides(site: Site) -> tuple[int, int] | None:
    """Return the steps of a Slice that takes every n-th row and column from the first on."""
    if site.rank() != 4 or any(site.array(i) is None for i in range(1, len(site.node.inputs))):
        return None
    starts, ends = site.ints(1, "starts") or [], site.ints(2, "ends") or []
    axes = (site.ints(3) if site.has(3) else site.attr("axes")) or range(len(starts))
    steps = site.ints(4) if site.has(4) else [1] * len(starts)
    shape = site.shape(0) or ()
    whole = all(s == 0 and e >= shape[a] for s, e, a in zip(starts, ends, axes, strict=True))
    named = dict(zip(axes, steps or [], strict=True))
    if not whole or any(named.get(axis, 1) != 1 for axis in (0, 1)) or min(named.values()) < 1:
        return None
    return named.get(2, 1), named.get(3, 1)


def _channels(site: Site) -> tuple[int, int] | None:
    """Return the channels that a Pad adds in front and behind, if it adds only zeros there."""
    if str(site.attr("mode", "constant")) != "constant" or site.has(3):
        return None
    if site.has(2) and site.number(2) != 0:
        return None
    pads = site.array(1) if site.has(1) else np.array(site.attr("pads", []))
    if pads is None or pads.size != 8 or site.attr("value", 0.0) != 0:
        return None
    front, behind = int(pads[1]), int(pads[5])
    return (front, behind) if min(pads) >= 0 and front + behind == int(pads.sum()) else None


def names(pattern: Pattern) -> tuple[str, ...]:
    """Return the identities of a pattern's nodes, the last one last."""
    return tuple(identity(node) for node in (*pattern.before, pattern.last))


_MATCHES: dict[str, Callable[[Builder, ir.Node, Collection[str]], Pattern | None]] = {
    "Add": _biased,
    "Pad": _shortcut,
}
