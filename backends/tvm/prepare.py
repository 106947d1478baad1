"""A segment made ready for TVM's importer: sizes fixed, constants folded, forms it lacks rewritten.

All of it is plain ONNX before and after, so that it can be compared with onnxruntime alone.

    Conv of rank 3       becomes   Reshape, Conv of rank 4, Reshape
    Sum(a, b, c)         becomes   Add(Add(a, b), c)
    LSTM, GRU            become    one step after the other (`recurrent`)
    If (constant)        becomes   the branch that is taken
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from splitc.backends.tvm import recurrent
from splitc.backends.tvm.rewriting import Rewriter, array_of, replace_node
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
    _embed(model)
    return model


def _embed(model: ir.Model) -> None:
    """Read weights that lie in another file: the importer takes the graph from memory."""
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            array = np.array(value.const_value.numpy())
            value.const_value = ir.tensor(array, name=value.name)


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


def _conv1d(model: ir.Model, node: ir.Node) -> None:
    """Make a convolution along one axis one of height 1."""
    data, weights, *bias = node.inputs
    kernel = array_of(weights)
    if data is None or data.shape is None or len(data.shape) != 3 or kernel is None:
        return
    make = Rewriter(model, node)
    batch, channels, length = data.shape
    image = make.reshaped(data, (batch, channels, 1, length))
    attributes = {key: a.as_ints() for key, a in node.attributes.items() if key in _DOUBLED}
    doubled: dict[str, Any] = {
        key: [*[_DOUBLED[key]] * (len(v) // 2 or 1), *v] for key, v in attributes.items()
    }
    if (pads := attributes.get("pads")) is not None:
        doubled["pads"] = [0, pads[0], 0, pads[1]]
    keep = {k: a for k, a in node.attributes.items() if k not in _DOUBLED}
    wide = make.constant(kernel[:, :, None, :])
    made = make("Conv", image, wide, *bias, attributes=keep, **doubled)
    replace_node(model, node, [make.reshaped(made, (batch, kernel.shape[0], -1))], make.nodes)


def _constant(model: ir.Model, node: ir.Node) -> None:
    """Give a Constant its tensor form, the only one that the importer reads."""
    array = array_of(node.outputs[0])
    if array is not None and "value" not in node.attributes:
        node.attributes.clear()
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array))


def _sum(model: ir.Model, node: ir.Node) -> None:
    """Add one by one; the importer would stack all terms, broadcast, and sum over the stack."""
    make = Rewriter(model, node)
    if len(node.inputs) < 2:
        return
    total = node.inputs[0]
    for term in node.inputs[1:]:
        total = make("Add", total, term)
    replace_node(model, node, [total], make.nodes)


_DOUBLED = {"kernel_shape": 1, "strides": 1, "dilations": 1, "pads": 0}

REWRITES: dict[str, Callable[[ir.Model, ir.Node], None]] = {
    "Constant": _constant,
    "Conv": _conv1d,
    "Sum": _sum,
    "LSTM": recurrent.lower,
    "GRU": recurrent.lower,
}
"""Operator → how it is rewritten, in place; a form that no rewrite knows stays as it is."""
