"""Let floats cross the wire in fewer bits: the head ends with Q or Cast, the tail begins with DQ.

    a = Relu(x)                        a = Relu(x)
    y = Exp(a)       becomes           a_int8 = QuantizeLinear(a, s, 0)
                                       a_wide = DequantizeLinear(a_int8, s, 0)
                                       y = Exp(a_wide)

Only readers in the tail read what crossed; the head goes on with `a` itself. Graph inputs cross as
they are. The scale of a tensor is the one of least squared error on the calibration data, symmetric
(TensorRT takes int8, and refuses uint8 in front of a DequantizeLinear).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from splitc.errors import PassError
from splitc.execute import run, session
from splitc.model import Model, bodies, dtype_of, identity
from splitc.pipeline import resource
from splitc.quant.opset import with_axes

if TYPE_CHECKING:
    from splitc.data import Dataset
    from splitc.scope import Boundary

TAKES = {"int8": ("float32",), "float16": ("float32", "float64")}
"""dtype that floats cross in → those that are narrowed to it (as `splitc.wire.form` prices)."""
_DRAWN = 8
_STEPS = 25
_SAMPLE = 2**18
"""Values of a tensor that its scale is chosen on, spread evenly over all of them."""


@dataclass(frozen=True)
class NarrowBoundary:
    """Send floats as int8 or float16: `--wire int8` and `--wire fp16`."""

    name: ClassVar[str] = "narrow-boundary"
    exact: ClassVar[bool] = False
    after_plan: ClassVar[bool] = True

    dtype: str = "int8"
    data: "Dataset | None" = resource()
    boundary: "Boundary | None" = resource()

    def __post_init__(self) -> None:
        if self.dtype not in TAKES:
            raise ValueError(f"dtype = {self.dtype!r}; known: {', '.join(TAKES)}")

    def run(self, model: Model) -> Model:
        """Return the model with a narrowing pair at each float tensor that the head sends."""
        if self.boundary is None:
            raise PassError(f"pass {self.name!r} works at a cut", hint="--cut TENSOR")
        names = [name for name in self.boundary.tensors if _wide(model, name, self.dtype)]
        if not names:
            return model.with_notes(*_plain(model, self.boundary.tensors))
        model = with_axes(model) if self.dtype == "int8" else model
        head = self.boundary.head(model)
        scales, notes = _scales(model, names, self.data) if self.dtype == "int8" else ({}, ())
        copy = model.clone()
        values, nodes = dict(copy.values), dict(copy.nodes)
        inside = {nodes[node] for node in head}
        owners = _owners(copy.ir.graph)
        inside |= {inner for inner, owner in owners.items() if owner in inside}
        for name in names:
            _narrow(copy, values[name], inside, self.dtype, scales.get(name))
        return copy.with_notes(*notes)


def _wide(model: Model, name: str, dtype: str) -> bool:
    """Tell whether a tensor is a float that a node makes, and not yet narrowed as far."""
    slim = model.graph.narrowed.get(name)
    fewer = slim is None or (dtype == "int8" and "float" in model.facts[slim].dtype)
    made = name in model.graph.producer
    return made and fewer and model.facts[name].dtype in TAKES[dtype]


def _plain(model: Model, names: Sequence[str]) -> list[str]:
    """Say which floats cross as they are: the inputs, and types that are not narrowed."""
    left = [n for n in names if n not in model.graph.narrowed and "float" in model.facts[n].dtype]
    return [f"nothing of what crosses is narrowed: {', '.join(left)} as given"] if left else []


def _scales(
    model: Model, names: list[str], data: "Dataset | None"
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return tensor → scale, and what the user must know about where it comes from."""
    from splitc import data as datasets

    chosen, notes = data, tuple[str, ...]()
    if chosen is None:
        chosen = datasets.drawn(model, _DRAWN)
    if chosen.drawn:
        notes = (
            "RANDOM CALIBRATION: the int8 scales of the wire come from random inputs, not from "
            "data; give --data, or accuracy is left to chance",
        )
    opened = session(model, outputs=names)
    seen: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for feeds in chosen.feeds(model):
        for name, array in run(opened, feeds, names, model.source).items():
            seen[name].append(array.reshape(-1))
    return {name: scale(np.concatenate(parts)) for name, parts in seen.items()}, notes


def scale(values: NDArray[Any]) -> float:
    """Return the symmetric int8 scale (values per step, > 0) of least squared error.

    Candidates clip at 20 to 100 % of the largest magnitude; 1/127 where all values are 0.
    """
    sample = values[:: max(1, values.size // _SAMPLE)].astype(np.float32)
    largest = float(np.max(np.abs(sample), initial=0.0))
    if not np.isfinite(largest) or largest == 0.0:
        return 1 / 127
    candidates = [float(np.float32(largest * part / 127)) for part in np.linspace(0.2, 1, _STEPS)]
    return min(candidates, key=lambda step: _error(sample, step))


def _error(values: NDArray[Any], step: float) -> float:
    back = np.clip(np.rint(values / step), -128, 127) * np.float32(step)
    return float(np.square(back - values).sum(dtype=np.float64))


def _narrow(
    model: Model, value: ir.Value, inside: set[ir.Node], dtype: str, step: float | None
) -> None:
    """Insert the pair behind `value`, and let the readers outside `inside` read the wide end."""
    graph, name = model.ir.graph, str(value.name)
    tail = [(use.node, use.idx) for use in value.uses() if use.node not in inside]
    narrow = _value(model, f"{name}_{dtype}", dtype, value)
    wide = _value(model, f"{name}_wide", "", value)
    if step is None:
        there = ir.node("Cast", [value], {"to": dtype_of(dtype)}, outputs=[narrow])
        back = ir.node("Cast", [narrow], {"to": value.dtype or ir.DataType.FLOAT}, outputs=[wide])
    else:
        ends = [_constant(model, f"{name}_scale", np.array(step, np.float32))]
        ends.append(_constant(model, f"{name}_zero_point", np.array(0, np.int8)))
        there = ir.node("QuantizeLinear", [value, *ends], outputs=[narrow])
        back = ir.node("DequantizeLinear", [narrow, *ends], outputs=[wide])
    for made in (there, back):
        made.name = identity(made)
    producer = value.producer()
    assert producer is not None
    graph.insert_after(producer, [there, back])
    for node, place in tail:
        node.replace_input_with(place, wide)


def _owners(graph: ir.Graph) -> dict[ir.Node, ir.Node]:
    """Return each node in the bodies of a node of the graph → that node."""
    found: dict[ir.Node, ir.Node] = {}
    for node in graph:
        waiting = list(bodies(node))
        while waiting:
            for inner in waiting.pop():
                found[inner] = node
                waiting += bodies(inner)
    return found


def _value(model: Model, name: str, dtype: str, like: ir.Value) -> ir.Value:
    kind = dtype_of(dtype) if dtype else like.dtype or ir.DataType.FLOAT
    return ir.Value(name=_free(model, name), type=ir.TensorType(kind), shape=like.shape)


def _constant(model: Model, name: str, array: NDArray[Any]) -> ir.Value:
    value = ir.Value(name=_free(model, name), const_value=ir.Tensor(array))
    value.type, value.shape = ir.TensorType(dtype_of(array.dtype.name)), ir.Shape(array.shape)
    model.ir.graph.register_initializer(value)
    return value


def _free(model: Model, name: str) -> str:
    """Return the name, with underscores behind it while a tensor has it already."""
    taken = {*model.values, *model.ir.graph.initializers}
    while name in taken:
        name += "_"
    return name
