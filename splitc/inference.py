"""ONNX's shape inference and checker, on the structure alone: large weights are set aside.

The passes of `onnx_ir` for this keep a failure to themselves, take tensors for sequences, and
build the whole graph a second time.
"""

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir

from splitc.model import bodies

_LIGHT = 1024
"""Initializers of more bytes than this stand as inputs: type and shape only."""
_NOTHING = np.zeros((), np.float32)


def infer(model: ir.Model) -> str:
    """Infer types and shapes in place, constants propagated.

    Returns "" or why strict inference fails; then what lenient inference finds is written.
    """
    made, problem = inferred(light(model))
    if made is not None:
        write(model, made)
    return problem


def inferred(proto: onnx.ModelProto) -> tuple[onnx.ModelProto | None, str]:
    """Return the proto with inferred types (None where even lenient inference fails), and why."""
    failures = (ValueError, RuntimeError, onnx.shape_inference.InferenceError)
    try:
        made = onnx.shape_inference.infer_shapes(
            proto, check_type=True, strict_mode=True, data_prop=True
        )
    except failures as error:
        problem = " ".join(str(error).split())[:400]
    else:
        return made, ""
    try:
        return onnx.shape_inference.infer_shapes(proto, data_prop=True), problem
    except failures:
        return None, problem


def violation(proto: onnx.ModelProto) -> str:
    """Return why ONNX's checker refuses the model, or ""."""
    try:
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, ValueError, RuntimeError, UnicodeError) as error:
        cause = error.__cause__ or error
        return str(cause).strip().split("\n\n")[0][:600] or type(cause).__name__
    return ""


def light(model: ir.Model) -> onnx.ModelProto:
    """Serialise the structure: large initializers become inputs of their type and shape."""
    replaced: dict[ir.Value, ir.TensorProtocol] = {}
    aside: list[ir.Value] = []
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > _LIGHT:
            replaced[value] = tensor
            aside.append(value)
            value.type = ir.TensorType(tensor.dtype)
            value.shape = tensor.shape  # type: ignore[assignment]
            value.const_value = ir.Tensor(_NOTHING)
        elif isinstance(tensor, ir.ExternalTensor):
            replaced[value] = tensor
            value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype)
    try:
        proto = ir.to_proto(model)
    finally:
        for value, tensor in replaced.items():
            value.const_value = tensor
    names = {value.name for value in aside}
    if names:
        kept = [tensor for tensor in proto.graph.initializer if tensor.name not in names]
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(kept)
        proto.graph.input.extend(ir.to_proto(value) for value in aside)
    return proto


def types(graph: onnx.GraphProto) -> dict[str, onnx.TypeProto]:
    """Return name → type of every tensor of a graph that has one, its bodies' left out."""
    infos = (*graph.output, *graph.value_info, *graph.input)
    return {info.name: info.type for info in infos if info.HasField("type")}


def write(model: ir.Model, made: onnx.ModelProto) -> None:
    """Copy what was inferred for `light(model)` into `model`."""
    _write(model.graph, made.graph)


def _write(graph: ir.Graph, proto: onnx.GraphProto) -> None:
    """Copy inferred types and shapes to the values of the same names, bodies included."""
    found = types(proto)
    for node, other in zip(graph, proto.node, strict=True):
        for out in node.outputs:
            if (seen := found.get(str(out.name))) is not None:
                _describe(out, seen)
        for body, made in zip(bodies(node), bodies_of(other), strict=True):
            _write(body, made)


def bodies_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the subgraphs of an If, Loop or Scan."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _describe(value: ir.Value, seen: onnx.TypeProto) -> None:
    """Give a value the inferred type, and the inferred shape if there is one."""
    if not seen.HasField("tensor_type"):
        value.type = ir.serde.deserialize_type_proto_for_type(seen) or value.type
        value.shape = ir.serde.deserialize_type_proto_for_shape(seen) or value.shape
        return
    tensor = seen.tensor_type
    if tensor.elem_type:
        value.type = ir.TensorType(ir.DataType(tensor.elem_type))
    if tensor.HasField("shape"):
        value.shape = ir.Shape(size_of(dim) for dim in tensor.shape.dim)


def size_of(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    """Return a size, its symbol, or None."""
    return dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
