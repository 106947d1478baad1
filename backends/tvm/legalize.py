"""Relax operators → kernels of ours, where one fits; TVM's own otherwise."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from splitc.backends.tvm.kernels import conv, depthwise, matmul, pointwise
from splitc.backends.tvm.machine import Machine

Legalize = Callable[[Any, Any], Any]


def rules(machine: Machine) -> dict[str, Legalize]:
    """Return operator → legalisation for this machine."""
    made: dict[str, Legalize] = {
        "relax.nn.conv2d": lambda bb, call: _conv2d(bb, call, machine),
        "relax.matmul": lambda bb, call: _matmul(bb, call, machine),
        "relax.nn.softmax": _softmax,
    }
    return made | {name: _pointwise(name) for name in pointwise.KERNELS}


def _stock(name: str) -> Legalize:
    """Return TVM's own legalisation."""
    rule: Legalize = tvm.ir.Op.get(name).get_attr("FLegalize")
    return rule


def constant(value: Any, bb: Any) -> NDArray[Any] | None:
    """Return the array behind an expression: a constant, maybe transposed; None otherwise."""
    while isinstance(value, relax.Var):
        value = bb.lookup_binding(value)
    if isinstance(value, tvm.ir.GenericConst):
        array: NDArray[Any] = value.value.numpy()
        return array
    if not isinstance(value, relax.Call) or value.op != tvm.ir.Op.get("relax.permute_dims"):
        return None
    inner = constant(value.args[0], bb)
    if inner is None or value.attrs.axes is None:
        return None if inner is None else np.ascontiguousarray(inner.T)
    return np.ascontiguousarray(inner.transpose([int(axis) for axis in value.attrs.axes]))


def _conv2d(bb: Any, call: Any, machine: Machine) -> Any:
    attrs, weights = call.attrs, constant(call.args[1], bb)
    layouts = (attrs.data_layout, attrs.kernel_layout)
    if weights is None or weights.dtype != np.float32 or str(call.ty.dtype) != "float32":
        return _stock("relax.nn.conv2d")(bb, call)
    if layouts == ("NHWC", "OHWI"):
        for family in (depthwise, conv):
            made = family.emit(bb, call, weights, machine)
            if made is not None:
                return made
    return _stock("relax.nn.conv2d")(bb, call)


def _matmul(bb: Any, call: Any, machine: Machine) -> Any:
    weights = constant(call.args[1], bb)
    made = None
    if weights is None:
        made = matmul.emit_bmm(bb, call, machine)
    elif weights.dtype == np.float32:
        made = matmul.emit_dense(bb, call, weights, machine)
    return made if made is not None else _stock("relax.matmul")(bb, call)


def _softmax(bb: Any, call: Any) -> Any:
    if str(call.ty.dtype) != "float32":
        return _stock("relax.nn.softmax")(bb, call)
    axis = int(call.attrs.axis)
    return bb.call_te(pointwise.softmax, call.args[0], axis, primfunc_name_hint="softmax")


def _pointwise(name: str) -> Legalize:
    def rule(bb: Any, call: Any) -> Any:
        if str(call.args[0].ty.dtype) != "float32":
            return _stock(name)(bb, call)
        hint = name.rpartition(".")[2]
        return bb.call_te(pointwise.KERNELS[name], call.args[0], primfunc_name_hint=hint)

    return rule
