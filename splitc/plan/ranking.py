"""The cheapest of thousands of listed cuts, without writing each of them out.

A listed cut is a packed row of head nodes (`splitc.closure`). What its nodes cost is looked up
eight at a time, in a table of what each of the 256 bytes is worth at each place of a row. Only the
cuts that are kept become a `Cut`.
"""

from collections.abc import Sequence

import numpy as np

from splitc.closure import Bits, Closure
from splitc.cuts import Cut, inner_rows
from splitc.plan.problem import Floats, Indexed, Prices

_ROWS = 512
"""Rows priced at a time: for 10,000 nodes 5 MB of floats."""


def cheapest(
    closure: Closure,
    indexed: Indexed,
    prices: Prices,
    *,
    must: Sequence[Cut],
    top: int,
    max_tensors: int,
) -> list[Cut]:
    """Return the `top` cheapest listed cuts (0 = all) and those of `must`, each head once."""
    found = list(inner_rows(closure, max_tensors=max_tensors))
    sums = _sums(closure, indexed, prices, found)
    order = np.argsort(sums, kind="stable")[: top or None]
    heads = {cut.head_nodes: cut for cut in must}
    for at in order.tolist():
        tensors, row = found[at]
        head = closure.names(row)
        heads.setdefault(head, Cut("inner", tensors, head))
    return list(heads.values())


def _sums(
    closure: Closure,
    indexed: Indexed,
    prices: Prices,
    found: Sequence[tuple[tuple[str, ...], Bits]],
) -> Floats:
    """Price of each cut up to rounding: what moves to the head, and what then crosses."""
    gain = prices.head - prices.tail
    np.subtract.at(gain, indexed.producer[indexed.outputs], prices.back[indexed.outputs])
    rank = closure.graph.rank
    send = prices.send.tolist()
    sums = np.array([sum(send[rank[t]] for t in tensors) for tensors, _ in found])
    padded = np.pad(gain, (0, closure.width * 8 - closure.count)).reshape(closure.width, 8)
    octets = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    table = (octets @ padded.T).astype(np.float64)
    place = np.arange(closure.width)
    for start in range(0, len(found), _ROWS):
        rows = np.stack([row for _, row in found[start : start + _ROWS]])
        sums[start : start + _ROWS] += table[rows, place].sum(axis=1)
    return sums
