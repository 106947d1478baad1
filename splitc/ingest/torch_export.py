"""From a torch program to the ONNX graph, for archives and factories alike."""

from importlib.util import find_spec
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from splitc.errors import ModelError
from splitc.importing import reason
from splitc.quiet import quiet


def require_torch(where: str) -> None:
    """Raise `ModelError` with a hint unless torch is installed."""
    if find_spec("torch") is None:
        raise ModelError(
            "reading this needs torch", where=where, hint="pip install 'splitc[torch]'"
        )


def failures() -> tuple[type[Exception], ...]:
    """Return what torch raises when it cannot load or export something."""
    import pickle

    from torch._dynamo.exc import TorchDynamoException
    from torch._export.serde.serialize import SerializeError
    from torch.onnx import OnnxExporterError

    ours = (SerializeError, OnnxExporterError, TorchDynamoException, pickle.UnpicklingError)
    plain = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError)
    return (*ours, *plain, AssertionError, NotImplementedError, EOFError, OSError, ImportError)


def to_onnx(program: Any, where: str, fold: bool = True) -> ir.Model:
    """Translate a `torch.export.ExportedProgram`; symbolic sizes stay symbolic.

    `fold`: let the exporter optimize the graph, which folds BatchNorm into convolutions.
    Raises `ModelError` with the exporter's reason.
    """
    import torch

    try:
        with quiet(), torch.no_grad():
            made = torch.onnx.export(
                program, dynamo=True, verbose=False, external_data=False, optimize=fold
            )
    except failures() as error:
        raise ModelError(
            f"torch cannot export the program to ONNX: {reason(error)}", where=where
        ) from error
    if made is None:
        raise ModelError("torch exported nothing", where=where)
    if not fold:
        _leave_out_zero_biases(made.model)
    _name_batch(made.model)
    return made.model


def _leave_out_zero_biases(model: ir.Model) -> None:
    """Drop the zeros that the exporter writes where a convolution has no bias.

    `simplify` cannot fold them (their type is that of the input), and would not see the
    convolution before a BatchNorm.
    """
    for node in model.graph:
        biased = node.op_type in ("Conv", "ConvTranspose") and len(node.inputs) == 3
        if biased and _zeros(node.inputs[2]):
            node.resize_inputs(2)
    RemoveUnusedNodesPass()(model)


def _zeros(value: ir.Value | None) -> bool:
    """Tell whether a value is 0, cast and expanded."""
    for op in ("Expand", "CastLike"):
        node = None if value is None else value.producer()
        if node is None or node.op_type != op:
            return False
        value = node.inputs[0]
    zero = None if value is None else ir.convenience.get_const_tensor(value)
    return zero is not None and not zero.numpy().any()


def _name_batch(model: ir.Model) -> None:
    """Call the exporter's symbol (s40) of the first input's first dimension 'batch'."""
    shapes = [value.shape for value in model.graph.inputs if value.shape]
    first = shapes[0][0] if shapes else None
    if not isinstance(first, ir.SymbolicDim) or first.value is None:
        return
    for value in (*model.graph.inputs, *(out for node in model.graph for out in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape("batch" if dim == first else dim for dim in value.shape)
