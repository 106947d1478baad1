"""Sizes of every tensor at a batch that no other size is likely to equal."""

from splitc.model import Model
from splitc.shapes import bindings, sizes_at

BATCH = 13


def wide_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Return tensor → sizes with every batch at `BATCH`, as far as ONNX's inference tells them."""
    return sizes_at(model, bindings(model) | dict.fromkeys(batches(model), BATCH))


def batches(model: Model) -> tuple[str, ...]:
    """Return the symbols that stand first in an input."""
    made = {
        tensor.shape[0]: None
        for tensor in model.inputs
        if tensor.shape and isinstance(tensor.shape[0], str)
    }
    return tuple(str(symbol) for symbol in made)
