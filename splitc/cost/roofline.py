"""What a group of nodes costs on one machine: roofline, or the machine's fitted predictor.

Roofline (Williams et al., CACM 2009), per group:

    seconds = max( Σ operations / (peak[dtype] · efficiency[family]),  bytes / bandwidth ) + overhead

`bytes` is what the group reads and writes outside itself: its inputs, its weights, its outputs.
One multiply-accumulate is two operations; a node without MACs counts `_OPS` operations an element.
A fitted predictor is additive (a·operations + b·bytes + c per group, by family), as measured.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from splitc.graph import Graph
from splitc.macs import kind, macs
from splitc.model import Model
from splitc.scenario import Device

_OPS = {"Softmax": 5, "LogSoftmax": 6, "LayerNormalization": 8, "Erf": 8, "Exp": 8, "Tanh": 8}
_OPS |= {"Sigmoid": 8, "Gelu": 12, "LRN": 8, "Pow": 8, "Swish": 9, "Mish": 16, "TopK": 10}
"""Operations an element, where it is not one: the length of the usual polynomial forms."""

_FREE = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"))
"""Views: they move no bytes, only the overhead of a dispatch remains."""

_ANCHORS = ("recurrent", "conv", "gemm", "grouped", "depthwise", "control", "reduce", "pool")


@dataclass(frozen=True)
class Work:
    """What one node does: `ops` operations of a family on a dtype, and the tensors it touches."""

    family: str
    dtype: str
    ops: float
    view: bool
    known: bool
    reads: tuple[str, ...]
    writes: tuple[str, ...]


def works(model: Model) -> dict[str, Work]:
    """Return node identity → its work, at the model's concrete sizes."""
    counts, facts, graph = macs(model), model.facts, model.graph
    made = {t for node in graph.constants for t in node.outputs}
    found = {}
    for node in graph.nodes:
        family = kind(model.nodes[node.id], facts)
        size = max((facts[t].elements for t in (*node.inputs, *node.outputs) if t in facts), default=1)
        ops = 2.0 * counts[node.id] or float(size * _OPS.get(node.op, 1))
        weights = tuple(t for t in node.weights if t not in made)
        dtypes = [facts[t].dtype for t in (*weights, *node.inputs) if t in facts]
        view = node.op in _FREE
        reads = (*node.inputs, *node.weights)
        found[node.id] = Work(
            family, _arithmetic(dtypes), ops, view, family != "other", reads, node.outputs
        )
    return found


def _arithmetic(dtypes: Iterable[str]) -> str:
    """The peak that applies: int8 for 8-bit inputs, float16 for half precision, else float32."""
    first = next(iter(dtypes), "float32")
    return {"int8": "int8", "uint8": "int8", "float16": "float16", "bfloat16": "float16"}.get(
        first, "float32"
    )


def family_of(parts: Iterable[Work]) -> str:
    """A group's family is that of its heaviest kind of node: a Conv with a Relu is a Conv."""
    families = {part.family for part in parts}
    return next((name for name in _ANCHORS if name in families), min(families))


def traffic(graph: Graph, nodes: Iterable[str], work: Mapping[str, Work], size: Mapping[str, int]) -> int:
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
    model: Model, device: Device, work: Mapping[str, Work], size: Mapping[str, int]
) -> Callable[[Iterable[str]], float]:
    """Return the function that prices a set of fused nodes on `device`, in seconds > 0."""
    graph = model.graph

    def seconds(nodes: Iterable[str]) -> float:
        names = [name for name in nodes if name in work]
        if not names:
            return 0.0
        parts = [work[name] for name in names]
        moved = traffic(graph, names, work, size)
        if device.predictor:
            return _predicted(device, parts, moved)
        compute = sum(
            part.ops / (_peak(device, part.dtype) * _efficiency(device, part.family))
            for part in parts
            if not part.view
        )
        return max(compute, moved / (device.memory_bandwidth_gb_s * 1e9)) + device.overhead_us * 1e-6

    return seconds


def _peak(device: Device, dtype: str) -> float:
    return float(device.peak_gops.get(dtype, device.peak_gops["float32"])) * 1e9


def _efficiency(device: Device, family: str) -> float:
    return float(device.efficiency.get(family, device.efficiency["other"]))


def _predicted(device: Device, parts: list[Work], moved: int) -> float:
    """Sum the fitted costs of the nodes by family, with the group's bytes and dispatch once."""
    own = device.predictor
    head = own.get(family_of(parts), own["other"])
    total = head[1] * moved + head[2]
    for part in parts:
        if not part.view:
            total += own.get(part.family, own["other"])[0] * part.ops
    return total
