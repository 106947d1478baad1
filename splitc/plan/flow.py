"""The exact minimum cut, with a proof.

scipy's flow counts in int32 and wraps wider numbers in silence, so the 59-bit network is solved
digit by digit: a flow through the capacities' highest 29 bits, then one through what the residual
network has left, and so on until the flow equals a cut, to the last bit. The flow's value is the
bound; the price of the cut is summed again from the original prices.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from splitc.plan.network import INFINITE, Forced, Network, build, closure, contract
from splitc.plan.problem import Bools, Indexed, Prices, Problem

METHOD = "minimum cut (dinic, exact in 59-bit integers)"


@dataclass(frozen=True)
class Solution:
    """The best head. `optimum` is its price, `bound` proves that none costs less than that.

    `gap` = optimum − bound ≥ 0, all three in the unit of the prices.
    """

    head_nodes: frozenset[str]
    optimum: float
    bound: float
    gap: float
    method: str = METHOD


def solve(problem: Problem) -> Solution:
    """Return the cheapest legal head, the smallest one where prices tie.

    Raises `PlanError` naming a node that both sides exclude, `ModelError` on a missing price.
    """
    indexed = Indexed.of(problem.graph)
    return solve_indexed(problem, indexed, Prices.of(problem, indexed))


def solve_indexed(problem: Problem, indexed: Indexed, prices: Prices) -> Solution:
    """Solve with the graph's numbering and the price vectors at hand."""
    n = len(problem.graph.nodes)
    everything = np.ones(n, dtype=bool)
    if n == 0:
        return Solution(frozenset(), 0.0, 0.0, 0.0)
    forced = contract(problem, indexed, prices)
    whole = prices.total(everything, indexed) if not forced.tail.any() else math.inf
    head, bound = _without_offload(indexed, prices, forced)
    cost = prices.total(head, indexed)
    bound = min(whole, math.nextafter(bound + prices.offload, 0.0) if prices.offload else bound)
    if whole < cost:
        head, cost = everything, whole
    names = frozenset(node.id for node, kept in zip(problem.graph.nodes, head, strict=True) if kept)
    bound = min(bound, cost)
    return Solution(names, cost, bound, cost - bound)


def _without_offload(indexed: Indexed, prices: Prices, forced: Forced) -> tuple[Bools, float]:
    """Return the cheapest head when offloading is free, and a lower bound on its price."""
    free = Prices(prices.head, prices.tail, prices.send, prices.back, 0.0)
    least = closure(forced, indexed, forced.head)
    known = [least] if forced.tail.any() else [least, np.ones_like(least)]
    costs = [free.total(head, indexed) for head in known]
    upper = min(costs)
    start = known[costs.index(upper)]
    if upper == 0:
        return start, 0.0
    net = build(indexed, prices, forced, upper)
    side, flow = cut(net, _side(net, start))
    return np.asarray(side[net.vertex]), _floored(net.constant + flow, net.scale)


def _side(net: Network, head: Bools) -> Bools:
    """Return the source side that stands for a head, relays following their readers."""
    side = np.zeros(len(net.indptr) - 1, dtype=bool)
    side[net.vertex[head]] = True
    side[net.source] = True
    infinite = (net.capacity >= INFINITE) & (net.tails() > net.sink)
    relays = np.arange(net.sink + 1, len(side))
    side[relays] = True
    side[net.tails()[infinite & ~side[net.indices]]] = False
    return side


def cut(net: Network, known: Bools) -> tuple[Bools, int]:
    """Return the smallest source side of a minimum cut, and the flow that proves it.

    `known`: the source side of the feasible cut that the network was scaled to.
    """
    left = net.capacity.copy()
    best = value(net, known)
    flow = 0
    while flow < best:
        shift = max(0, (best - flow).bit_length() - 29)
        limit = ((best - flow) >> shift) + 1
        digits = np.minimum(left >> shift, limit).astype(np.int32)
        found = maximum_flow(_matrix(net, digits), net.source, net.sink, method="dinic")
        left -= found.flow.data.astype(np.int64) << shift
        flow += int(found.flow_value) << shift
        best = min(best, value(net, reached(net, (left >> shift) > 0)))
        assert flow == best or shift > 0, "a flow through the last digit is maximal"
    return reached(net, left > 0), flow


def value(net: Network, side: Bools) -> int:
    """Capacity of the arcs that leave a source side."""
    return int(net.capacity[side[net.tails()] & ~side[net.indices]].sum())


def reached(net: Network, open_: Bools) -> Bools:
    """Return the vertices that the source reaches through open arcs."""
    links = csr_array(_matrix(net, open_.astype(np.int8)))
    links.eliminate_zeros()
    side = np.zeros(len(net.indptr) - 1, dtype=bool)
    side[breadth_first_order(links, net.source, return_predecessors=False)] = True
    return side


def _matrix(net: Network, data: np.ndarray) -> csr_array:
    size = len(net.indptr) - 1
    return csr_array((data, net.indices.copy(), net.indptr.copy()), shape=(size, size))


def _floored(units: int, scale: int) -> float:
    """Return units × 2^-scale as a float that is not above it."""
    nearest = float(units)
    return math.ldexp(nearest if int(nearest) <= units else math.nextafter(nearest, 0.0), -scale)
