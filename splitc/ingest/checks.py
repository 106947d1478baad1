"""What an ONNX file must keep before a graph is built from it: names, sizes, operators.

Each check names the node and the tensor. ONNX's own checker runs later, on the normalised graph;
it reports less clearly, or not at all, what is refused here.
"""

from collections.abc import Iterable, Iterator, Set
from functools import cache
from graphlib import CycleError, TopologicalSorter
from math import prod

import onnx
import onnx_ir as ir

from splitc.errors import ModelError

MOST_NODES = 2_000_000
"""Of a graph once its functions are inlined; thirty lines of functions can make 2**30."""

LONGEST_NAME = 32_768
"""Bytes of a tensor's name: a self-test's archive holds it beside a sample's number."""

KNOWN_DOMAINS = frozenset(("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"))


Call = tuple[str, str]
"""Domain and name of a function."""


def check_structure(proto: onnx.ModelProto, where: str) -> None:
    """Raise `ModelError` unless names are made once, reads are made, operators are known."""
    graph = proto.graph
    if not graph.node:
        raise ModelError("the graph has no nodes: there is nothing to split", where=where)
    if not graph.output:
        raise ModelError("the graph has no outputs", where=where)
    versions = {item.domain: item.version for item in proto.opset_import}
    local = {(f.domain, f.name) for f in proto.functions}
    check_functions(proto, where)
    try:
        _graph(graph, frozenset(), where)
        for node in _nodes(graph):
            if (node.domain, node.op_type) not in local:
                _operator(node, versions, where)
    except UnicodeError as error:
        raise ModelError("a name is not UTF-8", where=where) from error
    except RecursionError as error:
        raise ModelError("bodies are nested too deeply", where=where) from error


def _graph(graph: onnx.GraphProto, outside: frozenset[str], where: str) -> None:
    """Check the names of a graph or body that may read the names `outside`."""
    if graph.sparse_initializer:
        raise ModelError("sparse initializers are not supported", where=where)
    names = outside | _made(graph, where).keys()
    for node in graph.node:
        missing = [name for name in node.input if name and name not in names]
        if missing:
            raise ModelError(
                f"{label(node)} reads tensor {missing[0]!r}, which nothing makes", where=where
            )
        for body in _bodies(node):
            _graph(body, names, where)
    for output in graph.output:
        if output.name and output.name not in names:
            raise ModelError(f"nothing makes the output {output.name!r}", where=where)


def _made(graph: onnx.GraphProto, where: str) -> dict[str, str]:
    """Return name → what makes it; `ModelError` for a name that is made twice."""
    made = {tensor.name: "an initializer" for tensor in graph.initializer}
    inputs = [value.name for value in graph.input]
    _plain([*inputs, *made], where)
    if len(set(inputs)) < len(inputs):
        twice = next(name for name in inputs if inputs.count(name) > 1)
        raise ModelError(f"two inputs are called {twice!r}", where=where)
    made |= dict.fromkeys(inputs, "an input")
    for node in graph.node:
        _utf8(node)
        _plain(node.output, where)
        for name in node.output:
            if name and name in made:
                raise ModelError(
                    f"tensor {name!r} is made twice, by {made[name]} and by {label(node)}",
                    where=where,
                )
            made[name] = label(node)
    return made


def label(node: onnx.NodeProto) -> str:
    """Return what a user can find a node by: its name or first output, and its operator."""
    name = node.name or next((out for out in node.output if out), "")
    return f"node {name!r} ({node.op_type})"


def _utf8(node: onnx.NodeProto) -> None:
    """Raise `UnicodeError` for a name that protobuf hands over undecoded."""
    for name in (node.name, node.op_type, node.domain, *node.input, *node.output):
        if isinstance(name, bytes):
            name.decode()


def _plain(names: Iterable[str | bytes], where: str) -> None:
    """Refuse a name that no archive and no other tool would keep as it is.

    `UnicodeError` for one that protobuf hands over undecoded.
    """
    for name in names:
        data = name if isinstance(name, bytes) else name.encode()
        data.decode()
        if b"\0" in data or len(data) > LONGEST_NAME:
            raise ModelError(
                f"the tensor name {name!r:.80} holds a zero byte, or is longer than "
                f"{LONGEST_NAME:,} bytes",
                where=where,
            )


