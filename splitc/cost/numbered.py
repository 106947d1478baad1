"""A graph in numbers, so that thousands of cuts can be priced: places of nodes and of tensors."""

from collections.abc import Set
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from splitc.graph import Graph

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Numbered:
    """Nodes and tensors of `graph` by their place in `graph.nodes` and `graph.tensors`."""

    graph: Graph

    @cached_property
    def place(self) -> dict[str, int]:
        """Node identity → place."""
        return {node.id: at for at, node in enumerate(self.graph.nodes)}

    @cached_property
    def producer(self) -> Ints:
        """(tensors,): place of the node that makes it, -1 for a graph input."""
        made = [at for at, node in enumerate(self.graph.nodes) for _ in node.outputs]
        return np.array([-1] * len(self.graph.inputs) + made, dtype=np.int64)

    @cached_property
    def edges(self) -> tuple[Ints, Ints]:
        """Two vectors: tensor `edges[0][i]` is read by node `edges[1][i]`; sorted."""
        rank = self.graph.rank
        pairs = [(rank[t], at) for at, node in enumerate(self.graph.nodes) for t in node.inputs]
        tensors, readers = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2).T.copy()
        return tensors, readers

    @cached_property
    def read(self) -> tuple[Ints, Ints]:
        """Two vectors: the tensors that have readers, and where each one's `edges` begin."""
        tensors, starts = np.unique(self.edges[0], return_index=True)
        return tensors, starts.astype(np.int64)

    @cached_property
    def output(self) -> Bools:
        """(tensors,): whether it is a graph output."""
        ends = set(self.graph.outputs)
        return np.array([t in ends for t in self.graph.tensors], dtype=bool)

    def mask(self, nodes: Set[str]) -> Bools:
        """(nodes,): true for those in the set."""
        return np.fromiter(map(nodes.__contains__, self.place), bool, len(self.place))

    def made(self, side: Bools) -> Bools:
        """(tensors,): whether a node of this side makes it."""
        return np.append(side, False)[self.producer]

    def crossing(self, head: Bools) -> list[str]:
        """Return what the tail reads and does not make, graph inputs included, in `rank` order."""
        tensors, readers = self.edges
        wanted = np.zeros(len(self.producer), dtype=bool)
        wanted[tensors[~head[readers]]] = True
        made = (self.producer < 0) | self.made(head)
        return [self.graph.tensors[at] for at in np.flatnonzero(wanted & made).tolist()]
