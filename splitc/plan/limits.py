"""The exact search under memory limits, as a mixed-integer program (HiGHS).

To the program of the search without limits (`splitc.plan.program`: x[v] = 1, node v is on the
head; y[t], tensor t crosses) come w, a weight is held by a side, and the peaks.

The peak of a side is linear, because a head is closed under predecessors. In the fixed order of
`splitc.cost.memory`, a tensor of the head that has a reader at or behind place k is alive at k
whoever that reader is: a head node still needs it, and for a tail node it waits to be sent. One
whose readers all stand before k is alive if it is a graph output or crosses, which is y. On the
tail, a tensor made there lives up to its last reader, and one that comes in up to its last reader
*on the tail*: h[t,j] ≥ x[p] - x[r] for the readers from the j-th on. So weights + alive(k) ≤ limit
at every k is exact in integers. HiGHS keeps rows to 1e-6, relative to the limit here: each answer
is measured again in whole bytes, and one that is over the limit is excluded and searched past.

Proven: no cut is cheaper than `bound`, which is HiGHS's dual bound (a computation in floats, to
about 1e-9 of the optimum), or the bound of the search without limits where that is higher.
"""

import math
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from splitc.errors import PlanError
from splitc.plan.flow import Solution
from splitc.plan.footprint import Footprint
from splitc.plan.network import Forced, closure, contract
from splitc.plan.problem import Prices, Problem
from splitc.plan.program import NODES, Program, Variables, exclude, let_cross, program_of

METHOD = "mixed-integer program (HiGHS branch and cut), memory limits exact"


@dataclass(frozen=True)
class Limits:
    """Bytes of weights and peak activations that each side may hold, 0 = any number."""

    head: int = 0
    tail: int = 0

    def hold(self, head: int, tail: int) -> bool:
        """Tell whether these many bytes fit."""
        return (not self.head or head <= self.head) and (not self.tail or tail <= self.tail)


def solve_limited(
    problem: Problem, footprint: Footprint, limits: Limits, without: Solution
) -> Solution:
    """Return the cheapest legal head that both sides' memory holds.

    `without`: the solution without limits, whose bound holds here too. Raises `PlanError` that
    names the limit when no cut keeps it.
    """
    indexed = footprint.indexed
    prices = Prices.of(problem, indexed)
    forced = contract(problem, indexed, prices)
    made = program_of(indexed, prices, forced, without.optimum)
    add_limits(made, footprint, limits)
    while True:
        answer = made.program.solve()
        if answer.x is None:
            raise _infeasible(footprint, forced, limits, int(answer.status))
        head = np.asarray(answer.x)[made.x] > 0.5
        if limits.hold(footprint.total(head), footprint.total(~head)):
            break
        exclude(made, head)
    names = frozenset(n.id for n, kept in zip(problem.graph.nodes, head, strict=True) if kept)
    cost = prices.total(head, indexed)
    proven = float(answer.mip_dual_bound) / made.unit + made.constant
    bound = min(cost, max(proven, without.bound))
    return Solution(names, cost, bound, cost - bound, METHOD)


def add_limits(made: Variables, footprint: Footprint, limits: Limits) -> None:
    """Add weights + alive(k) ≤ limit for every place k of each side that has a limit."""
    spans = _Spans.of(footprint)
    if limits.head:
        _limit_head(made, footprint, spans, limits.head)
    if limits.tail:
        _limit_tail(made, footprint, spans, limits.tail)


@dataclass(frozen=True)
class _Spans:
    """Per tensor: its readers in order, and the first and last place where one made is alive."""

    size: list[float]
    maker: list[int]
    readers: list[list[int]]
    last: list[int]
    output: list[bool]

    @staticmethod
    def of(footprint: Footprint) -> "_Spans":
        indexed = footprint.indexed
        readers: list[list[int]] = [[] for _ in indexed.producer]
        for tensor, reader in zip(
            indexed.edge_tensor.tolist(), indexed.edge_reader.tolist(), strict=True
        ):
            readers[tensor].append(reader)
        maker = indexed.producer.tolist()
        last = [max([at, *read]) for at, read in zip(maker, readers, strict=True)]
        return _Spans(footprint.sizes.tolist(), maker, readers, last, footprint.output.tolist())


