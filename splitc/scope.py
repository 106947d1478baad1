"""Where a pass may work: the whole model, or one side of a cut.

A pass rewrites nodes, so a side cannot be a list of them. What survives every pass is the boundary:
the tensors that cross, and the graph outputs that the head makes, all by name. Whatever leads to
one of these is the head's, and so is what leads nowhere and can be made there; the rest is the
tail's.
"""

from collections.abc import Set
from dataclasses import dataclass

from splitc.errors import PassError, did_you_mean
from splitc.graph import Graph
from splitc.model import Model

BOTH, HEAD, TAIL = "both", "head", "tail"
SCOPES = (BOTH, HEAD, TAIL)


@dataclass(frozen=True)
class Boundary:
    """Where a model is cut: the tensors that cross, and the graph outputs that the head makes."""

    tensors: tuple[str, ...]
    outputs: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor that a pass on one side must leave as it is, each once."""
        return tuple(dict.fromkeys((*self.tensors, *self.outputs)))

    def head(self, model: Model) -> frozenset[str]:
        """Return the identities of the head's nodes; `PassError` if a tensor is gone."""
        graph = model.graph
        if gone := [name for name in self.names if name not in graph.rank]:
            raise PassError(f"tensor {gone[0]!r} of the boundary is gone", where=model.source)
        found: set[str] = set()
        waiting = [graph.producer[name] for name in self.names if name in graph.producer]
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                read = graph.by_id[node].inputs
                waiting += [graph.producer[t] for t in read if t in graph.producer]
        return frozenset(found | _idle(graph, found) if found else found)

    def sending(self, model: Model) -> frozenset[str]:
        """Return the head with those narrowing nodes that alone carry a tensor to the tail.

        What they make crosses then, in fewer bits. A head without nodes stays without.
        """
        graph, head = model.graph, self.head(model)
        found = set(head)
        for name in self.tensors if head else ():
            beyond = [node for node in graph.readers[name] if node not in head]
            if len(beyond) == 1 and graph.by_id[beyond[0]].narrows:
                found.add(beyond[0])
        return frozenset(found)


def _idle(graph: Graph, head: Set[str]) -> set[str]:
    """Return the nodes that lead to no graph output and read nothing that the tail makes.

    On the tail they would have their inputs sent, for nothing.
    """
    needed, idle = set(graph.outputs), set[str]()
    for node in reversed(graph.nodes):
        if needed.isdisjoint(node.outputs):
            idle.add(node.id)
        else:
            needed.update(node.inputs)
    found: set[str] = set()
    for node in graph.nodes:
        makers = {graph.producer[t] for t in node.inputs if t in graph.producer}
        if node.id in idle and makers <= {*head, *found}:
            found.add(node.id)
    return found


def check(scope: str) -> None:
    """Raise `ValueError` unless `scope` is one of `SCOPES` (for a pass's `__post_init__`)."""
    if scope not in SCOPES:
        raise ValueError(f"scope = {scope!r}; {did_you_mean(scope, SCOPES)}")


def within(model: Model, scope: str, boundary: Boundary | None) -> frozenset[str]:
    """Return the nodes that a pass with this scope may touch, by identity.

    'both' are all nodes but constants. Raises `PassError` for one side without a boundary.
    """
    every = frozenset(model.graph.by_id)
    if scope == BOTH:
        return every
    if boundary is None:
        raise PassError(f"scope = {scope!r} needs a cut", hint="--cut TENSOR")
    head = boundary.head(model)
    return head if scope == HEAD else every - head
