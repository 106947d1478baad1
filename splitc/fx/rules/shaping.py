"""Reshape, Transpose, Concat, Split, Expand and their kin."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import fx

from splitc.fx import functions, reshaping
from splitc.fx.builder import Made, Sizes
from splitc.fx.rules.elementwise import torch_dtype
from splitc.fx.site import Site


def reshape(site: Site) -> fx.Node:
    """Reshape, by the input's sizes wherever they decide it."""
    x, target = site.x(0), site.sizes(1) if site.has(1) else _attribute(site, "shape")
    if target is None:
        return site.call(functions.reshape_to, x, site.x(1), bool(site.attr("allowzero", 0)))
    items = list(target.items)
    if not site.attr("allowzero", 0):
        items = [site.builder.size(x, i) if v == 0 else v for i, v in enumerate(items)]
    shapes = site.before_and_after()
    if items and shapes is not None and len(shapes[1]) == len(items):
        items = reshaping.derived(site.builder, x, items, *shapes)
    if shapes and (merged := reshaping.flattened(items, shapes[0], x)) is not None:
        return site.call(torch.flatten, x, *merged)
    return site.call(torch.reshape, x, tuple(items))


def _attribute(site: Site, name: str) -> Sizes:
    return Sizes(tuple(int(x) for x in site.attr(name)))


def flatten(site: Site) -> fx.Node:
    """Flatten to a matrix."""
    axis = site.axis(1)
    if axis == 1:
        return site.call(torch.flatten, site.x(0), 1)
    return site.call(functions.matrix, site.x(0), axis)


def transpose(site: Site) -> fx.Node:
    """Transpose."""
    order = site.attr("perm") or reversed(range(site.rank()))
    return site.call(torch.permute, site.x(0), tuple(int(i) for i in order))


def squeeze(site: Site) -> fx.Node:
    """Squeeze the named axes, or all of size 1."""
    axes = site.ints(1, "axes") if site.has(1) else site.ints(99, "axes")
    if axes is None:
        return site.call(torch.squeeze, site.x(0))
    return site.call(torch.squeeze, site.x(0), tuple(axes))


def unsqueeze(site: Site) -> fx.Node:
    """Unsqueeze; the axes count in the output."""
    axes = site.ints(1, "axes") if site.has(1) else site.ints(99, "axes")
    if axes is None:
        raise site.refuse("it has no axes")
    made = site.x(0)
    for axis in sorted(site.per_axis(axes, more=len(axes))):
        made = site.call(torch.unsqueeze, made, axis)
    return made


def concat(site: Site) -> fx.Node:
    """Concat."""
    return site.call(torch.cat, site.all(), int(site.attr("axis")))


def split(site: Site) -> Sequence[fx.Node]:
    """Split in equal parts (chunk, which follows a changed width) or by sizes."""
    sizes = site.ints(1, "split") if site.has(1) else site.ints(99, "split")
    count, axis = len(site.node.outputs), int(site.attr("axis", 0))
    if sizes is None or len(set(sizes)) == 1:
        made = site.call(torch.chunk, site.x(0), count, axis)
    else:
        made = site.call(torch.split, site.x(0), sizes, axis)
    return [site.call(operator.getitem, made, index) for index in range(count)]


def sequence(site: Site) -> fx.Node:
    """SplitToSequence: a tuple of parts."""
    axis, keep = int(site.attr("axis", 0)), bool(site.attr("keepdims", 1))
    if not site.has(1):
        if keep:
            return site.call(torch.split, site.x(0), 1, axis)
        return site.call(torch.unbind, site.x(0), axis)
    sizes = site.sizes(1)
    if sizes is None:
        raise site.refuse("the sizes of its parts are a tensor that the network computes")
    parts = sizes.items[0] if sizes.scalar else list(sizes.items)
    return site.call(torch.split, site.x(0), parts, axis)


def element(site: Site) -> fx.Node:
    """SequenceAt: one part of a sequence."""
    sizes = site.sizes(1)
    place = sizes.items[0] if sizes is not None else site.call(functions.number, site.x(1))
    return site.call(operator.getitem, site.x(0), place)


def constructed(site: Site) -> fx.Node:
    """SequenceConstruct: a tuple of tensors."""
    return site.call(functions.together, site.all())


def joined(site: Site) -> fx.Node:
    """ConcatFromSequence."""
    target = torch.stack if site.attr("new_axis", 0) else torch.cat
    return site.call(target, site.x(0), int(site.attr("axis")))


def expand(site: Site) -> fx.Node:
    """Expand; sizes that the input has anyway are left to it."""
    target = site.sizes(1)
    if target is None:
        return site.call(functions.expand_to, site.x(0), site.x(1))
    items, have = list(target.items), site.wide(0) or ()
    for back in range(1, min(len(have), len(items)) + 1):
        if items[-back] == have[-back]:
            items[-back] = 1
    return site.call(functions.expand, site.x(0), items)


def tile(site: Site) -> fx.Node:
    """Tile."""
    times = site.sizes(1)
    if times is None:
        raise site.refuse("its repeats are no sizes")
    return site.call(torch.tile, site.x(0), tuple(times.items))


def shape(site: Site) -> Made:
    """Shape: sizes that are nodes; what nobody reads is dropped later."""
    x, known = site.x(0), site.builder.known_rank(site.input(0))
    if known is None:
        return site.call(functions.shape, x, site.attr("start", 0), site.attr("end"))
    axes = range(known)[slice(site.attr("start", 0), site.attr("end"))]
    return Sizes(tuple(site.builder.size(x, axis) for axis in axes))


def size(site: Site) -> Made:
    """Size: the number of elements."""
    return Sizes((site.builder.method("numel", site.x(0)),), scalar=True)


def filled(site: Site) -> Made:
    """ConstantOfShape."""
    value = site.attr("value")
    array = np.zeros(1, np.float32) if value is None else value.numpy()
    sizes = site.sizes(0)
    dtype = torch_dtype(site, ir.DataType.from_numpy(array.dtype))
    target: Any = site.x(0) if sizes is None else list(sizes.items)
    return site.call(functions.filled, site.builder.like(), target, array.item(), dtype)


def arange(site: Site) -> fx.Node:
    """Range of whole numbers or floats."""
    bounds = [_number(site, index) for index in range(3)]
    dtype = next((v.dtype for v in (*site.node.outputs, *site.node.inputs) if v and v.dtype), None)
    kind = torch_dtype(site, dtype or ir.DataType.INT64)
    return site.call(functions.arange, site.builder.like(), *bounds, kind)


def _number(site: Site, index: int) -> Any:
    if (known := site.number(index)) is not None:
        return known
    sizes = site.sizes(index)
    return sizes.items[0] if sizes is not None else site.x(index)


RULES = {
    "Concat": concat,
    "ConcatFromSequence": joined,
    "ConstantOfShape": filled,
    "Expand": expand,
    "Flatten": flatten,
    "Range": arange,
    "Reshape": reshape,
    "SequenceAt": element,
    "SequenceConstruct": constructed,
    "Shape": shape,
    "Size": size,
    "Split": split,
    "SplitToSequence": sequence,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
