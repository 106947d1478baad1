"""Small questions about a schedule, in one place: loops, extents, work, which blocks can go."""

from typing import Any

from tvm import s_tir, tirx

WORTH = 1 << 15
"""Elements or multiply-adds below which a kernel stays on one thread."""
UNKNOWN = 1 << 40


def extent(sch: Any, loop: Any) -> int:
    """Return a loop's length; 0 when it is not a constant."""
    length = sch.get(loop).extent
    return int(length) if isinstance(length, (int, tirx.IntImm)) else 0


def plain(shape: Any) -> list[int]:
    """Return a constant shape as integers; 0 for a size that is not one."""
    return [int(size) if isinstance(size, (int, tirx.IntImm)) else 0 for size in shape]


def sblocks(sch: Any) -> list[Any]:
    """Return the blocks of the function in order."""
    return list(sch.get_child_blocks(sch.get_sblock("root")))


def name(sch: Any, block: Any) -> str:
    """Return a block's name."""
    return str(sch.get(block).name_hint)


def is_reduction(sch: Any, block: Any) -> bool:
    """Say whether the block sums over an axis."""
    return any(axis.iter_type == 2 for axis in sch.get(block).iter_vars)


def work(sch: Any, block: Any) -> int:
    """Return the number of elements, or multiply-adds, that a block visits."""
    total = 1
    for loop in sch.get_loops(block):
        total *= extent(sch, loop) or UNKNOWN
    return total


def inline(sch: Any, keep: set[str]) -> None:
    """Inline every block without a reduction, but those named in `keep` and the last ones."""
    for block in reversed(sblocks(sch)):
        if name(sch, block) in keep or is_reduction(sch, block):
            continue
        try:
            sch.compute_inline(block)
        except s_tir.ScheduleError:
            continue  # it writes the function's result, or is read in more than one way
