"""Read what planning from given prices needs of an `.onnx` file: names and weights, no shapes.

The graph is that of `splitc.load` (same identities, captures, constants and order) without what
loading adds to it: no shape inference, no checker, any operator of any domain. A file with
functions, or one whose nodes are not in order, goes through `onnx_ir`, which is slower.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from splitc.errors import ModelError
from splitc.graph import Graph, Node
from splitc.ingest import load
from splitc.ingest.checks import check_functions
from splitc.model import DEFAULT_MAX_SIZE, RANDOM, InputSpec, Model, build_graph


@dataclass(frozen=True)
class Network:
    """A graph and the bytes of its constant tensors: initializers and `Constant` nodes, by name."""

    graph: Graph
    weight_bytes: Mapping[str, int]


def network(
    model: str | Path | Model,
    inputs: Sequence[str | InputSpec] = (),
    max_size: int = DEFAULT_MAX_SIZE,
) -> Network:
    """Return the graph and weights of a loaded model, or of the file or factory that it names."""
    if not isinstance(model, Model):
        if str(model).endswith(".onnx"):
            return read(Path(model), max_size)
        model = load(model, input=inputs, max_size=max_size)
    return Network(model.graph, _ir_weights(model.ir.graph))


def read(path: Path, max_size: int = DEFAULT_MAX_SIZE) -> Network:
    """Read an `.onnx` file; raises `ModelError` where `splitc.load` would for the same reason."""
    proto = _parse(path, max_size)
    _fill_names(proto.graph)
    calls = [_Call.of(node) for node in proto.graph.node]
    _unique(proto.graph, calls, path.name)
    if proto.functions or not _ordered(proto.graph, calls, path.name):
        return _sorted(proto, path.name)
    return Network(_graph(proto.graph, calls), _weights(proto.graph))


def _parse(path: Path, max_size: int) -> onnx.ModelProto:
    """Parse the file. Unlike loading, take operators that nobody knows; data files stay unread."""
    proto = onnx.ModelProto()
    try:
        size = path.stat().st_size
        if size > max_size:
            raise ModelError(
                f"the model has {size:,} bytes, more than the limit of {max_size:,}",
                where=path.name,
                hint="raise --max-size if you trust it",
            )
        proto.ParseFromString(path.read_bytes())
    except OSError as error:
        raise ModelError(f"cannot read the model: {error.strerror}", where=str(path)) from error
    except (DecodeError, UnicodeDecodeError) as error:
        raise ModelError(
            "not an ONNX file, or a truncated one", where=f"{path.name}: {error}"
        ) from error
    if not proto.graph.output:
        raise ModelError("the file holds no ONNX graph with outputs", where=path.name)
    return proto


@dataclass(frozen=True, slots=True)
class _Call:
    """A node once read: what it reads, captures of its bodies included, and what it makes."""

    op: str
    read: tuple[str, ...]
    outputs: tuple[str, ...]
    random: bool

    @staticmethod
    def of(node: onnx.NodeProto) -> "_Call":
        read = dict.fromkeys(node.input)
        if len(node.attribute):
            for body in _bodies(node):
                read |= dict.fromkeys(_captures(body))
        read.pop("", None)
        op = node.op_type
        return _Call(op, tuple(read), tuple(filter(None, node.output)), _random(node))


def _fill_names(graph: onnx.GraphProto) -> None:
    """Name a node without any named output after its operator, as `splitc.ingest` does."""
    for index, node in enumerate(graph.node):
        if not any(node.output):
            if not node.output:
                raise ModelError(f"node {node.name!r} ({node.op_type}) has no output")
            node.output[0] = f"{node.op_type}_{index}_unnamed"


def _unique(graph: onnx.GraphProto, calls: Sequence[_Call], where: str) -> None:
    seen = {value.name for value in graph.input}
    for call in calls:
        for name in call.outputs:
            if name in seen:
                raise ModelError(f"tensor {name!r} is made twice", where=f"{where}, {call.op}")
            seen.add(name)


def _ordered(graph: onnx.GraphProto, calls: Sequence[_Call], where: str) -> bool:
    """Tell whether every node stands behind what it reads; `ModelError` if nobody makes that."""
    known = {value.name for value in graph.input} | _fixed(graph)
    late: list[str] = []
    for call in calls:
        late += [name for name in call.read if name not in known]
        known.update(call.outputs)
    if lost := [name for name in late if name not in known]:
        raise ModelError(f"no node makes the tensor {lost[0]!r}, which is read", where=where)
    if lost := [value.name for value in graph.output if value.name not in known]:
        raise ModelError(f"no node makes the graph output {lost[0]!r}", where=where)
    return not late


def _fixed(graph: onnx.GraphProto) -> set[str]:
    return {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}


def _graph(graph: onnx.GraphProto, calls: Sequence[_Call]) -> Graph:
    """Build the name-level view by the rules of `splitc.model.build_graph`."""
    fixed = _fixed(graph)
    inputs = tuple(value.name for value in graph.input if value.name not in fixed)
    nodes: list[Node] = []
    constants: list[Node] = []
    for call in calls:
        weights = tuple(name for name in call.read if name in fixed)
        data = tuple(name for name in call.read if name not in fixed) if weights else call.read
        made = Node(call.outputs[0], call.op, data, call.outputs, weights)
        if data or call.random:
            nodes.append(made)
        else:
            constants.append(made)
            fixed.update(call.outputs)
    return Graph(inputs, tuple(v.name for v in graph.output), tuple(nodes), tuple(constants))


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _captures(body: onnx.GraphProto) -> list[str]:
    own = {value.name for value in body.input} | _fixed(body)
    read: list[str] = []
    for node in body.node:
        own.update(node.output)
        read += filter(None, node.input)
    read += [name for node in body.node for inner in _bodies(node) for name in _captures(inner)]
    read += [value.name for value in body.output if value.name]
    return [name for name in dict.fromkeys(read) if name not in own]


def _random(node: onnx.NodeProto) -> bool:
    if node.op_type in RANDOM:
        return True
    return len(node.attribute) > 0 and any(_random(n) for b in _bodies(node) for n in b.node)


def _weights(graph: onnx.GraphProto) -> dict[str, int]:
    found = {tensor.name: _nbytes(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            values = [a.t for a in node.attribute if a.name == "value" and a.HasField("t")]
            found |= {name: _nbytes(t) for name, t in zip(node.output, values, strict=False)}
    return found


def _nbytes(tensor: onnx.TensorProto) -> int:
    from splitc.shapes import make_fact

    try:
        return make_fact(ir.DataType(tensor.data_type), tuple(tensor.dims)).nbytes
    except (ValueError, TypeError) as error:
        raise ModelError(f"tensor {tensor.name!r} has no type: {error}") from error


def _sorted(proto: onnx.ModelProto, where: str) -> Network:
    """Inline the functions and bring the nodes in order."""
    from onnx_ir.passes.common import (
        InlinePass,
        RemoveInitializersFromInputsPass,
        TopologicalSortPass,
    )

    check_functions(proto, where)
    try:
        model = ir.from_proto(proto)
        if model.functions:
            InlinePass()(model)
        RemoveInitializersFromInputsPass()(model)
        TopologicalSortPass()(model)
    except (ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise ModelError(f"malformed graph: {error}", where=where) from error
    return Network(build_graph(model.graph), _ir_weights(model.graph))


def _ir_weights(graph: ir.Graph) -> dict[str, int]:
    tensors = {name: value.const_value for name, value in graph.initializers.items()}
    for node in graph:
        value = node.attributes.get("value")
        if node.op_type == "Constant" and value is not None:
            tensors[str(node.outputs[0].name)] = value.as_tensor()
    return {name: tensor.nbytes for name, tensor in tensors.items() if tensor is not None}
