"""Max, average and global pools."""

import math

import torch
from torch import fx
from torch.nn import functional

from splitc.fx import functions
from splitc.fx.site import Site, as_bool
from splitc.fx.window import window

_MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_AVERAGE = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
_GLOBAL = {
    3: functional.adaptive_avg_pool1d,
    4: functional.adaptive_avg_pool2d,
    5: functional.adaptive_avg_pool3d,
}


def max_pool(site: Site) -> fx.Node:
    """MaxPool without its indices."""
    if len([out for out in site.node.outputs if out.name]) > 1:
        raise site.refuse("its indices are read")
    seen = window(site, site.attr("kernel_shape"))
    x = seen.padded(site, site.x(0), -math.inf)
    ceil = as_bool(site.attr("ceil_mode", 0))
    numbers = (seen.kernel, seen.strides, seen.symmetric, seen.dilations, ceil)
    return site.call(_MAX[len(seen.kernel)], x, *numbers)


def average_pool(site: Site) -> fx.Node:
    """AveragePool, padding counted or not."""
    seen = window(site, site.attr("kernel_shape"))
    if set(seen.dilations) != {1} or seen.pads is None:
        raise site.refuse("it has dilations, or pads that depend on its input's sizes")
    counted = as_bool(site.attr("count_include_pad", 0))
    ceil = as_bool(site.attr("ceil_mode", 0))
    if not seen.even and not counted:
        numbers = (seen.kernel, seen.strides, seen.reversed_pads, ceil)
        return site.call(functions.average_pool, site.x(0), *numbers)
    x = seen.padded(site, site.x(0), 0.0)
    arguments = (seen.kernel, seen.strides, seen.symmetric, ceil, counted)
    return site.call(_AVERAGE[len(seen.kernel)], x, *arguments)


def global_average(site: Site) -> fx.Node:
    """GlobalAveragePool."""
    return site.call(_GLOBAL[site.rank()], site.x(0), 1)


def global_max(site: Site) -> fx.Node:
    """GlobalMaxPool."""
    return site.call(torch.amax, site.x(0), list(range(2, site.rank())), True)


def lp_pool(site: Site) -> fx.Node:
    """LpPool, the p-th root of summed p-th powers; the global one takes all spatial axes."""
    p = int(site.attr("p", 2))
    if site.op == "GlobalLpPool":
        axes = list(range(2, site.rank()))
        return site.call(torch.linalg.vector_norm, site.x(0), p, axes, True)
    seen = window(site, site.attr("kernel_shape"))
    if set(seen.dilations) != {1} or seen.pads is None or site.attr("ceil_mode", 0):
        raise site.refuse("it has dilations, rounds up, or pads by its input's sizes")
    numbers = (p, seen.kernel, seen.strides, seen.reversed_pads)
    return site.call(functions.lp_pool, site.x(0), *numbers)


RULES = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average,
    "GlobalMaxPool": global_max,
    "LpPool": lp_pool,
    "GlobalLpPool": lp_pool,
}
