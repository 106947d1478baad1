"""Replace a region of an ONNX graph by a torch module."""

import copy
import inspect
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, InlinePass
from torch import nn

from splitc.errors import ModelError
from splitc.fx.checking import TOLERANCE, agree, samples
from splitc.fx.graphs import all_values, drop_unread
from splitc.fx.layouts import to_torch
from splitc.fx.opsets import one_opset
from splitc.fx.region import Region, region
from splitc.fx.retyping import typed
from splitc.fx.wide import BATCH, wide_shapes
from splitc.importing import reason
from splitc.ingest.torch_export import failures, to_onnx
from splitc.model import Fact, Model, dtype_of
from splitc.quiet import quiet


def splice(
    model: Model,
    inputs: Sequence[str],
    outputs: Sequence[str],
    module: nn.Module,
    *,
    prefix: str,
    tolerance: float = TOLERANCE,
) -> Model:
    """Return `model` with the region from `inputs` to `outputs` replaced by a torch module.

    `module` is called with the inputs in order and returns the outputs in order. Their names stay;
    all names inside get `prefix` in front. The same module gives the same bytes. Where the
    exporter's opset is another, the new part is converted to the model's; where that cannot be,
    the whole model is raised to the exporter's, and a note says so. The result is compared with
    the module on drawn inputs, max|a−b| / max|b| at most `tolerance`.

    Raises `ModelError` for a region that is no region, that others read out of the middle of, that
    feeds itself around the outside, for a module that torch cannot export, and where the result
    computes something else.
    """
    part = region(model, inputs, outputs)
    _check(model, part)
    still = copy.deepcopy(module).cpu().eval()
    new = _exported(model, part, still)
    made, new = one_opset(replace(model.clone(), cuttable=model.cuttable), new)
    _prefixed(made, new, prefix)
    _replace(made, region(made, inputs, outputs), new)
    made = typed(replace(made), "the module does not fit")
    agree(made, still, part.inputs, part.outputs, samples(model), tolerance=tolerance)
    return made


def _where(part: Region) -> str:
    return f"between {', '.join(part.inputs)} and {', '.join(part.outputs)}"


def _check(model: Model, part: Region) -> None:
    """Raise `ModelError` unless the nodes can be exchanged for one block."""
    if not part.nodes:
        raise ModelError("there is no node to replace", where=_where(part))
    inside = set(part.nodes)
    made = {out for node in part.nodes for out in node.outputs}
    loose = [
        str(value.name)
        for value in made
        if value.name not in part.outputs
        and (value.is_graph_output() or any(node not in inside for node in value.consumers()))
        and not _constant(model, value)
    ]
    if loose:
        raise ModelError(
            f"{', '.join(sorted(loose))} inside the region is read outside it",
            where=_where(part),
            hint="make these outputs of the region too",
        )
    reached = _downstream(model, part.outputs)
    if around := [name for name in part.inputs if name in reached]:
        raise ModelError(
            f"the region reads {', '.join(around)}, which is made from its own outputs",
            where=_where(part),
            hint="take what lies between into the region",
        )


def _constant(model: Model, value: ir.Value) -> bool:
    """Tell whether a value depends on no input: others may go on reading it."""
    return any(value.name in node.outputs for node in model.graph.constants)


def _downstream(model: Model, names: Sequence[str]) -> set[str]:
    """Return every tensor that is made from these, themselves left out."""
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        for reader in model.graph.readers.get(waiting.pop(), ()):
            fresh = [out for out in model.graph.by_id[reader].outputs if out not in seen]
            seen |= set(fresh)
            waiting += fresh
    return seen


def _exported(model: Model, part: Region, module: nn.Module) -> ir.Model:
    """Export the module with a batch that is open where the tensors have one."""
    wide = wide_shapes(model)
    examples, dims = [], []
    for name in part.inputs:
        fact = model.facts[name]
        open_ = _batch_axes(fact, wide.get(name))
        shape = [2 * n if axis in open_ else n for axis, n in enumerate(fact.shape)]
        examples.append(torch.zeros(shape, dtype=_torch_dtype(fact)))
        dims.append(dict.fromkeys(open_, torch.export.Dim.AUTO))
    where = _where(part)
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(
                module, tuple(examples), dynamic_shapes=_by_name(module, dims), strict=False
            )
    except failures() as error:
        raise ModelError(f"torch cannot export the module: {reason(error)}", where=where) from error
    made = to_onnx(program, where)
    if len(made.graph.outputs) != len(part.outputs):
        given = len(made.graph.outputs)
        raise ModelError(
            f"the module returns {given} tensors, not {len(part.outputs)}", where=where
        )
    return made


