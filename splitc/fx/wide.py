"""Sizes of every tensor at a batch that no other size is likely to equal."""

from splitc.inference import inferred, light, types
from splitc.model import Model
from splitc.shapes import bindings

BATCH = 13


def wide_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Return tensor → sizes with every batch at `BATCH`, as far as ONNX's inference tells them."""
    bound = bindings(model) | dict.fromkeys(batches(model), BATCH)
    proto = light(model.ir)
    del proto.graph.value_info[:]
    for value in proto.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in bound:
                dim.dim_value = bound[dim.dim_param]
    for value in proto.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    made, _ = inferred(proto)
    found: dict[str, tuple[int, ...]] = {}
    for name, kind in types((made or proto).graph).items():
        dims = kind.tensor_type.shape.dim
        if kind.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            found[name] = tuple(d.dim_value for d in dims)
    return found


def batches(model: Model) -> tuple[str, ...]:
    """Return the symbols that stand first in an input."""
    made = {
        tensor.shape[0]: None
        for tensor in model.inputs
        if tensor.shape and isinstance(tensor.shape[0], str)
    }
    return tuple(str(symbol) for symbol in made)
