"""The networks that a profile measures: every cost family, alone and as real networks mix them.

Each probe is small (below about 5 ms of one core) and deep enough that the layout changes and the
call around it do not drown the kernels. Sizes span caches: activations of some KB to some MB,
weights up to 16 MB.
"""

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir

from splitc.model import Model
from splitc.profiler.net import Net

Step = Callable[[Net, ir.Value], ir.Value]


def probes() -> Iterator[Model]:
    """Yield every probe, one at a time (each holds its weights)."""
    yield from _calls()
    yield from _convolutions()
    yield from _blocks()
    yield from _dense()
    yield from _attention()
    yield from _recurrent()
    yield from _small_kinds()
    yield from _branches()
    yield from _integers()


def _chain(name: str, shape: tuple[int, ...], step: Step, depth: int) -> Model:
    net = Net(name)
    x = net.input(*shape)
    for _ in range(depth):
        x = step(net, x)
    return net.model(x)


def _calls() -> Iterator[Model]:
    yield _chain("call", (1, 16), lambda net, x: net.op("Relu", x), 1)
    yield _chain("call-wide", (1, 16, 16, 16), lambda net, x: net.op("Relu", x), 1)


def _convolutions() -> Iterator[Model]:
    for channels, side, kernel, depth in (
        (8, 48, 1, 4),
        (16, 32, 1, 4),
        (64, 14, 1, 6),
        (128, 28, 1, 2),
        (256, 7, 1, 6),
        (8, 32, 3, 4),
        (16, 32, 3, 6),
        (32, 16, 3, 6),
        (64, 8, 3, 6),
        (64, 40, 3, 2),
        (128, 14, 3, 2),
        (16, 12, 5, 4),
    ):
        name = f"conv{kernel}x{kernel}-{channels}x{side}"
        yield _chain(name, (1, channels, side, side), _conv_relu(channels, kernel), depth)
    for channels, side, depth in ((8, 64, 4), (32, 56, 4), (64, 10, 8), (128, 14, 6), (384, 7, 6)):
        step = _conv_relu(channels, 3, channels)
        yield _chain(f"depthwise-{channels}x{side}", (1, channels, side, side), step, depth)
    for channels, side, group in ((32, 28, 4), (64, 14, 2), (128, 14, 32)):
        step = _conv_relu(channels, 3, group)
        yield _chain(f"grouped-{channels}x{side}", (1, channels, side, side), step, 4)


def _conv_relu(channels: int, kernel: int, group: int = 1) -> Step:
    return lambda net, x: net.op("Relu", net.conv(x, channels, channels, kernel, 1, group))


def _blocks() -> Iterator[Model]:
    for channels, side in ((16, 32), (32, 16), (64, 8)):
        yield _chain(
            f"residual-{channels}x{side}", (1, channels, side, side), _residual(channels), 3
        )
    for channels, side, wide in (
        (8, 32, 48),
        (16, 56, 96),
        (24, 28, 144),
        (64, 14, 384),
        (160, 7, 960),
    ):
        step = _inverted(channels, wide)
        yield _chain(f"inverted-{channels}x{side}", (1, channels, side, side), step, 2)
    for channels, side in ((8, 56), (16, 28), (64, 14), (64, 7), (128, 7)):
        yield _chain(
            f"separable-{channels}x{side}", (1, channels, side, side), _separable(channels), 4
        )
    for channels, side in ((16, 52), (32, 26), (64, 13)):
        yield _chain(f"silu-{channels}x{side}", (1, channels, side, side), _silu_block(channels), 2)
    for side, wide in ((32, 16), (128, 8), (128, 32), (224, 16)):
        net = Net(f"stem-{wide}x{side}")
        x = net.op("Relu", net.conv(net.input(1, 3, side, side), 3, wide, 3, 2))
        x = net.op("GlobalAveragePool", net.op("Relu", net.conv(x, wide, wide, 1)))
        yield net.model(net.gemm(net.op("Flatten", x), wide, 10))


def _residual(channels: int) -> Step:
    def step(net: Net, x: ir.Value) -> ir.Value:
        y = net.op("Relu", net.conv(x, channels, channels, 3))
        return net.op("Relu", net.op("Add", net.conv(y, channels, channels, 3), x))

    return step


