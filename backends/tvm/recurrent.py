"""LSTM and GRU, one step after the other, in ordinary ONNX operators.

Equations and gate order (LSTM: i o f c, GRU: z r h) of the ONNX operator specification, default
activations. All input projections of a sequence are one product; each step adds its own.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from splitc.backends.tvm.rewriting import Rewriter, array_of, replace_node

MOST_STEPS = 128
"""Longer sequences are refused: every step is code of its own."""
WEIGHTS = (1, 2, 3)
"""Inputs that must be constant."""
_PLAIN = {"hidden_size", "direction", "linear_before_reset", "layout", "activations"}


@dataclass(frozen=True)
class _Direction:
    """Weights of one direction, transposed: rows are inputs, columns are gates."""

    reverse: bool
    inputs: NDArray[np.float32]
    hidden: NDArray[np.float32]
    bias: NDArray[np.float32]
    hidden_bias: NDArray[np.float32]


def refusal(node: ir.Node) -> str | None:
    """Return why an LSTM or GRU cannot be lowered, or None."""
    name = node.op_type
    if odd := sorted(set(node.attributes) - _PLAIN):
        return f"{name} with {odd[0]}"
    if _activations(node) != _expected(node):
        return f"{name} with activations other than the default ones"
    if (layout := node.attributes.get("layout")) is not None and layout.as_int() != 0:
        return f"{name} with layout = 1"
    if any(_given(node, place) for place in ((4, 7) if name == "LSTM" else (4,))):
        return f"{name} with sequence lengths or peepholes"
    shape = None if node.inputs[0] is None else node.inputs[0].shape
    if shape is not None and isinstance(shape[0], int) and shape[0] > MOST_STEPS:
        return f"{name} over {shape[0]} steps (at most {MOST_STEPS} are unrolled)"
    return None


def lower(model: ir.Model, node: ir.Node) -> None:
    """Replace the node; one that `refusal` names, or of unknown size or weights, stays."""
    data = node.inputs[0]
    if refusal(node) is not None or data is None or data.shape is None:
        return
    if any(_given(node, place) and array_of(node.inputs[place]) is None for place in WEIGHTS):
        return
    sizes = [size for size in data.shape if isinstance(size, int)]
    if len(sizes) != 3:
        return
    make, cell = Rewriter(model, node), _lstm if node.op_type == "LSTM" else _gru
    made = [_run(make, node, number, way, sizes, cell) for number, way in enumerate(_ways(node))]
    size = made[0][2]
    wide = [make.reshaped(steps, (sizes[0], 1, sizes[1], size)) for steps, _, _ in made]
    sequence = wide[0] if len(wide) == 1 else make("Concat", *wide, axis=1)
    last = []
    for part in range(len(node.outputs) - 1):
        ends = [make.reshaped(state[part], (1, sizes[1], size)) for _, state, _ in made]
        last.append(ends[0] if len(ends) == 1 else make("Concat", *ends, axis=0))
    replace_node(model, node, [sequence, *last], make.nodes)


def _run(
    make: Rewriter, node: ir.Node, number: int, way: _Direction, sizes: list[int], cell: Any
) -> tuple[ir.Value, list[ir.Value], int]:
    """Return (steps·batch × hidden, last states, hidden) of one direction."""
    steps, batch, width = sizes
    flat = make.reshaped(node.inputs[0], (steps * batch, width))
    projected = make("MatMul", flat, make.constant(way.inputs))
    projected = make("Add", projected, make.constant(way.bias))
    parts = [_slice(make, projected, 0, t * batch, (t + 1) * batch) for t in range(steps)]
    hidden = way.hidden.shape[0]
    count = 2 if node.op_type == "LSTM" else 1
    state = [_start(make, node, 5 + i, number, (batch, hidden)) for i in range(count)]
    made: list[ir.Value] = []
    for part in reversed(parts) if way.reverse else parts:
        state = cell(make, node, way, part, state)
        made.append(state[0])
    if way.reverse:
        made.reverse()
    return (made[0] if steps == 1 else make("Concat", *made, axis=0)), state, hidden


def _start(
    make: Rewriter, node: ir.Node, place: int, number: int, shape: tuple[int, int]
) -> ir.Value:
    """Return the state to begin with: zeros, or the given one of this direction."""
    if not _given(node, place):
        return make.constant(np.zeros(shape, np.float32))
    index = make.constant(np.array(number, np.int64))
    value: ir.Value = make("Gather", node.inputs[place], index, axis=0)
    return value


def _lstm(
    make: Rewriter, node: ir.Node, way: _Direction, part: ir.Value, state: list[ir.Value]
) -> list[ir.Value]:
    """i, o, f = σ(…), c' = tanh(…):  C = f·C + i·c',  H = o·tanh(C)."""
    hidden, memory = state
    gates = make("Add", part, make("MatMul", hidden, make.constant(way.hidden)))
    size = way.hidden.shape[0]
    soft = make("Sigmoid", _columns(make, gates, 0, 3 * size))
    entry, leave, forget = (_columns(make, soft, k * size, (k + 1) * size) for k in range(3))
    fresh = make("Tanh", _columns(make, gates, 3 * size, 4 * size))
    memory = make("Add", make("Mul", forget, memory), make("Mul", entry, fresh))
    return [make("Mul", leave, make("Tanh", memory)), memory]


def _gru(
    make: Rewriter, node: ir.Node, way: _Direction, part: ir.Value, state: list[ir.Value]
) -> list[ir.Value]:
    """z, r = σ(…):  H = (1 − z)·tanh(…) + z·H; r stands before or after the product."""
    (hidden,) = state
    size = way.hidden.shape[0]
    after = (flag := node.attributes.get("linear_before_reset")) is not None and flag.as_int() != 0
    both = make("MatMul", hidden, make.constant(way.hidden[:, : 2 * size]))
    soft = make("Sigmoid", make("Add", _columns(make, part, 0, 2 * size), both))
    update, reset = _columns(make, soft, 0, size), _columns(make, soft, size, 2 * size)
    given = make.constant(way.hidden[:, 2 * size :])
    bias = make.constant(way.hidden_bias[2 * size :])
    if after:
        inner = make("Mul", reset, make("Add", make("MatMul", hidden, given), bias))
    else:
        inner = make("Add", make("MatMul", make("Mul", reset, hidden), given), bias)
    fresh = make("Tanh", make("Add", _columns(make, part, 2 * size, 3 * size), inner))
    kept = make("Mul", update, make("Sub", hidden, fresh))
    return [make("Add", fresh, kept)]


def _columns(make: Rewriter, value: ir.Value, low: int, high: int) -> ir.Value:
    return _slice(make, value, 1, low, high)


def _slice(make: Rewriter, value: ir.Value, axis: int, low: int, high: int) -> ir.Value:
    limits = (make.constant(np.array([limit], np.int64)) for limit in (low, high, axis))
    made: ir.Value = make("Slice", value, *limits)
    return made


def _ways(node: ir.Node) -> list[_Direction]:
    """Return the weights of each direction; the bias of the input holds what can be added early."""
    inputs, hidden = (np.asarray(array_of(node.inputs[place]), np.float32) for place in (1, 2))
    size = hidden.shape[2]
    bias = array_of(node.inputs[3]) if _given(node, 3) else None
    biases = np.zeros((len(inputs), 2 * inputs.shape[1]), np.float32) if bias is None else bias
    attribute = node.attributes.get("direction")
    direction = "forward" if attribute is None else attribute.as_string()
    made = []
    for number in range(len(inputs)):
        first, second = np.split(biases[number].astype(np.float32), 2)
        early = second.copy()
        if node.op_type == "GRU":
            early[2 * size :] = 0
        made.append(
            _Direction(
                direction == "reverse" or number == 1,
                np.ascontiguousarray(inputs[number].T),
                np.ascontiguousarray(hidden[number].T),
                first + early,
                second,
            )
        )
    return made


def _given(node: ir.Node, place: int) -> bool:
    return place < len(node.inputs) and node.inputs[place] is not None


def _activations(node: ir.Node) -> list[str]:
    attribute = node.attributes.get("activations")
    return (
        _expected(node) if attribute is None else [a.capitalize() for a in attribute.as_strings()]
    )


def _expected(node: ir.Node) -> list[str]:
    names = ["Sigmoid", "Tanh", "Tanh"] if node.op_type == "LSTM" else ["Sigmoid", "Tanh"]
    attribute = node.attributes.get("direction")
    both = attribute is not None and attribute.as_string() == "bidirectional"
    return names * 2 if both else names