def _limit_head(made: Variables, footprint: Footprint, spans: _Spans, limit: int) -> None:
    """At k: x of what has a reader from k on, y or x of what is past its last, inputs, weights."""
    program, x, y = made.program, made.x, made.y
    places = len(x)
    alive: list[list[tuple[int, float]]] = [[] for _ in range(places)]
    gone: list[list[tuple[int, float]]] = [[] for _ in range(places)]
    for tensor, maker in enumerate(spans.maker):
        size, last = spans.size[tensor] / limit, spans.last[tensor]
        if not size:
            continue
        if maker < 0:
            _inputs_of_head(program, alive, spans.readers[tensor], size, x)
            continue
        for k in range(maker, last + 1):
            alive[k].append((x[maker], size))
        if spans.output[tensor] or spans.readers[tensor]:
            gone[last].append((x[maker] if spans.output[tensor] else y[tensor], size))
    held = _weights(program, footprint, limit, [(node, 1.0, 0.0) for node in x])
    past = None
    for k in range(places):
        program.at_most([*alive[k], *([(past, 1.0)] if past is not None else []), (held, 1.0)], 1.0)
        past = _summed(program, past, gone[k])


def _inputs_of_head(
    program: Program,
    alive: list[list[tuple[int, float]]],
    readers: list[int],
    size: float,
    x: list[int],
) -> None:
    """Let a graph input live from the start to its last reader on the head."""
    later: int | None = None
    for at in range(len(readers) - 1, -1, -1):
        needed = program.add()
        program.at_most([(x[readers[at]], 1.0), (needed, -1.0)], 0.0)
        if later is not None:
            program.at_most([(later, 1.0), (needed, -1.0)], 0.0)
        for k in range(readers[at - 1] + 1 if at else 0, readers[at] + 1):
            alive[k].append((needed, size))
        later = needed


def _limit_tail(made: Variables, footprint: Footprint, spans: _Spans, limit: int) -> None:
    """At k: 1-x of what is made before and read from k on, what came in and is still read."""
    program, places = made.program, len(made.x)
    alive: list[list[tuple[int, float]]] = [[] for _ in range(places)]
    ahead = _coming(made, alive, spans, limit)
    past, fixed = _made_on_tail(made, alive, spans, limit)
    held = _weights(program, footprint, limit, [(node, -1.0, 1.0) for node in made.x])
    for k in range(places):
        sums = [(part, 1.0) for part in (past[k], ahead[k]) if part is not None]
        program.at_most([*alive[k], *sums, (held, 1.0)], 1.0 - fixed[k])


def _made_on_tail(
    made: Variables, alive: list[list[tuple[int, float]]], spans: _Spans, limit: int
) -> tuple[list[int | None], list[float]]:
    """Write what the tail makes as constant - x, the x into `alive`, up to the last reader.

    Returns, for each place, the sum of -x over the graph outputs past it, and the constants.
    """
    places = len(made.x)
    gone: list[list[tuple[int, float]]] = [[] for _ in range(places)]
    change = [0.0] * (places + 1)
    for tensor, maker in enumerate(spans.maker):
        if maker < 0:
            continue
        size, last = spans.size[tensor] / limit, spans.last[tensor]
        change[maker] += size
        for k in range(maker, last + 1):
            alive[k].append((made.x[maker], -size))
        if spans.output[tensor]:
            gone[last].append((made.x[maker], -size))
        else:
            change[last + 1] -= size
    past: list[int | None] = [None]
    for terms in gone[:-1]:
        past.append(_summed(made.program, past[-1], terms))
    return past, list(accumulate(change[:-1]))