def _inverted(channels: int, wide: int) -> Step:
    def step(net: Net, x: ir.Value) -> ir.Value:
        low, high = net.constant(np.float32(0)), net.constant(np.float32(6))
        y = net.op("Clip", net.conv(x, channels, wide, 1), low, high)
        y = net.op("Clip", net.conv(y, wide, wide, 3, 1, wide), low, high)
        return net.op("Add", net.conv(y, wide, channels, 1), x)

    return step


def _separable(channels: int) -> Step:
    def step(net: Net, x: ir.Value) -> ir.Value:
        y = net.op("Relu", net.conv(x, channels, channels, 3, 1, channels))
        return net.op("Relu", net.conv(y, channels, channels, 1))

    return step


def _silu_block(channels: int) -> Step:
    """Draw a cross-stage block as detectors have it: split, convolve, concatenate, mix."""

    def silu(net: Net, x: ir.Value) -> ir.Value:
        return net.op("Mul", x, net.op("Sigmoid", x))

    def step(net: Net, x: ir.Value) -> ir.Value:
        left = silu(net, net.conv(x, channels, channels // 2, 1))
        right = silu(net, net.conv(x, channels, channels // 2, 1))
        right = silu(net, net.conv(right, channels // 2, channels // 2, 3))
        return silu(net, net.conv(net.op("Concat", left, right, axis=1), channels, channels, 1))

    return step


def _dense() -> Iterator[Model]:
    for rows, width, depth in (
        (1, 32, 8),
        (1, 128, 8),
        (1, 256, 8),
        (1, 640, 3),
        (1, 2048, 1),
        (1, 3072, 1),
        (16, 256, 3),
        (64, 512, 1),
    ):
        step = _gemm_relu(width)
        yield _chain(f"gemm-{rows}x{width}", (rows, width), step, depth)
    for batch, size in ((4, 48), (8, 128)):
        net = Net(f"matmul-{batch}x{size}")
        x = net.input(batch, size, size)
        yield net.model(net.op("MatMul", net.op("MatMul", x, x), x))


def _gemm_relu(width: int) -> Step:
    return lambda net, x: net.op("Relu", net.gemm(x, width, width))


def _attention() -> Iterator[Model]:
    for tokens, width, heads in ((16, 32, 2), (48, 96, 4), (64, 256, 4), (128, 192, 4)):
        step = _block(tokens, width, heads)
        yield _chain(f"attention-{tokens}x{width}", (1, tokens, width), step, 1)


def _block(tokens: int, width: int, heads: int) -> Step:
    """Draw a pre-norm transformer block, written with the nodes that exporters write."""

    def norm(net: Net, x: ir.Value) -> ir.Value:
        one, zero = np.ones(width, np.float32), np.zeros(width, np.float32)
        return net.op("LayerNormalization", x, net.constant(one), net.constant(zero), axis=-1)

    def dense(net: Net, x: ir.Value, rows: int, columns: int) -> ir.Value:
        bias = net.constant(np.zeros(columns, np.float32))
        return net.op("Add", net.op("MatMul", x, net.weight(rows, columns)), bias)

    def split(net: Net, x: ir.Value, order: list[int]) -> ir.Value:
        shape = net.constant(np.array([1, tokens, heads, width // heads]))
        return net.op(
            "Transpose", net.op("Reshape", dense(net, x, width, width), shape), perm=order
        )

    def gelu(net: Net, x: ir.Value) -> ir.Value:
        half = net.op("Erf", net.op("Div", x, net.constant(np.float32(2**0.5))))
        both = net.op("Mul", x, net.op("Add", half, net.constant(np.float32(1))))
        return net.op("Mul", both, net.constant(np.float32(0.5)))

    def step(net: Net, x: ir.Value) -> ir.Value:
        y = norm(net, x)
        query, value = split(net, y, [0, 2, 1, 3]), split(net, y, [0, 2, 1, 3])
        scores = net.op("MatMul", query, split(net, y, [0, 2, 3, 1]))
        scores = net.op("Div", scores, net.constant(np.float32((width / heads) ** 0.5)))
        y = net.op("MatMul", net.op("Softmax", scores, axis=-1), value)
        flat = net.constant(np.array([1, tokens, width]))
        y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), flat)
        x = net.op("Add", x, dense(net, y, width, width))
        y = gelu(net, dense(net, norm(net, x), width, width * 4))
        return net.op("Add", x, dense(net, y, width * 4, width))

    return step


def _recurrent() -> Iterator[Model]:
    for kind, gates, steps, size in (
        ("LSTM", 4, 1, 128),
        ("LSTM", 4, 16, 64),
        ("LSTM", 4, 8, 256),
        ("GRU", 3, 16, 128),
    ):
        net = Net(f"{kind.lower()}-{steps}x{size}")
        weights = (net.weight(1, gates * size, size), net.weight(1, gates * size, size))
        yield net.model(net.op(kind, net.input(steps, 1, size), *weights, hidden_size=size))


def _small_kinds() -> Iterator[Model]:
    for side in (8, 40):
        for name, step in _SMALL.items():
            yield _chain(f"{name}-{side}", (1, 32, side, side), step, 4)

    for side, depth in ((40, 3), (8, 2)):
        yield _chain(f"halve-{side}", (1, 32, side, side), _halve, depth)
    yield _chain("views", (1, 32, 8, 8), _view, 6)


def _halve(net: Net, x: ir.Value) -> ir.Value:
    return net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])


def _view(net: Net, x: ir.Value) -> ir.Value:
    flat = net.op("Flatten", net.op("Relu", x))
    return net.op("Reshape", net.op("Relu", flat), net.constant(np.array([1, 32, 8, 8])))


def _pool(kind: str) -> Step:
    return lambda net, x: net.op(kind, x, kernel_shape=[3, 3], pads=[1] * 4)


def _flip(net: Net, x: ir.Value) -> ir.Value:
    return net.op("Transpose", x, perm=[0, 1, 3, 2])


def _join(net: Net, x: ir.Value) -> ir.Value:
    begin, half, axes = (net.constant(np.array([v])) for v in (0, 16, 1))
    part = net.op("Slice", x, begin, half, axes)
    return net.op("Concat", part, part, axis=1)


def _pad(net: Net, x: ir.Value) -> ir.Value:
    return net.op("Pad", x, net.constant(np.array([0, 0, 1, 1, 0, 0, 0, 0])))


def _mean(net: Net, x: ir.Value) -> ir.Value:
    mean = net.op("ReduceMean", x, net.constant(np.array([2, 3])), keepdims=1)
    return net.op("Add", x, mean)


_SMALL: dict[str, Step] = {
    "max-pool": _pool("MaxPool"),
    "average-pool": _pool("AveragePool"),
    "add-self": lambda net, x: net.op("Tanh", net.op("Add", x, x)),
    "sigmoid": lambda net, x: net.op("Sigmoid", x),
    "transpose": _flip,
    "slice-concat": _join,
    "pad": _pad,
    "softmax": lambda net, x: net.op("Softmax", x, axis=-1),
    "reduce": _mean,
}


def _branches() -> Iterator[Model]:
    """Yield an If whose branches hold eight small nodes, as networks with two sample rates have."""
    for width in (16, 256):
        net = Net(f"if-{width}")
        x, flag = net.input(1, width), net.input(dtype=ir.DataType.BOOL)
        bodies = {}
        for place, name in enumerate(("then_branch", "else_branch")):
            inner = ir.tape.Tape()
            y = inner.op("Add", [x, x])
            for _ in range(7):
                y = inner.op("Tanh" if place else "Sigmoid", [y])
            y.type, y.shape = x.type, x.shape
            bodies[name] = ir.Graph([], [y], nodes=inner.nodes, name=name)
        yield net.model(net.op("If", flag, **bodies))


def _integers() -> Iterator[Model]:
    """Islands of DequantizeLinear, a kernel, QuantizeLinear: symmetric 8 bit."""
    for channels, side in ((32, 16), (64, 28)):
        net = Net(f"int8-conv-{channels}x{side}")
        x = net.input(1, channels, side, side)
        scale, zero = net.constant(np.float32(0.05)), net.constant(np.int8(0))
        x = net.op("QuantizeLinear", x, scale, zero)
        for _ in range(4):
            y = net.op("DequantizeLinear", x, scale, zero)
            kernel = net.constant(np.ones((channels, channels, 3, 3), np.int8))
            weight = net.op("DequantizeLinear", kernel, scale, zero)
            y = net.op("Conv", y, weight, kernel_shape=[3, 3], pads=[1] * 4)
            x = net.op("QuantizeLinear", y, scale, zero)
        yield net.model(net.op("DequantizeLinear", x, scale, zero))
