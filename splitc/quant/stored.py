"""New initializers under names that nothing else has."""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


class Store:
    """Adds initializers to a graph; names that are taken get a number."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._taken = {str(v.name) for node in graph for v in node.outputs}
        self._taken |= {str(v.name) for v in graph.inputs} | set(graph.initializers)

    def fresh(self, name: str) -> str:
        """Return `name`, or `name` with the first number that is free, and take it."""
        number, title = 1, name
        while title in self._taken:
            number += 1
            title = f"{name}_{number}"
        self._taken.add(title)
        return title

    def add(self, name: str, array: NDArray[Any], dtype: ir.DataType | None = None) -> ir.Value:
        """Store an array under a fresh name; `dtype` where numpy's own type does not tell it."""
        title = self.fresh(name)
        plain = np.ascontiguousarray(array).reshape(array.shape)  # it makes a scalar a vector
        tensor = ir.Tensor(plain, dtype=dtype, name=title)
        shape = ir.Shape(array.shape)
        kind = ir.TensorType(tensor.dtype)
        value = ir.Value(name=title, type=kind, shape=shape, const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def drop_unused(self) -> None:
        """Remove initializers that nobody reads, and that are no outputs."""
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del self.graph.initializers[name]
