"""Compute in float16, with float32 inputs and outputs: for machines whose float16 is fast.

    y = Conv(x, w)        becomes        x_float16 = Cast(x)
                                         y_float16 = Conv(x_float16, w)      (w stored as float16)
                                         y = Cast(y_float16)                 (y an output)

Tensors inside keep their names. What must not be converted: a node that reads a weight beyond
65504, or touches a value beyond it on the calibration data (the notes name these); an operator
whose schema has no float16; one that is int8 already; the nodes in `keep`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import onnx_ir as ir

from splitc import scope as scopes
from splitc.data import Dataset
from splitc.errors import PassError, did_you_mean
from splitc.model import Model
from splitc.pipeline import resource
from splitc.quant import half
from splitc.quant.ranges import ranges, some

if TYPE_CHECKING:
    from splitc.scope import Boundary

_SAMPLES = 64


@dataclass(frozen=True)
class Fp16:
    """Compute in float16 where nothing overflows, keeping the model's inputs and outputs.

    `keep`: nodes that stay in float32.
    """

    name: ClassVar[str] = "fp16"
    exact: ClassVar[bool] = False

    scope: str = "both"
    keep: tuple[str, ...] = ()
    data: Dataset | None = resource()
    boundary: "Boundary | None" = resource()

    def __post_init__(self) -> None:
        scopes.check(self.scope)
        object.__setattr__(self, "keep", tuple(self.keep))

    def run(self, model: Model) -> Model:
        """Return the model with float16 inside; its notes name what stays float32, and why."""
        for name in self.keep:
            if name not in model.nodes:
                hint = did_you_mean(name, model.nodes)
                raise PassError(f"fp16: no node called {name!r}", where=model.source, hint=hint)
        allowed = scopes.within(model, self.scope, self.boundary)
        able = {
            name: node
            for name, node in model.nodes.items()
            if name in allowed and name not in self.keep and half.can(model, node)
        }
        weights = {name: w for name, node in able.items() if (w := _too_large(node))}
        data = self._overflowing(model, [name for name in able if name not in weights])
        chosen = [name for name in able if name not in weights and name not in data]
        if not chosen:
            return model.with_notes("fp16: no node here can be float16 that is not")
        notes = [f"fp16: {len(chosen)} of {len(allowed)} nodes"]
        notes += [f"fp16: weight {w!r} is beyond 65504: {n!r} stays" for n, w in weights.items()]
        notes += [f"fp16: {n!r} touches values beyond 65504: it stays float32" for n in data]
        if self.data is None:
            notes.append("fp16: without --data nobody checked that no value goes beyond 65504")
        return half.halved(model, chosen).with_notes(*notes)

    def _overflowing(self, model: Model, nodes: Collection[str]) -> list[str]:
        """Return the nodes that read or make values beyond float16 on the calibration data."""
        if self.data is None:
            return []
        touched = {name: _floats(model, model.nodes[name]) for name in nodes}
        tensors = sorted({t for names in touched.values() for t in names})
        found = ranges(model, some(self.data, _SAMPLES), tensors)
        wide = {t for t, ends in found.items() if max(map(abs, ends)) > half.LARGEST}
        return [name for name, names in touched.items() if not wide.isdisjoint(names)]


def _floats(model: Model, node: ir.Node) -> list[str]:
    """Return the float32 data that a node reads or makes."""
    values = (v for v in (*node.inputs, *node.outputs) if v is not None)
    floats = (str(v.name) for v in values if v.dtype == ir.DataType.FLOAT)
    return [name for name in floats if name in model.graph.rank]


def _too_large(node: ir.Node) -> str:
    """Return the name of a finite weight that float16 cannot hold, or ''."""
    for value in node.inputs:
        tensor = value.const_value if value is not None and value.producer() is None else None
        if tensor is not None and tensor.dtype == ir.DataType.FLOAT:
            array = np.abs(tensor.numpy())
            if array.size and np.max(array, where=np.isfinite(array), initial=0) > half.LARGEST:
                assert value is not None
                return str(value.name)
    return ""