def _coming(
    made: Variables, alive: list[list[tuple[int, float]]], spans: _Spans, limit: int
) -> list[int | None]:
    """Write what comes in: y up to the first reader, summed up by place; the rest into `alive`."""
    coming: list[list[tuple[int, float]]] = [[] for _ in made.x]
    for tensor, maker in enumerate(spans.maker):
        if readers := spans.readers[tensor]:
            size = spans.size[tensor] / limit
            coming[readers[0]].append((made.y[tensor], size))
            _inputs_of_tail(made, alive, readers, size, maker)
    ahead: list[int | None] = [None]
    for terms in reversed(coming):
        ahead.append(_summed(made.program, ahead[-1], terms))
    return ahead[:0:-1]


def _inputs_of_tail(
    made: Variables,
    alive: list[list[tuple[int, float]]],
    readers: list[int],
    size: float,
    maker: int,
) -> None:
    """Let what comes in live from the start to its last reader on the tail (y up to the first)."""
    program, x = made.program, made.x
    later: int | None = None
    for at in range(len(readers) - 1, 0, -1):
        needed = program.add()
        let_cross(program, needed, x[maker] if maker >= 0 else None, x[readers[at]])
        if later is not None:
            program.at_most([(later, 1.0), (needed, -1.0)], 0.0)
        for k in range(readers[at - 1] + 1, readers[at] + 1):
            alive[k].append((needed, size))
        later = needed


def _summed(program: Program, before: int | None, terms: list[tuple[int, float]]) -> int | None:
    """Return a variable that equals `before` + Σ terms (None where both are nothing)."""
    if not terms:
        return before
    total = program.add(upper=math.inf)
    program.lower[total] = -math.inf
    known = [(before, 1.0)] if before is not None else []
    program.at_most([*terms, *known, (total, -1.0)], 0.0, 0.0)
    return total


def _weights(
    program: Program, footprint: Footprint, limit: int, here: list[tuple[int, float, float]]
) -> int:
    """Return the variable of the bytes of weights that a side holds, each once.

    `here`: per node (variable, factor, constant) whose sum is 1 when the node is on this side.
    """
    sizes = footprint.weight_sizes
    held = [program.add() for _ in sizes]
    for weight, node in footprint.holdings():
        variable, factor, constant = here[node]
        program.at_most([(variable, factor), (held[weight], -1.0)], -constant)
    terms = [(h, float(size) / limit) for h, size in zip(held, sizes.tolist(), strict=True)]
    total = program.add(upper=math.inf)
    program.at_most([*terms, (total, -1.0)], 0.0, 0.0)
    return total


def _infeasible(footprint: Footprint, forced: Forced, limits: Limits, status: int) -> PlanError:
    """Say which limit no cut keeps; `status` 2 is HiGHS's proof."""
    if status != 2:
        return PlanError(
            f"no cut that fits the memory was found in {NODES:,} branches",
            where=_need(footprint, limits),
            hint="name one with --cut, or give a machine with more memory",
        )
    least = closure(forced, footprint.indexed, forced.head)
    if limits.head and forced.head.any() and footprint.total(least) > limits.head:
        which = f"the device's memory: what must run there needs {footprint.total(least):,} bytes"
    elif limits.head and limits.tail:
        which = "the device's and the server's memory together"
    else:
        which = "the device's memory" if limits.head else "the server's memory"
    return PlanError(
        f"no cut fits {which}",
        where=_need(footprint, limits),
        hint="a machine with more memory, or a smaller model (--passes)",
    )


def _need(footprint: Footprint, limits: Limits) -> str:
    whole = footprint.total(np.ones(len(footprint.indexed.graph.nodes), dtype=bool))
    have = {"device": limits.head, "server": limits.tail}
    limit = ", ".join(f"the {side} holds {size:,} bytes" for side, size in have.items() if size)
    return f"{limit}; the whole model needs {whole:,}"
