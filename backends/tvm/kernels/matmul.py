"""Matrix products: `dense` with constant weights, `bmm` with two computed factors of equal batch.

dense  y[…,m,n] = Σ x[…,m,k] · p[n / B, k, n mod B]
bmm    y[b,m,n] = Σ x[b,m,k] · z[b,k,n]
"""

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax, te, tirx, topi

from splitc.backends.tvm.kernels import tiles
from splitc.backends.tvm.kernels.blocks import extent, name, plain
from splitc.backends.tvm.machine import Machine


def emit_dense(bb: Any, call: Any, weights: NDArray[np.float32], machine: Machine) -> Any:
    """Return the kernel's call for a constant second factor, or None."""
    shape = plain(call.args[0].ty.shape)
    if not all(shape) or len(shape) < 2 or weights.ndim != 2:
        return None
    depth, made = weights.shape
    rows = prod(shape[:-1])
    block = tiles.choose(machine, rows, made, depth).vectors * machine.lanes
    padded = np.zeros((depth, -(-made // block) * block), np.float32)
    padded[:, :made] = weights
    packed = np.ascontiguousarray(padded.reshape(depth, -1, block).transpose(1, 0, 2))
    flat = call.args[0] if len(shape) == 2 else relax.op.reshape(call.args[0], (rows, depth))
    result = bb.call_te(
        lambda x, p: _dense(x, p, rows, made),
        bb.normalize(flat),
        relax.const(packed),
        primfunc_name_hint="dense",
    )
    return result if len(shape) == 2 else relax.op.reshape(result, (*shape[:-1], made))


def _dense(x: Any, packed: Any, rows: int, made: int) -> Any:
    blocks, depth, block = (int(size) for size in packed.shape)
    k = te.reduce_axis((0, depth), "k")
    wide = te.compute(
        (rows, blocks * block),
        lambda m, n: te.sum(x[m, k] * packed[n // block, k, n % block], axis=[k]),
        name="dense",
    )
    return wide if made == blocks * block else topi.strided_slice(wide, [0, 0], [rows, made])


def emit_bmm(bb: Any, call: Any, machine: Machine) -> Any:
    """Return the kernel's call for two computed factors of the same batch, or None."""
    left, right = (plain(arg.ty.shape) for arg in call.args)
    alike = len(left) == len(right) >= 2 and left[:-2] == right[:-2] and all(left + right)
    kinds = {str(arg.ty.dtype) for arg in call.args}
    if not alike or kinds != {"float32"} or right[-1] < machine.lanes:
        return None
    return bb.call_te(lambda x, z: _bmm(x, z, machine.lanes), *call.args, primfunc_name_hint="bmm")


def _bmm(x: Any, z: Any, lanes: int) -> Any:
    *batch, rows, depth = plain(x.shape)
    made = plain(z.shape)[-1]
    wide = -(-made // lanes) * lanes
    zero = tirx.const(0.0, "float32")
    right = (
        z
        if wide == made
        else te.compute(
            (*batch, depth, wide),
            lambda *i: tirx.if_then_else(i[-1] < made, z(*i[:-1], tirx.min(i[-1], made - 1)), zero),
            name="pad",
        )
    )
    k = te.reduce_axis((0, depth), "k")
    result = te.compute(
        (*batch, rows, wide),
        lambda *i: te.sum(x[(*i[:-1], k)] * right[(*i[:-2], k, i[-1])], axis=[k]),
        name="bmm",
    )
    if wide == made:
        return result
    return topi.strided_slice(result, [0] * (len(batch) + 2), [*batch, rows, made])


def schedule(sch: Any, main: Any, machine: Machine) -> None:
    """Schedule a function around such a kernel."""
    if name(sch, main) == "dense":
        tiles.schedule(sch, main, machine)
        return
    columns = extent(sch, sch.get_loops(main)[-2])
    fitting = [n for n in (4, 3, 2, 1) if columns % (n * machine.lanes) == 0]
    rows = extent(sch, sch.get_loops(main)[-3])
    vectors = min(fitting, key=lambda n: tiles.estimate(machine, rows, columns, n))
    tiles.schedule(sch, main, machine, vectors=vectors)
