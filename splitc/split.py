"""Take a model apart at a cut: head and tail, typed, with nothing twice but constants."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import onnx_ir as ir

from splitc.cuts import Cut
from splitc.errors import ModelError
from splitc.model import Fact, InputSpec, Model, TensorInfo, captures, dtype_of, identity, info

_DATA_SIZED = frozenset(("Compress", "NonMaxSuppression", "NonZero", "Unique"))


@dataclass(frozen=True)
class Split:
    """Two segments and the boundary between them; a side that makes nothing is None.

    `boundary`: what the tail reads and does not make, in the order of the wire. A graph input in
    it is passed on by the runtime, it is no output of the head. `head_outputs`, `tail_outputs`:
    which graph outputs each side makes. `head_nodes`: identities in topological order.
    """

    head: Model | None
    tail: Model | None
    boundary: tuple[TensorInfo, ...]
    head_outputs: tuple[str, ...]
    tail_outputs: tuple[str, ...]
    head_nodes: tuple[str, ...]


def split(model: Model, cut: Cut) -> Split:
    """Split `model` at `cut`; raises `ModelError` where the cut is not one of this model."""
    graph = model.graph
    graph.check_head(cut.head_nodes)
    if graph.boundary(cut.head_nodes) != cut.tensors:
        raise ModelError("the cut's boundary is not that of its head", where=", ".join(cut.tensors))
    head = tuple(node.id for node in graph.nodes if node.id in cut.head_nodes)
    tail = tuple(node.id for node in graph.nodes if node.id not in cut.head_nodes)
    if not graph.nodes:
        raise ModelError("no node depends on an input: nothing can be split", where=model.source)
    here = {t for name in tail for t in graph.by_id[name].outputs}
    if not head:  # constants stand where a side is
        here |= set(graph.outputs) - set(graph.producer) - set(graph.inputs)
    ends = {True: [], False: []}  # type: dict[bool, list[str]]
    for name in graph.outputs:
        ends[name in here].append(name)
    boundary = tuple(_typed(model, name) for name in cut.tensors)
    made = [t for t in cut.tensors if t in graph.producer]
    made += [o for o in ends[False] if o not in made and o not in graph.inputs]
    needed = [t for name in head for t in graph.by_id[name].inputs]
    entry = [t for t in graph.inputs if t in set(needed)]
    return Split(
        head=_segment(model, head, entry, made) if head and made else None,
        tail=_segment(model, tail, list(cut.tensors), ends[True]) if ends[True] else None,
        boundary=boundary,
        head_outputs=tuple(ends[False]),
        tail_outputs=tuple(ends[True]),
        head_nodes=head,
    )


def _typed(model: Model, name: str) -> TensorInfo:
    value, fact = model.values[name], model.facts.get(name)
    if fact is None:
        raise ModelError(f"tensor {name!r} is no plain tensor and cannot cross", where="--cut")
    return TensorInfo(name, fact.dtype, _shape(model, value, fact))


def _shape(model: Model, value: ir.Value, fact: Fact) -> tuple[int | str, ...]:
    """Keep sizes named after the inputs' symbols; another unknown is its concrete size.

    A size that inference lost is the batch when it stands first, equals it, and one is open; where
    it depends on the data (behind a NonZero), it stays open: '?'.
    """
    symbols = {d for t in model.inputs for d in t.shape if isinstance(d, str)}
    known = info(value).shape
    if len(known) != len(fact.shape):
        known = ("?",) * len(fact.shape)
    loose = str(value.name) in _data_sized(model)
    return tuple(
        dim
        if isinstance(dim, int) or dim in symbols
        else "?"
        if loose
        else _lost(model, axis, size)
        for axis, (dim, size) in enumerate(zip(known, fact.shape, strict=True))
    )


def _data_sized(model: Model) -> set[str]:
    """Return the tensors behind an operator whose output's size depends on the data."""
    found: set[str] = set()
    for node in model.graph.nodes:
        if node.op in _DATA_SIZED or not found.isdisjoint(node.inputs):
            found |= set(node.outputs)
    return found


