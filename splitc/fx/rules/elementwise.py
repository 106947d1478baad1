"""Arithmetic, comparisons, activations, casts: one torch function each."""

import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import onnx_ir as ir
import torch
from torch import fx, nn
from torch.nn import functional

from splitc.fx import functions
from splitc.fx.rules.linear import bias_layout
from splitc.fx.site import Site

_UNARY: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": functional.hardswish,
    "Identity": functions.identity,
    "IsInf": torch.isinf,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": functional.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": functional.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": functions.softplus,
    "Softsign": functional.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}
_BINARY: dict[str, Callable[..., Any]] = {
    "Add": operator.add,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Equal": operator.eq,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
    "Less": operator.lt,
    "LessOrEqual": operator.le,
    "Mul": operator.mul,
    "Pow": functions.power,
    "Sub": operator.sub,
}
_TENSORS = {"And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor}
_MANY = {"Max": torch.maximum, "Mean": operator.add, "Min": torch.minimum, "Sum": operator.add}


def unary(site: Site) -> fx.Node:
    """Any function of one tensor."""
    return site.call(_UNARY[site.op], site.x(0))


def binary(site: Site) -> fx.Node:
    """Any function of two tensors that broadcast; constants of one element are plain numbers."""
    if site.opset < 7:
        raise site.refuse(f"opset {site.opset} is too old; convert the model to opset 13 or later")
    return site.call(_BINARY[site.op], site.operand(0), site.operand(1))


def logic(site: Site) -> fx.Node:
    """And, Or, Xor."""
    return site.call(_TENSORS[site.op], site.x(0), site.x(1))


def many(site: Site) -> fx.Node:
    """Max, Min, Sum, Mean of any number of tensors."""
    made = reduce(lambda a, b: site.call(_MANY[site.op], a, b), site.all())
    return site.call(operator.truediv, made, len(site.node.inputs)) if site.op == "Mean" else made


def divide(site: Site) -> fx.Node:
    """Div: whole numbers are cut towards zero."""
    whole = _is_whole(site)
    target = functions.truncated if whole else operator.truediv
    return site.call(target, site.operand(0), site.operand(1))


def modulo(site: Site) -> fx.Node:
    """Mod: the sign of the divisor, or with `fmod` of the dividend."""
    target = torch.fmod if site.attr("fmod", 0) else torch.remainder
    return site.call(target, site.x(0), site.operand(1))


def _is_whole(site: Site) -> bool:
    value = site.node.outputs[0]
    dtype = value.dtype or next(
        (v.dtype for v in site.node.inputs if v is not None and v.dtype), None
    )
    return dtype is not None and dtype.is_integer()


def clip(site: Site) -> fx.Node:
    """Clip, its bounds as inputs or (before opset 11) attributes."""
    if site.opset < 11:
        low, high = site.attr("min"), site.attr("max")
    else:
        low, high = (_bound(site, place) for place in (1, 2))
    if low == 0 and high == 6:
        return site.call(functional.relu6, site.x(0))
    return site.call(torch.clamp, site.x(0), low, high)


def _bound(site: Site, place: int) -> Any:
    if not site.has(place):
        return None
    number = site.number(place)
    return site.x(place) if number is None else number


def leaky(site: Site) -> fx.Node:
    """LeakyRelu."""
    return site.call(functional.leaky_relu, site.x(0), float(site.attr("alpha", 0.01)))


def prelu(site: Site) -> fx.Node:
    """PRelu, its slope by channel as nn.PReLU, else broadcast."""
    slope = site.weight(1)
    if slope is None or slope.array.ndim != site.rank() - 1:
        return site.call(functions.prelu, site.x(0), site.x(1))
    layout = bias_layout(slope, slope.array.shape[0], axis=0)
    if layout is None or not site.builder.owns(slope, layout):
        return site.call(functions.prelu, site.x(0), site.x(1))
    made = nn.PReLU(slope.array.size, device="meta")
    return site.layer(made, [(("weight",), slope, layout)], site.x(0))


def elu(site: Site) -> fx.Node:
    """Elu, Celu."""
    target = functional.elu if site.op == "Elu" else functional.celu
    return site.call(target, site.x(0), float(site.attr("alpha", 1.0)))


def selu(site: Site) -> fx.Node:
    """Selu."""
    alpha, gamma = (
        site.attr("alpha", 1.67326319217681884765625),
        site.attr("gamma", 1.05070102214813232421875),
    )
    return site.call(operator.mul, site.call(functional.elu, site.x(0), float(alpha)), float(gamma))


def hard_sigmoid(site: Site) -> fx.Node:
    """HardSigmoid: max(0, min(1, alpha · x + beta))."""
    scaled = site.call(operator.mul, site.x(0), float(site.attr("alpha", 0.2)))
    moved = site.call(operator.add, scaled, float(site.attr("beta", 0.5)))
    return site.call(torch.clamp, moved, 0.0, 1.0)


def gelu(site: Site) -> fx.Node:
    """Gelu, exact or by tanh."""
    return site.call(functional.gelu, site.x(0), approximate=str(site.attr("approximate", "none")))


def swish(site: Site) -> fx.Node:
    """Swish: x · sigmoid(alpha · x)."""
    inner = site.call(operator.mul, site.x(0), float(site.attr("alpha", 1.0)))
    return site.call(operator.mul, site.x(0), site.call(torch.sigmoid, inner))


def thresholded(site: Site) -> fx.Node:
    """ThresholdedRelu: x where it is above alpha, else 0."""
    return site.call(functional.threshold, site.x(0), float(site.attr("alpha", 1.0)), 0.0)


def cast(site: Site) -> fx.Node:
    """Cast, CastLike."""
    if site.op == "CastLike":
        return site.call(functions.cast_like, site.x(0), site.x(1))
    return site.call(torch.Tensor.to, site.x(0), torch_dtype(site, ir.DataType(site.attr("to"))))


def torch_dtype(site: Site, dtype: ir.DataType) -> torch.dtype:
    """Return torch's dtype; refuses the node where there is none."""
    special = {ir.DataType.FLOAT: "float32", ir.DataType.DOUBLE: "float64"}
    found = getattr(torch, special.get(dtype, dtype.name.lower()), None)
    if not isinstance(found, torch.dtype):
        raise site.refuse(f"torch has no type {dtype.name}")
    return found


def where(site: Site) -> fx.Node:
    """Where."""
    return site.call(torch.where, site.x(0), site.x(1), site.x(2))


def softmax(site: Site) -> fx.Node:
    """Softmax, LogSoftmax; before opset 13 over all axes from `axis` on, as one."""
    target = functional.softmax if site.op == "Softmax" else functional.log_softmax
    axis = site.axis(-1 if site.opset >= 13 else 1)
    if site.opset >= 13 or axis == site.rank() - 1:
        return site.call(target, site.x(0), axis)
    flat = site.call(torch.flatten, site.x(0), axis)
    return site.call(functions.shaped_like, site.call(target, flat, axis), site.x(0))


def dropout(site: Site) -> fx.Node:
    """Dropout: an nn.Dropout, which does nothing until the module is set to train."""
    if (
        len(
            [out for out in site.node.outputs if out.name and (out.uses() or out.is_graph_output())]
        )
        > 1
    ):
        raise site.refuse("its mask is read")
    number = site.number(1) if site.has(1) else None
    ratio = float(number if number is not None else site.attr("ratio", 0.5))
    return site.builder.module(site.builder.place(site.name), nn.Dropout(ratio), site.x(0))


RULES = {
    **dict.fromkeys(_UNARY, unary),
    **dict.fromkeys(_BINARY, binary),
    **dict.fromkeys(_TENSORS, logic),
    **dict.fromkeys(_MANY, many),
    "Cast": cast,
    "CastLike": cast,
    "Celu": elu,
    "Clip": clip,
    "Div": divide,
    "Dropout": dropout,
    "Elu": elu,
    "Gelu": gelu,
    "HardSigmoid": hard_sigmoid,
    "LeakyRelu": leaky,
    "LogSoftmax": softmax,
    "Mod": modulo,
    "PRelu": prelu,
    "Selu": selu,
    "Softmax": softmax,
    "Swish": swish,
    "ThresholdedRelu": thresholded,
    "Where": where,
}
