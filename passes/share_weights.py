"""Store weights in fewer bits; they are widened in the graph before they are read.

    y = Conv(x, w)     becomes, for bits = 16,       w = Cast<to = FLOAT>(w_float16)
                                                     y = Conv(x, w)
                       and, for clusters = 256,      i = Cast<to = INT32>(w_places)
                                                     w = Gather(w_codebook, i)
                                                     y = Conv(x, w)

The file and the bundle are smaller, the computation stays float32: every backend runs it, and
most widen the weights once, when they load. `clusters` is k-means weight sharing (Han et al.,
"Deep Compression", 2016): a byte for each weight and a table of its values for each tensor. Run
it last: `simplify` would fold the weights back. What must not be shared: a weight that float16
cannot hold, and one so small that the table would not pay.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from splitc import scope as scopes
from splitc.errors import did_you_mean
from splitc.model import Model, identity
from splitc.pipeline import resource
from splitc.quant.codebook import codebook
from splitc.quant.opset import with_axes
from splitc.quant.stored import Store
from splitc.quant.types import retype

if TYPE_CHECKING:
    from splitc.scope import Boundary

FORMATS = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
_SMALL = 1024
"""Weights with fewer elements stay as they are."""
_LARGEST = 65504.0


@dataclass(frozen=True)
class ShareWeights:
    """Store float32 weights as 16-bit floats, or as places in a table of `clusters` values.

    `bits`: 16, in `format` float16 or bfloat16; `clusters`: 2 to 256, in place of `bits`.
    """

    name: ClassVar[str] = "share-weights"
    exact: ClassVar[bool] = False

    bits: int = 16
    format: str = "float16"
    clusters: int = 0
    scope: str = "both"
    boundary: "Boundary | None" = resource()

    def __post_init__(self) -> None:
        scopes.check(self.scope)
        if self.format not in FORMATS:
            raise ValueError(f"format = {self.format!r}; {did_you_mean(self.format, FORMATS)}")
        if self.bits != 16:
            raise ValueError(f"bits = {self.bits}: only 16; for 8 bits: clusters = 256")
        if self.clusters and not 2 <= self.clusters <= 256:
            raise ValueError(f"clusters = {self.clusters} is not between 2 and 256")

    def run(self, model: Model) -> Model:
        """Return the model with shared weights; its notes say what was saved, lost and left out."""
        if self.format == "bfloat16" and not self.clusters:
            model = with_axes(model)  # Cast takes bfloat16 since opset 13
        allowed = scopes.within(model, self.scope, self.boundary)
        copy = model.clone()
        store = Store(copy.ir.graph)
        report = _Report()
        for name, value in list(copy.ir.graph.initializers.items()):
            array = _weight(value)
            if array is None or not _read_within(value, allowed):
                continue
            if self._overflows(array):
                report.left.append(name)
                continue
            report.change(array, self._share(store, value, array))
        retype(copy)
        return copy.with_notes(*report.lines(model.weight_bytes(), copy.weight_bytes()))

    def _overflows(self, array: NDArray[Any]) -> bool:
        narrow = not self.clusters and self.format == "float16"
        return narrow and float(np.abs(array).max()) > _LARGEST

    def _share(self, store: Store, value: ir.Value, array: NDArray[Any]) -> NDArray[Any]:
        """Replace an initializer by a node that widens what is stored; return what it makes."""
        name = str(value.name)
        if self.clusters:
            table, places = codebook(array, self.clusters)
            index = _node("Cast", [store.add(f"{name}_places", places)], to=ir.DataType.INT32)
            index.name = store.fresh(f"{name}_index")
            made = _node("Gather", [store.add(f"{name}_codebook", table), index])
            _swap(store.graph, value, [index, made])
            return np.asarray(table[places])
        kind = FORMATS[self.format]
        stored = array.astype(kind.numpy())
        made = _node("Cast", [store.add(f"{name}_{self.format}", stored, kind)], to=FLOAT)
        _swap(store.graph, value, [made])
        return np.asarray(stored.astype(np.float32))


FLOAT = ir.DataType.FLOAT


def _weight(value: ir.Value) -> NDArray[Any] | None:
    """Return the values of a finite float32 initializer that is worth sharing."""
    tensor = value.const_value
    if tensor is None or tensor.dtype != FLOAT or tensor.size < _SMALL or value.is_graph_output():
        return None
    array = tensor.numpy()
    return array if np.isfinite(array).all() else None


def _read_within(value: ir.Value, allowed: frozenset[str]) -> bool:
    """Tell whether every reader is one of the nodes that the pass may touch."""
    readers = [use.node for use in value.uses()]
    return bool(readers) and all(identity(node) in allowed for node in readers)


def _node(op: str, inputs: list[ir.Value], **attributes: int) -> ir.Value:
    out = ir.Value()
    ir.node(op, inputs, attributes, outputs=[out])
    return out


def _swap(graph: ir.Graph, value: ir.Value, made: list[ir.Value]) -> None:
    """Let the last of `made` take the name and the readers of an initializer."""
    name = str(value.name)
    del graph.initializers[name]
    value.name = f"{name}_was"
    made[-1].name = name
    made[-1].type, made[-1].shape = value.type, value.shape
    ir.convenience.replace_all_uses_with([value], [made[-1]])
    nodes = [node for v in made if (node := v.producer()) is not None]
    for node in nodes:
        node.name = f"{node.outputs[0].name}_node"
    graph.insert_before(graph[0], nodes)


class _Report:
    """Adds up what sharing changes."""

    def __init__(self) -> None:
        self.left: list[str] = []
        self.count, self._noise, self._signal = 0, 0.0, 0.0

    def change(self, before: NDArray[Any], after: NDArray[Any]) -> None:
        """Count one weight."""
        self.count += 1
        self._noise += float(np.sum((before.astype(np.float64) - after) ** 2))
        self._signal += float(np.sum(before.astype(np.float64) ** 2))

    def lines(self, before: int, after: int) -> tuple[str, ...]:
        """Return what the user is told."""
        error = (self._noise / self._signal) ** 0.5 if self._signal else 0.0
        text = (
            f"share-weights: {self.count} weights, {before:,} → {after:,} bytes stored, "
            f"root mean square error {error:.1e} of their size"
        )
        named = ", ".join(self.left)
        left = (f"share-weights: beyond float16's {_LARGEST:g}, left as they were: {named}",)
        return (text, *(left if self.left else ()))
