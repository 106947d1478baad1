"""Write QuantizeLinear and DequantizeLinear around the nodes that shall compute in int8.

    c = Conv(x, w, b)        becomes    x_q = QuantizeLinear(x, s, z)
                                        x_d = DequantizeLinear(x_q, s, z)
                                        w_d = DequantizeLinear(w_quantized, w_s, w_z)
                                        c = Conv(x_d, w_d, b)

Every tensor of the graph keeps its name and its float value: only the chosen nodes read what was
rounded, and a node that was not chosen, an If body, or the graph's output reads the float as
before. onnxruntime's quantizer, whose numbers these are (`numbers`), turns every reader over,
renames outputs, drops activations and puts its nodes at the end; hence the graph is written here.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from splitc.model import Model, identity
from splitc.quant import numbers
from splitc.quant.numbers import Integers, Scheme
from splitc.quant.places import (
    MOVES,
    PRODUCTS,
    data,
    dequantized,
    is_weight,
    rounded_later,
    weight_of,
)
from splitc.quant.ranges import Range
from splitc.quant.stored import Store
from splitc.quant.types import retype


def quantized(
    model: Model, nodes: Collection[str], ranges: Mapping[str, Range], scheme: Scheme
) -> Model:
    """Return the model with these nodes in int8; `ranges` must hold what `measured` names."""
    copy = model.clone()
    writer = _Writer(copy.ir.graph, frozenset(nodes), ranges, scheme)
    for node in list(copy.ir.graph):
        if identity(node) in writer.chosen:
            writer.rewrite(node)
    writer.part_readers()
    writer.store.drop_unused()
    retype(copy)
    return copy


def measured(model: Model, nodes: Collection[str]) -> tuple[str, ...]:
    """Return the tensors whose ranges `quantized` may need, in the graph's order."""
    found: dict[str, None] = {}
    for name in nodes:
        node = model.nodes[name]
        made = [out for out in node.outputs if out.dtype == ir.DataType.FLOAT]
        found |= dict.fromkeys(str(v.name) for v in (*data(node), *made))
    return tuple(sorted(found, key=model.graph.rank.__getitem__))


