"""Attention heads as groups: rows of q, k and v, columns of the output projection.

A Softmax (or a fused attention) is followed back to the Linears that make q, k and v, and forward
to the one that reads the result, through transposes, reshapes, splits and scalings. Which row
belongs to which head is read off: the rows' own numbers are sent along the way in place of values.
"""

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import Tensor, fx, nn
from torch.nn import functional

from splitc.inference import infer
from splitc.model import Fact, Model
from splitc.pruning.groups import Channels, Group, Part, tried
from splitc.pruning.layers import widths

_SOFTMAX = (torch.softmax, functional.softmax)
_PRODUCTS = (torch.matmul, operator.matmul)
_FUSED = (functional.scaled_dot_product_attention,)
_VIEWS = (torch.reshape, torch.permute, torch.transpose, torch.flatten, operator.getitem)
_PARTS = (torch.chunk, torch.split, torch.squeeze, torch.unsqueeze)
_METHODS = ("view", "reshape", "permute", "transpose", "contiguous", "flatten", "squeeze")
_LAYOUT = frozenset((*_VIEWS, *_PARTS, *_METHODS, "unsqueeze", "chunk", "split"))
_SCALE = frozenset((operator.mul, operator.truediv, torch.mul, torch.div, torch.Tensor.to, "to"))
_HEADS = 1
"""The axis of heads in what is multiplied: [batch, heads, positions, width]."""


@dataclass(frozen=True)
class Attention:
    """The nodes of one attention: three operands, its products, and what comes out."""

    operands: tuple[fx.Node, fx.Node, fx.Node]
    products: tuple[fx.Node, ...]
    result: fx.Node


def with_heads(model: Model) -> Model:
    """Return the model with sizes of Reshapes written down, where they are the same at any batch.

    Exporters compute [N, L, heads, width] from the shape of the residual stream, which has another
    width than fewer heads have. Axes that are copied become 0, the others numbers.
    """
    copy = model.clone()
    for node in copy.ir.graph:
        if node.op_type == "Reshape" and (target := _target(node, model.facts)) is not None:
            name = f"{node.outputs[0].name}_sizes"
            value = ir.Value(
                name=name, const_value=ir.tensor(np.array(target, np.int64), name=name)
            )
            if name not in copy.ir.graph.initializers:
                copy.ir.graph.register_initializer(value)
                node.replace_input_with(1, value)
                node.attributes.pop("allowzero", None)
    RemoveUnusedNodesPass()(copy.ir)
    infer(copy.ir)
    return replace(copy)


def _target(node: ir.Node, facts: Mapping[str, Fact]) -> list[int] | None:
    """Return the sizes that a Reshape makes, as numbers and zeros; None if they may vary."""
    read, made = node.inputs[0], node.outputs[0]
    if read is None or read.shape is None or made.shape is None or made.name not in facts:
        return None
    sizes: list[int] = []
    for axis, (size, now) in enumerate(zip(made.shape, facts[str(made.name)].shape, strict=True)):
        same = axis < len(read.shape) and read.shape[axis] == size
        if isinstance(size, int) or str(size).startswith("unk__"):
            sizes.append(now)
        elif same:
            sizes.append(0)
        else:
            return None
    return sizes


def heads(
    module: fx.GraphModule, few: tuple[Tensor, ...], work: Mapping[str, int]
) -> tuple[Group, ...]:
    """Return one group for each attention whose heads can go, its own products in `work`."""
    found = list(attentions(module.graph))
    if not found:
        return ()
    values = _Values(module)
    with torch.no_grad():
        values.run(*few)
    made = [_group(module, one, values.seen, work) for one in found]
    return tried(module, [group for group in made if group is not None], few)


def attentions(graph: fx.Graph) -> Iterator[Attention]:
    """Yield what looks like attention: Softmax(q k …) v, or torch's fused one."""
    for node in graph.nodes:
        if node.target in _FUSED:
            q, k, v = node.args[:3]
            yield Attention((q, k, v), (node,), node)
        elif node.target in _SOFTMAX:
            scores = _back_to_product(node.args[0])
            outs = [u for u in node.users if u.target in _PRODUCTS and u.args[0] is node]
            if scores is not None and len(outs) == 1 == len(node.users):
                operands = (*scores.args[:2], outs[0].args[1])
                if all(isinstance(one, fx.Node) for one in operands):
                    yield Attention(operands, (scores, outs[0]), outs[0])