def check_functions(proto: onnx.ModelProto, where: str) -> None:
    """Raise `ModelError` for functions that call each other in a circle, or make too many nodes."""
    bodies = {(f.domain, f.name): f.node for f in proto.functions}
    calls = {key: _calls(nodes, bodies.keys()) for key, nodes in bodies.items()}
    order = TopologicalSorter({key: {c for c in found if c} for key, found in calls.items()})
    sizes: dict[Call, int] = {}
    try:
        for key in order.static_order():
            sizes[key] = sum(sizes[c] if c else 1 for c in calls[key])
    except CycleError as error:
        circle = " -> ".join(f"{domain}.{name}" for domain, name in error.args[1])
        raise ModelError(f"functions call each other in a circle: {circle}", where=where) from error
    found = _calls(proto.graph.node, bodies.keys())
    if (count := sum(sizes[c] if c else 1 for c in found)) > MOST_NODES:
        raise ModelError(
            f"the graph has {count:,} nodes once its functions are inlined",
            where=where,
            hint=f"splitc takes at most {MOST_NODES:,}",
        )


def _calls(nodes: Iterable[onnx.NodeProto], local: Set[Call]) -> list[Call | None]:
    """Return for each node, those of bodies included, the function that it calls, or None."""
    found: list[Call | None] = []
    for node in nodes:
        key = (node.domain, node.op_type)
        found.append(key if key in local else None)
        for body in _bodies(node):
            found += _calls(body.node, local)
    return found


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for body in _bodies(node):
            yield from _nodes(body)


def _operator(node: onnx.NodeProto, versions: dict[str, int], where: str) -> None:
    """Refuse an operator of a foreign domain, or one that its opset does not have."""
    if node.domain not in KNOWN_DOMAINS:
        raise ModelError(
            f"operator {node.domain}.{node.op_type} belongs to a domain that no backend has",
            where=f"{where}, {label(node)}",
            hint="export the model with standard ONNX operators",
        )
    if node.domain not in ("", "ai.onnx", "ai.onnx.ml"):
        return
    domain = "" if node.domain == "ai.onnx" else node.domain
    version = versions.get(domain) or versions.get("ai.onnx" if domain == "" else domain)
    if version is None:
        raise ModelError(f"the file imports no opset for domain {domain!r}", where=where)
    if not _exists(node.op_type, version, domain):
        raise ModelError(
            f"opset {version} has no operator {node.op_type!r}", where=f"{where}, {label(node)}"
        )


@cache
def _exists(op: str, version: int, domain: str) -> bool:
    """Tell whether an opset has an operator; an opset newer than onnx's counts as its newest."""
    newest = onnx.defs.onnx_opset_version() if domain == "" else version
    return bool(onnx.defs.has(op, min(version, newest), domain))


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor that the graph or one of its bodies holds."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for body in (attribute.g, *attribute.graphs):
                yield from tensors(body)


def tensor_bytes(tensor: onnx.TensorProto, where: str) -> int:
    """Return the bytes that a tensor's type and sizes claim; `ModelError` if they make no sense."""
    at = f"{where}, tensor {tensor.name!r}"
    try:
        kind = ir.DataType(tensor.data_type)
    except ValueError as error:
        raise ModelError(f"a tensor has the unknown type {tensor.data_type}", where=at) from error
    if any(size < 0 for size in tensor.dims) or kind == ir.DataType.UNDEFINED:
        raise ModelError(f"a tensor has the type {kind.name}, sizes {[*tensor.dims]}", where=at)
    elements = prod(tensor.dims)
    if kind == ir.DataType.STRING:
        return int(8 * elements)
    return int(-(-elements * kind.bitwidth // 8))


def check_payload(tensor: onnx.TensorProto, where: str) -> None:
    """Raise `ModelError` unless the values held in the file are as many as the sizes claim."""
    claimed = tensor_bytes(tensor, where)
    kind = ir.DataType(tensor.data_type)
    if tensor.HasField("raw_data"):
        have, want = len(tensor.raw_data), claimed
    else:
        have, want = _typed(tensor), _typed_size(kind, prod(tensor.dims))
    if have != want:
        raise ModelError(
            f"a tensor of sizes {[*tensor.dims]} and type {kind.name} holds {have:,} values or "
            f"bytes, not {want:,}",
            where=f"{where}, tensor {tensor.name!r}",
            hint="the file is damaged: copy or export it again",
        )


def _typed(tensor: onnx.TensorProto) -> int:
    fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.string_data)
    return sum(map(len, (*fields, tensor.double_data, tensor.uint64_data)))


def _typed_size(kind: ir.DataType, elements: int) -> int:
    """Return how many numbers a typed field holds: complex take two, small ones are packed."""
    if kind in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128):
        return 2 * elements
    if kind != ir.DataType.STRING and kind.bitwidth < 8:
        return -(-elements * kind.bitwidth // 8)
    return elements