class _Writer:
    """Rewrites nodes of one graph in place; a tensor is rounded once, whoever reads it."""

    def __init__(
        self,
        graph: ir.Graph,
        chosen: frozenset[str],
        ranges: Mapping[str, Range],
        scheme: Scheme,
    ) -> None:
        self.graph, self.chosen, self.ranges, self.scheme = graph, chosen, ranges, scheme
        self.store = Store(graph)
        self.source = _scale_sources(graph, chosen)
        self.rounded: dict[ir.Value, ir.Value] = {}
        self.scales: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def rewrite(self, node: ir.Node) -> None:
        """Let a node read integers, and round what it makes where the scheme asks for it."""
        self._weights(node)
        for place, value in enumerate(node.inputs):
            if value is not None and value in data(node) and self._rounds(value):
                node.replace_input_with(place, self._activation(value))
        if not self.scheme.symmetric:
            for out in node.outputs:
                self._output(out)

    def part_readers(self) -> None:
        """Give each reader of a rounded tensor a DequantizeLinear of its own.

        Then integers alone need cross where readers stand on both sides of a cut, and each is one
        group with its reader. onnxruntime parts them too before it chooses kernels.
        """
        for value in self.rounded.values():
            widen = value.producer()
            uses = [use for use in value.uses() if use.node.graph is self.graph]
            readers = list(dict.fromkeys(use.node for use in uses))
            assert widen is not None
            integers, name = widen.inputs[0], str(value.name)
            for reader in readers[1:]:
                made = self._widened(integers, widen, name, value)
                for use in uses:
                    if use.node is reader:
                        reader.replace_input_with(use.idx, made)

    def _widened(
        self, integers: ir.Value | None, like: ir.Node, name: str, value: ir.Value
    ) -> ir.Value:
        """Return what one more DequantizeLinear makes, right behind the node `like`."""
        title = self.store.fresh(name)
        out = ir.Value(name=title, type=ir.TensorType(ir.DataType.FLOAT), shape=value.shape)
        made = ir.node(
            "DequantizeLinear", [integers, *like.inputs[1:]], outputs=[out], name=f"{title}_node"
        )
        self.graph.insert_after(like, made)
        return out

    def _rounds(self, value: ir.Value) -> bool:
        """Tell whether a tensor that a chosen node reads shall be integers."""
        return (
            value.dtype == ir.DataType.FLOAT
            and not dequantized(value)
            and not rounded_later(value, self.chosen)
        )

    def _output(self, out: ir.Value) -> None:
        """Round what an int8 node makes, for whoever reads it, as integer kernels do.

        An output of the graph, which a tensor at the cut is too meanwhile, stays float for others.
        """
        uses = [use for use in out.uses() if use.node.graph is self.graph]
        if not uses or out.is_graph_output() or not self._rounds(out):
            return
        made = self._activation(out)
        for use in uses:
            if use.node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
                use.node.replace_input_with(use.idx, made)

    def _activation(self, value: ir.Value) -> ir.Value:
        """Return the rounded form of a tensor, made right behind it."""
        if value not in self.rounded:
            scale, zero = self._scale(value)
            name = str(value.name)
            integers = self._node("QuantizeLinear", [value, scale, zero], name, value, zero.dtype)
            made = self._node(
                "DequantizeLinear", [integers, scale, zero], name, value, ir.DataType.FLOAT
            )
            self._insert(value, [integers.producer(), made.producer()])
            self.rounded[value] = made
        return self.rounded[value]

    def _scale(self, value: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return (scale, zero point) of a tensor: those of the tensor that it is moved from."""
        origin = self.source.get(value, value)
        if origin not in self.scales:
            pair = numbers.activation(self.ranges[str(origin.name)], self.scheme)
            names = (f"{origin.name}_scale", f"{origin.name}_zero_point")
            self.scales[origin] = tuple(map(self.store.add, names, pair))  # type: ignore[assignment]
        return self.scales[origin]

    def _weights(self, node: ir.Node) -> None:
        """Store a node's weight as int8, and its bias as int32 where the scheme asks for it."""
        value = weight_of(node)
        if value is None or value.const_value is None or dequantized(value):
            return
        place = next(at for at, v in enumerate(node.inputs) if v is value)
        axis = channel_axis(node, place) if self.scheme.per_channel else None
        array = value.const_value.numpy()
        scale = self._data_scale(node)
        whole = self.scheme.symmetric or self.scheme.float_bias
        bias = None if whole else plain_bias(node)
        smallest = numbers.smallest_scale(bias, scale) if bias is not None else np.zeros(1)
        floor = smallest if axis is not None else np.asarray(smallest.max())
        integers = numbers.weight(array, axis, floor)
        node.replace_input_with(place, self._constant(node, str(value.name), integers))
        if bias is not None:
            made = numbers.bias(bias, scale, integers.scale)
            known = node.inputs[2]
            assert known is not None
            node.replace_input_with(2, self._constant(node, str(known.name), made))

    def _data_scale(self, node: ir.Node) -> NDArray[Any]:
        """Return the scale of what a node multiplies its weight by."""
        value = data(node)[0]
        maker = value.producer()
        scale = maker.inputs[1] if maker is not None and dequantized(value) else None
        if scale is None:
            scale = self._scale(value)[0]
        assert scale.const_value is not None
        return scale.const_value.numpy()

    def _constant(self, node: ir.Node, name: str, made: Integers) -> ir.Value:
        """Store integers and widen them before `node`."""
        stored = self.store.add(f"{name}_quantized", made.values)
        scale = self.store.add(f"{name}_scale", made.scale)
        zero = self.store.add(f"{name}_zero_point", made.zero_point)
        read = [stored, scale, zero]
        out = self._node("DequantizeLinear", read, name, stored, ir.DataType.FLOAT, made.axis)
        widen = out.producer()
        assert widen is not None
        self.graph.insert_before(node, widen)
        return out

    def _node(
        self,
        op: str,
        inputs: list[ir.Value],
        name: str,
        like: ir.Value,
        dtype: ir.DataType | None,
        axis: int | None = None,
    ) -> ir.Value:
        """Make a node whose output is named after `name` and shaped as `like`."""
        title = self.store.fresh(f"{name}_{op}_Output")
        assert dtype is not None
        out = ir.Value(name=title, type=ir.TensorType(dtype), shape=like.shape)
        attributes = {} if axis is None else {"axis": axis}
        ir.node(op, inputs, attributes, outputs=[out], name=f"{title}_node")
        return out

    def _insert(self, value: ir.Value, nodes: Iterable[ir.Node | None]) -> None:
        """Put nodes right behind the maker of a tensor; behind a graph input: in front."""
        made = [node for node in nodes if node is not None]
        maker = value.producer()
        if maker is not None:
            self.graph.insert_after(maker, made)
        else:
            self.graph.insert_before(self.graph[0], made)


def _scale_sources(graph: ir.Graph, chosen: frozenset[str]) -> dict[ir.Value, ir.Value]:
    """Return tensor → the tensor whose scale it has, for what chosen nodes only move around."""
    found: dict[ir.Value, ir.Value] = {}
    for node in graph:
        if node.op_type in MOVES and identity(node) in chosen and node.inputs[0] is not None:
            origin = found.get(node.inputs[0], node.inputs[0])
            if not dequantized(origin):
                found |= dict.fromkeys(node.outputs, origin)
    return found


def channel_axis(node: ir.Node, place: int) -> int | None:
    """Return the axis of output channels of a weight; None where a kernel takes one scale only."""
    weight = node.inputs[place]
    rank = len(weight.shape or ()) if weight is not None else 0
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if _number(node, "group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if _number(node, "transB", 0) else 1
    return 1 if place == 1 and rank == 2 else None


def _number(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.value)


def plain_bias(node: ir.Node) -> NDArray[Any] | None:
    """Return the constant bias of a node, one value for each output channel, if it has one."""
    if node.op_type not in PRODUCTS or len(node.inputs) < 3 or node.inputs[2] is None:
        return None
    value = node.inputs[2]
    if not is_weight(value) or value.const_value is None or len(value.const_value.shape) != 1:
        return None
    return None if scaled(node) else value.const_value.numpy()


def scaled(node: ir.Node) -> bool:
    """Tell whether a Gemm multiplies its product or its bias by a factor."""
    factors = [_number(node, name, 1.0) for name in ("alpha", "beta")]
    return node.op_type == "Gemm" and factors != [1.0, 1.0]
