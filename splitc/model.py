"""The model: one ONNX graph in memory, with checks, text and fingerprint. It knows no device.

`Model` wraps an `onnx_ir` model and is read-only by convention: a pass works on `clone()`, which
copies structure and shares tensors. Names are kept from the loaded file to the bundle.
"""

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import onnx_ir
import onnx_ir as ir

from splitc.errors import ModelError, RequestError, did_you_mean
from splitc.graph import Graph, Node

DEFAULT_MAX_SIZE = 16 * 2**30
EXTERNAL_ABOVE = 64 * 2**20
"""A model with more bytes of weights than this keeps them in ``<name>.data`` beside it."""

RANDOM = frozenset(
    ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform")
) | {"RandomUniformLike"}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A typed interface tensor; a symbolic size is its name. `dtype` is a numpy-like name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """What is known of a tensor once every size is: at batch 1, or at the best `--input` size."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int

    @property
    def elements(self) -> int:
        """Number of elements (1 for a scalar)."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One `--input NAME=SHAPE[:DTYPE]`: (min, best, max) for each dimension."""

    name: str
    dims: tuple[tuple[int, int, int], ...]
    dtype: str | None = None

    def __str__(self) -> str:
        shape = "x".join(str(b) if a == b == c else f"{a}..{b}..{c}" for a, b, c in self.dims)
        return f"{self.name}={shape}" + (f":{self.dtype}" if self.dtype else "")


def parse_input(text: str) -> InputSpec:
    """Parse ``x=1x3x224x224``, ``ids=1x48:int64`` or ``x=1..8..32x3x224x224`` (min..best..max)."""
    name, equals, rest = text.rpartition("=")
    shape, colon, dtype = rest.partition(":")
    hint = "--input NAME=1x3x224x224[:float32], a size may be MIN..BEST..MAX"
    if not (equals and name and (not colon or dtype)):
        raise RequestError(f"cannot read --input {text!r}", hint=hint)
    try:
        dims = tuple(_dim(part) for part in shape.split("x")) if shape else ()
    except ValueError as error:
        raise RequestError(f"cannot read --input {text!r}: {error}", hint=hint) from error
    return InputSpec(name, dims, dtype or None)


