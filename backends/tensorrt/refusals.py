"""What NVIDIA's ONNX parser refuses, as a table, so that a plan needs no TensorRT.

Sources: the parser's own list of operators (onnx-tensorrt 10.1, docs/operators.md), and every ONNX
node test through the parser of TensorRT-RTX 1.7.1 (1,884 graphs). Where TensorRT-RTX is
installed, `splitc check` and `compile` ask the real parser, which sees more than this table.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from splitc.errors import BackendError
from splitc.model import bodies, dtype_name, identity

if TYPE_CHECKING:
    from splitc.model import Model

_NO_IMPORTER = """
Adagrad Adam AffineGrid ArrayFeatureExtractor Bernoulli BitCast BitShift BitwiseAnd BitwiseNot
BitwiseOr BitwiseXor CausalConvWithState CenterCropPad Col2Im Compress ConcatFromSequence
ConvInteger CumProd DFT Det DynamicQuantizeLinear FlexAttention Gradient ImageDecoder
LinearAttention MatMulInteger MaxRoiPool MaxUnpool MelWeightMatrix Momentum Multinomial
NegativeLogLikelihoodLoss Optional OptionalGetElement OptionalHasElement QLinearConv QLinearMatMul
RegexFullMatch SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert
SequenceLength SequenceMap SoftmaxCrossEntropyLoss SplitToSequence StringConcat StringNormalizer
StringSplit SwiGLU TfIdfVectorizer Unique
"""
NEVER = frozenset(_NO_IMPORTER.split())
"""Operators that the parser has no importer for."""

RTX_LACKS = frozenset(("DeformConv", "NonMaxSuppression", "NonZero", "RoiAlign"))
"""Operators that TensorRT has and TensorRT-RTX 1.7.1 has not, or not without a GPU (RoiAlign)."""

MICROSOFT = frozenset(("DequantizeLinear", "Gelu", "QuantizeLinear"))
"""Of the domain com.microsoft the parser takes these; it looks at the operator's name alone."""

TYPES = frozenset(
    (
        "bool",
        "bfloat16",
        "float16",
        "float32",
        "float8e4m3fn",
        "int32",
        "int4",
        "int64",
        "int8",
        "uint8",
    )
)  # float64 is missing: TensorRT would compute it, and hand it over, as float32

Rule = Callable[[ir.Node, frozenset[str]], str]
"""A node, and the names of what is constant → '' or why it is refused."""


def refused(segment: "Model", *, rtx: bool = False) -> dict[str, str]:
    """Return node → why; a node around a body is refused for what is in the body."""
    fixed = frozenset(_constants(segment))
    found: dict[str, str] = {}
    for node in segment.ir.graph:
        whys = (_why(inner, fixed, rtx) for inner in _nested(node))
        if why := next((why for why in whys if why), ""):
            found[identity(node)] = why
    return found


def check(name: str, refusals: Mapping[str, str]) -> None:
    """Raise `BackendError` naming the first node, if any is refused."""
    if refusals:
        node, why = next(iter(refusals.items()))
        raise BackendError(
            f"{name} refuses {len(refusals)} of the nodes: {why}",
            where=f"node {node!r}",
            hint="keep it on the other side: --cut, or --require; 'splitc check' lists all",
        )


def _constants(segment: "Model") -> Iterator[str]:
    """Yield the names of what is constant, also inside of bodies."""
    yield from segment.ir.graph.initializers
    yield from (name for node in segment.graph.constants for name in node.outputs)
    for node in segment.ir.graph:
        for inner in _nested(node):
            yield from (name for body in bodies(inner) for name in body.initializers)
            if inner.op_type == "Constant":
                yield str(inner.outputs[0].name)


def _nested(node: ir.Node) -> Iterator[ir.Node]:
    yield node
    for body in bodies(node):
        for inner in body:
            yield from _nested(inner)


def _why(node: ir.Node, fixed: frozenset[str], rtx: bool) -> str:
    """Return '' or why the parser refuses the node."""
    op = node.op_type
    if node.domain not in ("", "ai.onnx") and not (
        node.domain == "com.microsoft" and op in MICROSOFT
    ):
        return f"{node.domain}.{op}: no plugin of this name"
    if op in NEVER:
        return f"{op}: the parser has no importer for it"
    if rtx and op in RTX_LACKS:
        return f"{op}: TensorRT-RTX cannot build it, TensorRT can"
    if bad := _types(node):
        return f"{op}: TensorRT has no {bad}"
    rules = (*RULES.get(op, ()), *(() if rtx else TENSORRT_10.get(op, ())))
    reasons = (rule(node, fixed) for rule in rules)
    return next((f"{op}: {reason}" for reason in reasons if reason), "")


def _types(node: ir.Node) -> str:
    values = (*node.inputs, *node.outputs)
    known = [v for v in values if v is not None and v.dtype is not None and v.name]
    for value in known:
        if not isinstance(value.type, ir.TensorType):
            return "sequences or optionals"
    return next((name for v in known if (name := dtype_name(v.dtype)) not in TYPES), "")


