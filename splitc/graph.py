"""The graph as planning sees it: names only, no weights, no onnx.

A `Graph` is what remains of a model when one asks "who reads what": nodes in topological
order, each with the *data* tensors it reads (node outputs and graph inputs, what its If/Loop/Scan
bodies capture from outside included) and the non-empty tensors it makes. Initializers appear only
as `Node.weights`. A node's identity is its first non-empty output. Nodes that depend on no graph
input are *constants*: they are kept apart in `constants`, cross no boundary, cost nothing to
place, and may stand on both sides of a cut.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from splitc.errors import ModelError


@dataclass(frozen=True, slots=True)
class Node:
    """One operator application.

    `inputs`: the data tensors read, each once, in order, captures included; tensors made by
    constant nodes are in `weights` with the initializers, so that `inputs` is what may cross.
    `narrows`: it makes fewer bits of its first input, value by value: QuantizeLinear, or a Cast.
    `known`: the user knows its first output by its own name; a pass made the others.
    """

    id: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: tuple[str, ...] = ()
    narrows: bool = field(default=False, compare=False)
    known: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Graph:
    """Non-constant nodes in topological order, between named inputs and outputs."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    constants: tuple[Node, ...] = ()

    @cached_property
    def by_id(self) -> Mapping[str, Node]:
        """Node identity → node, constants excluded."""
        return {node.id: node for node in self.nodes}

    @cached_property
    def producer(self) -> Mapping[str, str]:
        """Tensor → identity of the non-constant node that makes it (graph inputs are absent)."""
        return {tensor: node.id for node in self.nodes for tensor in node.outputs}

    @cached_property
    def readers(self) -> Mapping[str, tuple[str, ...]]:
        """Tensor (graph inputs included) → identities of the nodes that read it."""
        found: dict[str, list[str]] = {name: [] for name in self.tensors}
        for node in self.nodes:
            for name in node.inputs:
                found[name].append(node.id)
        return {name: tuple(ids) for name, ids in found.items()}

    @cached_property
    def tensors(self) -> tuple[str, ...]:
        """Every tensor that can cross: graph inputs in order, then node outputs in node order."""
        return (*self.inputs, *(tensor for node in self.nodes for tensor in node.outputs))

    @cached_property
    def rank(self) -> Mapping[str, int]:
        """Tensor → its place in `tensors`: the order in which a boundary is written."""
        return {name: place for place, name in enumerate(self.tensors)}

    @cached_property
    def widened(self) -> Mapping[str, str]:
        """What a narrowing node makes → its input: the name that fewer bits are reported under.

        What the user knows by its own name keeps that where the input may cross as a float too.
        """
        pairs = ((n, n.inputs[0]) for n in self.nodes if n.narrows and n.inputs)
        return {n.outputs[0]: t for n, t in pairs if not n.known or self.readers[t] == (n.id,)}

    @cached_property
    def narrowed(self) -> Mapping[str, str]:
        """Tensor that one narrowing node alone reads → what that makes of it, in fewer bits."""
        pairs = self.widened.items()
        return {w: n for n, w in pairs if self.readers[w] == (self.producer[n],)}

    def boundary(self, head: Iterable[str]) -> tuple[str, ...]:
        """Return what the tail reads and does not make, graph inputs included, in `rank` order.

        `head`: identities of the head's nodes; every other non-constant node is the tail's.
        """
        inside = set(head)
        tail = [node for node in self.nodes if node.id not in inside]
        made = {tensor for node in tail for tensor in node.outputs}
        read = {tensor for node in tail for tensor in node.inputs}
        return tuple(sorted(read - made, key=self.rank.__getitem__))

    def check_head(self, head: Iterable[str]) -> None:
        """Raise `ModelError` unless `head` names nodes and is closed under predecessors."""
        inside = set(head)
        if unknown := sorted(inside - self.by_id.keys()):
            raise ModelError(f"no node called {unknown[0]!r}")
        for node in self.nodes:
            late = [t for t in node.inputs if self.producer.get(t, node.id) not in inside]
            if node.id in inside and late:
                raise ModelError(f"head node {node.id!r} reads {late[0]!r}, which the tail makes")
