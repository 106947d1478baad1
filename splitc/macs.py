"""Multiply-accumulate operations of each node, at its concrete sizes.

Counted: Conv, ConvTranspose, Gemm, MatMul, Einsum, the recurrent kinds and their quantized forms.
Everything else has none. A node with bodies counts those of its bodies: the larger branch of an
If, one round of a Loop or Scan (their number of rounds is not known before they run). A recurrent
node whose sequence has no known length counts one step.
"""

import math
from collections.abc import Callable, Mapping

import onnx_ir as ir

from splitc.model import Fact, Model, bodies, identity

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def macs(model: Model) -> dict[str, int]:
    """Return node identity → MACs (an int ≥ 0), constants left out."""
    ids = model.graph.by_id
    table = {name: fact.shape for name, fact in model.facts.items()}
    if any(True for node in model.ir.graph for _ in bodies(node)):
        from splitc.shapes import body_shapes

        table = body_shapes(model) | table
    return {identity(n): _node(n, table) for n in model.ir.graph if identity(n) in ids}


def _node(node: ir.Node, shapes: Mapping[str, tuple[int, ...]]) -> int:
    inner = [sum(_node(n, shapes) for n in body) for body in bodies(node)]
    if inner:
        return max(inner)
    rule = _RULES.get(node.op_type)
    if rule is None:
        return 0
    inputs = [_shape(value, shapes) for value in node.inputs]
    if node.op_type in _GATES:
        return _recurrent(node, inputs, ())
    output = _shape(node.outputs[0], shapes)
    return rule(node, inputs, output) if output is not None and None not in inputs[:2] else 0


def _shape(value: ir.Value | None, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    if value is None:
        return None
    if value.name in shapes:
        return shapes[str(value.name)]
    if value.const_value is not None:
        return tuple(int(d) for d in value.const_value.shape if isinstance(d, int))
    if value.shape is None or not all(isinstance(d, int) for d in value.shape):
        return None
    return tuple(d for d in value.shape if isinstance(d, int))


_Shapes = list[tuple[int, ...] | None]


def _conv(weight: int) -> Callable[[ir.Node, _Shapes, tuple[int, ...]], int]:
    """Each output element takes (channels / group) × kernel products: the weight's tail."""

    def count(node: ir.Node, inputs: _Shapes, output: tuple[int, ...]) -> int:
        del node
        kernel = inputs[weight]
        return math.prod(output) * math.prod(kernel[1:]) if kernel else 0

    return count


def _conv_transpose(node: ir.Node, inputs: _Shapes, output: tuple[int, ...]) -> int:
    """Each *input* element is multiplied by (output channels / group) × kernel weights."""
    del node, output
    data, kernel = inputs[0], inputs[1]
    return math.prod(data) * math.prod(kernel[1:]) if data and kernel else 0


def _gemm(node: ir.Node, inputs: _Shapes, output: tuple[int, ...]) -> int:
    turned = "transA" in node.attributes and node.attributes["transA"].as_int() == 1
    first = inputs[0] or (0, 0)
    return math.prod(output) * first[0 if turned else 1]


def _matmul(node: ir.Node, inputs: _Shapes, output: tuple[int, ...]) -> int:
    del node
    return math.prod(output) * inputs[0][-1] if inputs[0] else 0


def _qlinear_matmul(node: ir.Node, inputs: _Shapes, output: tuple[int, ...]) -> int:
    return _matmul(node, inputs, output)


def _einsum(node: ir.Node, inputs: _Shapes, output: tuple[int, ...]) -> int:
    """Multiply the extents of all indices, times (operands − 1)."""
    del output
    terms = node.attributes["equation"].as_string().replace(" ", "").split("->")[0].split(",")
    extent: dict[str, int] = {}
    for term, shape in zip(terms, inputs, strict=True):
        letters = term.replace("...", "")
        spare = (shape or ())[: len(shape or ()) - len(letters)] if "..." in term else ()
        at = term.find("...")
        own = shape or ()
        named = own if at < 0 else own[:at] + own[at + len(spare) :]
        extent |= dict(zip(letters, named, strict=True))
        for axis, size in enumerate(reversed(spare)):
            extent[f".{axis}"] = max(size, extent.get(f".{axis}", 1))
    return math.prod(extent.values()) * max(len(terms) - 1, 1)


def _recurrent(node: ir.Node, inputs: _Shapes, output: tuple[int, ...]) -> int:
    """Count steps × batch × directions × gates × hidden × (input + hidden)."""
    del output
    steps, batch = (inputs[0] or (1, 1))[:2]
    directions, rows, size = inputs[1] or (0, 0, 0)
    hidden = rows // _GATES[node.op_type]
    return steps * batch * directions * rows * (size + hidden)


_RULES: Mapping[str, Callable[[ir.Node, _Shapes, tuple[int, ...]], int]] = {
    "Conv": _conv(1),
    "FusedConv": _conv(1),
    "ConvInteger": _conv(1),
    "QLinearConv": _conv(3),
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "FusedMatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _qlinear_matmul,
    "Einsum": _einsum,
    **dict.fromkeys(_GATES, _recurrent),
}

_KINDS = {
    "gemm": "Gemm MatMul FusedMatMul MatMulInteger QLinearMatMul Einsum",
    "recurrent": " ".join(_GATES),
    "pool": "MaxPool AveragePool GlobalAveragePool GlobalMaxPool LpPool GlobalLpPool",
    "layout": """
        Reshape Transpose Flatten Squeeze Unsqueeze Concat Split Slice Gather GatherElements
        GatherND Pad Expand Tile Identity Shape Size Cast CastLike Resize Upsample DepthToSpace
        SpaceToDepth Range ConstantOfShape ScatterND ScatterElements OneHot Trilu NonZero
        Compress EyeLike ReverseSequence""",
    "reduce": """
        Softmax LogSoftmax ReduceMean ReduceSum ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceProd
        ReduceSumSquare ReduceLogSum ReduceLogSumExp ArgMax ArgMin TopK CumSum LRN
        LayerNormalization InstanceNormalization GroupNormalization RMSNormalization
        LpNormalization MeanVarianceNormalization""",
    "elementwise": """
        Relu Clip Sigmoid Tanh Add Sub Mul Div Mod Pow Sqrt LeakyRelu ThresholdedRelu PRelu
        HardSwish HardSigmoid Erf Exp Log Neg Abs Where BatchNormalization Gelu Elu Selu Celu
        Softplus Softsign Mish Swish Max Min Sum Mean Equal Greater Less GreaterOrEqual
        LessOrEqual And Or Xor Not IsNaN IsInf Reciprocal Sin Cos Tan Atan Floor Ceil Round Sign
        Dropout QuantizeLinear DequantizeLinear DynamicQuantizeLinear""",
    "control": "If Loop Scan",
}
_KIND_OF = {op: family for family, ops in _KINDS.items() for op in ops.split()}


def kind(node: ir.Node, facts: Mapping[str, Fact]) -> str:
    """Return a node's cost family: 'conv', 'depthwise', 'grouped', 'gemm', … or 'other'."""
    if "Conv" not in node.op_type:
        return _KIND_OF.get(node.op_type, "other")
    group = node.attributes["group"].as_int() if "group" in node.attributes else 1
    if group == 1:
        return "conv"
    data = node.inputs[0]
    fact = facts.get(str(data.name)) if data is not None else None
    return "depthwise" if fact is not None and fact.shape[1] == group else "grouped"
