"""Which nodes TVM cannot take, and why: asked before anything is compiled.

What the importer has is read from the importer itself. It knows operators by name alone, whatever
their domain, and finds out about sizes, types and branches too late; so that is checked here.
"""

from collections.abc import Iterator, Mapping
from functools import cache

import onnx_ir as ir

from splitc.backends.tvm import recurrent
from splitc.backends.tvm.rewriting import array_of
from splitc.model import Model, bodies, dtype_name, identity

DOMAINS = ("", "ai.onnx")
LOWERED = ("LSTM", "GRU")
BRANCHES = ("If",)
DTYPES = frozenset(
    ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16")
) | {"uint32", "uint64", "bool"}
OPEN = ("NonZero", "Unique", "Compress", "NonMaxSuppression")
"""The importer has them, but the sizes of their results depend on values."""
OTHERS = ("Attention", "DynamicQuantizeLinear")
"""The importer means another operator by the name, or rounds otherwise."""
SEQUENCES = ("Sequence", "Optional", "SplitToSequence", "ConcatFromSequence", "AllClassNMS")

FIXED: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("ConstantOfShape", "EyeLike"), (0,)),
    **dict.fromkeys(("Reshape", "Expand", "Tile", "TopK", "Squeeze", "Unsqueeze", "Split"), (1,)),
    **dict.fromkeys(("CumSum", "Upsample", "Trilu"), (1,)),
    **{f"Reduce{kind}": (1,) for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean")},
    **{f"Reduce{kind}": (1,) for kind in ("Min", "Prod", "Sum", "SumSquare")},
    **dict.fromkeys(LOWERED, recurrent.WEIGHTS),
    "OneHot": (1, 2),
    "Pad": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Resize": (1, 2, 3),
    "Range": (0, 1, 2),
}
"""Operator → inputs that must be known when it is compiled."""

ATTRIBUTES: Mapping[str, Mapping[str, tuple[object, ...]]] = {
    "BatchNormalization": {"training_mode": (0,)},
    "ConvTranspose": {"output_shape": ()},
    "DequantizeLinear": {"block_size": (0,)},
    "EyeLike": {"dtype": ()},
    "IsInf": {"detect_negative": (1,), "detect_positive": (1,)},
    "QuantizeLinear": {"block_size": (0,)},
    "RMSNormalization": {"axis": (-1,)},
    "RoiAlign": {"mode": ("avg",)},
    "SpaceToDepth": {"mode": ("DCR",)},
}
"""Operator → attribute → values that come out right; measured with ONNX's own node tests."""

ONE_OUTPUT = ("MaxPool", "LayerNormalization")
"""Operators whose further outputs the importer lacks, or shapes otherwise."""


@cache
def known() -> frozenset[str]:
    """Return the operators that the installed TVM's importer converts, and that are usable."""
    from tvm.relax.frontend.onnx import onnx_frontend

    table: Mapping[str, object] = onnx_frontend._get_convert_map()
    gone = (*OPEN, *OTHERS)
    usable = {name for name in table if not name.startswith(SEQUENCES) and name not in gone}
    return frozenset(usable) | {"Constant"}


def refusals(segment: Model) -> dict[str, str]:
    """Return node identity → why TVM cannot take it."""
    if (open_size := _open_size(segment)) is not None:
        return {node.id: open_size for node in segment.graph.nodes}
    found: dict[str, str] = {}
    for node in segment.ir.graph:
        if why := refusal(node):
            found[identity(node)] = why
    unclear = any(n.op_type in BRANCHES or unknown(n) for n in segment.ir.graph)
    return found or (_unfolded(segment) if unclear else {})


def refusal(node: ir.Node) -> str | None:
    """Return why one node is refused, whatever becomes constant; see `unknown` for the rest."""
    name = node.op_type
    if node.domain not in DOMAINS:
        return f"TVM's importer has no operator {node.domain}.{name}"
    if name in LOWERED:
        return recurrent.refusal(node)
    if name in OPEN:
        return f"{name}: the size of its result depends on values"
    if name not in known() and name not in BRANCHES:
        return f"TVM's importer has no operator {name}"
    if name in ONE_OUTPUT and any(out.name for out in node.outputs[1:]):
        return f"{name} with more than one output"
    if name == "Dropout" and len(node.inputs) > 2 and node.inputs[2] is not None:
        return "Dropout that may be training"
    return _attributes(node) or _types(node)


def _attributes(node: ir.Node) -> str | None:
    for key, allowed in ATTRIBUTES.get(node.op_type, {}).items():
        attribute = node.attributes.get(key)
        value = None if attribute is None else attribute.value
        if isinstance(value, bytes):
            value = value.decode()
        if attribute is not None and value not in allowed:
            return f"{node.op_type} with {key} = {value}"
    return None


def _types(node: ir.Node) -> str | None:
    for value in (*node.inputs, *node.outputs):
        if value is None:
            continue
        if value.type is not None and not isinstance(value.type, ir.TensorType):
            return f"{node.op_type} on what is no tensor"
        if value.dtype is not None and dtype_name(value.dtype) not in DTYPES:
            return f"{node.op_type} on {dtype_name(value.dtype)}"
    kinds = {v.dtype for v in node.inputs if v is not None and v.dtype is not None}
    if node.op_type == "Pow" and (
        len(kinds) > 1 or any(not kind.is_floating_point() for kind in kinds)
    ):
        return "Pow on anything but one float type"
    return None


def unknown(node: ir.Node) -> str | None:
    """Return which input of a node must be constant and is not, or None."""
    for place in FIXED.get(node.op_type, ()):
        value = node.inputs[place] if place < len(node.inputs) else None
        if value is not None and array_of(value) is None:
            return f"{node.op_type}: its input {value.name!r} is computed"
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


def _unfolded(segment: Model) -> dict[str, str]:
    """Judge what hangs on constants by what folding leaves of it."""
    from splitc.backends.tvm.prepare import prepare

    found: dict[str, str] = {}
    own = {identity(n): n for n in segment.ir.graph if n.op_type in BRANCHES}
    for node in prepare(segment).graph:
        computed = (
            f"{node.op_type}: its condition is computed" if node.op_type in BRANCHES else None
        )
        why = refusal(node) or unknown(node) or computed
        if why and identity(node) in segment.nodes:
            found[identity(node)] = why
        elif why:
            found |= {name: f"If: in a branch, {why}" for name, n in own.items() if _holds(n, node)}
    return found


def _holds(branch: ir.Node, node: ir.Node) -> bool:
    """Say whether one of the bodies has such an operator (inlined nodes get names of their own)."""
    return any(inner.op_type == node.op_type for inner in _inside(branch))


def _inside(node: ir.Node) -> Iterator[ir.Node]:
    for body in bodies(node):
        for inner in body:
            yield inner
            yield from _inside(inner)
