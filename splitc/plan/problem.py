"""The question a planner answers: which closed set of nodes goes to the device, at what price.

    cost(head) = Σ head[v], v in head  +  Σ tail[v], v in tail
               + Σ send[u], u read by the tail and made by the head or given as a graph input
               + Σ back[o], o a graph output that the tail makes
               + offload, once, if the tail is not empty

A head is legal when it holds the predecessors of its nodes (data may not return to the device
for nothing), breaks no group, and keeps `only_head` and `only_tail`. An infinite price forbids.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from splitc.errors import ModelError
from splitc.graph import Graph

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Problem:
    """Prices by name; seconds or joules, all of one unit, each ≥ 0.

    `head`, `tail`: node → price; `send`: tensor → price, paid once if it crosses;
    `back`: graph output → price when the tail makes it; `groups`: nodes that stay together;
    `only_head`, `only_tail`: nodes that may stand on one side only.
    """

    graph: Graph
    head: Mapping[str, float]
    tail: Mapping[str, float]
    send: Mapping[str, float]
    back: Mapping[str, float] = field(default_factory=dict)
    offload: float = 0.0
    groups: tuple[tuple[str, ...], ...] = ()
    only_head: frozenset[str] = frozenset()
    only_tail: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Indexed:
    """A graph in numbers: nodes and tensors by their place in `graph.nodes` and `graph.tensors`.

    `edge_tensor[i]` is read by `edge_reader[i]`, sorted by tensor; `producer[t]` is -1 for a graph
    input; `outputs` are the tensors that are graph outputs and made by a node.
    """

    graph: Graph
    place: Mapping[str, int]
    producer: Ints
    edge_tensor: Ints
    edge_reader: Ints
    outputs: Ints

    @staticmethod
    def of(graph: Graph) -> "Indexed":
        """Return the numbering of `graph`; `ModelError` on a tensor that nobody makes."""
        place = {node.id: at for at, node in enumerate(graph.nodes)}
        rank = graph.rank
        made = [at for at, node in enumerate(graph.nodes) for _ in node.outputs]
        producer = np.array([-1] * len(graph.inputs) + made, dtype=np.int64)
        names = [name for node in graph.nodes for name in node.inputs]
        counts = [len(node.inputs) for node in graph.nodes]
        try:
            tensors = np.fromiter(map(rank.__getitem__, names), np.int64, len(names))
        except KeyError as error:
            raise ModelError(
                f"no node makes the tensor {error.args[0]!r}, which is read"
            ) from error
        readers = np.repeat(np.arange(len(counts)), counts)
        order = np.argsort(tensors, kind="stable")
        outputs = dict.fromkeys(rank[name] for name in graph.outputs if name in rank)
        back = [at for at in outputs if producer[at] >= 0]
        return Indexed(
            graph, place, producer, tensors[order], readers[order], np.array(back, dtype=np.int64)
        )

    def mask(self, nodes: Iterable[str]) -> Bools:
        """Return a boolean vector over nodes, true for the named ones."""
        found = np.zeros(len(self.graph.nodes), dtype=bool)
        found[[self.place[name] for name in nodes]] = True
        return found

    def made(self, side: Bools) -> Bools:
        """Return which tensors a side's nodes make, as a vector over tensors."""
        return np.append(side, False)[self.producer]

    def crossing(self, head: Bools) -> Bools:
        """Return which tensors the tail reads and does not make, as a vector over tensors."""
        wanted = np.zeros(len(self.producer), dtype=bool)
        wanted[self.edge_tensor[~head[self.edge_reader]]] = True
        return wanted & ((self.producer < 0) | self.made(head))

    def returning(self, head: Bools) -> Ints:
        """Return the graph outputs (places in `graph.tensors`) that the tail makes."""
        return self.outputs[~head[self.producer[self.outputs]]]


@dataclass(frozen=True)
class Prices:
    """The prices of a `Problem` as vectors over nodes and tensors (`back` is 0 elsewhere)."""

    head: Floats
    tail: Floats
    send: Floats
    back: Floats
    offload: float

    @staticmethod
    def of(problem: Problem, indexed: Indexed) -> "Prices":
        """Look every price up; `ModelError` names what has none, or one below 0."""
        graph = problem.graph
        ids = [node.id for node in graph.nodes]
        outputs = [graph.tensors[at] for at in indexed.outputs.tolist()]
        back = np.zeros(len(graph.tensors))
        back[indexed.outputs] = _vector("return", outputs, problem.back)
        return Prices(
            head=_vector("head", ids, problem.head),
            tail=_vector("tail", ids, problem.tail),
            send=_vector("send", graph.tensors, problem.send),
            back=back,
            offload=float(_vector("offload", ["the tail"], {"the tail": problem.offload})[0]),
        )

    def finite(self) -> "Prices":
        """Return the prices with 0 where they are infinite (what they forbid must be kept so)."""
        head, tail, send, back = (
            np.where(np.isinf(t), 0.0, t) for t in (self.head, self.tail, self.send, self.back)
        )
        return Prices(head, tail, send, back, 0.0 if math.isinf(self.offload) else self.offload)

    def total(self, head: Bools, indexed: Indexed) -> float:
        """Sum the price of one head from the original prices, correctly rounded."""
        parts = [self.head[head], self.tail[~head], self.send[indexed.crossing(head)]]
        parts.append(self.back[indexed.returning(head)])
        fixed = 0.0 if head.all() else self.offload
        return math.fsum([*np.concatenate(parts).tolist(), fixed])


def _vector(kind: str, names: Iterable[str], prices: Mapping[str, float]) -> Floats:
    names = list(names)
    try:
        found = np.fromiter(map(prices.__getitem__, names), np.float64, len(names))
    except KeyError as error:
        raise ModelError(f"{error.args[0]!r} has no {kind} price") from error
    if not (found >= 0).all():
        worst = names[int(np.flatnonzero(~(found >= 0))[0])]
        raise ModelError(f"the {kind} price of {worst!r} is {prices[worst]}, not a number ≥ 0")
    return found
