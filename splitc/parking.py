"""Large weights wait in a temporary file: at most one copy of them is in memory at a time.

Opening a session, hashing and saving read them from there; the file goes with the last tensor
that lies in it.
"""

import gc
import tempfile
from collections.abc import Iterator

import onnx_ir as ir

from splitc.model import EXTERNAL_ABOVE, Model

_SMALL = 4096
"""Tensors up to this many bytes stay in memory: shape inference reads their values."""


def parked(model: Model) -> Model:
    """Return the model with its weights in a temporary file, if they are large and in memory.

    The model given is not changed; its memory is free once nobody holds it.
    """
    if _in_memory(model.ir) <= EXTERNAL_ABOVE:
        return model
    copy = model.clone()
    del model
    _move(copy.ir.graph)
    for node, name in list(_attributes(copy.ir)):
        node.attributes[name] = ir.AttrTensor(name, _copied(node.attributes[name].as_tensor()))
    gc.collect()  # a graph is a ring of references
    return copy


def _move(graph: ir.Graph) -> None:
    """Write the large initializers to the file; copy the small ones."""
    table = [v for v in graph.initializers.values() if _movable(v.const_value)]
    tensors = [v.const_value for v in table if v.const_value is not None]
    large = [tensor for tensor in tensors if tensor.nbytes > _SMALL]
    folder = tempfile.TemporaryDirectory(prefix="splitc-")
    moved = ir.external_data.convert_tensors_to_external(large, folder.name, "weights")
    places = {id(old): new for old, new in zip(large, moved, strict=True)}
    for value, old in zip(table, tensors, strict=True):
        new = places.get(id(old)) or _copied(old)
        new.meta.update(old.meta)
        if new is places.get(id(old)):
            new.meta["folder"] = folder  # which is deleted with the last of them
        value.const_value = new


def _in_memory(model: ir.Model) -> int:
    tensors = [v.const_value for v in model.graph.initializers.values()]
    return sum(int(t.nbytes) for t in tensors if t is not None and _movable(t))


def _movable(tensor: ir.TensorProtocol | None) -> bool:
    """Tell whether a tensor is plain numbers in memory."""
    return (
        tensor is not None
        and not isinstance(tensor, ir.ExternalTensor)
        and tensor.dtype != ir.DataType.STRING
    )


def _copied(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Copy a small tensor out of the message that it came in, which would stay whole otherwise."""
    return ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=tensor.name)


def _attributes(model: ir.Model) -> Iterator[tuple[ir.Node, str]]:
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for name, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.TENSOR and _movable(attribute.value):
                yield node, name
