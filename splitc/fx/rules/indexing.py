"""Gather, Slice, Pad, Scatter and their kin."""

import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from splitc.fx import functions
from splitc.fx.layouts import Permuted
from splitc.fx.site import Site

_ENDLESS = 2**31 - 1


def gather(site: Site) -> fx.Node:
    """Gather: an nn.Embedding where it looks rows of a weight up, a selection where it is one."""
    axis, table, places = site.axis(0), site.weight(0), site.array(1)
    if table is not None and table.array.ndim == 2 and axis == 0 and places is None:
        layout = Permuted(table.order)
        if site.builder.owns(table, layout):
            made = nn.Embedding(table.seen.shape[0], table.seen.shape[1], device="meta")
            return site.layer(made, [(("weight",), table, layout)], site.x(1))
    if places is not None and places.ndim == 0:
        return site.call(torch.select, site.x(0), axis, int(places))
    sizes = site.sizes(1)
    if sizes is not None and sizes.scalar:
        return site.call(torch.select, site.x(0), axis, sizes.items[0])
    return site.call(functions.gather, site.x(0), site.x(1), axis)


def gather_elements(site: Site) -> fx.Node:
    """GatherElements."""
    return site.call(functions.gather_elements, site.x(0), site.x(1), site.axis(0))


def gather_nd(site: Site) -> fx.Node:
    """GatherND without batch axes."""
    if site.attr("batch_dims", 0):
        raise site.refuse("it has batch_dims")
    return site.call(functions.gather_nd, site.x(0), site.x(1))


def scatter_elements(site: Site) -> fx.Node:
    """ScatterElements, written or added."""
    if (how := site.attr("reduction", "none")) not in ("none", "add"):
        raise site.refuse(f"its reduction is {how!r}")
    args = (site.x(0), site.x(1), site.x(2), site.axis(0), how == "add")
    return site.call(functions.scatter_elements, *args)


def scatter_nd(site: Site) -> fx.Node:
    """ScatterND, written or added."""
    if (how := site.attr("reduction", "none")) not in ("none", "add"):
        raise site.refuse(f"its reduction is {how!r}")
    return site.call(functions.scatter_nd, site.x(0), site.x(1), site.x(2), how == "add")


def sliced(site: Site) -> fx.Node:
    """Slice; bounds may be sizes; a step back is turned around."""
    starts, ends = (_bounds(site, i, name) for i, name in ((1, "starts"), (2, "ends")))
    axes = site.ints(3) if site.has(3) else site.attr("axes")
    axes = site.per_axis(list(range(len(starts))) if axes is None else axes)
    steps = site.ints(4) if site.has(4) else [1] * len(starts)
    ranges = dict(zip(axes, zip(starts, ends, steps or [], strict=True), strict=True))
    if any(step < 0 for _, _, step in ranges.values()):
        made = site.x(0)
        for axis, numbers in ranges.items():
            made = site.call(functions.sliced, made, axis, *numbers)
        return made
    every = (
        slice(*_ended(ranges[a])) if a in ranges else slice(None) for a in range(max(axes) + 1)
    )
    return site.call(operator.getitem, site.x(0), tuple(every))


def _ended(numbers: tuple[Any, Any, int]) -> tuple[Any, Any, int]:
    start, end, step = numbers
    return start, None if isinstance(end, int) and end >= _ENDLESS else end, step


def _bounds(site: Site, index: int, name: str) -> list[Any]:
    if not site.has(index):
        return [int(x) for x in site.attr(name)]
    if (sizes := site.sizes(index)) is not None:
        return list(sizes.items)
    count = (site.shape(index) or (1,))[0]
    flat = site.x(index)
    return [site.call(functions.number, site.call(torch.select, flat, 0, i)) for i in range(count)]


def pad(site: Site) -> fx.Node:
    """Pad with a constant, by reflection, by the edge, or around."""
    pads, value = _pads(site), 0.0
    if site.has(2):
        value = site.number(2) or 0.0
        if site.number(2) is None:
            raise site.refuse("what it pads with is not a constant")
    elif site.attr("value") is not None:
        value = site.attr("value")
    mode = str(site.attr("mode", "constant"))
    flat = [size for pair in reversed(pads) for size in pair]
    while len(flat) > 2 and flat[-2:] == [0, 0]:
        del flat[-2:]
    if mode == "constant":
        return site.call(functional.pad, site.x(0), flat, "constant", value)
    return site.call(functions.pad_from, site.x(0), flat, mode)


def _pads(site: Site) -> list[tuple[Any, Any]]:
    """Return (in front, behind) for each axis."""
    if site.has(1):
        sizes = site.sizes(1)
        items = list(sizes.items) if sizes is not None else _bounds(site, 1, "")
    else:
        items = [int(x) for x in site.attr("pads", site.attr("paddings"))]
    rank, half = site.rank(), len(items) // 2
    axes = site.per_axis(site.ints(3) or ()) if site.has(3) else tuple(range(rank))
    named = dict(zip(axes, zip(items[:half], items[half:], strict=True), strict=True))
    return [named.get(axis, (0, 0)) for axis in range(rank)]


def trilu(site: Site) -> fx.Node:
    """Trilu: the upper or lower triangle."""
    shift = 0
    if site.has(1):
        shift = int(site.known(1).reshape(-1)[0])
    target = torch.triu if site.attr("upper", 1) else torch.tril
    return site.call(target, site.x(0), shift)


def one_hot(site: Site) -> fx.Node:
    """OneHot of a constant depth."""
    depth = int(site.known(1).reshape(-1)[0])
    return site.call(functions.one_hot, site.x(0), depth, site.x(2), int(site.attr("axis", -1)))


def non_zero(site: Site) -> fx.Node:
    """NonZero."""
    return site.call(functions.non_zero, site.x(0))


def to_space(site: Site) -> fx.Node:
    """DepthToSpace."""
    block = int(site.attr("blocksize"))
    if site.attr("mode", "DCR") == "CRD":
        return site.call(functional.pixel_shuffle, site.x(0), block)
    return site.call(functions.depth_to_space, site.x(0), block)


def to_depth(site: Site) -> fx.Node:
    """SpaceToDepth."""
    return site.call(functions.space_to_depth, site.x(0), int(site.attr("blocksize")))


RULES = {
    "DepthToSpace": to_space,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "NonZero": non_zero,
    "OneHot": one_hot,
    "Pad": pad,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "Slice": sliced,
    "SpaceToDepth": to_depth,
    "Trilu": trilu,
}
