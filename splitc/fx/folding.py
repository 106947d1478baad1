"""Constants: which nodes compute one, and what it is."""

from collections.abc import Mapping
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

_NEVER = frozenset(("If", "Loop", "Scan"))


def folded(
    node: ir.Node, arrays: Mapping[str, NDArray[Any]], opset: int
) -> dict[str, NDArray[Any]] | None:
    """Return the outputs of a node whose inputs are all in `arrays`; None if they are not.

    None too for an operator that onnx's reference does not compute.
    """
    if node.op_type == "Constant":
        return _constant(node)
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


def _constant(node: ir.Node) -> dict[str, NDArray[Any]] | None:
    tensor = ir.convenience.get_const_tensor(node.outputs[0])
    return None if tensor is None else {str(node.outputs[0].name): tensor.numpy()}
