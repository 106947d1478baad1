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
from splitc.inference import inferred, light, write
from splitc.ingest.checks import KNOWN_DOMAINS
from splitc.ingest.guard import malformed
from splitc.model import Model, bodies
from splitc.shapes import apply_specs, check_proto, loosely_inferred, name_dims, open_outputs

_OLDEST_IR, _NEWEST_IR = 8, 13
"""ir_versions that splitc keeps: initializers need not be inputs; onnxruntime 1.31 reads it."""


def normalise(model: Model) -> tuple[str, ...]:
    """Bring `model` into splitc's form in place; return lines for the user.

    Raises `ModelError` where the graph is malformed, `RequestError` where `--input` does not fit.
    """
    raw = model.ir
    notes = _versions(raw)
    with malformed(model.source):
        _one_form(raw)
    _domains(raw.graph)
    _sorted(raw, model.source)
    name_dims(raw)
    notes += apply_specs(raw, model.specs)
    with malformed(model.source):
        notes += _listed_once(raw.graph) + _inferred(model)
    return notes


def _one_form(raw: ir.Model) -> None:
    """Inline functions; drop what says nothing about the computation; name what has no name."""
    if raw.functions:
        InlinePass()(raw)
    RemoveInitializersFromInputsPass()(raw)
    ClearMetadataAndDocStringPass()(raw)
    raw.metadata_props.clear()
    for graph in raw.graphs():
        _clear_values(graph)
    _bring_in(raw.graph)
    _fill_names(raw.graph)


def _clear_values(graph: ir.Graph) -> None:
    """Drop what exporters write beside tensors: traces, paths, module names."""
    made = (out for node in graph for out in node.outputs)
    for value in (*graph.inputs, *graph.initializers.values(), *graph.outputs, *made):
        value.metadata_props.clear()
        value.doc_string = None


def _bring_in(graph: ir.Graph, top: bool = True) -> None:
    """Read external tensors in where ONNX's checker does not look for them: attributes, bodies."""
    for node in graph:
        for name, attribute in node.attributes.items():
            if isinstance(attribute.value, ir.ExternalTensor):
                node.attributes[name] = ir.AttrTensor(name, _read(attribute.value))
        for body in bodies(node):
            _bring_in(body, top=False)
    for value in () if top else graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = _read(value.const_value)


def _read(tensor: ir.ExternalTensor) -> ir.TensorProtocol:
    return ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=tensor.name)


def _versions(raw: ir.Model) -> tuple[str, ...]:
    """Raise an old ir_version, lower one that is newer than the runtime's."""
    had = raw.ir_version
    raw.ir_version = min(max(had, _OLDEST_IR), _NEWEST_IR)
    if had <= _NEWEST_IR:
        return ()
    return (f"ir_version {had} is read as {_NEWEST_IR}, the newest that onnxruntime reads",)


def _inferred(model: Model) -> tuple[str, ...]:
    """Infer every size and check; onnxruntime has the last word on what inference refuses."""
    made, problem = inferred(light(model.ir))
    if made is not None:
        write(model.ir, made)
    if problem:
        loosely_inferred(model, problem)
    if open_outputs(model) or problem or made is None:
        model.check()
    else:
        check_proto(made, model.source)
    if not problem:
        return ()
    return (f"ONNX's shape inference does not follow this graph ({problem}); onnxruntime does",)


def _listed_once(graph: ir.Graph) -> tuple[str, ...]:
    """Drop a graph output that is listed before."""
    outputs = list(dict.fromkeys(graph.outputs))
    if len(outputs) == len(graph.outputs):
        return ()
    twice = sorted({str(v.name) for v in outputs if list(graph.outputs).count(v) > 1})
    graph.outputs.clear()
    graph.outputs.extend(outputs)
    return (f"the file lists the output {', '.join(twice)} more than once: it is one output here",)


def _sorted(raw: ir.Model, source: str) -> None:
    """Sort nodes topologically; the error names a node of the cycle."""
    try:
        TopologicalSortPass()(raw)
    except ValueError as error:
        node = _on_cycle(raw.graph)
        name = next((out.name for out in node.outputs if out.name), "") if node else ""
        where = f"{source}, the node that makes {name!r}" if node else source
        raise ModelError("the graph has a cycle", where=where) from error


def _on_cycle(graph: ir.Graph) -> ir.Node | None:
    """Return a node that depends on itself: strip what depends on nothing that is left."""
    left = dict.fromkeys(graph)
    while left:
        free = [n for n in left if not any(p in left for p in n.predecessors())]
        if not free:
            break
        for node in free:
            del left[node]
    if not left:
        return None
    node = next(iter(left))
    for _ in left:  # what is left reads something left: going back ends on a cycle
        node = next(p for p in node.predecessors() if p in left)
    return node


def _fill_names(graph: ir.Graph) -> None:
    """Name a node without any named output (a dead node) after its operator."""
    for index, node in enumerate(graph):
        if node.outputs and not any(out.name for out in node.outputs):
            node.outputs[0].name = f"{node.op_type}_{index}_unnamed"


def _domains(graph: ir.Graph) -> None:
    """Refuse a foreign operator that came out of a function."""
    for node in graph:
        if node.domain not in KNOWN_DOMAINS:
            raise ModelError(
                f"operator {node.domain}.{node.op_type} belongs to a domain that no backend has",
                where=f"node {node.name!r}",
                hint="export the model with standard ONNX operators",
            )
        for body in bodies(node):
            _domains(body)
