"""What `splitc inspect` says of a model: each node's work and size, and who can run it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from splitc import backend
from splitc.backend import Target
from splitc.macs import macs
from splitc.model import Model


@dataclass(frozen=True)
class NodeRow:
    """One node: `shape` of its first output; bytes of its weights and of all its outputs."""

    id: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    macs: int
    weight_bytes: int
    activation_bytes: int


@dataclass(frozen=True)
class Inspection:
    """`refused`: node → why, where no installed backend takes it. `shapes` at batch 1."""

    inputs: tuple[Mapping[str, Any], ...]
    outputs: tuple[Mapping[str, Any], ...]
    nodes: tuple[NodeRow, ...]
    weight_bytes: int
    refused: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return inputs, outputs, nodes, totals and refused operators."""
        return {
            "inputs": [dict(t) for t in self.inputs],
            "outputs": [dict(t) for t in self.outputs],
            "nodes": [asdict(row) for row in self.nodes],
            "totals": {
                "nodes": len(self.nodes),
                "macs": sum(row.macs for row in self.nodes),
                "weight_bytes": self.weight_bytes,
                "activation_bytes": sum(row.activation_bytes for row in self.nodes),
            },
            "refused": dict(self.refused),
        }


def inspect(model: Model) -> Inspection:
    """Look at every node of `model` at its concrete sizes."""
    counts, facts = macs(model), model.facts
    rows = tuple(
        NodeRow(
            id=node.id,
            op=node.op,
            shape=facts[node.id].shape if node.id in facts else (),
            dtype=facts[node.id].dtype if node.id in facts else "other",
            macs=counts[node.id],
            weight_bytes=model.weight_bytes(node.weights),
            activation_bytes=sum(facts[t].nbytes for t in node.outputs if t in facts),
        )
        for node in model.graph.nodes
    )
    return Inspection(
        inputs=tuple(asdict(tensor) for tensor in model.inputs),
        outputs=tuple(asdict(tensor) for tensor in model.outputs),
        nodes=rows,
        weight_bytes=model.weight_bytes(),
        refused=refused(model),
        notes=model.notes,
    )


def refused(model: Model) -> dict[str, str]:
    """Return the nodes that every available backend refuses, with the backends' reasons."""
    answers = {
        found.name: backend.get(found.name).supports(model, Target("any"))
        for found in backend.available()
        if found.available
    }
    common = set.intersection(*(set(a) for a in answers.values())) if answers else set()
    return {
        node: "; ".join(f"{name}: {why[node]}" for name, why in answers.items())
        for node in sorted(common)
    }
