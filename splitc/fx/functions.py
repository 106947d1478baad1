"""What ONNX says and torch has no single function for; the targets of a lifted graph's calls."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def whole(like: Tensor, items: Sequence[int], scalar: bool) -> Tensor:
    """Return whole numbers (sizes, perhaps) as an int64 tensor on the device of `like`."""
    return torch.tensor(items[0] if scalar else list(items), dtype=torch.int64, device=like.device)


def truncated(a: Any, b: Any) -> Any:
    """Return a / b cut towards zero, as ONNX divides whole numbers."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return torch.div(a, b, rounding_mode="trunc")
    return a // b if (a < 0) == (b < 0) else -(-a // b)


def choose(condition: Any, a: Any, b: Any) -> Any:
    """Return `a` if the condition, a plain truth value, holds, else `b`."""
    return a if condition else b


def same_sizes(size: int, kernel: int, stride: int, dilation: int, upper: bool) -> tuple[int, int]:
    """Return the pads in front and behind that `auto_pad` SAME_UPPER or SAME_LOWER means."""
    reach = (kernel - 1) * dilation + 1
    total = max((math.ceil(size / stride) - 1) * stride + reach - size, 0)
    small, large = total // 2, total - total // 2
    return (small, large) if upper else (large, small)


def same_pad(
    x: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    upper: bool,
    value: float,
) -> Tensor:
    """Pad the spatial axes of `x` as `auto_pad` SAME asks, by its sizes at run time."""
    sizes = zip(x.shape[2:], kernel, strides, dilations, strict=True)
    pairs = [same_sizes(n, k, s, d, upper) for n, k, s, d in sizes]
    return functional.pad(x, [p for pair in reversed(pairs) for p in pair], "constant", value)


def average_pool(
    x: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    ceil: bool,
) -> Tensor:
    """Average over windows, padding not counted, with pads that may differ in front and behind.

    `pads`: as `functional.pad` takes them.
    """
    pool = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
    one = pool[len(kernel)]
    share = functional.pad(torch.ones_like(x[:1, :1]), list(pads))
    padded = functional.pad(x, list(pads))
    args = (tuple(kernel), tuple(strides), 0, ceil)
    return one(padded, *args) / one(share, *args)


def global_pool(x: Tensor, kind: str) -> Tensor:
    """Reduce the spatial axes to size 1 by `kind`: amax or mean."""
    axes = tuple(range(2, x.dim()))
    return x.amax(axes, keepdim=True) if kind == "amax" else x.mean(axes, keepdim=True)


def layer_norm(x: Tensor, over: int, scale: Tensor, bias: Tensor | None, epsilon: float) -> Tensor:
    """Normalise over the last `over` axes; scale and bias broadcast."""
    axes = tuple(range(x.dim() - over, x.dim()))
    middle = x - x.mean(axes, keepdim=True)
    made = middle * torch.rsqrt(middle.square().mean(axes, keepdim=True) + epsilon) * scale
    return made if bias is None else made + bias


def rms_norm(x: Tensor, over: int, scale: Tensor, epsilon: float) -> Tensor:
    """Divide by the root mean square over the last `over` axes; the scale broadcasts."""
    axes = tuple(range(x.dim() - over, x.dim()))
    return x * torch.rsqrt(x.square().mean(axes, keepdim=True) + epsilon) * scale


def instance_norm(x: Tensor, scale: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Normalise each sample and channel; scale and bias are computed."""
    return functional.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def group_norm(x: Tensor, groups: int, scale: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Normalise by groups; scale and bias hold one number for each group, or each channel."""
    made = functional.group_norm(x, groups, eps=epsilon)
    each = x.shape[1] // scale.shape[0]
    shape = (-1, *(1,) * (x.dim() - 2))
    return made * scale.repeat_interleave(each).reshape(shape) + bias.repeat_interleave(
        each
    ).reshape(shape)


def lp_norm(x: Tensor, p: int, axis: int) -> Tensor:
    """Divide by the L1 or L2 norm along an axis; 0 where that is 0."""
    norm = x.abs().sum(axis, keepdim=True) if p == 1 else x.square().sum(axis, keepdim=True).sqrt()
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


def lp_pool(
    x: Tensor, p: int, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int]
) -> Tensor:
    """Return the p-th root of the sum of p-th powers over windows; `pads` as for `pad`."""
    pool = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
    powers = functional.pad(x, list(pads)).abs() ** p
    mean = pool[len(kernel)](powers, tuple(kernel), tuple(strides))
    made: Tensor = (mean * math.prod(kernel)) ** (1.0 / p)
    return made