def _dim(text: str) -> tuple[int, int, int]:
    parts = [int(part) for part in text.split("..")]
    low, best, high = (parts[0], parts[len(parts) // 2], parts[-1])
    if len(parts) not in (1, 3) or not 0 < low <= best <= high:
        raise ValueError(f"{text!r} is neither a size nor MIN..BEST..MAX")
    return low, best, high


def dtype_name(dtype: ir.DataType | None) -> str:
    """Return the numpy-like name of an ONNX type: FLOAT is 'float32', DOUBLE 'float64'."""
    special = {ir.DataType.FLOAT: "float32", ir.DataType.DOUBLE: "float64"}
    return "unknown" if dtype is None else special.get(dtype, dtype.name.lower())


def dtype_of(name: str) -> ir.DataType:
    """Return the ONNX type of a numpy-like name; `RequestError` if there is none."""
    special = {"float32": "FLOAT", "float64": "DOUBLE"}
    try:
        return ir.DataType[special.get(name, name.upper())]
    except KeyError as error:
        raise RequestError(
            f"unknown dtype {name!r}", hint="float32, int64, uint8, bool …"
        ) from error


@dataclass(frozen=True)
class Model:
    """One ONNX graph. `notes` are lines the user must see; `cuttable` the loaded tensor names."""

    ir: ir.Model
    source: str = "model.onnx"
    specs: Mapping[str, InputSpec] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    cuttable: frozenset[str] = frozenset()

    def clone(self) -> "Model":
        """Copy the structure; tensors are shared and must not be written in place."""
        return replace(self, ir=self.ir.clone())

    def with_notes(self, *lines: str) -> "Model":
        """Return this model with more lines for the user."""
        return replace(self, notes=(*self.notes, *(n for n in lines if n not in self.notes)))

    @cached_property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Graph inputs in order, symbolic sizes kept."""
        return tuple(info(value) for value in self.ir.graph.inputs)

    @cached_property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """Graph outputs in order, symbolic sizes kept."""
        return tuple(info(value) for value in self.ir.graph.outputs)

    @cached_property
    def graph(self) -> Graph:
        """The name-level view that cuts, prices and plans work on."""
        return build_graph(self.ir.graph, self.cuttable)

    @cached_property
    def facts(self) -> Mapping[str, Fact]:
        """Every tensor's type, size and bytes at batch 1 or the best `--input` sizes."""
        from splitc.shapes import facts

        return facts(self)

    @cached_property
    def nodes(self) -> Mapping[str, onnx_ir.Node]:
        """Node identity → the node itself, constants included."""
        return {identity(node): node for node in self.ir.graph}

    @cached_property
    def values(self) -> Mapping[str, onnx_ir.Value]:
        """Tensor name → value, of the main graph."""
        graph = self.ir.graph
        made = (out for node in graph for out in node.outputs if out.name)
        return {v.name: v for v in (*graph.inputs, *graph.initializers.values(), *made) if v.name}

    def weight_bytes(self, names: Iterable[str] | None = None) -> int:
        """Bytes of the named initializers (others are skipped), or of all of them."""
        table = self.ir.graph.initializers
        chosen = table if names is None else [name for name in names if name in table]
        return sum(v.const_value.nbytes for n in chosen if (v := table[n]).const_value is not None)

    def fingerprint(self) -> str:
        """SHA-256 (hex) over structure, names, and each tensor's own SHA-256."""
        total = hashlib.sha256(self.text().encode())
        return total.hexdigest()

    def text(self, *, full: bool = False) -> str:
        """Return ONNX's text form; unless `full`, weights above 16 elements show as a hash."""
        if full:
            return str(ir.to_onnx_text(self.ir))
        lines = [str(ir.to_onnx_text(self.ir, exclude_initializers=True))]
        for name, value in self.ir.graph.initializers.items():
            tensor = value.const_value
            if tensor is None:
                continue
            shown = (
                str(tensor.numpy().tolist())
                if tensor.size <= 16 and tensor.dtype != ir.DataType.STRING
                else f"sha256:{tensor_digest(tensor)}"
            )
            lines.append(f"# {dtype_name(tensor.dtype)}{list(tensor.shape)} {name} = {shown}")
        return "\n".join(lines) + "\n"

    def check(self) -> None:
        """Raise `ModelError` unless ONNX's own checker accepts the graph."""
        from splitc.shapes import check

        check(self)

    def save(self, path: Path) -> None:
        """Write the model; weights above `EXTERNAL_ABOVE` bytes go to ``<name>.data`` beside it.

        The same model gives the same bytes. A tensor that lies in another file is copied.
        """
        if self.weight_bytes() > EXTERNAL_ABOVE:
            ir.save(self.ir, path, external_data=f"{path.name}.data")
            return
        copy = self.ir.clone()
        for value in copy.graph.initializers.values():
            if isinstance(tensor := value.const_value, ir.ExternalTensor):
                value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=value.name)
        ir.save(copy, path)

    def with_outputs(
        self, names: Iterable[str], facts: Mapping[str, Fact] | None = None
    ) -> "Model":
        """Return a clone in which the named tensors are graph outputs too (pinned).

        `facts` types those that inference left untyped, which ONNX's checker would refuse.
        """
        copy = self.clone()
        have = {value.name for value in copy.ir.graph.outputs}
        for name in names:
            value = copy.values.get(name)
            if value is None:
                raise ModelError(f"no tensor called {name!r}", hint=did_you_mean(name, copy.values))
            if facts is not None and name in facts and (value.type is None or value.shape is None):
                value.type = ir.TensorType(dtype_of(facts[name].dtype))
                value.shape = ir.Shape([None] * len(facts[name].shape))
            if name not in have:
                copy.ir.graph.outputs.append(value)
        return copy


def info(value: ir.Value) -> TensorInfo:
    """Describe a value; an unknown size is '?'. A sequence is `seq(float32)`, without sizes."""
    if value.type is not None and not isinstance(value.type, ir.TensorType):
        kind = type(value.type).__name__.removesuffix("Type").lower()[:8].replace("sequence", "seq")
        return TensorInfo(value.name or "", f"{kind}({dtype_name(value.dtype)})", ())
    shape = () if value.shape is None else tuple(_size(dim) for dim in value.shape)
    return TensorInfo(value.name or "", dtype_name(value.dtype), shape)


def _size(dim: int | ir.SymbolicDim) -> int | str:
    return int(dim) if isinstance(dim, int) else str(dim.value or "?")


def identity(node: ir.Node) -> str:
    """Return a node's identity: its first non-empty output name."""
    names = [out.name for out in node.outputs if out.name]
    if not names:
        raise ModelError(f"node {node.name!r} ({node.op_type}) has no output")
    return str(names[0])


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the subgraphs of an If, Loop or Scan."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def captures(node: ir.Node) -> list[str]:
    """Return what the bodies of a node read from outside, in order, each once."""
    found: dict[str, None] = {}
    for body in bodies(node):
        own = {v.name for v in body.inputs} | set(body.initializers)
        own |= {out.name for inner in body for out in inner.outputs}
        read = [v.name for inner in body for v in inner.inputs if v is not None and v.name]
        read += [name for inner in body for name in captures(inner)]
        read += [v.name for v in body.outputs if v.name]
        found |= dict.fromkeys(name for name in read if name not in own)
    return list(found)


def build_graph(graph: ir.Graph, loaded: Collection[str] = ()) -> Graph:
    """Build the name-level view: captures are inputs, constants stand apart.

    `loaded`: names that the user knows; see `narrows`.
    """
    inputs = tuple(str(value.name) for value in graph.inputs)
    fixed = set(graph.initializers)
    nodes: list[Node] = []
    constants: list[Node] = []
    for node in graph:
        read = dict.fromkeys([v.name for v in node.inputs if v is not None and v.name])
        read |= dict.fromkeys(captures(node))
        data = tuple(name for name in read if name not in fixed)
        outputs = tuple(out.name for out in node.outputs if out.name)
        weights = tuple(name for name in read if name in fixed)
        known = bool(outputs) and outputs[0] in loaded
        slim = narrows(node, loaded)
        made = Node(identity(node), node.op_type, data, outputs, weights, slim, known)
        if data or random(node):
            nodes.append(made)
        else:
            constants.append(made)
            fixed |= set(outputs)
    outputs = tuple(str(value.name) for value in graph.outputs)
    return Graph(inputs, outputs, tuple(nodes), tuple(constants))


def narrows(node: ir.Node, loaded: Collection[str] = ()) -> bool:
    """Tell whether a node makes fewer bits of each value: it quantizes, or halves a float.

    A Cast whose output the user knows by its own name is an operator like any other.
    """
    if node.op_type == "Cast" and "to" in node.attributes:
        half = node.attributes["to"].as_int() in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
        return half and node.outputs[0].name not in loaded
    return node.op_type == "QuantizeLinear"


def random(node: ir.Node) -> bool:
    """Tell whether a node, or one in its bodies, draws random numbers."""
    return node.op_type in RANDOM or any(random(inner) for b in bodies(node) for inner in b)


class _Sink:
    """A file that hashes what is written into it."""

    def __init__(self) -> None:
        self.total = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.total.update(data)
        return len(data)


def tensor_digest(tensor: ir.TensorProtocol) -> str:
    """SHA-256 (hex) of a tensor's bytes, computed once per tensor object.

    What lies in a file is read piece by piece: a mapping would count as memory until it is closed.
    """
    if "sha256" not in tensor.meta:
        sink = _Sink()
        if isinstance(tensor, ir.ExternalTensor):
            tensor.tofile(sink)
        else:
            sink.write(tensor.tobytes())
        tensor.meta["sha256"] = sink.total.hexdigest()
    return str(tensor.meta["sha256"])
