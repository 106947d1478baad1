"""Register tiles: how many rows and vectors of accumulators a kernel keeps, and the loops around.

Every dense kernel (convolution, matrix product) computes a block of `rows` × `vectors` SIMD
registers at a time: for each step of the reduction it loads `vectors` registers of weights, one
broadcast per row, and does rows × vectors multiply-adds.
"""

from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from tvm import tirx

from splitc.backends.tvm.kernels.blocks import (
    WORTH,
    extent,
    inline,
    is_reduction,
    name,
    plain,
    sblocks,
    work,
)
from splitc.backends.tvm.machine import Machine

LATENCY = 8
"""Multiply-adds that must be under way to keep the unit busy (4 cycles × 2 pipes)."""
LOAD = 1.0
"""What a load costs, in multiply-adds."""
TIGHT = 1.1
"""What a tile costs that needs every register: something is kept in memory now and then."""
PREDICATED = 1.03
"""What a last tile that is not full costs: each of its rows asks whether it is there."""
L2_BYTES = 256 * 1024
"""Weights above this are walked in the outer loop, so that a block of them is read once."""


@dataclass(frozen=True, slots=True)
class Tile:
    """`rows` output positions × `vectors` SIMD registers of output channels."""

    rows: int
    vectors: int


def choose(machine: Machine, width: int, channels: int, depth: int) -> Tile:
    """Return the tile with the lowest estimated time for a width × channels output.

    The constants are fitted to seven convolutions on AVX2, where 4 × 2 and 6 × 2 came out best.

    `depth`: length of the reduction, which decides whether padded channels (an extra pass over
    the output) are worth their while.
    """
    return min(
        _tiles(machine, width), key=lambda tile: _price(machine, tile, width, channels, depth)
    )


def rows_for(machine: Machine, width: int, vectors: int) -> int:
    """Return the best number of rows when the weights are packed already."""
    return _best(machine, width, vectors * machine.lanes, vectors)[1]


def estimate(machine: Machine, width: int, channels: int, vectors: int) -> float:
    """Return the estimated time (in multiply-add slots) of the best tile of `vectors` registers."""
    return _best(machine, width, channels, vectors)[0]


def _best(machine: Machine, width: int, channels: int, vectors: int) -> tuple[float, int]:
    fitting = [tile for tile in _tiles(machine, width) if tile.vectors == vectors]
    return min((_price(machine, tile, width, channels, 1)[0], tile.rows) for tile in fitting)


def _tiles(machine: Machine, width: int) -> list[Tile]:
    most = machine.registers
    return [
        Tile(rows, vectors)
        for vectors in range(1, 9)
        for rows in range(1, min(width, 14) + 1)
        if _registers_of(Tile(rows, vectors)) <= most
    ]


def _price(
    machine: Machine, tile: Tile, width: int, channels: int, depth: int
) -> tuple[float, int]:
    """Estimated time in units of one multiply-add slot; ties go to fewer vectors."""
    loads = tile.vectors + tile.rows * (0.5 if machine.scalar_operand else 1)
    step = max(tile.rows * tile.vectors, LATENCY) + LOAD * loads
    step *= TIGHT if _registers_of(tile) >= machine.registers else 1
    block = tile.vectors * machine.lanes
    price = ceil(width / tile.rows) * ceil(channels / block) * step
    price *= PREDICATED if width % tile.rows else 1
    extra = 4 * width * channels / machine.lanes / depth if channels % block else 0
    return price + extra, tile.vectors


def _registers_of(tile: Tile) -> int:
    """Accumulators, weights, and one broadcast."""
    return tile.rows * tile.vectors + tile.vectors + 1


