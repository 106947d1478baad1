"""Draw inputs for a network, by rules that make a comparison mean something.

Floats are standard normal; integers that index a table range over its rows; other integers are 0
or 1; a scalar that the graph compares with constants is one of those constants; booleans are
fair. The same model and seed give the same arrays.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from splitc.errors import ModelError
from splitc.model import Fact, Model, bodies, dtype_of
from splitc.tables import rows

_COMPARE = frozenset(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"))
_THROUGH = frozenset(
    ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
)


def draw_inputs(model: Model, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Return graph input → array at batch 1 or the best `--input` sizes.

    Raises `ModelError` for an input of a kind that splitc cannot draw: strings, sequences.
    """
    facts = model.facts
    for name in model.graph.inputs:
        if name not in facts:
            kind = next(t.dtype for t in model.inputs if t.name == name)
            raise ModelError(f"input {name!r} is {kind}: splitc cannot draw such values")
    return draw(model, {name: facts[name] for name in model.graph.inputs}, seed, facts)


def draw_samples(model: Model, count: int, seed: int = 0) -> list[dict[str, NDArray[Any]]]:
    """Return `count` independent draws."""
    return [draw_inputs(model, seed + index) for index in range(count)]


def draw(
    model: Model,
    shapes: Mapping[str, Fact],
    seed: int = 0,
    known: Mapping[str, Fact] | None = None,
) -> dict[str, NDArray[Any]]:
    """Draw arrays of the given types and shapes for the inputs of `model`.

    `known`: facts of further tensors; the sizes of tables that the graph computes.
    """
    values = {str(value.name): value for value in model.ir.graph.inputs}
    rng = np.random.default_rng(seed)
    facts = {**(known or {}), **shapes}
    return {name: _one(model, values[name], fact, rng, facts) for name, fact in shapes.items()}


def _one(
    model: Model,
    value: ir.Value,
    fact: Fact,
    rng: np.random.Generator,
    known: Mapping[str, Fact],
) -> NDArray[Any]:
    if fact.dtype == "bool":
        return rng.integers(0, 2, fact.shape).astype(bool)
    if fact.dtype.startswith(("float", "bfloat")):
        return np.asarray(rng.standard_normal(fact.shape)).astype(_numpy(fact.dtype))
    if not fact.dtype.startswith(("int", "uint")):
        raise ModelError(f"input {value.name!r} is {fact.dtype}: splitc cannot draw such values")
    drawn: NDArray[Any] | np.integer[Any] | int
    if (count := rows(model, value, known)) is not None:
        drawn = rng.integers(0, count, fact.shape)
    elif fact.elements == 1 and (compared := _compared(model, value)):
        drawn = rng.choice(sorted(compared), size=fact.shape)
    else:
        drawn = rng.integers(0, 2, fact.shape)
    return np.asarray(drawn).astype(_numpy(fact.dtype))


def _numpy(name: str) -> np.dtype[Any]:
    return np.dtype(dtype_of(name).numpy())


def _compared(model: Model, value: ir.Value) -> set[int]:
    """Return the constants that `value` is compared with, in the graph or in a body."""
    found: set[int] = set()
    for node in _nodes(model.ir.graph):
        if node.op_type not in _COMPARE or not any(_reads(v, value) for v in node.inputs):
            continue
        for other in node.inputs:
            constant = None if other is None else ir.convenience.get_const_tensor(other)
            if constant is not None:
                found |= {int(x) for x in constant.numpy().ravel()[:16]}
    return found


def _nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    for node in graph:
        yield node
        for body in bodies(node):
            yield from _nodes(body)


def _reads(read: ir.Value | None, value: ir.Value) -> bool:
    """Tell whether `read` is `value`, or made from it by casts and reshapes alone."""
    while read is not None and read is not value:
        node = read.producer()
        read = node.inputs[0] if node is not None and node.op_type in _THROUGH else None
    return read is value
