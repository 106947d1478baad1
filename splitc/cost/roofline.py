"""What a group of nodes costs on one machine: roofline, or the machine's fitted predictor.

Roofline (Williams et al., CACM 2009), per group:

    seconds = max(Σ operations / (peak[dtype] · efficiency[family]), bytes / bandwidth) + overhead

`bytes` is what the group reads and writes outside itself: its inputs, its weights, its outputs.
One multiply-accumulate is two operations; a node without MACs counts `_OPS` operations an element.
A fitted predictor is additive (a·operations + b·bytes + c per group, by family), as measured.

A family may have variants, which a table that does not know them prices as the family itself:
`conv/1x1`, `gemm/vector` (each weight is used once), `gemm/stream` (and they fit no cache), and
8-bit arithmetic as `/int8`; `layout/view` moves no bytes.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from splitc.graph import Graph, Node
from splitc.macs import kind, macs
from splitc.model import Model
from splitc.scenario import Device

Value = TypeVar("Value")

_OPS = {"Softmax": 5, "LogSoftmax": 6, "LayerNormalization": 8, "Erf": 8, "Exp": 8, "Tanh": 8}
_OPS |= {"Sigmoid": 8, "Gelu": 12, "LRN": 8, "Pow": 8, "Swish": 9, "Mish": 16, "TopK": 10, "Pad": 4}
"""Operations an element, where it is not one: the length of the usual polynomial forms."""

_ABSORBED = frozenset(("Add", "BatchNormalization", "Clip", "LeakyRelu", "PRelu", "Relu"))
"""They cost nothing behind a kernel of `_KERNELS` which does them on its way out."""

_KERNELS = frozenset(("conv", "depthwise", "grouped", "gemm"))

_PARTS = frozenset(("Gather", "GatherElements", "GatherND", "Slice"))
"""They read of their first input what they write, not all of it."""

_FREE = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"))
"""Views: they move no bytes, only the overhead of a dispatch remains."""

_STREAM = 8 * 2**20
"""Bytes of a matrix that no longer stays in a cache from one run to the next."""

CALL = "call"
"""The row of a predictor that is paid once for each run of a side, whatever it holds."""

_ANCHORS = ("recurrent", "conv", "gemm", "grouped", "depthwise", "control", "reduce", "pool")


@dataclass(frozen=True)
class Work:
    """What one node does: `ops` operations of a family on a dtype, and the tensors it touches.

    `view`: it moves no bytes. `absorbed`: it costs no operations behind a matrix kernel. `known`:
    some family knows its operator.
    """

    family: str
    dtype: str
    ops: float
    view: bool
    absorbed: bool
    known: bool
    reads: tuple[str, ...]
    writes: tuple[str, ...]


def works(model: Model) -> dict[str, Work]:
    """Return node identity → its work, at the model's concrete sizes."""
    counts, source = macs(model), _before_dequantize(model)
    return {node.id: _work(model, node, counts[node.id], source) for node in model.graph.nodes}


def _work(model: Model, node: Node, count: int, source: Mapping[str, str]) -> Work:
    facts = model.facts
    family = kind(model.nodes[node.id], facts)
    reads = node.inputs[1:] if node.op in _PARTS else (*node.inputs, *node.weights)
    touched = (*(() if node.op in _PARTS else node.inputs), *node.outputs)
    size = max((facts[t].elements for t in touched if t in facts), default=1)
    dtypes = (facts[source.get(t, t)].dtype for t in reads if source.get(t, t) in facts)
    dtype = _arithmetic(dtypes)
    return Work(
        family=family + _variant(model, node, family, dtype),
        dtype=dtype,
        ops=2.0 * count or float(size * _OPS.get(node.op, 1)) * _window(model, node, size),
        view=node.op in _FREE,
        absorbed=node.op in _ABSORBED,
        known=family != "other",
        reads=tuple(source.get(t, t) if t in node.weights else t for t in reads),
        writes=node.outputs,
    )


def _before_dequantize(model: Model) -> dict[str, str]:
    """Return the output of each DequantizeLinear → the integer tensor that it reads."""
    graph = model.graph
    found = {}
    for node in (*graph.nodes, *graph.constants):
        if node.op == "DequantizeLinear":
            data = model.nodes[node.id].inputs[0]
            found[node.outputs[0]] = str(data.name) if data is not None else ""
    return found


