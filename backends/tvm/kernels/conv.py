"""Convolutions in NHWC with constant weights, packed into blocks of output channels.

    y[n,h,w,c] = Σ x[n, h·sh + kh·dh, w·sw + kw·dw, g(c)·ICg + ic] · p[c / B, kh, kw, ic, c mod B]

B, the block, is a whole number of SIMD registers. With groups, each group's channels are padded to
whole blocks, so that no block reads two groups. A 1×1 convolution without stride or padding is
computed over n·h·w rows at once.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax, te, tirx

from splitc.backends.tvm.kernels import tiles
from splitc.backends.tvm.kernels.blocks import plain
from splitc.backends.tvm.machine import Machine


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of a 2-D convolution; weights are O × KH × KW × I/groups."""

    batch: int
    height: int
    width: int
    channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]
    groups: int
    made: int

    @property
    def out_height(self) -> int:
        """Rows of the result."""
        reach = self.dilation[0] * (self.kernel[0] - 1) + 1
        return (self.height + self.padding[0] + self.padding[2] - reach) // self.strides[0] + 1

    @property
    def out_width(self) -> int:
        """Columns of the result."""
        reach = self.dilation[1] * (self.kernel[1] - 1) + 1
        return (self.width + self.padding[1] + self.padding[3] - reach) // self.strides[1] + 1

    @property
    def pointwise(self) -> bool:
        """Tell whether every result position reads one input position, in order."""
        once = self.kernel == (1, 1) and self.strides == (1, 1)
        return once and self.groups == 1 and not any(self.padding)

    @property
    def depthwise(self) -> bool:
        """Tell whether each channel is a group of its own."""
        return self.groups == self.channels == self.made


def geometry(call: Any, weights: NDArray[Any]) -> Geometry | None:
    """Read the sizes of an NHWC/OHWI convolution; None where one is symbolic."""
    attrs, shape = call.attrs, plain(call.args[0].ty.shape)
    if not all(shape):
        return None
    batch, height, width, channels = shape
    top, left, bottom, right = plain(attrs.padding)
    return Geometry(
        batch=batch,
        height=height,
        width=width,
        channels=channels,
        kernel=(weights.shape[1], weights.shape[2]),
        strides=(int(attrs.strides[0]), int(attrs.strides[1])),
        dilation=(int(attrs.dilation[0]), int(attrs.dilation[1])),
        padding=(top, left, bottom, right),
        groups=int(attrs.groups),
        made=weights.shape[0],
    )


def emit(bb: Any, call: Any, weights: NDArray[np.float32], machine: Machine) -> Any:
    """Return the kernel's call, or None where this family does not take the convolution."""
    geo = geometry(call, weights)
    if geo is None or geo.depthwise or weights.shape[3] * geo.groups != geo.channels:
        return None
    per_group = geo.made // geo.groups
    rows = geo.batch * geo.out_height * geo.out_width if geo.pointwise else geo.out_width
    depth = int(np.prod(weights.shape[1:]))
    block = tiles.choose(machine, rows, per_group, depth).vectors * machine.lanes
    packed = relax.const(_pack(weights, geo.groups, block))
    if geo.pointwise:
        return bb.call_te(
            lambda x, p: _rows(geo, x, p),
            call.args[0],
            packed,
            primfunc_name_hint="conv2d",
            primfunc_attrs={"op_pattern": 4},
        )
    hint = "conv2d" if geo.groups == 1 else "grouped_conv2d"
    return bb.call_te(
        lambda x, p: _windows(geo, x, p), call.args[0], packed, primfunc_name_hint=hint
    )


def _pack(weights: NDArray[np.float32], groups: int, block: int) -> NDArray[np.float32]:
    """O × KH × KW × I → blocks × KH × KW × I × block; each group is padded with zero channels."""
    made, *window = weights.shape
    each = made // groups
    padded = np.zeros((groups, -(-each // block) * block, *window), np.float32)
    padded[:, :each] = weights.reshape(groups, each, *window)
    split = padded.reshape(-1, block, *window)
    return np.ascontiguousarray(split.transpose(0, 2, 3, 4, 1))


def _rows(geo: Geometry, x: Any, packed: Any) -> Any:
    """Compute a 1×1 convolution over rows: (n·h·w) × channels."""
    height, width, block = geo.out_height, geo.out_width, int(packed.shape[-1])
    summed = te.reduce_axis((0, geo.channels), "ic")
    rows = te.compute(
        (geo.batch * height * width, int(packed.shape[0]) * block),
        lambda m, c: te.sum(
            x[m // (height * width), (m // width) % height, m % width, summed]
            * packed[c // block, 0, 0, summed, c % block],
            axis=[summed],
        ),
        name="conv",
    )
    return te.compute(
        (geo.batch, height, width, geo.made),
        lambda n, h, w, c: rows[(n * height + h) * width + w, c],
        name="unflat",
    )


def _windows(geo: Geometry, x: Any, packed: Any) -> Any:
    """Compute any other convolution; padded channels are cut off at the end."""
    padded = pad(geo, x)
    block, blocks = int(packed.shape[-1]), int(packed.shape[0])
    each, wide = geo.made // geo.groups, blocks // geo.groups * block
    inner = geo.channels // geo.groups
    kh, kw = te.reduce_axis((0, geo.kernel[0]), "kh"), te.reduce_axis((0, geo.kernel[1]), "kw")
    ic = te.reduce_axis((0, inner), "ic")

    def value(n: Any, h: Any, w: Any, c: Any) -> Any:
        row = h * geo.strides[0] + kh * geo.dilation[0]
        column = w * geo.strides[1] + kw * geo.dilation[1]
        channel = ic if geo.groups == 1 else (c // wide) * inner + ic
        factor = packed[c // block, kh, kw, ic, c % block]
        return te.sum(padded[n, row, column, channel] * factor, axis=[kh, kw, ic])

    shape = (geo.batch, geo.out_height, geo.out_width)
    made = te.compute((*shape, geo.groups * wide), value, name="conv")
    if each == wide:
        return made
    return te.compute(
        (*shape, geo.made),
        lambda n, h, w, c: made[n, h, w, (c // each) * wide + c % each],
        name="cut",
    )


def pad(geo: Geometry, x: Any) -> Any:
    """Surround the image with zeros, if the convolution pads at all."""
    top, left, bottom, right = geo.padding
    if not any(geo.padding):
        return x
    shape = (geo.batch, geo.height + top + bottom, geo.width + left + right, geo.channels)

    def value(n: Any, h: Any, w: Any, c: Any) -> Any:
        inside = tirx.all(h >= top, h < geo.height + top, w >= left, w < geo.width + left)
        return tirx.if_then_else(inside, x[n, h - top, w - left, c], tirx.const(0.0, "float32"))

    return te.compute(shape, value, name="pad")


def schedule(sch: Any, main: Any, machine: Machine) -> None:
    """Schedule a function around such a kernel."""
    tiles.schedule(sch, main, machine)