def _lost(model: Model, axis: int, size: int) -> int | str:
    batches = {t.shape[0] for t in model.inputs if t.shape and isinstance(t.shape[0], str)}
    whole = {
        model.facts[t.name].shape[0] for t in model.inputs if t.shape and t.shape[0] in batches
    }
    return str(next(iter(batches))) if axis == 0 and len(batches) == 1 and whole == {size} else size


def _segment(model: Model, nodes: Iterable[str], inputs: list[str], outputs: list[str]) -> Model:
    """Copy the model and keep these nodes, with the constants and initializers they read."""
    copy = model.clone()
    graph = copy.ir.graph
    keep = _with_constants(model, set(nodes), outputs)
    values = dict(copy.values)
    gone = [node for node in graph if identity(node) not in keep]
    fresh = {name: _entry(model, name) for name in inputs if name not in model.graph.inputs}
    for name, value in fresh.items():
        _redirect(values[name], value)
    graph.outputs.clear()
    graph.outputs.extend(values[name] for name in outputs)
    graph.inputs.clear()
    graph.inputs.extend(fresh.get(name) or values[name] for name in inputs)
    graph.remove(gone, safe=False)
    read = {v.name for n in graph for v in n.inputs if v is not None}
    read |= {name for n in graph for name in captures(n)} | set(outputs)
    for name in [name for name in graph.initializers if name not in read]:
        del graph.initializers[name]
    for name in outputs:
        _type_output(model, values[name])
    specs = {k: v for k, v in model.specs.items() if k in inputs}
    specs |= {name: spec for name in fresh if (spec := _spec(model, _typed(model, name)))}
    return replace(Model(copy.ir, model.source, specs), cuttable=model.cuttable)


def _spec(model: Model, tensor: TensorInfo) -> InputSpec | None:
    """Give a tensor that becomes an input the sizes that `--input` gave its symbols, if any."""
    sizes: dict[int | str, tuple[int, int, int]] = {}
    for entry in model.inputs:
        if entry.name in model.specs:
            sizes |= zip(entry.shape, model.specs[entry.name].dims, strict=True)
    if not any(isinstance(dim, str) and dim in sizes for dim in tensor.shape):
        return None
    dims = (sizes.get(d, (1, 1, 1)) if isinstance(d, str) else (d, d, d) for d in tensor.shape)
    return InputSpec(tensor.name, tuple(dims))


def _with_constants(model: Model, nodes: set[str], outputs: Iterable[str]) -> set[str]:
    """Add the constant nodes that these nodes or outputs read, directly or through others."""
    makers = {t: node for node in model.graph.constants for t in node.outputs}
    waiting = [t for name in nodes for t in model.graph.by_id[name].weights]
    waiting += [t for t in outputs if t in makers]
    keep = set(nodes)
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.id not in keep:
            keep.add(node.id)
            waiting += node.weights
    return keep


def _entry(model: Model, name: str) -> ir.Value:
    tensor = _typed(model, name)
    return ir.Value(name=name, type=ir.TensorType(dtype_of(tensor.dtype)), shape=_dims(tensor))


def _dims(tensor: TensorInfo) -> ir.Shape:
    open_ = {size: ir.SymbolicDim(None if size == "?" else str(size)) for size in tensor.shape}
    return ir.Shape([d if isinstance(d, int) else open_[d] for d in tensor.shape])


def _redirect(old: ir.Value, new: ir.Value) -> None:
    """Let every reader, in bodies too, read `new`."""
    for use in list(old.uses()):
        use.node.replace_input_with(use.idx, new)


def _type_output(model: Model, value: ir.Value) -> None:
    tensor = _typed(model, str(value.name))
    value.type = ir.TensorType(dtype_of(tensor.dtype))
    value.shape = _dims(tensor)
