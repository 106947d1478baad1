"""A segment made ready for TVM's importer: sizes fixed, constants folded, forms it lacks rewritten.

All of it is plain ONNX before and after, so that it can be compared with onnxruntime alone.

    Clip(x, 0, 6)        becomes   Min(Relu(x), 6)
    Conv of rank 3       becomes   Reshape, Conv of rank 4, Reshape
    LSTM, GRU            become    one step after the other (`recurrent`)
    If (constant)        becomes   the branch that is taken
"""

from collections.abc import Callable, Iterable

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from splitc.backends.tvm import recurrent
from splitc.backends.tvm.rewriting import Rewriter, array_of, replace_node, scalar
from splitc.model import Model

FOLDED_BELOW = 1 << 25
"""Elements above which a constant result is left to be computed by TVM."""

_ALSO_FOLDED = ("ConstantOfShape", "DequantizeLinear")
"""The folder leaves these by itself; the schedules want constant weights."""
FOLDING_ROUNDS = 4
"""Branches that are taken bring constants of their own; more rounds than they are deep."""


def prepare(segment: Model) -> ir.Model:
    """Return a copy with all sizes fixed; raises `ModelError` where `--input` must give one.

    The batch is the best size of `--input`, or 1: a symbolic one costs 1.15 to 7 × the time.
    """
    model = segment.clone().ir
    facts = segment.facts
    for value in model.graph.inputs:
        value.shape = ir.Shape(facts[str(value.name)].shape)
    model.graph.sort()
    _settle(model, segment)
    _fold(model)
    _settle(model, segment)
    for node in list(model.graph):
        if (rewrite := REWRITES.get(node.op_type)) is not None and node.domain in ("", "ai.onnx"):
            rewrite(model, node)
    RemoveUnusedNodesPass()(model)
    model.graph.sort()
    return model


def _settle(model: ir.Model, segment: Model) -> None:
    """Write the known sizes to the tensors of the main graph."""
    for value in (value for node in model.graph for value in node.outputs):
        if (fact := segment.facts.get(str(value.name))) is not None:
            value.shape = ir.Shape(fact.shape)


def _fold(model: ir.Model) -> None:
    """Evaluate what depends on no input, the sizes of tensors included; take constant branches."""
    from onnxscript import optimizer

    for _ in range(FOLDING_ROUNDS):
        optimizer.fold_constants(
            model,
            onnx_shape_inference=True,
            input_size_limit=FOLDED_BELOW,
            output_size_limit=FOLDED_BELOW,
            should_fold=lambda node: True if node.op_type in _ALSO_FOLDED else None,
        )
        RemoveUnusedNodesPass()(model)
        if not any(node.op_type in ("If", "Shape", "Size") for node in model.graph):
            return


def _clip(model: ir.Model, node: ir.Node) -> None:
    """Clip with constant limits, in any of its forms; others stay for the importer."""
    low, high = (_limit(model, node, place, key) for place, key in ((1, "min"), (2, "max")))
    if low is None or high is None or node.inputs[0] is None:
        return
    make, value = Rewriter(model, node), node.inputs[0]
    dtype = value.dtype or ir.DataType.FLOAT
    if low == 0 and dtype == ir.DataType.FLOAT:
        value = make("Relu", value)
    elif low != -np.inf:
        value = make("Max", value, make.constant(np.asarray(low, dtype.numpy())))
    if high != np.inf:
        value = make("Min", value, make.constant(np.asarray(high, dtype.numpy())))
    if value is node.inputs[0]:
        value = make("Identity", value)
    replace_node(model, node, [value], make.nodes)


def _limit(model: ir.Model, node: ir.Node, place: int, key: str) -> float | int | None:
    """Return a limit of Clip, ±inf where there is none, None where it is computed."""
    missing = np.inf if key == "max" else -np.inf
    if (attribute := node.attributes.get(key)) is not None:
        return attribute.as_float()
    if place >= len(node.inputs) or node.inputs[place] is None:
        return missing
    limit = array_of(node.inputs[place])
    if limit is None or limit.size != 1:
        return None
    value = scalar(limit)
    return missing if np.isnan(value) else value


def _conv1d(model: ir.Model, node: ir.Node) -> None:
    """A convolution along one axis is one of height 1."""
    data, weights, *bias = node.inputs
    kernel = array_of(weights)
    if data is None or data.shape is None or len(data.shape) != 3 or kernel is None:
        return
    make = Rewriter(model, node)
    batch, channels, length = data.shape
    image = make.reshaped(data, (batch, channels, 1, length))
    attributes = {key: a.as_ints() for key, a in node.attributes.items() if key in _DOUBLED}
    doubled = {key: [*[_DOUBLED[key]] * (len(v) // 2 or 1), *v] for key, v in attributes.items()}
    if (pads := attributes.get("pads")) is not None:
        doubled["pads"] = [0, pads[0], 0, pads[1]]
    keep = {k: a for k, a in node.attributes.items() if k not in _DOUBLED}
    wide = make.constant(kernel[:, :, None, :])
    made = make("Conv", image, wide, *bias, attributes=keep, **doubled)
    replace_node(model, node, [make.reshaped(made, (batch, kernel.shape[0], -1))], make.nodes)


_DOUBLED = {"kernel_shape": 1, "strides": 1, "dilations": 1, "pads": 0}

REWRITES: dict[str, Callable[[ir.Model, ir.Node], None]] = {
    "Clip": _clip,
    "Conv": _conv1d,
    "LSTM": recurrent.lower,
    "GRU": recurrent.lower,
}
"""Operator → how it is rewritten, in place; a form that no rewrite knows stays as it is."""


def remaining(model: ir.Model, known: Iterable[str]) -> list[ir.Node]:
    """Return the nodes of a prepared model whose operator is none of `known`."""
    names = set(known)
    return [n for n in model.graph if n.op_type not in names or n.domain not in ("", "ai.onnx")]
