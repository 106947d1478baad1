"""What a side needs to hold: its weights, and its activations at their peak.

The peak is by liveness in topological order: a tensor lives from the node that makes it (an
input of the side: from the start) to its last reader on this side, or to the end when it leaves.
"""

from collections.abc import Iterable, Set

from splitc.model import Model


class Memory:
    """Weights and peak activations of any set of nodes of one model, bytes.

    `sizes`: of every tensor; `weight_bytes`: of initializers and of what constant nodes make.
    """

    def __init__(self, model: Model) -> None:
        self._graph = model.graph
        self.sizes = {name: fact.nbytes for name, fact in model.facts.items()}
        table = model.ir.graph.initializers
        made = {t: node for node in model.graph.constants for t in node.outputs}
        self._weights: dict[str, frozenset[str]] = {}
        for node in model.graph.nodes:
            waiting, held = list(node.weights), set()
            while waiting:
                name = waiting.pop()
                if name not in held:
                    held.add(name)
                    waiting += made[name].weights if name in made else ()
            self._weights[node.id] = frozenset(held)
        self.weight_bytes = {name: model.weight_bytes([name]) for name in table}
        self.weight_bytes |= {name: self.sizes.get(name, 0) for name in made}

    def weights(self, nodes: Iterable[str]) -> int:
        """Bytes of the distinct weights that these nodes read."""
        held: set[str] = set().union(*(self._weights[name] for name in nodes))
        return sum(self.weight_bytes.get(name, 0) for name in held)

    def peak(self, nodes: Set[str]) -> int:
        """Largest number of bytes of activations alive at once while these nodes run."""
        order = [node for node in self._graph.nodes if node.id in nodes]
        made = {t for node in order for t in node.outputs}
        last: dict[str, int] = {}
        for place, node in enumerate(order):
            last |= dict.fromkeys((*node.inputs, *node.outputs), place)
        ends = set(self._graph.outputs)
        for tensor in made:
            leaves = tensor in ends or any(r not in nodes for r in self._graph.readers[tensor])
            last[tensor] = len(order) if leaves else last[tensor]
        alive = sum(self.sizes.get(t, 0) for t in last if t not in made)
        peak = alive
        dying: dict[int, list[str]] = {}
        for tensor, place in last.items():
            dying.setdefault(place, []).append(tensor)
        for place, node in enumerate(order):
            alive += sum(self.sizes.get(t, 0) for t in node.outputs)
            peak = max(peak, alive)
            alive -= sum(self.sizes.get(t, 0) for t in dying.get(place, ()))
        return peak
