"""Rewrite the numbers of an ONNX graph that depend on widths, after the widths have changed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from torch import fx, nn

from splitc.fx.graphs import constant, read_other
from splitc.model import Model

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
_THROUGH = frozenset(("Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape"))


def rewidth(model: Model, module: fx.GraphModule, before: Shapes, after: Shapes) -> None:
    """Make `model`'s numbers those of `module`, in place.

    `before`, `after`: tensor → its sizes in the model as it was lifted, and in the module.
    """
    nodes = model.nodes
    for call in module.graph.nodes:
        for node in (nodes[i] for i in call.meta.get("onnx_nodes", ()) if i in nodes):
            if call.op == "call_module":
                _attributes(node, module.get_submodule(str(call.target)))
            elif "tensor" in call.meta:
                _bounds(node, call)
    for node in nodes.values():
        names = [str(out.name) for out in node.outputs if out.name]
        if node.op_type in _SIZED and all(name in before and name in after for name in names):
            sizes = ([shapes[name] for name in names] for shapes in (before, after))
            _SIZED[node.op_type](node, *sizes)


def _attributes(node: ir.Node, layer: Any) -> None:
    """Write what a layer says of its own widths into the node's attributes."""
    if (
        node.op_type in ("Conv", "ConvTranspose")
        and node.attributes.get_int("group", 1) != layer.groups
    ):
        node.attributes["group"] = ir.AttrInt64("group", int(layer.groups))
    elif node.op_type in ("LSTM", "GRU", "RNN"):
        node.attributes["hidden_size"] = ir.AttrInt64("hidden_size", int(layer.hidden_size))
    elif node.op_type == "GroupNormalization" and isinstance(layer, nn.GroupNorm):
        node.attributes["num_groups"] = ir.AttrInt64("num_groups", int(layer.num_groups))


def _target(node: ir.Node, before: Sequence[Shape], after: Sequence[Shape]) -> None:
    """Reshape and Expand: the numbers of their target."""
    if len(node.inputs) < 2:
        given = [int(x) for x in node.attributes["shape"].as_ints()]
        node.attributes["shape"] = ir.AttrInt64s("shape", _renewed(given, before[0], after[0]))
    else:
        _sizes(node, 1, before[0], after[0])


def _renewed(given: Sequence[int], before: Shape, after: Shape) -> list[int]:
    """Return constants with those that stand for a changed size changed; 0 and -1 stay."""
    sizes = zip(given, before, after, strict=True)
    return [new if old != new and value == old else value for value, old, new in sizes]


def _sizes(node: ir.Node, index: int, before: Shape, after: Shape) -> bool:
    """Renew the sizes that a node reads at one place; tell whether constants said them."""
    value = node.inputs[index]
    given = constant(value)
    if given is not None:
        flat = [int(x) for x in given.reshape(-1)]
        renewed = _renewed(flat, before, after) if len(flat) == len(after) else flat
        if renewed != flat:
            array = np.array(renewed, np.int64).reshape(given.shape)
            read_other(node, index, array, f"{node.outputs[0].name}_sizes")
        return True
    maker = None if value is None else value.producer()
    if maker is not None and maker.op_type == "Concat":
        return _concat(maker, before, after)
    return maker is not None and maker.op_type in _THROUGH and _sizes(maker, 0, before, after)


def _concat(node: ir.Node, before: Shape, after: Shape) -> bool:
    """Divide sizes among the parts of a Concat; one that is computed and changed becomes -1."""
    lengths = [1 if (known := constant(v)) is None else known.size for v in node.inputs]
    if sum(lengths) != len(after):
        return False
    at = 0
    for index, length in enumerate(lengths):
        old, new = before[at : at + length], after[at : at + length]
        if not _sizes(node, index, old, new) and old != new:
            read_other(node, index, np.array([-1], np.int64), f"{node.outputs[0].name}_open")
        at += length
    return True


def _parts(node: ir.Node, _: Sequence[Shape], made: Sequence[Shape]) -> None:
    """Split: the sizes of its parts."""
    axis = node.attributes.get_int("axis", 0)
    wanted = [shape[axis] for shape in made]
    if "split" in node.attributes:
        node.attributes["split"] = ir.AttrInt64s("split", wanted)
        return
    given = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if given is not None and given.tolist() != wanted:
        read_other(node, 1, np.array(wanted, np.int64), f"{node.outputs[0].name}_sizes")


def _bounds(node: ir.Node, call: fx.Node) -> None:
    """Slice: bounds that were changed in the module's call."""
    if node.op_type != "Slice" or call.op != "call_function" or len(node.inputs) < 3:
        return
    place = call.args[1] if len(call.args) > 1 else None
    axes = constant(node.inputs[3]) if len(node.inputs) > 3 else None
    if not isinstance(place, tuple):
        return
    for index, field in ((1, "start"), (2, "stop")):
        given = constant(node.inputs[index])
        if given is None:
            continue
        along = range(given.size) if axes is None else [int(a) % 64 for a in axes]
        after = [
            _bound(place, axis, field, int(old)) for axis, old in zip(along, given, strict=True)
        ]
        if after != given.tolist():
            read_other(node, index, np.array(after, given.dtype), f"{node.outputs[0].name}_{field}")


def _bound(place: tuple[Any, ...], axis: int, field: str, old: int) -> int:
    new = getattr(place[axis], field, None) if axis < len(place) else None
    return new if isinstance(new, int) else old


_SIZED: dict[str, Callable[[ir.Node, Sequence[Shape], Sequence[Shape]], None]] = {
    "Expand": _target,
    "Reshape": _target,
    "Split": _parts,
}
