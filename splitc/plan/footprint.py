"""Weights and peak activations of a side in numpy, for graphs of thousands of nodes.

The rules are those of `splitc.cost.memory`: distinct weights once; a tensor lives from its maker
(what comes in from outside: from the start) to its last reader on this side, or to the end when
it leaves.
"""

from collections.abc import Mapping

import numpy as np

from splitc.cost.memory import weights_of
from splitc.graph import Graph
from splitc.plan.problem import Bools, Floats, Indexed, Ints


class Footprint:
    """Bytes that a side of one graph holds. `sizes`: bytes over `graph.tensors`."""

    def __init__(self, indexed: Indexed, sizes: Floats, weight_bytes: Mapping[str, int]) -> None:
        self.indexed = indexed
        self.sizes = sizes
        self._weight, self._holder, self.weight_sizes = _holdings(indexed.graph, weight_bytes)
        self.output = np.zeros(len(sizes), dtype=bool)
        self.output[indexed.outputs] = True

    def weights(self, side: Bools) -> int:
        """Bytes of the distinct weights that these nodes read, directly or through constants."""
        held = np.zeros(len(self.weight_sizes), dtype=bool)
        held[self._weight[side[self._holder]]] = True
        return int(self.weight_sizes[held].sum())

    def total(self, side: Bools) -> int:
        """Bytes of weights and of activations at their peak."""
        return self.weights(side) + self.peak(side)

    def holdings(self) -> list[tuple[int, int]]:
        """Return the pairs (number of a weight, number of a node that holds it)."""
        return list(zip(self._weight.tolist(), self._holder.tolist(), strict=True))

    def peak(self, side: Bools) -> int:
        """Largest number of bytes of activations alive at once while these nodes run."""
        at, n = self.indexed, len(side)
        inside = side[at.edge_reader]
        last = np.full(len(self.sizes), -1, dtype=np.int64)
        np.maximum.at(last, at.edge_tensor[inside], at.edge_reader[inside])
        made = at.made(side)
        leaves = self.output.copy()
        leaves[at.edge_tensor[~inside]] = True
        last[made] = np.maximum(last[made], at.producer[made])
        last[made & leaves] = n
        alive = np.flatnonzero(last >= 0)
        born = np.where(made, at.producer + 1, 0)[alive]
        size = self.sizes[alive]
        change = np.bincount(born, size, n + 2) - np.bincount(last[alive] + 2, size, n + 3)[: n + 2]
        return int(np.cumsum(change).max(initial=0.0))


def _holdings(graph: Graph, weight_bytes: Mapping[str, int]) -> tuple[Ints, Ints, Ints]:
    """Return pairs (weight, node that holds it) and the bytes of each weight."""
    place = {name: at for at, name in enumerate(weight_bytes)}
    weight: list[int] = []
    holder: list[int] = []
    for at, names in enumerate(weights_of(graph)):
        found = [place[name] for name in names if name in place]
        weight += found
        holder += [at] * len(found)
    sizes = np.fromiter(weight_bytes.values(), np.int64, len(weight_bytes))
    return np.array(weight, dtype=np.int64), np.array(holder, dtype=np.int64), sizes
