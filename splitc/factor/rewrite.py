"""Put the factors of weights into a graph, node by node."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from splitc.factor.decompose import Array
from splitc.factor.layers import Layer, Option, flag
from splitc.model import identity


@dataclass
class Rewrite:
    """Changes a graph in place; a weight that several nodes share is stored once."""

    model: ir.Model
    stored: dict[tuple[object, ...], ir.Value] = field(default_factory=dict)

    def factor(self, node: ir.Node, layer: Layer, option: Option, parts: list[Array]) -> None:
        """Let `node` become the last of the small nodes, and insert the others before it."""
        if node.op_type == "Conv":
            self._conv(node, layer, option, parts)
        elif node.op_type == "Gemm":
            self._gemm(node, layer, parts)
        else:
            self._matmul(node, layer, parts)

    def _matmul(self, node: ir.Node, layer: Layer, parts: list[Array]) -> None:
        # x·(a·b) = (x·a)·b, and (a·b)·x = a·(b·x)
        right = layer.place == 1
        near, far = (0, 1) if right else (1, 0)
        data, thin = node.inputs[1 - layer.place], self._weight(layer, near, parts[near])
        made = self._before(node, "MatMul", [data, thin] if right else [thin, data], {}, 0)
        node.replace_input_with(1 - layer.place, made)
        node.replace_input_with(layer.place, self._weight(layer, far, parts[far]))

    def _gemm(self, node: ir.Node, layer: Layer, parts: list[Array]) -> None:
        turned = flag(node, "transA") == 1
        read = [node.inputs[0], self._weight(layer, 0, parts[0])]
        attributes = {"transA": ir.AttrInt64("transA", 1)} if turned else {}
        made = self._before(node, "Gemm" if turned else "MatMul", read, attributes, 0)
        node.replace_input_with(0, made)
        node.replace_input_with(1, self._weight(layer, 1, parts[1]))
        for name in ("transA", "transB"):
            node.attributes.pop(name, None)

    def _conv(self, node: ir.Node, layer: Layer, option: Option, parts: list[Array]) -> None:
        """Strides, pads and dilations stay with the kernel, of a 1×1 with the first node."""
        weight = node.inputs[1]
        assert weight is not None
        kernel = [int(d) for d in (weight.shape or ()) if isinstance(d, int)][2:]
        if layer.matrix:
            parts = [parts[1], parts[0]]  # (O, I) ≈ a·b: b reads the input
        wide = int(not layer.matrix and parts[0].ndim == 2)
        grouped = not layer.matrix and layer.method == "cp"
        kept = dict(node.attributes)
        for place, part in enumerate(parts):
            own = place == wide
            size = kernel if own else [1] * len(kernel)
            group = option.ranks[0] if own and grouped else 1
            attributes = (kept if own else {}) | _kernel(size, group)
            stored = self._weight(layer, place, part.reshape(*part.shape[:2], *size))
            if place < len(parts) - 1:
                made = self._before(node, "Conv", [node.inputs[0], stored], attributes, place)
                node.replace_input_with(0, made)
            else:
                node.replace_input_with(1, stored)
                node.attributes.clear()
                node.attributes.update(attributes)

    def _before(
        self,
        node: ir.Node,
        op: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, ir.Attr],
        place: int,
    ) -> ir.Value:
        """Insert a node in front of `node`; return its output."""
        title = self._free(f"{identity(node)}_low_rank_{place}")
        made = ir.Value(name=title, type=node.outputs[0].type)
        new = ir.node(op, list(inputs), outputs=[made], name=title)
        new.attributes.update(attributes)
        assert isinstance(node.graph, ir.Graph)
        node.graph.insert_before(node, new)
        return made

    def _weight(self, layer: Layer, place: int, array: Array) -> ir.Value:
        """Store one factor in the type of the weight that it stands for."""
        plain = np.ascontiguousarray(array, f"float{8 * layer.itemsize}")
        key = (layer.weight, plain.shape, hashlib.sha256(plain.data).digest())
        if key not in self.stored:
            title = self._free(f"{layer.weight}_low_rank_{place}")
            tensor = ir.tensor(plain, name=title)
            value = ir.Value(name=title, const_value=tensor)
            value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(plain.shape)
            self.model.graph.register_initializer(value)
            self.stored[key] = value
        return self.stored[key]

    def _free(self, name: str) -> str:
        """Return the name, with underscores behind it while a tensor has it already."""
        graph = self.model.graph
        taken = {value.name for node in graph for value in node.outputs} | set(graph.initializers)
        taken |= {value.name for value in graph.inputs}
        while name in taken:
            name += "_"
        return name

    def sweep(self) -> None:
        """Remove the weights that nobody reads any more."""
        graph = self.model.graph
        for name, value in list(graph.initializers.items()):
            if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                graph.initializers.pop(name)
        for node in list(graph):
            dead = not any(out.uses() or out.is_graph_output() for out in node.outputs)
            if node.op_type == "Constant" and dead:
                graph.remove(node, safe=True)


def _kernel(size: Sequence[int], group: int) -> dict[str, ir.Attr]:
    return {
        "kernel_shape": ir.AttrInt64s("kernel_shape", list(size)),
        "group": ir.AttrInt64("group", group),
    }
