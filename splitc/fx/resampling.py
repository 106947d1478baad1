"""ONNX's Resize, axis by axis, by its own formulas (operators.md, Resize)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def resize_nearest(
    x: Tensor,
    scales: Sequence[float] | None,
    sizes: Sequence[int] | None,
    how: str,
    rounding: str,
) -> Tensor:
    """Take the nearest element along every axis that changes; a size of -1 keeps its axis."""
    for axis, (size, scale) in enumerate(_axes(x, scales, sizes)):
        if size != x.shape[axis] or scale != 1.0:
            places = _rounded(_places(x, axis, size, scale, how), rounding)
            x = x.index_select(axis, places.clamp(0, x.shape[axis] - 1).long())
    return x


def resize_linear(
    x: Tensor, scales: Sequence[float] | None, sizes: Sequence[int] | None, how: str
) -> Tensor:
    """Interpolate linearly along every axis that changes; a size of -1 keeps its axis."""
    for axis, (size, scale) in enumerate(_axes(x, scales, sizes)):
        if size != x.shape[axis] or scale != 1.0:
            x = _linear(x, axis, _places(x, axis, size, scale, how))
    return x


def _linear(x: Tensor, axis: int, places: Tensor) -> Tensor:
    last = x.shape[axis] - 1
    inside = places.clamp(0, last)
    low = inside.floor()
    share = (inside - low).to(x.dtype).reshape(-1, *(1,) * (x.dim() - axis - 1))
    below = x.index_select(axis, low.long())
    above = x.index_select(axis, (low + 1).clamp(max=last).long())
    return below * (1 - share) + above * share


def _axes(
    x: Tensor, scales: Sequence[float] | None, sizes: Sequence[int] | None
) -> list[tuple[int, float]]:
    """Return (size, scale) of every axis of the output."""
    if scales is not None:
        return [(math.floor(n * s), s) for n, s in zip(x.shape, scales, strict=True)]
    wanted = [n if s == -1 else s for n, s in zip(x.shape, sizes or (), strict=True)]
    return [(size, size / n) for size, n in zip(wanted, x.shape, strict=True)]


def _places(x: Tensor, axis: int, size: int, scale: float, how: str) -> Tensor:
    """Return where each element of the output lies in the input."""
    ramp = torch.arange(size, dtype=torch.float64, device=x.device)
    if how == "asymmetric":
        return ramp / scale
    if how == "align_corners":
        return ramp * ((x.shape[axis] - 1) / (size - 1)) if size > 1 else ramp * 0
    if how == "pytorch_half_pixel" and size == 1:
        return ramp * 0
    if how == "half_pixel_symmetric":
        centre = x.shape[axis] / 2 * (1 - size / (scale * x.shape[axis]))
        return centre + (ramp + 0.5) / scale - 0.5
    return (ramp + 0.5) / scale - 0.5


def _rounded(places: Tensor, rounding: str) -> Tensor:
    if rounding == "floor":
        return places.floor()
    if rounding == "ceil":
        return places.ceil()
    if rounding == "round_prefer_ceil":
        return (places + 0.5).floor()
    return (places - 0.5).ceil()
