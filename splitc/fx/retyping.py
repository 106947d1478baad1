"""Sizes after a graph was changed: inferred anew, under the names that they had."""

from dataclasses import replace

import onnx_ir as ir

from splitc.errors import ModelError
from splitc.fx.graphs import forget_shapes
from splitc.inference import infer
from splitc.model import Model


def typed(model: Model, complaint: str) -> Model:
    """Return the model with every size inferred anew, and checked.

    Symbols keep their names, and outputs the sizes that inference loses. Raises `ModelError`,
    `complaint` first, for a graph that does not fit together.
    """
    before = {name: list(value.shape or ()) for name, value in model.values.items()}
    forget_shapes(model.ir)
    if problem := infer(model.ir):
        raise ModelError(f"{complaint}: {problem}", where=model.source)
    made = replace(model)
    for name, value in made.values.items():
        if value.shape is not None and len(old := before.get(name, [])) == len(value.shape):
            pairs = zip(old, value.shape, strict=True)
            value.shape = ir.Shape(
                new if isinstance(new, int) else _open(a, new) for a, new in pairs
            )
    for value in made.ir.graph.outputs:
        if value.shape is not None and any(d == ir.SymbolicDim(None) for d in value.shape):
            dims = zip(before[str(value.name)], made.facts[str(value.name)].shape, strict=True)
            value.shape = ir.Shape(
                old if old == size and new == ir.SymbolicDim(None) else new
                for (old, size), new in zip(dims, value.shape, strict=True)
            )
    made.check()
    return made


def _open(old: int | ir.SymbolicDim, new: ir.SymbolicDim) -> ir.SymbolicDim:
    """Return the name that an open size had before, if it had one."""
    return old if isinstance(old, ir.SymbolicDim) and old.value is not None else new
