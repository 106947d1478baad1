"""Which nodes lie between two sets of tensors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from splitc.errors import ModelError, did_you_mean
from splitc.model import Model, captures


@dataclass(frozen=True)
class Region:
    """Nodes in topological order, what they read from outside, and what they give."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[ir.Node, ...]


def region(
    model: Model, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None
) -> Region:
    """Return the region from `inputs` to `outputs`; None: the graph's own.

    Raises `ModelError` for a name that the graph lacks, and where the outputs need an input that
    is not listed.
    """
    entry = model.graph.inputs if inputs is None else tuple(inputs)
    end = model.graph.outputs if outputs is None else tuple(outputs)
    for name in (*entry, *end):
        if name not in model.values:
            raise ModelError(f"no tensor called {name!r}", hint=did_you_mean(name, model.values))
    chosen, missing = _behind(model, entry, end)
    if missing:
        raise ModelError(
            f"the region also reads {', '.join(missing)}",
            where=f"between {', '.join(entry) or 'nothing'} and {', '.join(end)}",
            hint=f"inputs = {[*entry, *missing]}",
        )
    return Region(entry, end, tuple(node for node in model.ir.graph if node in chosen))


def _behind(
    model: Model, entry: Iterable[str], end: Iterable[str]
) -> tuple[set[ir.Node], list[str]]:
    """Return the nodes that `end` needs, back to `entry`, and graph inputs met on the way."""
    stop, waiting = set(entry), list(end)
    seen: set[str] = set()
    chosen: set[ir.Node] = set()
    missing: list[str] = []
    while waiting:
        name = waiting.pop()
        if name in stop or name in seen:
            continue
        seen.add(name)
        value = model.values[name]
        node = value.producer()
        if node is None:
            missing += [name] if name in model.graph.inputs else []
        elif node not in chosen:
            chosen.add(node)
            waiting += [str(v.name) for v in node.inputs if v is not None and v.name]
            waiting += captures(node)
    return chosen, [name for name in model.graph.inputs if name in missing]
