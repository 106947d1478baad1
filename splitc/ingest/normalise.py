"""What every model goes through once, whatever it came from: one form for the rest of splitc.

Functions are inlined, nodes sorted, initializers taken out of the inputs (ir_version 3), empty
names filled, `--input` sizes written in, shapes inferred, documentation and stack traces dropped.
"""

import onnx_ir as ir
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    InlinePass,
    RemoveInitializersFromInputsPass,
    TopologicalSortPass,
)

from splitc.errors import ModelError
from splitc.model import Model, bodies
from splitc.shapes import apply_specs, infer, name_dims

_MIN_IR_VERSION = 8
_KNOWN_DOMAINS = frozenset(("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"))


def normalise(model: Model) -> tuple[str, ...]:
    """Bring `model` into splitc's form in place; return lines for the user."""
    raw = model.ir
    _unique(raw.graph, model.source)
    if raw.functions:
        InlinePass()(raw)
    RemoveInitializersFromInputsPass()(raw)
    raw.ir_version = max(raw.ir_version, _MIN_IR_VERSION)
    ClearMetadataAndDocStringPass()(raw)
    _fill_names(raw.graph)
    _domains(raw.graph)
    try:
        TopologicalSortPass()(raw)
    except ValueError as error:
        raise ModelError(f"the graph has a cycle: {error}", where=model.source) from error
    name_dims(raw)
    notes = apply_specs(raw, model.specs)
    model.check()
    infer(raw)
    return notes


def _unique(graph: ir.Graph, source: str) -> None:
    """Refuse a tensor name that two nodes make."""
    seen = {str(value.name) for value in graph.inputs}
    for node in graph:
        for out in node.outputs:
            if out.name and out.name in seen:
                raise ModelError(
                    f"tensor {out.name!r} is made twice", where=f"{source}, {node.op_type}"
                )
            seen.add(str(out.name))


def _fill_names(graph: ir.Graph) -> None:
    """Name a node without any named output (a dead node) after its operator."""
    for index, node in enumerate(graph):
        if node.outputs and not any(out.name for out in node.outputs):
            node.outputs[0].name = f"{node.op_type}_{index}_unnamed"


def _domains(graph: ir.Graph) -> None:
    for node in graph:
        if node.domain not in _KNOWN_DOMAINS:
            raise ModelError(
                f"operator {node.domain}.{node.op_type} belongs to a domain that no backend has",
                where=f"node {node.name!r}",
                hint="export the model with standard ONNX operators",
            )
        for body in bodies(node):
            _domains(body)
