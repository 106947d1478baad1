"""A pass: remove Identity nodes.

    a = Identity(x)
    y = Relu(a)        becomes      y = Relu(x)

An Identity whose output is a model output stays: removing it would rename the model's interface.
"""

from dataclasses import dataclass
from typing import ClassVar

from splitc.model import Model


@dataclass(frozen=True)
class FoldIdentity:
    """Remove Identity nodes."""

    name: ClassVar[str] = "acme-fold-identity"
    exact: ClassVar[bool] = True

    def run(self, model: Model) -> Model:
        """Rewire the readers of each Identity to what it reads."""
        after = model.clone()
        graph = after.ir.graph
        for node in list(graph):
            source, made = (
                (node.inputs[0], node.outputs[0]) if node.op_type == "Identity" else (None, None)
            )
            if source is None or made is None or made.is_graph_output():
                continue
            made.replace_all_uses_with(source)
            graph.remove(node, safe=True)
        return after
