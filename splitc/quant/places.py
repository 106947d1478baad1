"""Which nodes can compute in int8, and which nodes between them go along.

A node with products (Conv, ConvTranspose, Gemm, MatMul) can be int8 when it multiplies float32
data by a constant weight, or two float32 tensors. Additions, pools and nodes that only move
elements are int8 when all that they read is: they cost little, and keep islands of int8 in one
piece. What only limits its input or adds a constant to it needs no integers of its own: the
tensor is rounded behind it.
"""

from collections.abc import Collection, Set

import onnx_ir as ir

from splitc.model import Model, identity

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
MOVES = (
    *("AveragePool", "DepthToSpace", "Flatten", "MaxPool", "Pad", "Reshape", "Slice"),
    *("SpaceToDepth", "Split", "Squeeze", "Transpose", "Unsqueeze"),
)
"""They make no value outside the range of their input: input and output share one scale."""
SUMS = ("Add", "Concat", "GlobalAveragePool")
LIMITS = ("Clip", "Relu")
_FOLLOWERS = frozenset((*MOVES, *SUMS, *LIMITS))


def candidates(model: Model, allowed: Collection[str] | None = None) -> tuple[str, ...]:
    """Return the nodes with products that can be int8, in order; of `allowed` only, if given."""
    computed = {t for node in model.graph.constants for t in node.outputs}
    return tuple(
        name
        for name, node in model.nodes.items()
        if name in model.graph.by_id
        and (allowed is None or name in allowed)
        and node.op_type in PRODUCTS
        and node.domain in ("", "ai.onnx")
        and _multiplies(node, computed)
    )


def _multiplies(node: ir.Node, computed: Set[str]) -> bool:
    """Tell whether both operands are float32, known or data, and not integers widened already."""
    pair = [v for v in node.inputs[:2] if v is not None and v.dtype == ir.DataType.FLOAT]
    if len(pair) < 2 or all(map(dequantized, pair)) or all(map(is_weight, pair)):
        return False
    return not any(v.name in computed and not dequantized(v) for v in pair)


def is_weight(value: ir.Value) -> bool:
    """Tell whether a tensor is an initializer."""
    return value.const_value is not None and value.producer() is None


def dequantized(value: ir.Value) -> bool:
    """Tell whether DequantizeLinear makes this tensor."""
    node = value.producer()
    return node is not None and node.op_type == "DequantizeLinear"


def weight_of(node: ir.Node) -> ir.Value | None:
    """Return the initializer that a node multiplies by, if there is one."""
    places = (1, 0) if node.op_type == "MatMul" else (1,) if node.op_type in PRODUCTS else ()
    found = (node.inputs[place] for place in places)
    return next((v for v in found if v is not None and is_weight(v)), None)


def with_followers(
    model: Model, chosen: Collection[str], allowed: Collection[str] | None = None
) -> frozenset[str]:
    """Add the nodes that go along with the chosen ones: all that they read comes from int8 nodes.

    What leads to no int8 node is left out again. `allowed` limits what may be added.
    """
    made = set(chosen)
    for name, node in model.nodes.items():
        ours = name in model.graph.by_id and (allowed is None or name in allowed)
        if ours and name not in made and _follows(node, made):
            made.add(name)
    for name, node in reversed(list(model.nodes.items())):
        if name in made and name not in chosen and not _leads(node, made):
            made.remove(name)
    return frozenset(made)


def _leads(node: ir.Node, made: Set[str]) -> bool:
    """Tell whether int8 nodes read what a follower makes: of a node that only moves, they alone.

    (onnxruntime 1.31 cannot open a graph where an int8 tensor is moved for a float reader.)
    """
    if absorbed(node):
        return True
    uses = [use.node for out in node.outputs for use in out.uses()]
    ours = [identity(reader) in made for reader in uses]
    if node.op_type not in MOVES:
        return any(ours)
    return bool(ours) and all(ours) and not any(out.is_graph_output() for out in node.outputs)


def _follows(node: ir.Node, made: Set[str]) -> bool:
    if node.op_type not in _FOLLOWERS or node.outputs[0].dtype != ir.DataType.FLOAT:
        return False
    if node.op_type == "Pad" and not _pads_with_zero(node):
        return False
    return all(_from(value, made) for value in data(node))


def _from(value: ir.Value, made: Set[str]) -> bool:
    node = value.producer()
    return dequantized(value) or (node is not None and identity(node) in made)


def _pads_with_zero(node: ir.Node) -> bool:
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    tensor = ir.convenience.get_const_tensor(node.inputs[2])
    return tensor is not None and not tensor.numpy().any()


def data(node: ir.Node) -> list[ir.Value]:
    """Return the tensors whose values a node computes with: no weights, shapes, bounds, biases."""
    many = {"Add": 2, "Concat": len(node.inputs), **dict.fromkeys(PRODUCTS, 2)}
    found = node.inputs[: many.get(node.op_type, 1)]
    return [v for v in found if v is not None and not is_weight(v)]


def absorbed(node: ir.Node) -> bool:
    """Tell whether a node only limits its input, or adds a constant to it."""
    return node.op_type in LIMITS or (node.op_type == "Add" and len(data(node)) == 1)


def rounded_later(value: ir.Value, made: Set[str]) -> bool:
    """Tell whether one node alone reads a tensor, and only limits it or adds a constant."""
    uses, node = list(value.uses()), value.producer()
    return (
        len(uses) == 1
        and not value.is_graph_output()
        and identity(uses[0].node) in made
        and absorbed(uses[0].node)
        and node is not None
        and node.op_type in (*PRODUCTS, "Add")
    )