def _by_name(module: nn.Module, dims: list[dict[int, object]]) -> tuple[object, ...]:
    """Return the marks in the order of the arguments; variable ones are one tuple."""
    kinds = [p.kind for p in inspect.signature(module.forward).parameters.values()]
    fixed = [kind for kind in kinds if kind is not inspect.Parameter.VAR_POSITIONAL]
    if len(fixed) == len(kinds):
        return tuple(dims)
    return (*dims[: len(fixed)], tuple(dims[len(fixed) :]))


def _batch_axes(fact: Fact, wide: tuple[int, ...] | None) -> list[int]:
    """Return the axes that grow with the batch; the first one where inference does not tell."""
    if wide is None:
        return [0] if fact.shape and fact.shape[0] == 1 else []
    return [
        axis
        for axis, (one, many) in enumerate(zip(fact.shape, wide, strict=True))
        if many == BATCH * one
    ]


def _torch_dtype(fact: Fact) -> torch.dtype:
    return to_torch(np.zeros((), dtype_of(fact.dtype).numpy())).dtype


def _prefixed(model: Model, new: ir.Model, prefix: str) -> None:
    """Name all that is new after the prefix; drop traces, documentation and sizes."""
    if new.functions:
        InlinePass()(new)
    ClearMetadataAndDocStringPass()(new)
    taken = all_values(model.ir.graph)
    values = all_values(new.graph).values()
    for value in values:
        value.metadata_props.clear()
        value.name = f"{prefix}{value.name}"
        if value.producer() is not None:
            value.shape = None
    if twice := sorted(str(v.name) for v in values if v.name in taken):
        raise ModelError(f"the model already has a tensor {twice[0]!r}", hint="give another prefix")
    for index, node in enumerate(new.graph):
        node.name = f"{prefix}{node.op_type}_{index}"


def _replace(model: Model, part: Region, new: ir.Model) -> None:
    """Put the new nodes where the region was; the tensors at its end keep their names."""
    graph, sub, values = model.ir.graph, new.graph, model.values
    news = _ends(sub)
    ir.convenience.replace_all_uses_with(list(sub.inputs), [values[n] for n in part.inputs])
    for value in list(sub.initializers.values()):
        del sub.initializers[str(value.name)]
        graph.register_initializer(value)
    nodes = list(sub)
    sub.outputs.clear()
    sub.remove(nodes)
    graph.insert_before(part.nodes[0], nodes)
    for name, made in zip(part.outputs, news, strict=True):
        old = values[name]
        ir.convenience.replace_all_uses_with(old, made, replace_graph_outputs=True)
        made.type, made.shape = old.type, old.shape
        old.name, made.name = f"{name}__replaced", name
    for node in reversed(part.nodes):
        _drop(graph, node)
    if not _in_order(graph):
        graph.sort()


def _ends(graph: ir.Graph) -> list[ir.Value]:
    """Return the outputs as values that a node makes, each one its own."""
    made: list[ir.Value] = []
    for value in graph.outputs:
        if value.producer() is None or value in made:
            node = ir.node("Identity", [value], name=f"{value.name}_passed")
            graph.append(node)
            made.append(node.outputs[0])
        else:
            made.append(value)
    return made


def _drop(graph: ir.Graph, node: ir.Node) -> None:
    """Remove a node that nobody reads, and the constants that then nobody reads."""
    if node.graph is None or any(o.consumers() or o.is_graph_output() for o in node.outputs):
        return
    inputs = list(node.inputs)
    graph.remove(node, safe=True)
    for value in inputs:
        drop_unread(value)


def _in_order(graph: ir.Graph) -> bool:
    place = {node: index for index, node in enumerate(graph)}
    return all(
        place[maker] < place[node]
        for node in graph
        for value in node.inputs
        if value is not None and (maker := value.producer()) in place and maker is not None
    )
