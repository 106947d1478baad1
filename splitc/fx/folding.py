"""Constants: which nodes compute one, and what it is."""

from collections.abc import Mapping
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

_NEVER = frozenset(("If", "Loop", "Scan"))


Arrays = Mapping[str, NDArray[Any]]


def folded(
    node: ir.Node, arrays: Arrays, weights: Arrays, opset: int
) -> dict[str, NDArray[Any]] | None:
    """Return the outputs of a node whose inputs are all in `arrays`; None if they are not.

    The sizes of `weights` are constants too, and a number that is cast to the type of a tensor.
    None for an operator that onnx's reference does not compute.
    """
    if node.op_type == "Constant":
        return _constant(node)
    if node.op_type == "CastLike":
        return _cast(node, arrays)
    arrays = {**arrays, **weights} if node.op_type in ("Shape", "Size") else arrays
    names = [str(v.name) for v in node.inputs if v is not None and v.name]
    if not names or node.op_type in _NEVER or any(name not in arrays for name in names):
        return None
    proto = ir.to_proto(node)
    outputs = [name for name in proto.output if name]
    infos = [onnx.ValueInfoProto(name=name) for name in (*names, *outputs)]
    graph = onnx.helper.make_graph([proto], "one", infos[: len(names)], infos[len(names) :])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        made = ReferenceEvaluator(model).run(None, {name: arrays[name] for name in names})
    except (NotImplementedError, RuntimeError, TypeError, ValueError):
        return None
    return dict(zip(outputs, made, strict=True))


def _cast(node: ir.Node, arrays: Arrays) -> dict[str, NDArray[Any]] | None:
    value, like = node.inputs
    given = None if value is None else arrays.get(str(value.name))
    if given is None or like is None or like.dtype is None:
        return None
    return {str(node.outputs[0].name): given.astype(like.dtype.numpy())}


def _constant(node: ir.Node) -> dict[str, NDArray[Any]] | None:
    tensor = ir.convenience.get_const_tensor(node.outputs[0])
    return None if tensor is None else {str(node.outputs[0].name): tensor.numpy()}
