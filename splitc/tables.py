"""Which tables an integer input indexes, however far behind it, and how many rows they have.

The values of the input are followed through what keeps, adds to or multiplies them — reshapes,
sums with constants, bodies of If, Loop and Scan — to where they index something. What comes out
of a comparison, an arithmetic of floats or a network layer is no index of ours any more.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from splitc.model import Fact, Model, bodies

_KEEPS: Mapping[str, tuple[int, ...] | None] = {
    **dict.fromkeys(("Concat", "Identity", "Max", "Min", "Transpose", "Flatten", "Sum"), None),
    **dict.fromkeys(
        ("Cast", "CastLike", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Split"), (0,)
    ),
    **dict.fromkeys(
        ("Expand", "Tile", "Gather", "GatherElements", "GatherND", "Clip", "Pad"), (0,)
    ),
    **dict.fromkeys(("Mod", "Div", "Abs", "Neg", "Compress", "Trilu", "ReverseSequence"), (0,)),
    **dict.fromkeys(("Floor", "Ceil", "Round", "ReduceMax", "ReduceMin", "TopK", "Unique"), (0,)),
    **dict.fromkeys(("ScatterElements", "ScatterND"), (0, 2)),
    "Where": (1, 2),
}
"""Operator → the inputs whose values come out unchanged or smaller (None: all of them)."""

_LIMIT = 100_000


@dataclass(frozen=True, slots=True)
class _Reach:
    """A value that holds up to `scale` · input + `shift`."""

    value: ir.Value
    scale: int = 1
    shift: int = 0


def rows(model: Model, value: ir.Value, known: Mapping[str, Fact]) -> int | None:
    """Return how many values from 0 on `value` may take so that no index leaves its table.

    None if it indexes nothing. `known`: sizes of tensors, by name, beside those of the graph.
    """
    links = _body_links(model.ir.graph)
    queue, seen = [_Reach(value)], {_Reach(value)}
    counts: list[int] = []
    while queue and len(seen) < _LIMIT:
        here = queue.pop()
        following = [_Reach(other, here.scale, here.shift) for other in links.get(here.value, ())]
        for use in here.value.uses():
            size = _indexed(use.node, use.idx, known)
            if size is not None:
                counts.append((size - 1 - here.shift) // here.scale + 1)
            following += _after(use.node, use.idx, here, known)
        fresh = [reach for reach in following if reach not in seen]
        queue += fresh
        seen |= set(fresh)
    return max(1, min(counts)) if counts else None


def _after(node: ir.Node, place: int, here: _Reach, known: Mapping[str, Fact]) -> Iterator[_Reach]:
    """Yield what the outputs of `node` hold of the value that it reads at `place`."""
    scale, shift = here.scale, here.shift
    if node.op_type in ("Add", "Sub", "Mul"):
        constant = _largest(node.inputs[1 - place])
        if node.op_type == "Mul":
            scale, shift = scale * (constant or 1), shift * (constant or 1)
        elif constant is None:
            scale *= 2
        else:
            shift += constant if node.op_type == "Add" else 0
    elif node.op_type in ("CumSum", "ReduceSum") and place == 0:
        scale *= _elements(here.value, known)
    elif node.op_type not in _KEEPS or place not in (_KEEPS[node.op_type] or (place,)):
        return
    yield _Reach(node.outputs[0], scale, shift)
    if node.op_type == "Split":
        yield from (_Reach(out, scale, shift) for out in node.outputs[1:])


def _largest(value: ir.Value | None) -> int | None:
    """Return the largest element of a constant, at least 0; None if it is none."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.size == 0 or tensor.dtype == ir.DataType.STRING:
        return None
    return max(0, int(tensor.numpy().max()))


def _elements(value: ir.Value, known: Mapping[str, Fact]) -> int:
    fact = known.get(str(value.name))
    sizes = fact.shape if fact else tuple(d for d in value.shape or () if isinstance(d, int))
    total = 1
    for size in sizes:
        total *= max(size, 1)
    return total


def _indexed(node: ir.Node, place: int, known: Mapping[str, Fact]) -> int | None:
    """Return the rows of the table that `node` indexes with its input at `place`, if it does."""
    if node.op_type == "OneHot" and place == 0:
        return _largest(node.inputs[1])
    if node.op_type == "EmbedLayerNormalization":
        return _axis(node.inputs[{0: 2, 1: 4}[place]], 0, known) if place in (0, 1) else None
    if place != 1:
        return None
    if node.op_type in ("Gather", "GatherElements", "ScatterElements", "GatherBlockQuantized"):
        named = "gather_axis" if node.op_type == "GatherBlockQuantized" else "axis"
        return _axis(node.inputs[0], _attribute(node, named), known)
    if node.op_type in ("GatherND", "ScatterND"):
        first, last = _attribute(node, "batch_dims"), _axis(node.inputs[1], -1, known) or 1
        sizes = [_axis(node.inputs[0], axis, known) for axis in range(first, first + last)]
        return min((size for size in sizes if size), default=None)
    return None


def _attribute(node: ir.Node, name: str) -> int:
    return node.attributes[name].as_int() if name in node.attributes else 0


def _axis(table: ir.Value | None, axis: int, known: Mapping[str, Fact]) -> int | None:
    """Return the size of one axis of a tensor, None where it is unknown."""
    if table is None:
        return None
    tensor, fact = table.const_value, known.get(str(table.name))
    shape = tensor.shape if tensor is not None else fact.shape if fact else table.shape
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    size = shape[axis]
    return size if isinstance(size, int) else None


def _body_links(graph: ir.Graph) -> dict[ir.Value, list[ir.Value]]:
    """Return how values enter and leave bodies: value → where it appears under another name."""
    links: dict[ir.Value, list[ir.Value]] = {}
    for node in graph:
        for body in bodies(node):
            outer, inner = {"Loop": (2, 2), "Scan": (0, 0)}.get(node.op_type, (0, 0))
            first = 1 if node.op_type == "Loop" else 0
            pairs = [
                *zip(node.inputs[outer:], body.inputs[inner:], strict=False),
                *zip(body.outputs[first:], node.outputs, strict=False),
            ]
            for source, target in pairs:
                if source is not None:
                    links.setdefault(source, []).append(target)
            for source, targets in _body_links(body).items():
                links.setdefault(source, []).extend(targets)
    return links
