"""Draw inputs for a network, by rules that make a comparison mean something.

Floats are standard normal; integers that index a table range over its rows; other integers are 0
or 1; a scalar that the graph compares with constants is one of those constants; booleans are
fair. The same model and seed give the same arrays.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from splitc.errors import ModelError
from splitc.model import Fact, Model, bodies

_COMPARE = frozenset(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"))
_THROUGH = frozenset(
    ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
)


def draw_inputs(model: Model, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Return graph input → array at batch 1 or the best `--input` sizes."""
    facts = model.facts
    return draw(model, {name: facts[name] for name in model.graph.inputs}, seed)


def draw_samples(model: Model, count: int, seed: int = 0) -> list[dict[str, NDArray[Any]]]:
    """Return `count` independent draws."""
    return [draw_inputs(model, seed + index) for index in range(count)]


def draw(model: Model, shapes: Mapping[str, Fact], seed: int = 0) -> dict[str, NDArray[Any]]:
    """Draw arrays of the given types and shapes for the inputs of `model`."""
    values = {str(value.name): value for value in model.ir.graph.inputs}
    rng = np.random.default_rng(seed)
    return {name: _one(model, values[name], fact, rng) for name, fact in shapes.items()}


def _one(model: Model, value: ir.Value, fact: Fact, rng: np.random.Generator) -> NDArray[Any]:
    if fact.dtype == "bool":
        return rng.integers(0, 2, fact.shape).astype(bool)
    if fact.dtype.startswith(("float", "bfloat")):
        return np.asarray(rng.standard_normal(fact.shape)).astype(_numpy(fact.dtype))
    if not fact.dtype.startswith(("int", "uint")):
        raise ModelError(f"input {value.name!r} is {fact.dtype}: splitc cannot draw such values")
    if fact.elements == 1 and (compared := _compared(model, value)):
        drawn = rng.choice(sorted(compared), size=fact.shape)
    else:
        drawn = rng.integers(0, max(_rows(model, value), 1), fact.shape)
    return np.asarray(drawn).astype(_numpy(fact.dtype))


def _numpy(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        import ml_dtypes

        narrow: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return narrow
    return np.dtype(name)


def _uses(value: ir.Value) -> list[tuple[ir.Node, int]]:
    """List the readers of a value, those behind casts and reshapes included."""
    found: list[tuple[ir.Node, int]] = []
    for use in value.uses():
        if use.node.op_type in _THROUGH and use.idx == 0:
            found += _uses(use.node.outputs[0])
        else:
            found.append((use.node, use.idx))
    return found


def _rows(model: Model, value: ir.Value) -> int:
    """Return the rows of the smallest table that `value` indexes, or 2."""
    rows = []
    for node, place in _uses(value):
        if node.op_type == "Gather" and place == 1 and node.inputs[0] is not None:
            table = node.inputs[0]
            axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
            if table.const_value is not None:
                rows.append(int(table.const_value.numpy().shape[axis]))
    return min(rows, default=2)


def _compared(model: Model, value: ir.Value) -> set[int]:
    """Return the constants that `value` is compared with, in the graph or in a body."""
    found: set[int] = set()
    for node in [*model.ir.graph, *(n for top in model.ir.graph for b in bodies(top) for n in b)]:
        if node.op_type not in _COMPARE or not any(_reads(v, value) for v in node.inputs):
            continue
        for other in node.inputs:
            constant = None if other is None else ir.convenience.get_const_tensor(other)
            if constant is not None:
                found |= {int(x) for x in constant.numpy().ravel()[:16]}
    return found


def _reads(read: ir.Value | None, value: ir.Value) -> bool:
    """Tell whether `read` is `value`, or made from it by casts and reshapes alone."""
    while read is not None and read is not value:
        node = read.producer()
        read = node.inputs[0] if node is not None and node.op_type in _THROUGH else None
    return read is value
