"""Every operator of the lift's table against onnxruntime, at batches 1 and 3, with gradients."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import splitc
from splitc.model import Model
from tests.networks import HEADER

torch = pytest.importorskip("torch")

IMAGE, ROWS, TWO = "float[N,4,6,6] x", "float[N,6] x", "float[N,6] x, float[N,6] z"
WHOLE = "int64[N,5] x"
RNG = np.random.default_rng(0)


def weight(*shape: int, scale: float = 0.5) -> Any:
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


def positive(*shape: int) -> Any:
    return RNG.uniform(0.5, 1.5, shape).astype(np.float32)


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


def unary(op: str, entry: str = ROWS) -> tuple[str, str, dict[str, Any]]:
    return entry, f"y = {op}(x)", {}


def reduced(op: str) -> tuple[str, str, dict[str, Any]]:
    return IMAGE, f"a = Abs(x) y = {op}<keepdims=0>(a, axes)", {"axes": ints(1, -1)}


THREE = {"nine": ints(9), "four": ints(4), "three": ints(3)}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{op: unary(op) for op in ("Abs", "Asinh", "Atan", "Ceil", "Cos", "Cosh", "Erf")},
    **{op: unary(op) for op in ("Exp", "Floor", "HardSwish", "Identity", "Mish")},
    **{op: unary(op) for op in ("Neg", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin")},
    **{op: unary(op) for op in ("Sinh", "Softplus", "Softsign", "Tan", "Tanh", "Selu", "Elu")},
    **{op: unary(op) for op in ("Celu", "LeakyRelu", "HardSigmoid", "Gelu")},
    **{op: (ROWS, f"a = Sigmoid(x) y = {op}(a)", {}) for op in ("Acos", "Asin", "Atanh", "Log")},
    "Acosh": (ROWS, "a = Cosh(x) y = Acosh(a)", {}),
    "IsInf": (ROWS, "a = Relu(x) b = Reciprocal(a) y = IsInf(b)", {}),
    "IsNaN": (ROWS, "a = Log(x) y = IsNaN(a)", {}),
    "ThresholdedRelu": (ROWS, "y = ThresholdedRelu<alpha = 0.1>(x)", {}),
    "Equal": (TWO, "a = Round(x) b = Round(z) y = Equal(a, b)", {}),
    "Sqrt": (ROWS, "a = Abs(x) y = Sqrt(a)", {}),
    "Gelu, tanh": (ROWS, 'y = Gelu<approximate = "tanh">(x)', {}),
    **{op: (TWO, f"y = {op}(x, z)", {}) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")},
    **{op: (TWO, f"y = {op}(x, z)", {}) for op in ("Greater", "Less", "Sum", "Mean")},
    "GreaterOrEqual": (TWO, "y = GreaterOrEqual(x, z)", {}),
    "LessOrEqual": (TWO, "y = LessOrEqual(x, z)", {}),
    "Add, a wider constant": (ROWS, "y = Add(x, c)", {"c": weight(1, 1, 1)}),
    "Div, whole": (WHOLE, "a = Mul(x, nine) b = Sub(a, three) y = Div(b, four)", THREE),
    "Mod": (WHOLE, "a = Mul(x, nine) b = Sub(a, three) y = Mod(b, four)", THREE),
    "Pow": (ROWS, "y = Pow(x, two)", {"two": np.float32(2)}),
    "BitwiseNot": (WHOLE, "y = BitwiseNot(x)", {}),
    "BitwiseAnd": (WHOLE, "y = BitwiseAnd(x, m)", {"m": ints(5)}),
    "BitwiseOr": (WHOLE, "y = BitwiseOr(x, m)", {"m": ints(6)}),
    "BitwiseXor": (WHOLE, "y = BitwiseXor(x, m)", {"m": ints(6)}),
    **{
        op: (TWO, f"a = Greater(x, o) b = Greater(z, o) y = {op}(a, b)", {"o": np.float32(0)})
        for op in ("And", "Or", "Xor")
    },
    "Not": (ROWS, "a = Greater(x, o) y = Not(a)", {"o": np.float32(0)}),
    "Where": (TWO, "a = Greater(x, z) y = Where(a, x, o)", {"o": np.float32(7)}),
    "Cast": (ROWS, "y = Cast<to = 7>(x)", {}),
    "CastLike": ("float[N,6] x, int64[N,1] z", "y = CastLike(x, z)", {}),
    "Clip": (ROWS, "y = Clip(x, low, high)", {"low": np.float32(-0.5), "high": np.float32(1)}),
    "Clip, one side": (ROWS, "y = Clip(x, , high)", {"high": np.float32(0.5)}),
    "Clip, relu6": (ROWS, "y = Clip(x, o, six)", {"o": np.float32(0), "six": np.float32(6)}),
    "PRelu": (IMAGE, "y = PRelu(x, s)", {"s": weight(4, 1, 1)}),
    "PRelu, broadcast": (IMAGE, "y = PRelu(x, s)", {"s": weight(6)}),
    "Softmax": (IMAGE, "y = Softmax<axis = 1>(x)", {}),
    "LogSoftmax": (IMAGE, "y = LogSoftmax(x)", {}),
    "Dropout": (ROWS, "y = Dropout(x)", {}),
    "MatMul": (ROWS, "y = MatMul(x, w)", {"w": weight(6, 3)}),
    "MatMul, of two": ("float[N,2,6] x, float[N,6,3] z", "y = MatMul(x, z)", {}),
    "MatMul, biased": (ROWS, "a = MatMul(x, w) y = Add(b, a)", {"w": weight(6, 3), "b": weight(3)}),
    "MatMul, weights first": ("float[N,6,3] x", "y = MatMul(w, x)", {"w": weight(4, 6)}),
    "Gemm": (ROWS, "y = Gemm(x, w, b)", {"w": weight(6, 3), "b": weight(3)}),
    "Gemm, scaled": (
        ROWS,
        "y = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(x, w, b)",
        {"w": weight(3, 6), "b": weight(1, 3)},
    ),
    "Einsum": (ROWS, 'y = Einsum<equation = "ni,ij->nj">(x, w)', {"w": weight(6, 3)}),
    "Conv": (
        IMAGE,
        "y = Conv<strides = [2, 1], pads = [1, 0, 1, 2], group = 2>(x, w, b)",
        {"w": weight(6, 2, 3, 3), "b": weight(6)},
    ),
    "Conv, same": (
        IMAGE,
        'y = Conv<auto_pad = "SAME_LOWER", strides = [2, 2]>(x, w)',
        {"w": weight(6, 4, 2, 3)},
    ),
    "Conv, same, open": (
        "float[N,4,A,B] x",
        'y = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, w)',
        {"w": weight(6, 4, 3, 3)},
    ),
    "Conv, one axis": (
        "float[N,4,9] x",
        "y = Conv<dilations = [2]>(x, w)",
        {"w": weight(6, 4, 3)},
    ),
    "Conv, computed": ("float[1,4,6,6] x, float[2,4,3,3] z", "y = Conv(x, z)", {}),
    "ConvTranspose": (
        IMAGE,
        "y = ConvTranspose<strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]>(x, w, b)",
        {"w": weight(4, 3, 3, 3), "b": weight(3)},
    ),
    "ConvTranspose, uneven": (
        IMAGE,
        "y = ConvTranspose<strides = [2, 2], pads = [0, 1, 1, 0], group = 2>(x, w)",
        {"w": weight(4, 3, 3, 3)},
    ),
    "ConvTranspose, output_shape": (
        IMAGE,
        "y = ConvTranspose<strides = [2, 2], output_shape = [12, 12]>(x, w)",
        {"w": weight(4, 3, 3, 3)},
    ),
    "BatchNormalization": (
        IMAGE,
        "y = BatchNormalization<epsilon = 0.01>(x, s, b, m, v)",
        {"s": positive(4), "b": weight(4), "m": weight(4), "v": positive(4)},
    ),
    "LayerNormalization": (
        IMAGE,
        "y = LayerNormalization<axis = 2>(x, s, b)",
        {"s": weight(6, 6), "b": weight(6, 6)},
    ),
    "LayerNormalization, broadcast": (
        IMAGE,
        "y = LayerNormalization<axis = 2>(x, s)",
        {"s": weight(6)},
    ),
    "InstanceNormalization": (
        IMAGE,
        "y = InstanceNormalization(x, s, b)",
        {"s": weight(4), "b": weight(4)},
    ),
    "GroupNormalization": (
        IMAGE,
        "y = GroupNormalization<num_groups = 2>(x, s, b)",
        {"s": weight(4), "b": weight(4)},
    ),
    "LRN": (IMAGE, "y = LRN<size = 3, alpha = 0.1>(x)", {}),
    "LpNormalization": (ROWS, "y = LpNormalization<p = 1>(x)", {}),
    "MaxPool": (
        IMAGE,
        "y = MaxPool<kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 0, 0], ceil_mode=1>(x)",
        {},
    ),
    "AveragePool": (
        IMAGE,
        "y = AveragePool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(x)",
        {},
    ),
    "AveragePool, uneven": (
        IMAGE,
        "y = AveragePool<kernel_shape = [3, 3], strides = [2, 2], pads = [0, 0, 1, 1]>(x)",
        {},
    ),
    "AveragePool, counted": (
        IMAGE,
        "y = AveragePool<kernel_shape = [3, 3], pads = [0, 1, 1, 1], count_include_pad = 1>(x)",
        {},
    ),
    "GlobalAveragePool": unary("GlobalAveragePool", IMAGE),
    "GlobalMaxPool": unary("GlobalMaxPool", IMAGE),
    "GlobalLpPool": unary("GlobalLpPool", IMAGE),
    "LpPool": (IMAGE, "y = LpPool<kernel_shape = [2, 2], strides = [2, 2]>(x)", {}),
    **{op: reduced(op) for op in ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp")},
    **{op: reduced(op) for op in ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd")},
    **{op: reduced(op) for op in ("ReduceSum", "ReduceSumSquare")},
    "ReduceMean, all": (IMAGE, "a = ReduceMean(x) y = Sub(x, a)", {}),
    "ArgMax": (ROWS, "y = ArgMax<axis = -1>(x)", {}),
    "ArgMin": (IMAGE, "y = ArgMin<axis = 1, keepdims = 0>(x)", {}),
    "CumSum": (ROWS, "y = CumSum<exclusive = 1, reverse = 1>(x, a)", {"a": np.int64(1)}),
    "TopK": (ROWS, "y, i = TopK(x, k)", {"k": ints(3)}),
    "Concat": (TWO, "y = Concat<axis = -1>(x, z)", {}),
    "Expand": ("float[N,1,4] x", "y = Expand(x, s)", {"s": ints(1, 3, 4)}),
    "Flatten": (IMAGE, "y = Flatten<axis = 2>(x)", {}),
    "Reshape": (IMAGE, "y = Reshape(x, s)", {"s": ints(0, 2, -1, 6)}),
    "Reshape, merged": (IMAGE, "y = Reshape(x, s)", {"s": ints(-1, 144)}),
    "Reshape, to a scalar": ("float[1,1] x", "y = Reshape(x, s)", {"s": ints()}),
    "Reshape, batch joined": (IMAGE, "y = Reshape(x, s)", {"s": ints(-1, 36)}),
    "Shape": (
        "float[N,A,6] x",
        "s = Shape(x) f = Slice(s, i0, i2) r = Concat<axis=0>(f, heads) y = Reshape(x, r)",
        {"i0": ints(0), "i2": ints(2), "heads": ints(2, 3)},
    ),
    "Size": ("float[N,6] x", "s = Size(x) f = Cast<to = 1>(s) y = Div(x, f)", {}),
    "ConstantOfShape": (
        ROWS,
        "s = Shape(x) o = ConstantOfShape<value = float[1] {2.0}>(s) y = Add(x, o)",
        {},
    ),
    "Range": (
        "float[N,A] x",
        "s = Shape(x) n = Gather(s, one) r = Range(zero, n, one) f = Cast<to = 1>(r) y = Add(x, f)",
        {"one": np.int64(1), "zero": np.int64(0)},
    ),
    "Split": (IMAGE, "a, b = Split<axis = 1>(x, s) y = Concat<axis = 1>(b, a)", {"s": ints(1, 3)}),
    "Split, equal": (
        IMAGE,
        "a, b = Split<axis = 1, num_outputs = 2>(x) y = Sub(a, b)",
        {},
    ),
    "Squeeze": ("float[N,1,6] x", "y = Squeeze(x, a)", {"a": ints(-2)}),
    "Unsqueeze": (ROWS, "y = Unsqueeze(x, a)", {"a": ints(-1, 0)}),
    "Tile": (ROWS, "y = Tile(x, t)", {"t": ints(1, 3)}),
    "Transpose": (IMAGE, "y = Transpose<perm = [0, 2, 3, 1]>(x)", {}),
    "SplitToSequence": (
        IMAGE,
        "s = SplitToSequence<axis = 1>(x, two) a = SequenceAt(s, one) y = Exp(a)",
        {"two": np.int64(2), "one": np.int64(1)},
    ),
    "SequenceConstruct": (
        TWO,
        "s = SequenceConstruct(x, z) y = ConcatFromSequence<axis = 1>(s)",
        {},
    ),
    "Gather": (ROWS, "y = Gather<axis = 1>(x, i)", {"i": np.array([[0, -1], [2, 3]])}),
    "Gather, one": (IMAGE, "y = Gather<axis = 1>(x, i)", {"i": np.int64(-1)}),
    "Gather, rows": (WHOLE, "y = Gather(w, x)", {"w": weight(9, 4)}),
    "GatherElements": (
        ROWS,
        "a = Softmax(x) i = ArgMax<axis = 1>(a) y = GatherElements<axis = 1>(x, i)",
        {},
    ),
    "GatherND": (
        WHOLE,
        "u = Unsqueeze(x, a) y = GatherND(w, u)",
        {"w": weight(9, 4), "a": ints(2)},
    ),
    "ScatterElements": (
        "float[1,6] x",
        "y = ScatterElements<axis = 1>(x, i, u)",
        {"i": np.array([[1, 4]]), "u": weight(1, 2)},
    ),
    "ScatterND": (
        "float[6,2] x",
        'y = ScatterND<reduction = "add">(x, i, u)',
        {"i": np.array([[1], [4]]), "u": weight(2, 2)},
    ),
    "Slice": (
        IMAGE,
        "y = Slice(x, s, e, a, t)",
        {"s": ints(1, -4), "e": ints(2**62, 5), "a": ints(1, -1), "t": ints(2, 1)},
    ),
    "Slice, backwards": (
        ROWS,
        "y = Slice(x, s, e, a, t)",
        {"s": ints(-1), "e": ints(-(2**62)), "a": ints(1), "t": ints(-2)},
    ),
    "Slice, by size": (
        "float[N,A] x",
        "s = Shape<start = 1>(x) h = Div(s, two) z = Slice(x, o, h, a) y = Exp(z)",
        {"two": ints(2), "o": ints(0), "a": ints(1)},
    ),
    "Pad": (IMAGE, "y = Pad(x, p, v)", {"p": ints(0, 1, 0, 2, 0, 0, 1, 0), "v": np.float32(3)}),
    "Pad, axes": (IMAGE, "y = Pad(x, p, , a)", {"p": ints(1, 2, 0, 1), "a": ints(-1, 2)}),
    "Pad, reflect": (
        IMAGE,
        'y = Pad<mode = "reflect">(x, p)',
        {"p": ints(0, 0, 2, 1, 0, 0, 1, 3)},
    ),
    "Pad, edge": (IMAGE, 'y = Pad<mode = "edge">(x, p)', {"p": ints(0, 1, 2, 0, 0, 0, 1, 0)}),
    "Trilu": (IMAGE, "y = Trilu<upper = 0>(x, k)", {"k": np.int64(1)}),
    "OneHot": (
        WHOLE,
        "y = OneHot<axis = 1>(x, d, v)",
        {"d": ints(4), "v": np.array([-1, 2], np.float32)},
    ),
    "NonZero": (ROWS, "a = Greater(x, o) y = NonZero(a)", {"o": np.float32(0)}),
    "DepthToSpace": (IMAGE, "y = DepthToSpace<blocksize = 2>(x)", {}),
    "DepthToSpace, CRD": (IMAGE, 'y = DepthToSpace<blocksize = 2, mode = "CRD">(x)', {}),
    "SpaceToDepth": (IMAGE, "y = SpaceToDepth<blocksize = 2>(x)", {}),
    "LSTM": (
        "float[5,N,4] x",
        'y, h, c = LSTM<direction = "bidirectional", hidden_size = 3>(x, w, r, b)',
        {"w": weight(2, 12, 4), "r": weight(2, 12, 3), "b": weight(2, 24)},
    ),
    "LSTM, reversed": (
        "float[5,N,4] x, float[1,N,3] h0, float[1,N,3] c0",
        'y, h, c = LSTM<direction = "reverse", hidden_size = 3>(x, w, r, b, , h0, c0)',
        {"w": weight(1, 12, 4), "r": weight(1, 12, 3), "b": weight(1, 24)},
    ),
    "LSTM, computed": (
        "float[5,N,4] x",
        "v = Mul(w, two) y, h, c = LSTM<hidden_size = 3>(x, v, r)",
        {"w": weight(1, 12, 4), "r": weight(1, 12, 3), "two": np.float32(2)},
    ),
    "GRU": (
        "float[5,N,4] x",
        "y, h = GRU<hidden_size = 3, linear_before_reset = 1>(x, w, r, b)",
        {"w": weight(1, 9, 4), "r": weight(1, 9, 3), "b": weight(1, 18)},
    ),
    "RNN": (
        "float[5,N,4] x",
        "y, h = RNN<hidden_size = 3>(x, w, r, b)",
        {"w": weight(1, 3, 4), "r": weight(1, 3, 3), "b": weight(1, 6)},
    ),
    "If": (
        ROWS,
        "s = ReduceSum<keepdims = 0>(x) c = Greater(s, o) y = If(c) <"
        "then_branch = t () => (float[N,6] p) {p = Exp(x)},"
        "else_branch = e () => (float[N,6] q) {q = Mul(x, w)}>",
        {"o": np.float32(0), "w": weight(6)},
    ),
}
for _how in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"):
    for _mode in ("nearest", "linear"):
        CASES[f"Resize, {_mode}, {_how}"] = (
            IMAGE,
            f'y = Resize<mode = "{_mode}", coordinate_transformation_mode = "{_how}">(x, , s)',
            {"s": np.array([1, 1, 1.5, 2], np.float32)},
        )
CASES["Resize, whole"] = (
    IMAGE,
    'y = Resize<nearest_mode = "floor", coordinate_transformation_mode = "asymmetric">(x, , s)',
    {"s": np.array([1, 1, 2, 2], np.float32)},
)
CASES["Resize, cubic"] = (IMAGE, 'y = Resize<mode = "cubic">(x, , , s)', {"s": ints(1, 4, 9, 12)})
CASES["Resize, sizes"] = (IMAGE, 'y = Resize<mode = "linear">(x, , , s)', {"s": ints(1, 4, 9, 4)})

SIZES: dict[str, tuple[str, ...]] = {
    "Conv, same, open": ("x=1x4x6x5",),
    "Shape": ("x=1x5x6",),
    "Range": ("x=1x6",),
}
SIZES |= {"Slice, by size": ("x=1x6",)}
SIZES |= dict.fromkeys(("LSTM", "LSTM, computed", "GRU", "RNN"), ("x=5x2x4",))
SIZES["LSTM, reversed"] = ("x=5x2x4", "h0=1x2x3", "c0=1x2x3")
OTHER = {
    "RMSNormalization": (23, IMAGE, "y = RMSNormalization<axis = -1>(x, s)"),
    "Swish": (24, ROWS, "y = Swish<alpha = 1.5>(x)"),
    "Upsample": (9, IMAGE, 'y = Upsample<mode = "nearest">(x, s)'),
    "Clip, attributes": (10, ROWS, "y = Clip<min = -0.5, max = 1.0>(x)"),
    "Softmax, flattened": (9, IMAGE, "y = Softmax<axis = 1>(x)"),
    "Slice, attributes": (9, ROWS, "y = Slice<axes = [1], starts = [1], ends = [-1]>(x)"),
    "Pad, attributes": (9, ROWS, "y = Pad<pads = [0, 1, 0, 2]>(x)"),
    "Squeeze, attributes": (9, "float[N,1,6] x", "y = Squeeze<axes = [1]>(x)"),
    "Split, attributes": (9, ROWS, "a, b = Split<axis = 1, split = [2, 4]>(x) y = Exp(b)"),
    "ReduceSum, attributes": (9, IMAGE, "y = ReduceSum<axes = [1, 3], keepdims = 0>(x)"),
}
UNTYPED = {"Greater", "Less", "Equal", "GreaterOrEqual", "LessOrEqual", "IsInf", "IsNaN", "Not"}
KINDS = {**dict.fromkeys((*UNTYPED, "And", "Or", "Xor"), "bool")}
KINDS |= dict.fromkeys(("Cast", "CastLike", "ArgMax", "ArgMin", "NonZero", "Div, whole"), "int64")
KINDS |= dict.fromkeys(("Mod", "BitwiseNot", "BitwiseAnd", "BitwiseOr", "BitwiseXor"), "int64")


def network(name: str, folder: Path) -> Model:
    opset, (entry, nodes, weights) = 21, CASES.get(name, ("", "", {}))
    if name in OTHER:
        opset, entry, nodes = OTHER[name]
        weights = {"s": np.array([1, 1, 2, 3, 1, 2][: 4 if name == "Upsample" else 6], np.float32)}
    nodes = re.sub(r"\s(?=\w+(, \w+)* = \w+[<(])", "\n", nodes)
    kind = KINDS.get(name, "float")
    header = HEADER.replace('"": 21', f'"": {opset}')
    proto = onnx.parser.parse_model(f"{header}g ({entry}) => ({kind} y) {{ {nodes} }}")
    arrays = {key: np.asarray(value) for key, value in weights.items()}
    tensors = [onnx.numpy_helper.from_array(array, key) for key, array in arrays.items()]
    proto.graph.initializer.extend(tensors)
    path = folder / "net.onnx"
    onnx.save(proto, path)
    return splitc.load(path, input=SIZES.get(name, ()))


@pytest.mark.parametrize("name", [*CASES, *OTHER])
def test_an_operator_computes_what_onnxruntime_computes(name: str, tmp_path: Path) -> None:
    from splitc.fx import lift

    module = lift(network(name, tmp_path), tolerance=1e-5)
    assert module.meta["comparison"].constant == ()


def test_every_operator_of_the_table_has_a_case() -> None:
    from splitc.fx.rules import RULES

    tested = {op for _, nodes, _ in CASES.values() for op in re.findall(r"= (\w+)[<(]", nodes)}
    tested |= {op for _, _, nodes in OTHER.values() for op in re.findall(r"= (\w+)[<(]", nodes)}
    assert {*RULES} <= tested
