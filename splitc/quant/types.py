"""Types and shapes after a rewrite."""

from splitc.inference import infer
from splitc.model import Model


def retype(model: Model) -> None:
    """Infer types and shapes in place; the graph's outputs are described as they were."""
    known = [(value, value.type, value.shape) for value in model.ir.graph.outputs]
    infer(model.ir)
    for value, kind, shape in known:
        value.type, value.shape = kind, shape
