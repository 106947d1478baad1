"""Ancestors and descendants of every node at once, as packed bits.

Row i of `ancestors` has bit j set when node j is node i or an ancestor of it. For 10,000 nodes a
matrix takes 12.5 MB and is made in some tens of milliseconds; a Python set per node would take
gigabytes. Nodes are numbered as in `Graph.nodes`, bits as `numpy.packbits` does.
"""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitc.graph import Graph

Bits = NDArray[np.uint8]

_ROWS = 1024
"""Rows worked on at a time: of 10,000 nodes 1.3 MB packed, 10 MB unpacked."""

_TURNS = 12
"""Readers of a tensor that are worked on for all tensors at once; few tensors have more."""


class Closure:
    """Packed reachability of one graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.count = len(graph.nodes)
        self.index = {node.id: i for i, node in enumerate(graph.nodes)}
        self.width = (self.count + 7) // 8

    @cached_property
    def sources(self) -> list[list[int]]:
        """For each node, the numbers of the nodes whose tensors it reads."""
        made, index = self.graph.producer, self.index
        return [
            sorted({index[made[t]] for t in node.inputs if t in made}) for node in self.graph.nodes
        ]

    @cached_property
    def ancestors(self) -> Bits:
        """(nodes, width): each node with all of its ancestors."""
        rows = self.units()
        for i, sources in enumerate(self.sources):
            for j in sources:
                rows[i] |= rows[j]
        return rows

    @cached_property
    def descendants(self) -> Bits:
        """(nodes, width): each node with all of its descendants."""
        rows = self.units()
        for i in range(self.count - 1, -1, -1):
            for j in self.sources[i]:
                rows[j] |= rows[i]
        return rows

    def units(self) -> Bits:
        """(nodes, width): each node alone."""
        rows = np.zeros((self.count, self.width), np.uint8)
        numbers = np.arange(self.count)
        rows[numbers, numbers // 8] = 128 >> (numbers % 8)
        return rows

    def row(self, numbers: Iterable[int]) -> Bits:
        """Pack a set of node numbers into one row."""
        flags = np.zeros(self.width * 8, np.uint8)
        flags[list(numbers)] = 1
        return np.packbits(flags)

    def numbers(self, row: Bits) -> NDArray[np.int64]:
        """Unpack one row into node numbers, ascending."""
        return np.flatnonzero(np.unpackbits(row, count=self.count))

    def names(self, row: Bits) -> frozenset[str]:
        """Unpack one row into node identities."""
        nodes = self.graph.nodes
        return frozenset(nodes[i].id for i in self.numbers(row).tolist())

    def union(self, rows: Bits, numbers: NDArray[Any] | list[int]) -> Bits:
        """Or together the rows with these numbers (no numbers: nothing)."""
        if len(numbers) == 0:
            return np.zeros(self.width, np.uint8)
        result: Bits = np.bitwise_or.reduce(rows[numbers], axis=0)
        return result

    @cached_property
    def crossing(self) -> Bits:
        """(tensors, width): the nodes in whose ancestor cut a tensor of `Graph.tensors` crosses.

        A cut of node n is: head = n and its ancestors. A tensor crosses it when the head makes it
        (graph inputs always) and some reader of it is outside the head.
        """
        graph, index = self.graph, self.index
        maker = [index[graph.producer[t]] for t in graph.tensors[len(graph.inputs) :]]
        everywhere = np.tile(self.row(range(self.count)), (len(graph.inputs), 1))
        rows: Bits = np.concatenate([everywhere, self.descendants[maker]])
        readers = [[index[r] for r in graph.readers[t]] for t in graph.tensors]
        for start in range(0, len(rows), _ROWS):
            rows[start : start + _ROWS] &= ~self._behind(readers[start : start + _ROWS])
        return rows

    def _behind(self, readers: list[list[int]]) -> Bits:
        """(tensors, width): the nodes behind all readers of a tensor; without readers all nodes."""
        rows = np.full((len(readers), self.width), 255, np.uint8)
        for turn in range(_TURNS):
            part = [at for at, found in enumerate(readers) if len(found) > turn]
            rows[part] &= self.descendants[[readers[at][turn] for at in part]]
        for at, found in enumerate(readers):
            if rest := found[_TURNS:]:
                rows[at] &= np.bitwise_and.reduce(self.descendants[rest], axis=0)
        return rows
