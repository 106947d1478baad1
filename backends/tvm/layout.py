"""Images with their channels last (NHWC), where the schedules want them.

    y = conv2d(x)  NCHW      becomes      y = permute(conv2d(permute(x, to last), NHWC), to first)
    z = relu(permute(v, to first))   becomes   z = permute(relu(v), to first)

so that the permutations sink through what does not care, and two that meet vanish. TVM's own pass,
ConvertLayout, dies on squeezed images ("std::bad_alloc") and on channel shuffles ("can't find S",
both in 0.27).
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
PLACE = {0: 0, 1: 3, 2: 1, 3: 2}
"""Axis with channels first → the same axis with channels last."""
UNARY = frozenset(
    f"relax.{name}"
    for name in (
        *("abs", "ceil", "clip", "erf", "exp", "floor", "log", "negative", "round", "rsqrt"),
        *("sigmoid", "sign", "sqrt", "square", "tanh", "astype"),
        *("nn.relu", "nn.silu", "nn.gelu", "nn.gelu_tanh", "nn.leakyrelu", "nn.selu"),
    )
)
BINARY = frozenset(
    f"relax.{name}"
    for name in ("add", "subtract", "multiply", "divide", "power", "maximum", "minimum")
)
REDUCED = frozenset(f"relax.{name}" for name in ("mean", "sum", "max", "min"))


def channels_last(module: Any) -> Any:
    """Return the module with images turned around; call it on one that has constants folded."""
    module["main"] = _ChannelsLast(module).visit_expr(module["main"])
    return relax.transform.DeadCodeElimination()(relax.transform.CanonicalizeBindings()(module))


@mutator
class _ChannelsLast(PyExprMutator):  # type: ignore[misc]
    """Rewrites call after call; a value is "turned" when it is bound to a permutation to first."""

    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        if not isinstance(call.op, tvm.ir.Op):
            return call
        rule = RULES.get(str(call.op.name))
        made = rule(self, call) if rule is not None else None
        return call if made is None else made

    def turned(self, value: Any) -> Any:
        """Return the value with channels last if that is there already, else None."""
        bound = self.lookup_binding(value) if isinstance(value, relax.Var) else value
        if _is_permutation(bound) and [int(axis) for axis in bound.attrs.axes] == TO_FIRST:
            return bound.args[0]
        return None

    def last(self, value: Any) -> Any:
        """Return the 4-D value with channels last, permuted where need be."""
        inner = self.turned(value)
        if inner is not None:
            return inner
        if (array := self.array(value)) is not None:
            return relax.const(np.ascontiguousarray(array.transpose(TO_LAST)))
        return self.builder_.emit(relax.op.permute_dims(value, TO_LAST))

    def first(self, value: Any) -> Any:
        """Return a call that gives the value with channels first."""
        return relax.op.permute_dims(self.builder_.emit(value), TO_FIRST)

    def array(self, value: Any) -> Any:
        """Return the array of a constant, else None."""
        bound = self.lookup_binding(value) if isinstance(value, relax.Var) else value
        return bound.value.numpy() if isinstance(bound, tvm.ir.GenericConst) else None


def _is_permutation(value: Any) -> bool:
    permutes = isinstance(value, relax.Call) and value.op == tvm.ir.Op.get("relax.permute_dims")
    return permutes and value.attrs.axes is not None


def _rank(value: Any) -> int:
    return int(getattr(value.ty, "ndim", -1))


def _conv2d(self: _ChannelsLast, call: Any) -> Any:
    attrs, weights = call.attrs, self.array(call.args[1])
    if weights is None or (attrs.data_layout, attrs.kernel_layout) != ("NCHW", "OIHW"):
        return None
    turned = relax.const(np.ascontiguousarray(weights.transpose(TO_LAST)))
    made = relax.op.nn.conv2d(
        self.last(call.args[0]),
        turned,
        attrs.strides,
        attrs.padding,
        attrs.dilation,
        int(attrs.groups),
        "NHWC",
        "OHWI",
        "NHWC",
    )
    return self.first(made)


def _unary(self: _ChannelsLast, call: Any) -> Any:
    inner = self.turned(call.args[0])
    if inner is None:
        return None
    return self.first(relax.Call(call.op, [inner, *call.args[1:]], call.attrs))


def _binary(self: _ChannelsLast, call: Any) -> Any:
    if all(self.turned(arg) is None for arg in call.args):
        return None
    sides = [_broadcast(self, arg) for arg in call.args]
    if any(side is None for side in sides):
        return None
    return self.first(relax.Call(call.op, sides, call.attrs))


def _broadcast(self: _ChannelsLast, value: Any) -> Any:
    """Return one side of a binary operator for the turned form; None where it has none."""
    if (array := self.array(value)) is not None and array.ndim < 4:
        if array.size == 1:
            return relax.const(array.reshape(()))
        wide = array.reshape((1,) * (4 - array.ndim) + array.shape)
        return relax.const(np.ascontiguousarray(wide.transpose(TO_LAST)))
    if _rank(value) == 4:
        return self.last(value)
    return value if _rank(value) == 0 else None


def _pool(self: _ChannelsLast, call: Any) -> Any:
    inner, attrs = self.turned(call.args[0]), call.attrs
    if inner is None or attrs.layout != "NCHW":
        return None
    operator = cast(
        "Callable[..., Any]", getattr(relax.op.nn, str(call.op.name).rpartition(".")[2])
    )
    made = operator(
        inner,
        attrs.pool_size,
        attrs.strides,
        attrs.padding,
        attrs.dilation,
        attrs.ceil_mode,
        attrs.count_include_pad,
        "NHWC",
        "NHWC",
    )
    return self.first(made)


def _adaptive(self: _ChannelsLast, call: Any) -> Any:
    inner = self.turned(call.args[0])
    if inner is None or call.attrs.layout != "NCHW":
        return None
    made = relax.op.nn.adaptive_avg_pool2d(inner, call.attrs.output_size, "NHWC", "NHWC")
    return self.first(made)


def _reduce(self: _ChannelsLast, call: Any) -> Any:
    inner, axes = self.turned(call.args[0]), call.attrs.axis
    if inner is None or axes is None:
        return None
    operator = cast("Callable[..., Any]", getattr(relax.op, str(call.op.name).rpartition(".")[2]))
    wanted = {int(axis) % 4 for axis in axes}
    keep = bool(call.attrs.keepdims)
    if not keep and wanted != {2, 3}:
        return None  # what is left would stand in another order
    made = operator(inner, sorted(PLACE[axis] for axis in wanted), keep)
    return self.first(made) if keep else made


def _concat(self: _ChannelsLast, call: Any) -> Any:
    values = call.args[0]
    if not isinstance(values, relax.Tuple) or not any(self.turned(v) is not None for v in values):
        return None
    if any(_rank(value) != 4 for value in values) or call.attrs.axis is None:
        return None
    axis = PLACE[int(call.attrs.axis) % 4]
    return self.first(relax.op.concat([self.last(value) for value in values], axis))


def _slice(self: _ChannelsLast, call: Any) -> Any:
    inner = self.turned(call.args[0])
    if inner is None or not isinstance(call.args[1], relax.Tuple):
        return None
    axes = [int(axis.value) % 4 for axis in call.args[1]]
    places = relax.Tuple([relax.prim_value(PLACE[axis]) for axis in axes])
    return self.first(relax.Call(call.op, [inner, places, *call.args[2:]], call.attrs))


def _pad(self: _ChannelsLast, call: Any) -> Any:
    inner, attrs = self.turned(call.args[0]), call.attrs
    if inner is None or len(attrs.pad_width) != 8:
        return None
    pairs = [[int(size) for size in attrs.pad_width[2 * axis : 2 * axis + 2]] for axis in TO_LAST]
    flat = [size for pair in pairs for size in pair]
    made = relax.op.nn.pad(inner, flat, attrs.pad_mode, *_pad_value(call))
    return self.first(made)


def _pad_value(call: Any) -> list[float]:
    value = getattr(call.attrs, "pad_value", None)
    return [] if value is None else [float(value)]


def _resize(self: _ChannelsLast, call: Any) -> Any:
    inner, attrs = self.turned(call.args[0]), call.attrs
    if inner is None or attrs.layout != "NCHW":
        return None
    names = ("method", "coordinate_transformation_mode", "rounding_method")
    options = {name: getattr(attrs, name) for name in names}
    options["roi"] = [float(value) for value in attrs.roi]
    options |= {
        name: getattr(attrs, name)
        for name in ("cubic_alpha", "cubic_exclude", "extrapolation_value")
    }
    return self.first(relax.op.image.resize2d(inner, call.args[1], layout="NHWC", **options))


def _permute(self: _ChannelsLast, call: Any) -> Any:
    """Two permutations one after the other are one, or none."""
    bound = (
        self.lookup_binding(call.args[0]) if isinstance(call.args[0], relax.Var) else call.args[0]
    )
    if not _is_permutation(bound) or call.attrs.axes is None:
        return None
    inner = [int(axis) for axis in bound.attrs.axes]
    axes = [inner[int(axis)] for axis in call.attrs.axes]
    if axes == sorted(axes):
        return bound.args[0]
    return relax.op.permute_dims(bound.args[0], axes)


def _kernel(self: _ChannelsLast, call: Any) -> Any:
    """Undo the kernels that the importer makes of Clip: operators turn around and fuse."""
    name, values = str(getattr(call.args[0], "name_hint", "")).rstrip("0123456789"), call.args[1]
    if name not in ("maximum", "minimum") or len(values) != 2:
        return None
    operator = tvm.ir.Op.get(f"relax.{name}")
    plain = relax.Call(operator, list(values), None)
    made = _binary(self, plain)
    return plain if made is None else made


def _isnan(self: _ChannelsLast, call: Any) -> Any:
    array = self.array(call.args[0])
    return None if array is None else relax.const(np.isnan(array))


def _where(self: _ChannelsLast, call: Any) -> Any:
    """Decide on constants; the importer asks so whether Clip's limits are NaN."""
    arrays = [self.array(arg) for arg in call.args]
    return None if any(array is None for array in arrays) else relax.const(np.where(*arrays))


RULES: dict[str, Callable[[_ChannelsLast, Any], Any]] = {
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(BINARY, _binary),
    **dict.fromkeys(REDUCED, _reduce),
    "relax.nn.conv2d": _conv2d,
    "relax.nn.max_pool2d": _pool,
    "relax.nn.avg_pool2d": _pool,
    "relax.nn.adaptive_avg_pool2d": _adaptive,
    "relax.concat": _concat,
    "relax.strided_slice": _slice,
    "relax.nn.pad": _pad,
    "relax.image.resize2d": _resize,
    "relax.permute_dims": _permute,
    "relax.call_tir": _kernel,
    "relax.isnan": _isnan,
    "relax.where": _where,
}
"""Relax operator → its form on images that are turned; None where it has none."""
