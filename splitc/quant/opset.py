"""Opset 13: the first whose QuantizeLinear and DequantizeLinear take a scale for each channel."""

from dataclasses import replace

import onnx
import onnx_ir as ir

from splitc.errors import ModelError
from splitc.model import Model
from splitc.quant.types import retype

OLDEST = 13
_LIMIT = 2**31 - 2**27


def with_axes(model: Model) -> Model:
    """Return the model at opset 13 at least, by ONNX's own converter; names stay.

    Raises `ModelError` where the converter cannot do it.
    """
    if model.ir.opset_imports.get("", OLDEST) >= OLDEST:
        return model
    if model.weight_bytes() > _LIMIT:
        raise ModelError("weights above 2 GiB: export the model with opset 13 or later")
    try:
        made = onnx.version_converter.convert_version(ir.to_proto(model.ir), OLDEST)
    except (RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())[:200]
        hint = "export the model with opset 13 or later"
        raise ModelError(
            f"cannot raise the opset to 13: {text}", where=model.source, hint=hint
        ) from error
    del made.graph.value_info[:]  # types of the old opset: the mask of a Dropout was a float
    result = replace(model, ir=ir.from_proto(made))
    retype(result)
    return result
