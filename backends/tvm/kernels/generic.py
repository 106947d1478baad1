"""The schedule for what is not a dense kernel: vectorise the last axis, spread the others."""

from typing import Any

from splitc.backends.tvm.kernels.blocks import WORTH, extent, inline, is_reduction, sblocks, work
from splitc.backends.tvm.machine import Machine


def schedule(sch: Any, machine: Machine) -> None:
    """Schedule every block of the function."""
    inline(sch, set())
    for block in sblocks(sch):
        schedule_block(sch, block, machine)


def schedule_block(sch: Any, block: Any, machine: Machine) -> None:
    """Schedule one block: a reduction keeps its accumulators, all else is a walk."""
    if is_reduction(sch, block):
        _reduce(sch, block, machine)
    else:
        _walk(sch, block, machine)


def _walk(sch: Any, block: Any, machine: Machine) -> None:
    if not sch.get_loops(block):
        return
    spread = work(sch, block) >= WORTH
    outer = vectorize_last(sch, block, machine)
    if spread and outer:
        sch.parallel(sch.fuse(*outer))


def vectorize_last(sch: Any, block: Any, machine: Machine) -> list[Any]:
    """Vectorise the last loop as far as its length allows; return the loops around it."""
    *outer, loop = sch.get_loops(block)
    length, lanes = extent(sch, loop), 2 * machine.lanes
    while lanes > 1 and length % lanes:
        lanes //= 2
    if lanes > 1 and length:
        first, last = sch.split(loop, [None, lanes])
        sch.vectorize(last)
        return [*outer, first]
    return list(outer)


def _reduce(sch: Any, block: Any, machine: Machine) -> None:
    loops, axes = list(sch.get_loops(block)), list(sch.get(block).iter_vars)
    if len(loops) != len(axes):
        return
    spread = work(sch, block) >= WORTH
    kept = [loop for loop, axis in zip(loops, axes, strict=True) if axis.iter_type != 2]
    summed = [loop for loop, axis in zip(loops, axes, strict=True) if axis.iter_type == 2]
    if not kept:
        return
    length = extent(sch, kept[-1])
    if length and length % machine.lanes == 0 and _last_axis_is_kept(sch, block):
        lanes = machine.lanes * (2 if length % (2 * machine.lanes) == 0 else 1)
        first, last = sch.split(kept[-1], [None, lanes])
        sch.reorder(*kept[:-1], first, *summed, last)
        outer = [*kept[:-1], first]
        sch.vectorize(last)
    else:
        sch.reorder(*kept, *summed)
        outer, last = kept, None
    fused = sch.fuse(*outer)
    if spread:
        sch.parallel(fused)
    start = sch.decompose_reduction(block, summed[0])
    if last is not None:
        sch.vectorize(sch.get_loops(start)[-1])


def _last_axis_is_kept(sch: Any, block: Any) -> bool:
    """Say whether the input's last axis is none of those that are summed over."""
    from tvm_ffi import structural

    body = sch.get(block)
    summed = [axis.var for axis in body.iter_vars if axis.iter_type == 2]
    if not body.reads or not len(body.reads[0].region):
        return False
    met: list[Any] = []
    structural.structural_walk(body.reads[0].region[-1].min, met.append)
    return not any(
        variable.same_as(node) for node in met for variable in summed if hasattr(node, "same_as")
    )
