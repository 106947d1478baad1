"""Scales, zero points and integers: onnxruntime's own arithmetic, so that ours are its numbers.

Real value = scale · (integer − zero point). Weights are symmetric int8 (−127 … 127), a scale per
output channel or one for all. Activations are symmetric int8 too, or uint8 with a zero point.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from onnxruntime.quantization import quant_utils

from splitc.quant.ranges import Range

Array = NDArray[Any]
_LARGEST_INT32 = 2**31 - 2


@dataclass(frozen=True)
class Scheme:
    """How numbers become integers.

    `symmetric`: activations are int8 around 0 and biases stay float, which is all that TensorRT
    takes; else they are uint8 with a zero point, biases int32, and what an int8 node makes is
    always rounded: only so has onnxruntime integer kernels for it. `per_channel`: of weights.
    `float_bias`: biases stay float in any case.
    """

    symmetric: bool = True
    per_channel: bool = True
    float_bias: bool = False


@dataclass(frozen=True)
class Integers:
    """A tensor as integers: `scale` float32, a scalar or one for each index along `axis`."""

    values: Array
    scale: Array
    zero_point: Array
    axis: int | None = None


def activation(bounds: Range, scheme: Scheme) -> tuple[Array, Array]:
    """Return (scale, zero point) that hold a range, 0 included."""
    kind = TensorProto.INT8 if scheme.symmetric else TensorProto.UINT8
    low, high = quant_utils.get_qmin_qmax_for_qType(kind, symmetric=scheme.symmetric)
    ends = [np.array(end, np.float32) for end in bounds]
    zero, scale = quant_utils.compute_scale_zp(*ends, low, high, symmetric=scheme.symmetric)
    return np.asarray(scale, np.float32), np.asarray(zero, low.dtype)


def weight(
    values: Array, axis: int | None, smallest: Array | np.floating[Any] | float = 0.0
) -> Integers:
    """Round a weight to int8, with a scale for each index along `axis`, or one if it is None.

    `smallest`: no scale is below this, a scalar or one for each index.
    """
    rows = values[None] if axis is None else np.moveaxis(values, axis, 0)
    found = [
        quant_utils.compute_data_quant_params(row.reshape(-1), TensorProto.INT8, symmetric=True)
        for row in rows
    ]
    scale = np.maximum(
        np.array([s for _, s in found], np.float32), np.asarray(smallest, np.float32)
    )
    shaped = scale.reshape(-1, *[1] * (rows.ndim - 1))
    made = quant_utils.quantize_nparray(TensorProto.INT8, rows, shaped, np.int8(0), -127, 127)
    if axis is None:
        return Integers(made[0], scale[0], np.array(0, np.int8))
    return Integers(np.moveaxis(made, 0, axis), scale, np.zeros(len(scale), np.int8), axis)


def smallest_scale(bias: Array, data_scale: Array) -> Array:
    """Return the weight scales below which int32 could not hold a bias of scale data · weight."""
    return np.asarray(np.abs(bias) * 1.0001 / (_LARGEST_INT32 * data_scale), np.float32)


def bias(values: Array, data_scale: Array, weight_scale: Array) -> Integers:
    """Round a bias to int32 in units of data scale · weight scale, those of the products."""
    scale = np.asarray(data_scale * weight_scale, np.float32)
    made = np.rint(values.astype(np.float64) / scale.astype(np.float64))
    whole = np.clip(made, -_LARGEST_INT32, _LARGEST_INT32).astype(np.int32)
    return Integers(whole, scale, np.zeros(scale.shape, np.int32), 0 if scale.ndim else None)
