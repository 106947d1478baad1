"""Transcendental functions in forms that vectorise, in place of calls into libm.

    e^x = 2^n · e^f,   n = round(x / ln 2),   f = x − n · ln 2

with ln 2 in two parts (Cody and Waite) and e^f by its Taylor polynomial of degree 6, whose
relative error for |f| ≤ ln 2 / 2 is below 3e-7. Sigmoid, tanh and the error function are rational.
"""

from collections.abc import Callable
from math import factorial, sqrt
from typing import Any

from tvm import te, tirx, topi

_LN2_HIGH = 0.693359375
_LN2_LOW = -2.12194440e-4
_LOG2_E = 1.4426950408889634
_LOWEST, _HIGHEST = -87.3, 88.7


def _f32(value: float) -> Any:
    return tirx.const(value, "float32")


def _fma(a: Any, b: Any, c: Any) -> Any:
    """Return a · b + c in a form that fast-math cannot take apart."""
    return tirx.call_intrin("float32", "tirx.fma", a, b, c)


def exp_scalar(x: Any) -> Any:
    """e^x of one float32; 0 where it is no normal number, that is below −87.3.

    A small number in place of that 0 would turn what a mask hides into subnormal numbers, which
    some processors multiply a hundred times slower.
    """
    tiny = x < _f32(_LOWEST)
    x = tirx.max(tirx.min(x, _f32(_HIGHEST)), _f32(_LOWEST))
    n = tirx.floor(x * _f32(_LOG2_E) + _f32(0.5))
    f = _fma(n, _f32(-_LN2_LOW), _fma(n, _f32(-_LN2_HIGH), x))
    value = _f32(1 / factorial(6))
    for power in range(5, -1, -1):
        value = _fma(value, f, _f32(1 / factorial(power)))
    exponent = (tirx.Cast("int32", n) + tirx.const(127, "int32")) << tirx.const(23, "int32")
    return tirx.Select(tiny, _f32(0.0), value * tirx.reinterpret("float32", exponent))


def _each(name: str, value: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Make a kernel that applies `value` to each element."""

    def kernel(x: Any) -> Any:
        return te.compute(x.shape, lambda *i: value(x(*i)), name=name)

    kernel.__name__ = name
    return kernel


def _sigmoid(x: Any) -> Any:
    """½ + x·P(x²)/Q(x²) for |x| ≤ 18, Eigen's and onnxruntime's rational form.

    Its absolute error is 1.5e-7. e^-x gives smaller relative ones for large negative x, but with
    another form than the oracle's, deep networks of SiLU came out 1e-4 apart (YOLOX).
    """
    x = tirx.max(tirx.min(x, _f32(18.0)), _f32(-18.0))
    square = x * x
    above = x * _horner(square, _SIGMOID_ABOVE)
    return above / _horner(square, _SIGMOID_BELOW) + _f32(0.5)


def _horner(x: Any, factors: tuple[float, ...]) -> Any:
    value = _f32(factors[0])
    for factor in factors[1:]:
        value = _fma(value, x, _f32(factor))
    return value


_SIGMOID_ABOVE = (
    *(4.37031012579801e-11, 1.15627324459942e-07, 6.08574864600143e-05),
    *(8.51377133304701e-03, 2.48287947061529e-01),
)
_SIGMOID_BELOW = (
    *(6.10247389755681e-13, 5.76102136993427e-09, 6.29106785017040e-06),
    *(1.70198817374094e-03, 1.16817656904453e-01, 9.93151921023180e-01),
)


def _silu(x: Any) -> Any:
    return x * _sigmoid(x)


def _tanh(x: Any) -> Any:
    """x·P(x²)/Q(x²) for |x| ≤ 9, of the same family; its error is 3e-7."""
    x = tirx.max(tirx.min(x, _f32(9.0)), _f32(-9.0))
    square = x * x
    return x * _horner(square, _TANH_ABOVE) / _horner(square, _TANH_BELOW)


_TANH_ABOVE = (
    *(-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11),
    *(5.12229709037114e-08, 1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03),
)
_TANH_BELOW = (
    *(1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03),
    4.89352518554385e-03,
)


def _gelu(x: Any) -> Any:
    wide = topi.fast_erf(topi.multiply(x, tirx.const(sqrt(0.5), "float32")))
    half = _f32(0.5)
    return te.compute(x.shape, lambda *i: x(*i) * (wide(*i) * half + half), name="gelu")


def softmax(x: Any, axis: int) -> Any:
    """exp(x − max) / Σ, with the exponential above."""
    axis = axis % len(x.shape)
    length = x.shape[axis]
    kept = [size for place, size in enumerate(x.shape) if place != axis]

    def at(place: Any, others: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*others[:axis], place, *others[axis:])

    def without(index: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*index[:axis], *index[axis + 1 :])

    k1, k2 = te.reduce_axis((0, length), "k1"), te.reduce_axis((0, length), "k2")
    largest = te.compute(kept, lambda *i: te.max(x[at(k1, i)], axis=[k1]), name="largest")
    powers = te.compute(x.shape, lambda *i: exp_scalar(x(*i) - largest[without(i)]), name="powers")
    total = te.compute(kept, lambda *i: te.sum(powers[at(k2, i)], axis=[k2]), name="total")
    return te.compute(x.shape, lambda *i: powers(*i) / total[without(i)], name="softmax")


KERNELS: dict[str, Callable[[Any], Any]] = {
    "relax.exp": _each("exp", exp_scalar),
    "relax.sigmoid": _each("sigmoid", _sigmoid),
    "relax.nn.silu": _each("silu", _silu),
    "relax.tanh": _each("tanh", _tanh),
    "relax.erf": topi.fast_erf,
    "relax.nn.gelu": _gelu,
}
"""Relax operator → kernel of one float32 tensor."""