def together(parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return tensors as one sequence."""
    return tuple(parts)


def identity(x: Tensor) -> Tensor:
    """Return `x`."""
    return x


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + exp(x)); torch's own turns linear above 20."""
    return torch.logaddexp(x, torch.zeros_like(x))


def power(base: Any, exponent: Any) -> Any:
    """Return base ** exponent in the type of the base."""
    made = base**exponent
    return made.to(base.dtype) if isinstance(base, Tensor) else made


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """Return x where it is positive, else slope · x."""
    return torch.where(x >= 0, x, slope * x)


def cast_like(x: Tensor, other: Tensor) -> Tensor:
    """Return `x` in the type of another tensor."""
    return x.to(other.dtype)


def shaped_like(x: Tensor, other: Tensor) -> Tensor:
    """Return `x` in the shape of another tensor."""
    return x.reshape(other.shape)


def number(x: Tensor) -> int:
    """Return a whole number that the network computes."""
    return int(x.item())


def reduce_l1(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    """Return the sum of magnitudes."""
    return x.abs().sum(list(axes), keep)


def reduce_l2(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    """Return the root of the sum of squares."""
    made: Tensor = torch.linalg.vector_norm(x, 2, list(axes), keep)
    return made


def reduce_log_sum(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    """Return the logarithm of the sum."""
    return x.sum(list(axes), keep).log()


def reduce_sum_square(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    """Return the sum of squares."""
    return x.square().sum(list(axes), keep)


def reduce_prod(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    """Return the product."""
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keep)
    return x


def cumsum(x: Tensor, axis: int, exclusive: bool, reverse: bool) -> Tensor:
    """Return sums of all elements up to each one, or from it on; without itself if exclusive."""
    turned = x.flip(axis) if reverse else x
    made = turned.cumsum(axis).to(x.dtype)
    made = made - turned if exclusive else made
    return made.flip(axis) if reverse else made


def reshape_to(x: Tensor, target: Tensor, allow_zero: bool) -> Tensor:
    """Reshape to sizes that the network computes; 0 keeps a size unless `allow_zero`."""
    sizes = [
        x.shape[axis] if size == 0 and not allow_zero else size
        for axis, size in enumerate(target.tolist())
    ]
    return x.reshape(sizes)


def shape(x: Tensor, start: int, end: int | None) -> Tensor:
    """Return the sizes of a tensor whose number of axes is not known before."""
    return torch.tensor(list(x.shape)[start:end], dtype=torch.int64, device=x.device)


def matrix(x: Tensor, axis: int) -> Tensor:
    """Flatten to two axes: those before `axis`, those from it on."""
    return x.reshape(math.prod(x.shape[:axis]), -1)


def expand(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Broadcast `x` and a tensor of these sizes against each other."""
    return x.expand(torch.broadcast_shapes(x.shape, tuple(sizes)))  # type: ignore[no-untyped-call]


def expand_to(x: Tensor, target: Tensor) -> Tensor:
    """Expand to sizes that the network computes."""
    return expand(x, target.tolist())


def filled(like: Tensor, sizes: Any, value: Any, dtype: torch.dtype) -> Tensor:
    """Return a tensor full of one value, on the device of `like`."""
    shape = sizes.tolist() if isinstance(sizes, Tensor) else sizes
    return torch.full(tuple(shape), value, dtype=dtype, device=like.device)


def arange(like: Tensor, start: Any, limit: Any, step: Any, dtype: torch.dtype) -> Tensor:
    """Return start, start + step, … below `limit`, on the device of `like`."""
    bounds = [b.item() if isinstance(b, Tensor) else b for b in (start, limit, step)]
    return torch.arange(*bounds, dtype=dtype, device=like.device)


def _counted(places: Tensor, size: int) -> Tensor:
    """Return indices counted from the front."""
    return torch.where(places < 0, places + size, places).long()


def gather(x: Tensor, places: Tensor, axis: int) -> Tensor:
    """Return the slices of `x` along `axis` that `places`, of any shape, names."""
    flat = _counted(places, x.shape[axis]).reshape(-1)
    shape = (*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])
    return x.index_select(axis, flat).reshape(shape)


def gather_elements(x: Tensor, places: Tensor, axis: int) -> Tensor:
    """Return elements of `x` along `axis`, one for each index."""
    return x.gather(axis, _counted(places, x.shape[axis]))


def _indices(x: Tensor, places: Tensor) -> tuple[Tensor, ...]:
    return tuple(_counted(p, n) for p, n in zip(places.unbind(-1), x.shape, strict=False))


def gather_nd(x: Tensor, places: Tensor) -> Tensor:
    """Return the elements or slices that the rows of `places` name."""
    return x[_indices(x, places)]


def scatter_nd(x: Tensor, places: Tensor, updates: Tensor, add: bool) -> Tensor:
    """Return `x` with the elements or slices that the rows of `places` name written or added."""
    return x.index_put(_indices(x, places), updates, accumulate=add)


def scatter_elements(x: Tensor, places: Tensor, updates: Tensor, axis: int, add: bool) -> Tensor:
    """Return `x` with single elements along `axis` written or added."""
    where = _counted(places, x.shape[axis])
    return x.scatter_add(axis, where, updates) if add else x.scatter(axis, where, updates)


def sliced(x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    """Slice one axis as Python would slice a list, steps back too."""
    places = list(range(x.shape[axis]))[slice(start, end if end >= -x.shape[axis] else None, step)]
    return x.index_select(axis, torch.tensor(places, dtype=torch.int64, device=x.device))


def pad_from(x: Tensor, pads: Sequence[int], mode: str) -> Tensor:
    """Pad by elements of `x` itself: mode 'reflect', 'edge' or 'wrap'; `pads` as for `pad`."""
    for back in range(len(pads) // 2):
        axis = x.dim() - 1 - back
        places = _padded_places(x.shape[axis], pads[2 * back], pads[2 * back + 1], mode)
        x = x.index_select(axis, torch.tensor(places, dtype=torch.int64, device=x.device))
    return x


def _padded_places(size: int, front: int, behind: int, mode: str) -> list[int]:
    wanted = range(-front, size + behind)
    if mode == "edge":
        return [min(max(i, 0), size - 1) for i in wanted]
    if mode == "wrap":
        return [i % size for i in wanted]
    period = max(2 * (size - 1), 1)
    return [min(i % period, period - i % period) if size > 1 else 0 for i in wanted]


def one_hot(places: Tensor, depth: int, values: Tensor, axis: int) -> Tensor:
    """Return values[1] where an index says so along a new axis of size `depth`, else values[0]."""
    ramp = torch.arange(depth, device=places.device)
    hot = _counted(places, depth).unsqueeze(-1) == ramp
    made = torch.where(hot, values[1], values[0])
    return made if axis == -1 else made.movedim(-1, axis)


def non_zero(x: Tensor) -> Tensor:
    """Return the places of what is not 0, one row for each axis."""
    return x.nonzero().transpose(0, 1)


def depth_to_space(x: Tensor, block: int) -> Tensor:
    """Move channels into the plane, ONNX's mode DCR."""
    n, c, h, w = x.shape
    parts = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // block**2, h * block, w * block)


def space_to_depth(x: Tensor, block: int) -> Tensor:
    """Move blocks of the plane into channels."""
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * block**2, h // block, w // block)
