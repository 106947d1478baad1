"""What a side needs to hold: its weights, and its activations at their peak.

The peak is by liveness in topological order: a tensor lives from the node that makes it (an
input of the side: from the start) to its last reader on this side, or to the end when it leaves.
"""

from collections.abc import Set

import numpy as np

from splitc.cost.numbered import Bools, Numbered
from splitc.graph import Graph
from splitc.model import Model


class Memory:
    """Weights and peak activations of any set of nodes of one model, bytes.

    `sizes`: of every tensor; `weight_bytes`: of initializers and of what constant nodes make. A
    weight that DequantizeLinear widens counts as it is stored: kernels take it narrow.
    """

    def __init__(self, model: Model) -> None:
        self.sizes = {name: fact.nbytes for name, fact in model.facts.items()}
        stored = (n for n in model.graph.constants if n.op != "DequantizeLinear")
        made = {t for node in stored for t in node.outputs}
        self.weight_bytes = {n: model.weight_bytes([n]) for n in model.ir.graph.initializers}
        self.weight_bytes |= {name: self.sizes.get(name, 0) for name in made}
        self._numbered = Numbered(model.graph)
        rank = {name: at for at, name in enumerate(self.weight_bytes)}
        held = weights_of(model.graph)
        pairs = [
            (rank[name], at) for at, names in enumerate(held) for name in names if name in rank
        ]
        self._weight, self._holder = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        self._weight_size = np.array(list(self.weight_bytes.values()), dtype=np.int64)
        sizes = [self.sizes.get(name, 0) for name in model.graph.tensors]
        self._size = np.array(sizes, dtype=np.int64)

    def weights(self, nodes: Set[str]) -> int:
        """Bytes of the distinct weights that these nodes read, directly or through constants."""
        return self.side_weights(self._numbered.mask(nodes))

    def peak(self, nodes: Set[str]) -> int:
        """Largest number of bytes of activations alive at once while these nodes run."""
        return self.side_peak(self._numbered.mask(nodes))

    def side_weights(self, side: Bools) -> int:
        """Return `weights` of the nodes that are true in a vector over the graph's nodes."""
        held = np.zeros(len(self._weight_size), dtype=bool)
        held[self._weight[side[self._holder]]] = True
        return int(self._weight_size[held].sum())

    def side_peak(self, side: Bools) -> int:
        """Return `peak` of the nodes that are true in a vector over the graph's nodes.

        Times: 0 is the start, k + 1 the run of node k, and a tensor's bytes go after its last use.
        """
        at, end = self._numbered, len(side)
        tensors, readers = at.edges
        here = side[readers]
        last = np.full(len(self._size), -1, dtype=np.int64)
        if len(readers):
            last[at.read[0]] = np.maximum.reduceat(np.where(here, readers, -1), at.read[1])
        made = at.made(side)
        leaves = at.output.copy()
        leaves[tensors[~here]] = True
        last[made] = np.maximum(last[made], at.producer[made])
        last[made & leaves] = end
        alive = np.flatnonzero(last >= 0)
        born = np.where(made, at.producer + 1, 0)[alive]
        size, times = self._size[alive].astype(np.float64), end + 3
        change = np.bincount(born, size, times) - np.bincount(last[alive] + 2, size, times)
        return int(np.cumsum(change).max(initial=0))


def weights_of(graph: Graph) -> list[set[str]]:
    """For each node, the weights that it reads, through constant nodes too."""
    made = {t: node for node in graph.constants for t in node.outputs}
    found = []
    for node in graph.nodes:
        waiting, held = list(node.weights), set[str]()
        while waiting:
            name = waiting.pop()
            if name not in held:
                held.add(name)
                waiting += made[name].weights if name in made else ()
        found.append(held)
    return found
