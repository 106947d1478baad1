"""Conv and ConvTranspose, as the nn modules of their rank."""

from collections.abc import Callable

from torch import fx, nn
from torch.nn import functional

from splitc.fx.builder import Weight
from splitc.fx.layouts import Permuted
from splitc.fx.site import Site
from splitc.fx.window import Window, window

_Layers = dict[int, Callable[..., nn.Module]]
_CONV: _Layers = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: _Layers = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_FUNCTION = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def conv(site: Site) -> fx.Node:
    """Conv, with weights that are initializers or that the network computes."""
    shape = site.shape(1)
    if shape is None or len(shape) - 2 not in _CONV:
        raise site.refuse(f"its weight has sizes {shape}")
    seen = window(site, shape[2:])
    x = seen.padded(site, site.x(0), 0.0)
    weight, bias = site.weight(1), site.weight(2)
    layout = Permuted(weight.order) if weight else Permuted()
    ready = weight is not None and (bias is not None or not site.has(2))
    if bias is not None and bias.name in site.builder.computed and not bias.array.any():
        bias = None  # torch's exporter writes a missing bias as zeros by the weight's size
    if weight is None or not ready or not site.builder.owns(weight, layout):
        return _functional(site, x, seen, len(shape) - 2)
    return layer(site, x, weight, bias, seen)


def layer(site: Site, x: fx.Node, weight: Weight, bias: Weight | None, seen: Window) -> fx.Node:
    """Add the module."""
    out, per_group, *kernel = weight.seen.shape
    groups = int(site.attr("group", 1))
    module = _CONV[len(kernel)](
        per_group * groups,
        out,
        tuple(kernel),
        stride=seen.strides,
        padding=seen.symmetric,
        dilation=seen.dilations,
        groups=groups,
        bias=bias is not None,
        device="meta",
    )
    held = [(("weight",), weight, Permuted(weight.order)), (("bias",), bias, Permuted())]
    return site.layer(module, held, x)


def _functional(site: Site, x: fx.Node, seen: Window, rank: int) -> fx.Node:
    bias = site.x(2) if site.has(2) else None
    groups = int(site.attr("group", 1))
    numbers = (seen.strides, seen.symmetric, seen.dilations, groups)
    return site.call(_FUNCTION[rank], x, site.x(1), bias, *numbers)


def transposed(site: Site) -> fx.Node:
    """ConvTranspose; pads that differ in front and behind are cut off the full result."""
    weight, bias = site.weight(1), site.weight(2)
    if weight is None or (site.has(2) and bias is None):
        raise site.refuse("its weight is not an initializer")
    entry, per_group, *kernel = weight.seen.shape
    groups = int(site.attr("group", 1))
    seen = window(site, kernel)
    pads, extra = _transposed_pads(site, seen)
    even = all(a == b for a, b in pads) and all(
        0 <= e < max(s, d) for e, s, d in zip(extra, seen.strides, seen.dilations, strict=True)
    )
    module = _TRANSPOSED[len(kernel)](
        entry,
        per_group * groups,
        tuple(kernel),
        stride=seen.strides,
        padding=tuple(a for a, _ in pads) if even else 0,
        output_padding=extra if even else 0,
        groups=groups,
        bias=bias is not None,
        dilation=seen.dilations,
        device="meta",
    )
    held = [(("weight",), weight, Permuted(weight.order)), (("bias",), bias, Permuted())]
    made = site.layer(module, held, site.x(0))
    if even:
        return made
    cut = [
        size
        for (a, b), e in zip(reversed(pads), reversed(extra), strict=True)
        for size in (-a, e - b)
    ]
    return site.call(functional.pad, made, cut)


def _transposed_pads(site: Site, seen: Window) -> tuple[list[tuple[int, int]], tuple[int, ...]]:
    """Return (pads in front and behind, output padding) for each axis."""
    rank = len(seen.kernel)
    extra = tuple(int(x) for x in site.attr("output_padding", [0] * rank))
    wanted, have = site.attr("output_shape"), site.shape(0)
    if wanted is None:
        return list(seen.pads or []), extra
    if have is None:
        raise site.refuse("output_shape is given and its input's sizes are unknown")
    full = [
        s * (n - 1) + (k - 1) * d + 1 + e
        for s, n, k, d, e in zip(
            seen.strides, have[2:], seen.kernel, seen.dilations, extra, strict=True
        )
    ]
    totals = [f - int(w) for f, w in zip(full, list(wanted)[-rank:], strict=True)]
    upper = site.attr("auto_pad", "NOTSET") == "SAME_UPPER"
    pads = [(t // 2, t - t // 2) if upper else (t - t // 2, t // 2) for t in totals]
    return pads, extra


RULES = {"Conv": conv, "ConvTranspose": transposed}
