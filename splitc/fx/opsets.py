"""Bring two graphs to one opset."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from splitc.errors import ModelError
from splitc.model import Model

_REFUSALS = (RuntimeError, ValueError, onnx.checker.ValidationError)


def one_opset(model: Model, new: ir.Model) -> tuple[Model, ir.Model]:
    """Return both at one opset: the model's if the new part can be said in it.

    Otherwise the model is raised, and a note says so. Raises `ModelError` where that fails too.
    """
    have, made = model.ir.opset_imports[""], new.opset_imports[""]
    if have == made:
        return model, new
    if have < made and (lowered := _lowered(ir.to_proto(new), have)) is not None:
        return model, _as_ir(lowered, new)
    if have > made and (raised := _raised(new, have)) is not None:
        return model, raised
    whole = _raised(model.ir, made) if have < made else None
    if whole is None:
        raise ModelError(
            f"the model has opset {have}, the new part {made}, and neither converts to the other",
            where=model.source,
            hint="export the model again with opset 18 or later",
        )
    note = f"the new part needs opset {made}: the model, which had {have}, was raised to it"
    return replace(model, ir=whole).with_notes(note), new


def _raised(model: ir.Model, opset: int) -> ir.Model | None:
    try:
        proto = onnx.version_converter.convert_version(ir.to_proto(model), opset)
        onnx.checker.check_model(proto)
    except _REFUSALS:
        return None
    return _as_ir(proto, model)


def _lowered(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto | None:
    """Go down version by version; where onnx has no adapter, the checker says if none is needed."""
    _plain_reshapes(proto.graph)
    for version in range(proto.opset_import[0].version - 1, opset - 1, -1):
        try:
            proto = onnx.version_converter.convert_version(proto, version)
        except _REFUSALS:
            proto.opset_import[0].version = version
        try:
            onnx.checker.check_model(proto)
        except _REFUSALS:
            return None
    return proto


def _plain_reshapes(graph: onnx.GraphProto) -> None:
    """Drop `allowzero`, which opset 14 brought, where the target has no 0."""
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        target = known.get(node.input[1]) if node.op_type == "Reshape" else None
        if target is not None and np.all(target):
            kept = [a for a in node.attribute if a.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)


def _as_ir(proto: onnx.ModelProto, before: ir.Model) -> ir.Model:
    made = ir.from_proto(proto)
    made.ir_version = before.ir_version
    return made
