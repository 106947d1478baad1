"""Replace a node of an ONNX graph by others, each with a name of its own."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


class Rewriter:
    """Collects the nodes that stand in for one: ``make("Add", a, b)`` returns the new value."""

    def __init__(self, model: ir.Model, node: ir.Node) -> None:
        self.nodes: list[ir.Node] = []
        self._model = model
        self._stem = next(str(out.name) for out in node.outputs if out.name)
        self._count = 0

    def _name(self) -> str:
        self._count += 1
        return f"{self._stem}/{self._count}"

    def __call__(
        self,
        operator: str,
        *inputs: ir.Value | None,
        outputs: int = 1,
        attributes: dict[str, ir.Attr] | None = None,
        **options: Any,
    ) -> Any:
        """Add a node; return its output, or the list of them where there are several."""
        attrs = [*(attributes or {}).values(), *ir.convenience.convert_attributes(options)]
        made = ir.Node("", operator, inputs, attrs, num_outputs=outputs, name=self._name())
        for value in made.outputs:
            value.name = self._name()
            if inputs and inputs[0] is not None and inputs[0].dtype is not None:
                value.type = ir.TensorType(inputs[0].dtype)
        self.nodes.append(made)
        return made.outputs[0] if outputs == 1 else list(made.outputs)

    def reshaped(self, value: ir.Value | None, shape: Sequence[int | ir.SymbolicDim]) -> ir.Value:
        """Add a Reshape to fixed sizes; one of them may be -1."""
        made: ir.Value = self("Reshape", value, self.constant(np.array(shape, np.int64)))
        return made

    def constant(self, array: NDArray[Any]) -> ir.Value:
        """Add an initializer."""
        tensor = ir.tensor(np.ascontiguousarray(array) if array.ndim else array, name=self._name())
        value = ir.Value(
            name=tensor.name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(array.shape),
            const_value=tensor,
        )
        self._model.graph.register_initializer(value)
        return value


def replace_node(
    model: ir.Model, node: ir.Node, values: Sequence[ir.Value | None], nodes: Sequence[ir.Node]
) -> None:
    """Put `nodes` in the place of `node`; its outputs' readers read `values` instead.

    The names of the outputs, which may be graph outputs, go over to the new values.
    """
    graph = model.graph
    graph.insert_before(node, nodes)
    for old, new in zip(node.outputs, values, strict=False):
        if new is None:
            continue
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        name, old.name = old.name, f"{old.name}/replaced"
        new.name, new.shape, new.type = name, old.shape, old.type or new.type
    graph.remove(node, safe=True)


def array_of(value: ir.Value | None) -> NDArray[Any] | None:
    """Return the array of an initializer or of a Constant node; None for anything else."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()
