"""Mixed precision: the smallest share of the work that must stay in float for a limit to hold.

Nodes are kept in float in the order of noise per MAC, most harmful first: the shortest such list
that meets the limit is found by bisection, then each node on it, largest first, is tried in int8
again. The noises of single nodes add up nearly (they are independent), which is what makes the
order a good one; that the limit holds is measured, never inferred.
"""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

from splitc.quant.noise import NodeCost, Step

Holds = Callable[[Set[str]], bool]
"""Tells whether the limit holds with these nodes kept in float."""

MOST_RETRIED = 16
"""How many of the kept nodes are tried in int8 again, those with most MACs."""


@dataclass(frozen=True)
class Search:
    """`kept`: the nodes that stay in float; `tried`: how many graphs were measured."""

    kept: frozenset[str]
    tried: int


def search(costs: Sequence[NodeCost], holds: Holds, step: Step | None = None) -> Search:
    """Return what must stay in float; that all in float meets the limit is taken as given."""
    order = [cost.id for cost in sorted(costs, key=_harm, reverse=True)]
    tried = 0

    def meets(kept: Set[str]) -> bool:
        nonlocal tried
        if step:
            step(tried, _most(len(costs)), f"int8 but at {len(kept)} nodes")
        tried += 1
        return holds(kept)

    kept = set(order[: _shortest(len(order), lambda count: meets(set(order[:count])))])
    share = {cost.id: cost.mac_share for cost in costs}
    for name in sorted(kept, key=lambda name: -share[name])[:MOST_RETRIED]:
        if len(kept) > 1 and meets(kept - {name}):
            kept.remove(name)
    return Search(frozenset(kept), tried)


def _shortest(longest: int, enough: Callable[[int], bool]) -> int:
    """Return the least count that is enough, by bisection; 0 is asked first, `longest` never."""
    if longest == 0 or enough(0):
        return 0
    low, high = 1, longest
    while low < high:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle + 1
    return high


def _most(count: int) -> int:
    """Return how many graphs may be measured."""
    return count.bit_length() + 1 + min(count, MOST_RETRIED)


def _harm(cost: NodeCost) -> float:
    """Return noise for each share of the MACs that int8 there would bring."""
    return cost.noise / max(cost.mac_share, 1e-9)