def _back_to_product(node: Any) -> fx.Node | None:
    """Return the product that a Softmax's input is made of, through scaling and masks."""
    waiting, seen = [node], set()
    while waiting:
        at = waiting.pop(0)
        if not isinstance(at, fx.Node) or at in seen:
            continue
        seen.add(at)
        if at.target in _PRODUCTS:
            return at
        if at.op in ("call_function", "call_method"):
            waiting += at.all_input_nodes
    return None


class _Values(fx.Interpreter):
    """Runs a module and keeps what every node is."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.seen: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.seen[n] = made = super().run_node(n)
        return made


def _group(
    module: fx.GraphModule,
    one: Attention,
    seen: Mapping[fx.Node, Any],
    work: Mapping[str, int],
) -> Group | None:
    rows: dict[str, list[Channels]] = {}
    for operand in one.operands:
        source = _linear_behind(module, operand)
        if source is None or not isinstance(seen[operand], Tensor) or seen[operand].ndim < 3:
            return None
        layer = module.get_submodule(str(source.target))
        numbers = torch.arange(widths(layer)[0]).expand(seen[source].shape)
        sent = _sent(source, numbers, operand, seen)
        if sent is None or sent.ndim != seen[operand].ndim or sent.ndim != 4:
            return None
        rows.setdefault(str(source.target), []).append(_by_head(sent))
    columns = _columns(module, one.result, seen)
    if columns is None:
        return None
    reader, places = columns
    parts = [Part(name, "out", np.concatenate(listed, 1)) for name, listed in rows.items()]
    if len({len(part.places) for part in parts} | {len(places)}) != 1:
        return None
    products = sum(work.get(name, 0) for node in one.products for name in _onnx(node))
    name = next(iter(rows))
    return Group(name, len(places), (*parts, Part(reader, "in", places)), float(products))


def _onnx(node: fx.Node) -> tuple[str, ...]:
    """Return the identities of the ONNX nodes that a node stands for."""
    return tuple(node.meta.get("onnx_nodes", ()))


def _linear_behind(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Return the Linear that a tensor is a rearrangement of."""
    while node.op != "call_module":
        if node.target not in _LAYOUT | _SCALE or not isinstance(node.args[0], fx.Node):
            return None
        node = node.args[0]
    return node if isinstance(module.get_submodule(str(node.target)), nn.Linear) else None


def _sent(
    source: fx.Node, value: Tensor, to: fx.Node, seen: Mapping[fx.Node, Any]
) -> Tensor | None:
    """Return what `value`, put in place of a node's, is by the time it comes to another."""
    path = [to]
    while path[-1] is not source:
        path.append(path[-1].args[0])  # type: ignore[arg-type]
    made: Any = value
    for node in reversed(path[:-1]):
        if node.target in _SCALE:
            continue
        args = _plain(node.args[1:], seen)
        kwargs = _plain(node.kwargs, seen)
        if callable(node.target):
            made = node.target(made, *args, **kwargs)
        else:
            made = getattr(made, node.target)(*args, **kwargs)
    return made if isinstance(made, Tensor) else None


def _plain(args: Any, seen: Mapping[fx.Node, Any]) -> Any:
    """Return arguments with the values of the nodes among them."""
    return fx.node.map_arg(args, lambda node: seen[node])


def _by_head(sent: Tensor) -> Channels:
    """Return head → the numbers that came to it, ascending."""
    each = [np.unique(sent[:, head].numpy()) for head in range(sent.shape[_HEADS])]
    width = min(len(one) for one in each)
    return np.array([one[:width] for one in each], np.intp)


def _columns(
    module: fx.GraphModule, result: fx.Node, seen: Mapping[fx.Node, Any]
) -> tuple[str, Channels] | None:
    """Return the Linear that reads the result, and head → the columns that it comes in by."""
    value = seen[result]
    if not isinstance(value, Tensor) or value.ndim != 4:
        return None
    count = value.shape[_HEADS]
    sent: Any = torch.arange(count)[None, :, None, None].expand(value.shape)
    node = result
    while len(node.users) == 1:
        before, node = node, next(iter(node.users))
        if node.op == "call_module":
            layer = module.get_submodule(str(node.target))
            heads_of = sent.reshape(-1, sent.shape[-1])[0].numpy()
            if not isinstance(layer, nn.Linear) or len(heads_of) != layer.in_features:
                return None
            places = [np.flatnonzero(heads_of == head) for head in range(count)]
            same = len({len(p) for p in places}) == 1
            return (str(node.target), np.array(places, np.intp)) if same else None
        if node.target not in _LAYOUT or node.args[0] is not before:
            return None
        sent = _sent(before, sent, node, seen)
        if sent is None:
            return None
    return None