def _variant(model: Model, node: Node, family: str, dtype: str) -> str:
    """Tell 8-bit kernels, 1×1 convolutions and matrix times vector from the rest of a family."""
    if node.op in _FREE:
        return "/view"
    if family in _KERNELS and dtype == "int8":
        return "/int8"
    names = [str(v.name) for v in model.nodes[node.id].inputs[:2] if v is not None]
    shapes = [model.facts[name].shape for name in names if name in model.facts]
    if family == "conv" and len(shapes) == 2 and math.prod(shapes[1][2:]) == 1:
        return "/1x1"
    if family == "gemm" and len(shapes) == 2 and math.prod(shapes[0][:-1]) == 1:
        return "/stream" if math.prod(shapes[1]) * 4 > _STREAM else "/vector"
    return ""


def _window(model: Model, node: Node, size: int) -> float:
    """Return operations of a pooling window per element of `size`; 1 for all other nodes."""
    attributes = model.nodes[node.id].attributes
    if not node.op.endswith("Pool") or "kernel_shape" not in attributes:
        return 1.0
    window = math.prod(attributes["kernel_shape"].as_ints())
    return model.facts[node.outputs[0]].elements * window / size


def _arithmetic(dtypes: Iterable[str]) -> str:
    """Return the peak that applies: 8-bit data int8, half precision float16, else float32."""
    first = next(iter(dtypes), "float32")
    return {"int8": "int8", "uint8": "int8", "float16": "float16", "bfloat16": "float16"}.get(
        first, "float32"
    )


def base(family: str) -> str:
    """Return the family without its variant: 'conv/1x1/int8' → 'conv'."""
    return family.partition("/")[0]


def family_of(parts: Iterable[Work]) -> str:
    """Return a group's family, that of its heaviest node: a Conv with a Relu is a Conv."""
    families = {base(part.family): part.family for part in parts}
    return families[next((name for name in _ANCHORS if name in families), min(families))]


def counted(parts: Sequence[Work]) -> list[Work]:
    """Return the parts of a group whose operations cost time: no views, nothing absorbed."""
    kernel = any(base(part.family) in _KERNELS for part in parts)
    return [part for part in parts if not (part.view or (kernel and part.absorbed))]


def traffic(
    graph: Graph, nodes: Iterable[str], work: Mapping[str, Work], size: Mapping[str, int]
) -> int:
    """Bytes that a group moves: what it reads from outside, once each, and what leaves it."""
    inside = set(nodes)
    active = [work[name] for name in nodes if not work[name].view]
    made = {t for name in inside for t in work[name].writes}
    read = {t for part in active for t in part.reads} - made
    ends = set(graph.outputs)
    left = {
        t
        for part in active
        for t in part.writes
        if t in ends or any(r not in inside for r in graph.readers.get(t, ()))
    }
    return sum(size.get(t, 0) for t in read | left)


def seconds_of(
    model: Model, device: Device, work: Mapping[str, Work], size: Mapping[str, int], entry: str = ""
) -> Callable[[Iterable[str]], float]:
    """Return the function that prices a set of fused nodes on `device`, in seconds > 0.

    `entry`: the node that carries what a fitted predictor charges for each run of a side.
    """
    graph = model.graph

    def seconds(nodes: Iterable[str]) -> float:
        names = [name for name in nodes if name in work]
        if not names:
            return 0.0
        parts = [work[name] for name in names]
        moved = traffic(graph, names, work, size)
        if device.predictor:
            call = device.predictor.get(CALL, (0.0,))[-1] if entry in names else 0.0
            return _predicted(device, parts, moved) + call
        compute = sum(
            part.ops / (_peak(device, part.dtype) * look_up(device.efficiency, part.family))
            for part in counted(parts)
        )
        return (
            max(compute, moved / (device.memory_bandwidth_gb_s * 1e9)) + device.overhead_us * 1e-6
        )

    return seconds


def _peak(device: Device, dtype: str) -> float:
    return float(device.peak_gops.get(dtype, device.peak_gops["float32"])) * 1e9


def look_up(table: Mapping[str, Value], family: str) -> Value:
    """Return the row of a family: its own, else that of its base, else that of 'other'."""
    return next(table[name] for name in (family, base(family), "other") if name in table)


def _predicted(device: Device, parts: list[Work], moved: int) -> float:
    """Sum the fitted costs of the nodes by family, with the group's bytes and dispatch once."""
    _, per_byte, per_group = look_up(device.predictor, family_of(parts))
    total = per_byte * moved + per_group
    return total + sum(look_up(device.predictor, p.family)[0] * p.ops for p in counted(parts))