def schedule(sch: Any, main: Any, machine: Machine, *, vectors: int = 0) -> None:
    """Schedule the function around `main`, a dense kernel whose last axis is the packed one.

    `vectors`: of the packed weights; 0 reads it off their last axis. Raises tvm's `ScheduleError`
    where the function has another form.
    """
    inline(sch, {"pad", name(sch, main)})
    out = epilogue(sch, main, machine)
    amount, depth = work(sch, main), len(_reductions(sch, main))
    weights = plain(sch.get(main).reads[1].source.shape)
    block = vectors * machine.lanes or weights[-1]
    *lead, width, channels = sch.get_loops(out)
    rows = rows_for(machine, extent(sch, width), max(1, block // machine.lanes))
    outer_w, inner_w = sch.split(width, [None, rows])
    outer_c, inner_c = sch.split(channels, [None, block])
    streamed = not vectors and 4 * prod(weights) > L2_BYTES
    if lead:
        order = [outer_c, *lead, outer_w] if streamed else [*lead, outer_c, outer_w]
    else:
        order = [outer_c, outer_w] if streamed else [outer_w, outer_c]
    sch.reorder(*order, inner_w, inner_c)
    if amount >= WORTH:
        spread = order[: len(lead) + (1 if streamed or not lead else 0)]
        sch.parallel(sch.fuse(*spread) if len(spread) > 1 else spread[0])
    fill(sch, main, out, order[-1], depth, machine.lanes)


def fill(
    sch: Any, main: Any, out: Any, at: Any, depth: int, lanes: int, *, unroll_window: bool = False
) -> None:
    """Put the kernel under loop `at` and keep its accumulators in registers."""
    sch.compute_at(main, at, preserve_unit_loops=True)
    *spatial, row, lane = sch.get_loops(main)[:-depth]
    del spatial
    reductions = sch.get_loops(main)[-depth:]
    sch.reorder(*reductions, row, lane)
    _registers(sch, row, lane, lanes)
    for loop in reductions if unroll_window else ():
        sch.unroll(loop)
    first = sch.decompose_reduction(main, reductions[0])
    for block in (first, out):
        *_, row, lane = sch.get_loops(block)
        _registers(sch, row, lane, lanes)


def _registers(sch: Any, row: Any, lane: Any, lanes: int) -> None:
    """Unroll the rows and the vectors; one vector is one register.

    Wider vectors are left to LLVM to split, which it does badly unless they are powers of two
    (measured on AVX2: 3 registers in one vector run at a sixteenth of the speed of 2).
    """
    sch.unroll(row)
    if extent(sch, lane) > lanes:
        several, lane = sch.split(lane, [None, lanes])
        sch.unroll(several)
    sch.vectorize(lane)


def _reductions(sch: Any, block: Any) -> list[Any]:
    return [axis for axis in sch.get(block).iter_vars if axis.iter_type == 2]


def epilogue(sch: Any, main: Any, machine: Machine, *, keep: str = "") -> Any:
    """Return the block that writes the result; what follows in the same shape is fused into it.

    `keep`: name of a block in front that the caller schedules.
    """
    from splitc.backends.tvm.kernels import generic

    everything = sblocks(sch)
    place = [name(sch, block) for block in everything].index(name(sch, main))
    before, after = everything[:place], everything[place + 1 :]
    for block in before:
        if name(sch, block) != keep:
            generic.schedule_block(sch, block, machine)
    if len(after) == 1 and not is_reduction(sch, after[0]) and _same_shape(sch, main, after[0]):
        sch.set_scope(main, 0, "local")
        return after[0]
    out = sch.cache_write(main, 0, "local")
    for block in after:
        generic.schedule_block(sch, block, machine)
    return out


def _same_shape(sch: Any, main: Any, after: Any) -> bool:
    """Say whether `after` walks the kernel's result; a flat one is walked by rows × channels."""
    made = plain(sch.get(main).writes[0].source.shape)
    walked = [extent(sch, loop) for loop in sch.get_loops(after)]
    if walked == made:
        return True
    if len(made) != 2 or len(walked) <= 2 or [prod(walked[:-1]), walked[-1]] != made:
        return False
    sch.transform_block_layout(after, _flattened(walked[:-1]))
    return True


def _flattened(sizes: list[int]) -> Any:
    """Return the index map (i0, i1, …, c) → (i0 · size1 · … + i1 · … + …, c)."""

    def row_and_channel(*axes: Any) -> tuple[Any, Any]:
        row = axes[0]
        for size, axis in zip(sizes[1:], axes[1:-1], strict=True):
            row = row * size + axis
        return row, axes[-1]

    return tirx.IndexMap.from_func(row_and_channel, ndim=len(sizes) + 1)
