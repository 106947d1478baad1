"""Depthwise convolutions in NHWC: one filter per channel, lanes along the channels.

y[n,h,w,c] = Σ x[n, h·sh + kh·dh, w·sw + kw·dw, c] · p[kh, kw, c]
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax, te

from splitc.backends.tvm.kernels import generic, tiles
from splitc.backends.tvm.kernels.blocks import WORTH, extent, inline, name, sblocks, work
from splitc.backends.tvm.kernels.conv import Geometry, geometry, pad
from splitc.backends.tvm.machine import Machine


def emit(bb: Any, call: Any, weights: NDArray[np.float32], machine: Machine) -> Any:
    """Return the kernel's call, or None where the convolution is not depthwise."""
    geo = geometry(call, weights)
    if geo is None or not geo.depthwise or _lanes(machine, geo.channels) == 0:
        return None
    packed = relax.const(np.ascontiguousarray(weights[:, :, :, 0].transpose(1, 2, 0)))
    return bb.call_te(
        lambda x, p: _windows(geo, x, p), call.args[0], packed, primfunc_name_hint="dwconv2d"
    )


def _windows(geo: Geometry, x: Any, packed: Any) -> Any:
    padded = pad(geo, x)
    kh, kw = te.reduce_axis((0, geo.kernel[0]), "kh"), te.reduce_axis((0, geo.kernel[1]), "kw")

    def value(n: Any, h: Any, w: Any, c: Any) -> Any:
        row = h * geo.strides[0] + kh * geo.dilation[0]
        column = w * geo.strides[1] + kw * geo.dilation[1]
        return te.sum(padded[n, row, column, c] * packed[kh, kw, c], axis=[kh, kw])

    shape = (geo.batch, geo.out_height, geo.out_width, geo.made)
    return te.compute(shape, value, name="dwconv")


def _lanes(machine: Machine, channels: int) -> int:
    """Return how many channels one step takes; 0 where no whole vector divides them."""
    sizes = (2 * machine.lanes, machine.lanes, machine.lanes // 2, 4, 2)
    return next((size for size in sizes if size > 1 and channels % size == 0), 0)


def schedule(sch: Any, main: Any, machine: Machine) -> None:
    """Keep a row of results in registers, the window unrolled around it.

    The padded image is made a few rows at a time, for the channels of one step, so that it is read
    back from the nearest cache.
    """
    inline(sch, {"pad", name(sch, main)})
    pads = [block for block in sblocks(sch) if name(sch, block) == "pad"]
    out = tiles.epilogue(sch, main, machine, keep="pad")
    spread = work(sch, main) >= WORTH
    *lead, height, width, channels = sch.get_loops(out)
    most = 7 if machine.lanes > 4 else 4
    rows = _divisor(extent(sch, width), most)
    outer_h, inner_h = sch.split(height, [None, _divisor(extent(sch, height), CHUNK)])
    outer_w, inner_w = sch.split(width, [None, rows])
    outer_c, inner_c = sch.split(channels, [None, _lanes(machine, extent(sch, channels))])
    sch.reorder(*lead, outer_h, outer_c, inner_h, outer_w, inner_w, inner_c)
    together = sch.fuse(*lead, outer_h, outer_c)
    if spread:
        sch.parallel(together)
    tiles.fill(sch, main, out, outer_w, 2, machine.lanes, unroll_window=True)
    for block in pads:
        sch.compute_at(block, together, preserve_unit_loops=True)
        generic.vectorize_last(sch, block, machine)


CHUNK = 16
"""Most rows of the result between two looks at the padded image."""


def _divisor(size: int, most: int) -> int:
    return next(n for n in range(min(most, size), 0, -1) if size % n == 0)
