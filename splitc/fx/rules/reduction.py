"""Reduce*, ArgMax, ArgMin, CumSum, TopK."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from splitc.fx import functions
from splitc.fx.site import Site

_REDUCE: dict[str, Callable[..., Any]] = {
    "ReduceL1": functions.reduce_l1,
    "ReduceL2": functions.reduce_l2,
    "ReduceLogSum": functions.reduce_log_sum,
    "ReduceLogSumExp": torch.logsumexp,
    "ReduceMax": torch.amax,
    "ReduceMean": torch.mean,
    "ReduceMin": torch.amin,
    "ReduceProd": functions.reduce_prod,
    "ReduceSum": torch.sum,
    "ReduceSumSquare": functions.reduce_sum_square,
}


def reduced(site: Site) -> fx.Node:
    """Reduce over axes, given as an input or (before) an attribute; all of them if none are."""
    axes = site.ints(1, "axes") if site.has(1) else site.ints(99, "axes")
    if not axes:
        if site.attr("noop_with_empty_axes", 0):
            return site.call(functions.identity, site.x(0))
        axes = list(range(site.rank()))
    keep = bool(site.attr("keepdims", 1))
    return site.call(_REDUCE[site.op], site.x(0), list(axes), keep)


def extreme(site: Site) -> fx.Node:
    """ArgMax, ArgMin; the first of equal ones, or the last."""
    if site.attr("select_last_index", 0):
        raise site.refuse("it takes the last of equal elements")
    target = torch.argmax if site.op == "ArgMax" else torch.argmin
    return site.call(target, site.x(0), site.axis(0), bool(site.attr("keepdims", 1)))


def cumulated(site: Site) -> fx.Node:
    """CumSum along a constant axis."""
    axis = int(site.known(1).reshape(-1)[0])
    flags = (bool(site.attr("exclusive", 0)), bool(site.attr("reverse", 0)))
    return site.call(functions.cumsum, site.x(0), axis, *flags)


def top(site: Site) -> list[fx.Node]:
    """TopK: values and places."""
    sizes = site.sizes(1)
    count = sizes.items[0] if sizes else site.call(functions.number, site.x(1))
    flags = (bool(site.attr("largest", 1)), bool(site.attr("sorted", 1)))
    made = site.call(torch.topk, site.x(0), count, site.axis(-1), *flags)
    return [site.call(operator.getitem, made, index) for index in (0, 1)]


RULES = {
    **dict.fromkeys(_REDUCE, reduced),
    "ArgMax": extreme,
    "ArgMin": extreme,
    "CumSum": cumulated,
    "TopK": top,
}
