"""Small surgery on ONNX graphs: find, store, drop."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from splitc.model import bodies


def all_values(graph: ir.Graph) -> dict[str, ir.Value]:
    """Return name → value, those inside bodies too."""
    made = [out for node in graph for out in node.outputs]
    found = {str(v.name): v for v in (*graph.inputs, *graph.initializers.values(), *made) if v.name}
    for node in graph:
        for body in bodies(node):
            found |= all_values(body)
    return found


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """Return the sizes of an initializer or a Constant."""
    array = constant(value)
    return () if array is None else array.shape


def store(value: ir.Value, array: NDArray[Any]) -> None:
    """Give an initializer, or the Constant that makes a value, another array.

    What another node computes from constants becomes an initializer of the same name.
    """
    tensor = ir.Tensor(array, name=value.name)
    node = value.producer()
    if node is None:
        value.const_value = tensor
        value.shape = ir.Shape(array.shape)
        return
    if node.op_type != "Constant":
        _instead(value, node, array)
        return
    node.attributes.clear()
    node.attributes["value"] = ir.AttrTensor("value", tensor)
    value.const_value = None


def _instead(value: ir.Value, node: ir.Node, array: NDArray[Any]) -> None:
    name, graph = str(value.name), node.graph
    assert isinstance(graph, ir.Graph)
    value.name = f"{name}__replaced"
    ir.convenience.replace_all_uses_with(value, fresh(graph, name, array))
    inputs = list(node.inputs)
    graph.remove(node, safe=True)
    for read in inputs:
        drop_unread(read)


def fresh(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """Return an initializer of this name and content; a number is added to a name that is taken."""
    taken = all_values(graph)
    chosen, count = name, 1
    while chosen in taken:
        count += 1
        chosen = f"{name}_{count}"
    made = ir.Value(
        name=chosen,
        const_value=ir.Tensor(array, name=chosen),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        shape=ir.Shape(array.shape),
    )
    graph.register_initializer(made)
    return made


def read_other(node: ir.Node, index: int, array: NDArray[Any], name: str) -> None:
    """Let a node read this constant at one place; what it read before goes if nobody reads it."""
    graph, before = node.graph, node.inputs[index]
    assert isinstance(graph, ir.Graph)
    node.replace_input_with(index, fresh(graph, name, array))
    drop_unread(before)


def drop_unread(value: ir.Value | None) -> None:
    """Remove a constant that nobody reads."""
    if value is None or list(value.uses()) or value.is_graph_output():
        return
    node = value.producer()
    if node is not None and node.op_type == "Constant" and node.graph is not None:
        node.graph.remove(node)
    elif node is None and isinstance(graph := value.graph, ir.Graph):
        graph.initializers.pop(str(value.name), None)


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """Return what a value is, if it is an initializer or a Constant."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else np.asarray(tensor.numpy())


def forget_shapes(model: ir.Model) -> None:
    """Drop what was known of sizes between inputs and outputs; outputs keep their symbols."""
    ends = set(model.graph.outputs)
    for node in _every(model.graph):
        for out in node.outputs:
            if out not in ends:
                out.shape = None
            elif out.shape is not None:
                out.shape = ir.Shape(d if not isinstance(d, int) else None for d in out.shape)


def _every(graph: ir.Graph) -> Iterable[ir.Node]:
    for node in graph:
        yield node
        for body in bodies(node):
            yield from _every(body)
