"""Which nodes TVM cannot take, and why: asked before anything is compiled.

What the importer has is read from the importer itself. It knows operators by name alone, whatever
their domain, and finds out about sizes, types and branches too late; so that is checked here.
"""

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

import onnx_ir as ir

from splitc.backends.tvm import recurrent
from splitc.model import Model, bodies, dtype_name, identity

if TYPE_CHECKING:
    from collections.abc import Mapping

DOMAINS = ("", "ai.onnx")
LOWERED = ("LSTM", "GRU")
BRANCHES = ("If",)
DTYPES = frozenset(
    ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16")
) | {"uint32", "uint64", "bool"}
OPEN = {
    "NonZero": "the size of its result depends on values",
    "Unique": "the size of its result depends on values",
    "Compress": "the size of its result depends on values",
    "NonMaxSuppression": "the size of its result depends on values",
}
"""Operators that the importer has, but not for a network whose sizes are all fixed."""
SEQUENCES = ("Sequence", "Optional", "SplitToSequence", "ConcatFromSequence", "AllClassNMS")


@cache
def known() -> frozenset[str]:
    """Return the operators that the installed TVM's importer converts, and that are usable."""
    from tvm.relax.frontend.onnx import onnx_frontend

    table: Mapping[str, object] = onnx_frontend._get_convert_map()
    usable = {name for name in table if not name.startswith(SEQUENCES) and name not in OPEN}
    return frozenset(usable) | {"Constant"}


def refusals(segment: Model) -> dict[str, str]:
    """Return node identity → why TVM cannot take it."""
    if (open_size := _open_size(segment)) is not None:
        return {node.id: open_size for node in segment.graph.nodes}
    found: dict[str, str] = {}
    for node in segment.ir.graph:
        if why := refusal(node):
            found[identity(node)] = why
    return found or (_branches(segment) if _has_branches(segment) else {})


def refusal(node: ir.Node) -> str | None:
    """Return why one node is refused; branches are judged apart."""
    if node.domain not in DOMAINS:
        return f"TVM's importer has no operator {node.domain}.{node.op_type}"
    if node.op_type in LOWERED:
        return recurrent.refusal(node)
    if node.op_type in OPEN:
        return f"{node.op_type}: {OPEN[node.op_type]}"
    if node.op_type not in known() and node.op_type not in BRANCHES:
        return f"TVM's importer has no operator {node.op_type}"
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.dtype is not None and dtype_name(value.dtype) not in DTYPES:
            return f"{node.op_type} on {dtype_name(value.dtype)}"
    return None


def _open_size(segment: Model) -> str | None:
    """Return which size must be given, or None: each but the batch must be known."""
    batches = {t.shape[0] for t in segment.inputs if t.shape and isinstance(t.shape[0], str)}
    given = {size for t in segment.inputs if t.name in segment.specs for size in t.shape}
    for tensor in segment.inputs:
        for size in tensor.shape[1:]:
            if isinstance(size, str) and size not in batches | given:
                shape = "x".join("1" if d in batches else str(d) for d in tensor.shape)
                option = f"--input {tensor.name}={shape} with a number for {size!r}"
                return (
                    f"TVM needs fixed sizes: {tensor.name!r} has the open size {size!r} ({option})"
                )
    return None


def _has_branches(segment: Model) -> bool:
    return any(node.op_type in BRANCHES for node in segment.ir.graph)


def _branches(segment: Model) -> dict[str, str]:
    """Judge each If by what folding leaves of it."""
    from splitc.backends.tvm.prepare import prepare

    left = [node for node in prepare(segment).graph if refusal(node) or node.op_type in BRANCHES]
    own = {identity(node): node for node in segment.ir.graph if node.op_type in BRANCHES}
    found = {identity(n): "If: its condition is computed" for n in left if identity(n) in own}
    hidden = [n for n in left if identity(n) not in segment.nodes]
    for node in hidden:
        why = refusal(node) or f"{node.op_type}: its condition is computed"
        found |= {
            name: f"If: in a branch, {why}" for name, branch in own.items() if _holds(branch, node)
        }
    return found


def _holds(branch: ir.Node, node: ir.Node) -> bool:
    """Say whether one of the bodies has such an operator (inlined nodes get names of their own)."""
    return any(inner.op_type == node.op_type for inner in _inside(branch))


def _inside(node: ir.Node) -> Iterator[ir.Node]:
    for body in bodies(node):
        for inner in body:
            yield inner
            yield from _inside(inner)
