"""A plan as a cut of a flow network, in exact 59-bit integers.

A vertex is a node, or nodes that must stay together; its side of the source is the head.

    v → sink    head[v]          paid when v is on the source's side
    source → v  tail[v] + back   paid when v is not
    p → a → r   send[u], ∞       tensor u of p, one auxiliary vertex a, however many readers r
    r → p       ∞                a head node's predecessors are the head's

Prices are floored to multiples of a power of two, so the value of any flow is a lower bound.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from splitc.errors import PlanError
from splitc.plan.problem import Bools, Floats, Indexed, Ints, Prices, Problem

BITS = 58
"""The cost of some feasible plan is scaled into [2^57, 2^58)."""
INFINITE = 1 << 59
"""Capacity that no optimal plan cuts."""


@dataclass(frozen=True)
class Network:
    """Compressed rows of capacities, in which every arc's reverse stands too.

    `vertex`: node → vertex; `constant` is paid by every cut; an integer is worth 2^-`scale`.
    """

    vertex: Ints
    source: int
    sink: int
    indptr: Ints
    indices: Ints
    capacity: Ints
    constant: int
    scale: int

    def tails(self) -> Ints:
        """Return the vertex that each arc leaves."""
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))


@dataclass(frozen=True)
class Forced:
    """Nodes that can stand on one side only, by wish or because the other side is infinite."""

    vertex: Ints
    head: Bools
    tail: Bools


def contract(problem: Problem, indexed: Indexed, prices: Prices) -> Forced:
    """Merge what must stay together; find what is forced; `PlanError` on a contradiction."""
    n = len(problem.graph.nodes)
    barred = np.isinf(prices.send)
    inner = barred[indexed.edge_tensor] & (indexed.producer[indexed.edge_tensor] >= 0)
    pairs = [(indexed.producer[indexed.edge_tensor[inner]], indexed.edge_reader[inner])]
    for group in problem.groups:
        members = np.array([indexed.place[name] for name in group], dtype=np.int64)
        pairs.append((members[:-1], members[1:]))
    left, right = (np.concatenate(side) for side in zip(*pairs, strict=True))
    vertex = np.arange(n)
    if len(left):
        links = coo_array((np.ones(len(left)), (left, right)), shape=(n, n))
        vertex = connected_components(links, directed=False)[1].astype(np.int64)
    made = indexed.outputs[np.isinf(prices.back[indexed.outputs])]
    at_inputs = indexed.edge_reader[barred[indexed.edge_tensor] & ~inner]
    head = indexed.mask(problem.only_head) | np.isinf(prices.tail)
    head[indexed.producer[made]] = True
    head[at_inputs] = True
    tail = indexed.mask(problem.only_tail) | np.isinf(prices.head)
    if math.isinf(prices.offload):
        head[:] = True
    forced = Forced(vertex, head, tail)
    if head.any() and tail.any():
        _check(forced, indexed)
    return forced


def closure(forced: Forced, indexed: Indexed, seeds: Bools) -> Bools:
    """Return `seeds` with their predecessors and what stays together with either."""
    n = len(seeds)
    producer = indexed.producer[indexed.edge_tensor]
    inner = producer >= 0
    rows = np.concatenate([forced.vertex[indexed.edge_reader[inner]], np.full(int(seeds.sum()), n)])
    columns = np.concatenate([forced.vertex[producer[inner]], forced.vertex[seeds]])
    links = csr_array((np.ones(len(rows)), (rows, columns)), shape=(n + 1, n + 1))
    side = np.zeros(n + 1, dtype=bool)
    side[breadth_first_order(links, n, return_predecessors=False)] = True
    return np.asarray(side[forced.vertex])


def _check(forced: Forced, indexed: Indexed) -> None:
    """Raise `PlanError` naming a node that both sides exclude."""
    torn = closure(forced, indexed, forced.head) & forced.tail
    if not torn.any():
        return
    nodes = indexed.graph.nodes
    at = int(np.flatnonzero(torn)[0])
    if forced.head[at]:
        raise PlanError(f"node {nodes[at].id!r} can run on neither side", where=nodes[at].op)
    for late in np.flatnonzero(forced.head).tolist():
        alone = np.zeros_like(torn)
        alone[late] = True
        if closure(forced, indexed, alone)[at]:
            raise PlanError(
                f"node {nodes[at].id!r} can run on the tail only, but {nodes[late].id!r}, which "
                "can run on the head only, needs it or must stay with it",
                where=f"{nodes[at].op}, {nodes[late].op}",
            )


def build(indexed: Indexed, prices: Prices, forced: Forced, upper: float) -> Network:
    """Build the network; `upper` > 0 is the price of some feasible plan (without `offload`)."""
    scale = BITS - math.frexp(upper)[1]
    count = int(forced.vertex.max()) + 1
    at_head, at_tail = _sides(indexed, prices, forced, count, scale)
    source, sink = count, count + 1
    gain = at_head - at_tail
    late, early = np.flatnonzero(gain > 0), np.flatnonzero(gain < 0)
    arcs = [
        (late, np.full(len(late), sink), gain[late]),
        (np.full(len(early), source), early, -gain[early]),
        *_sends(indexed, prices, forced, source, scale),
    ]
    u, v, c = (np.concatenate(part) for part in zip(*arcs, strict=True))
    size = max(sink, int(u.max(initial=0)), int(v.max(initial=0))) + 1
    indptr, indices, capacity = _rows(u, v, c, size)
    constant = int(np.minimum(at_head, at_tail).sum())
    return Network(forced.vertex, source, sink, indptr, indices, capacity, constant, scale)


def scaled(values: Floats, scale: int) -> Ints:
    """Floor prices to integers worth 2^-scale each; from `INFINITE` on all are the same."""
    with np.errstate(over="ignore"):
        wide = np.minimum(np.ldexp(values, scale), float(INFINITE))
    return np.floor(wide).astype(np.int64)


def _sides(
    indexed: Indexed, prices: Prices, forced: Forced, count: int, scale: int
) -> tuple[Ints, Ints]:
    """Price of each vertex on the head and on the tail, forbidden sides being infinite."""
    returned = forced.vertex[indexed.producer[indexed.outputs]]
    back = scaled(prices.back[indexed.outputs], scale)
    at_head = _summed(scaled(prices.head, scale), forced.vertex, count)
    at_tail = _summed(
        np.concatenate([scaled(prices.tail, scale), back]),
        np.concatenate([forced.vertex, returned]),
        count,
    )
    at_head[forced.vertex[forced.tail]] = INFINITE
    at_tail[forced.vertex[forced.head]] = INFINITE
    return at_head, at_tail


def _sends(
    indexed: Indexed, prices: Prices, forced: Forced, source: int, scale: int
) -> list[tuple[Ints, Ints, Ints]]:
    """Arcs of the tensors: what crossing costs, and that nothing returns for nothing."""
    made = indexed.producer[indexed.edge_tensor]
    maker = np.where(made < 0, source, forced.vertex[made])
    reader = forced.vertex[indexed.edge_reader]
    live = maker != reader
    pair = np.unique(indexed.edge_tensor[live] * (source + 2) + reader[live])
    tensor, reader = np.divmod(pair, source + 2)
    maker = np.where(indexed.producer < 0, source, forced.vertex[indexed.producer])
    price = scaled(prices.send, scale)
    readers = np.bincount(tensor, minlength=len(price))
    fan = np.flatnonzero(readers > 1)
    relay = np.zeros(len(price), dtype=np.int64)
    relay[fan] = source + 2 + np.arange(len(fan))
    alone = readers[tensor] == 1
    shared = tensor[~alone]
    inner = maker[tensor] != source
    return [
        (maker[tensor[alone]], reader[alone], price[tensor[alone]]),
        (maker[fan], relay[fan], price[fan]),
        (relay[shared], reader[~alone], np.full(len(shared), INFINITE)),
        (reader[inner], maker[tensor[inner]], np.full(int(inner.sum()), INFINITE)),
    ]


def _summed(values: Ints, index: Ints, count: int) -> Ints:
    """Add `values` up per index, stopping at `INFINITE`."""
    total = np.zeros(count, dtype=np.int64)
    np.add.at(total, index, values)
    wide = np.bincount(index, weights=values.astype(np.float64), minlength=count)
    return np.where(wide >= INFINITE, INFINITE, total)


def _rows(u: Ints, v: Ints, c: Ints, size: int) -> tuple[Ints, Ints, Ints]:
    """Merge parallel arcs, give each its reverse (0 where there is none), compress the rows."""
    key, arc = np.unique(np.concatenate([u * size + v, v * size + u]), return_inverse=True)
    capacity = _summed(np.concatenate([c, np.zeros_like(c)]), arc, len(key))
    row, column = np.divmod(key, size)
    indptr = np.searchsorted(row, np.arange(size + 1))
    return indptr, column, capacity