def _attribute(node: ir.Node, name: str, default: Any) -> Any:
    found = node.attributes.get(name)
    return default if found is None else found.value


def _is(name: str, *allowed: object) -> Rule:
    """Refuse unless an attribute has one of these values; the first is its default."""

    def rule(node: ir.Node, _: frozenset[str]) -> str:
        value = _attribute(node, name, allowed[0])
        return "" if value in allowed else f"{name} = {value} is not supported"

    return rule


def _ones(name: str) -> Rule:
    def rule(node: ir.Node, _: frozenset[str]) -> str:
        value = _attribute(node, name, ())
        return "" if set(value) <= {1} else f"{name} = {list(value)} is not supported"

    return rule


def _one_output(node: ir.Node, _: frozenset[str]) -> str:
    return "only its first output is supported" if len(node.outputs) > 1 else ""


def _constant(place: int, what: str) -> Rule:
    def rule(node: ir.Node, fixed: frozenset[str]) -> str:
        value = node.inputs[place] if len(node.inputs) > place else None
        known = value is None or not value.name or value.name in fixed
        return "" if known else f"{what} must be a constant"

    return rule


def _zero_point(node: ir.Node, fixed: frozenset[str]) -> str:
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None or not value.name:
        return ""
    if value.name not in fixed:
        return "the zero point must be a constant"
    tensor = ir.convenience.get_const_tensor(value)
    return "" if tensor is None or not tensor.numpy().any() else "the zero point must be zero"


def _narrow(places: str) -> Rule:
    """Refuse types that the quantized side cannot have: uint8 and int32 above all."""

    def rule(node: ir.Node, _: frozenset[str]) -> str:
        value = node.inputs[0] if places == "input" else node.outputs[0]
        name = dtype_name(value.dtype) if value is not None and value.dtype is not None else ""
        good = ("", "int8", "int4", "float8e4m3fn")
        return "" if name in good else f"a quantized tensor of {name} is not supported, int8 is"

    return rule


def _modulo(node: ir.Node, _: frozenset[str]) -> str:
    value = node.inputs[0]
    kind = dtype_name(value.dtype) if value is not None else ""
    plain = _attribute(node, "fmod", 0) == 0
    return f"of {kind} needs fmod = 1" if plain and kind.startswith(("float", "bfloat")) else ""


def _no_bytes(node: ir.Node, _: frozenset[str]) -> str:
    kinds = {dtype_name(v.dtype) for v in node.inputs if v is not None and v.dtype is not None}
    return "no arithmetic on uint8" if "uint8" in kinds else ""


_RESIZE = (
    "half_pixel",
    "asymmetric",
    "align_corners",
    "pytorch_half_pixel",
    "tf_half_pixel_for_nn",
)
_POOL = (_ones("dilations"),)
_AXES = (_constant(1, "axes"),)

RULES: Mapping[str, tuple[Rule, ...]] = {
    "Attention": (_one_output, _is("softcap", 0.0), _is("softmax_precision", None)),
    "AveragePool": _POOL,
    "BatchNormalization": (_one_output, _is("training_mode", 0)),
    "CumSum": (_constant(1, "axis"),),
    "DequantizeLinear": (_narrow("input"), _zero_point),
    "Dropout": (_constant(2, "training_mode"),),
    "LSTM": (_is("input_forget", 0),),
    "LayerNormalization": (_one_output,),
    "LpPool": (*_POOL, _is("p", 2, 1)),
    "MaxPool": (*_POOL, _one_output, _no_bytes),
    "Mod": (_modulo, _no_bytes),
    "OneHot": (_constant(1, "depth"),),
    "QuantizeLinear": (_narrow("output"), _zero_point),
    "Resize": (
        _is("coordinate_transformation_mode", *_RESIZE),
        _is("antialias", 0),
        _is("keep_aspect_ratio_policy", "stretch"),
        _is("exclude_outside", 0),
        _constant(2, "scales"),
    ),
    "STFT": (_constant(1, "frame_step"),),
    "ScatterElements": (_is("reduction", "none"),),
    "ScatterND": (_is("reduction", "none"),),
    "Squeeze": _AXES,
    "TensorScatter": (_is("mode", "linear"),),
    "TopK": (_is("sorted", 1),),
    "Unsqueeze": _AXES,
    **{
        f"Reduce{kind}": _AXES
        for kind in (
            "L1",
            "L2",
            "LogSum",
            "LogSumExp",
            "Max",
            "Mean",
            "Min",
            "Prod",
            "Sum",
            "SumSquare",
        )
    },
    **dict.fromkeys(
        (
            "Add",
            "Div",
            "Greater",
            "GreaterOrEqual",
            "Less",
            "LessOrEqual",
            "Max",
            "Min",
            "Mul",
            "Sub",
        ),
        (_no_bytes,),
    ),
}
"""Operator → rules of which each may refuse it."""

TENSORRT_10: Mapping[str, tuple[Rule, ...]] = dict.fromkeys(
    ("GRU", "LSTM", "RNN"), (_is("layout", 0),)
)
"""Rules of TensorRT's own list that TensorRT-RTX 1.7 does not have any more."""
