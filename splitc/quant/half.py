"""float16 inside, float32 outside: which nodes can, and the casts around them.

    y = Conv(x, w)        becomes        x_float16 = Cast(x)
                                         y_float16 = Conv(x_float16, w)      (w stored as float16)
                                         y = Cast(y_float16)                 (y an output)

A node can compute in float16 when its schema allows that type wherever it has a float32 now;
onnxruntime's list of operators that do badly in it is respected. Tensors inside keep their names;
inputs and outputs of the graph keep their types too.
"""

from collections.abc import Collection
from functools import cache

import numpy as np
import onnx_ir as ir
from onnx import defs

from splitc.model import Model, bodies, identity
from splitc.quant.stored import Store
from splitc.quant.types import retype

LARGEST = 65504.0
"""The largest finite float16."""
FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16

_TYPED_BY_ATTRIBUTE = frozenset(
    (
        *("Bernoulli", "Cast", "CastLike", "Constant", "ConstantOfShape", "DequantizeLinear"),
        *("EyeLike", "Multinomial", "QuantizeLinear", "RandomNormal", "RandomNormalLike"),
        *("RandomUniform", "RandomUniformLike", "SequenceEmpty"),
    )
)


def can(model: Model, node: ir.Node) -> bool:
    """Tell whether a node has float32 data, and can have float16 in their place."""
    if node.domain not in ("", "ai.onnx") or node.op_type in _TYPED_BY_ATTRIBUTE | _poor():
        return False
    values = [v for v in (*node.inputs, *node.outputs) if v is not None and v.name]
    plain = all(v.type is None or isinstance(v.type, ir.TensorType) for v in values)
    if not plain or any(True for _ in bodies(node)) or all(v.dtype != FLOAT for v in values):
        return False
    return not _integers(node) and _allowed(node, model.ir.opset_imports.get("", 13))


def _integers(node: ir.Node) -> bool:
    """Tell whether a node reads what DequantizeLinear made: it is int8 already."""
    makers = (v.producer() for v in node.inputs if v is not None)
    return any(m is not None and m.op_type == "DequantizeLinear" for m in makers)


@cache
def _poor() -> frozenset[str]:
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST

    return frozenset(DEFAULT_OP_BLOCK_LIST)


def _allowed(node: ir.Node, opset: int) -> bool:
    schema = _schema(node.op_type, opset)
    if schema is None:
        return False
    moved = [_takes_half(schema, i, schema.inputs) for i in range(len(node.inputs))]
    made = [_takes_half(schema, i, schema.outputs) for i in range(len(node.outputs))]
    reads = all(
        ok or v is None or v.dtype != FLOAT or v.const_value is not None
        for ok, v in zip(moved, node.inputs, strict=True)
    )
    return reads and all(ok or v.dtype != FLOAT for ok, v in zip(made, node.outputs, strict=True))


@cache
def _schema(op: str, opset: int) -> defs.OpSchema | None:
    try:
        return defs.get_schema(op, opset, "")
    except defs.SchemaError:
        return None


def _takes_half(schema: defs.OpSchema, place: int, formals: object) -> bool:
    """Tell whether the input or output at `place` may be float16."""
    listed = list(formals)  # type: ignore[call-overload]
    formal = listed[min(place, len(listed) - 1)]
    return "tensor(float16)" in formal.types


def halved(model: Model, nodes: Collection[str]) -> Model:
    """Return the model with these nodes in float16 (each one must satisfy `can`)."""
    copy = model.clone()
    writer = _Writer(copy, frozenset(nodes))
    for node in list(copy.ir.graph):
        if identity(node) in nodes:
            writer.read(node)
    for node in [n for n in copy.ir.graph if n in writer.chosen]:
        writer.make(node)
    writer.store.drop_unused()
    retype(copy)
    return copy


class _Writer:
    def __init__(self, model: Model, nodes: frozenset[str]) -> None:
        self.graph = model.ir.graph
        self.store = Store(self.graph)
        self.opset = model.ir.opset_imports.get("", 13)
        self.chosen = {node for node in self.graph if identity(node) in nodes}
        self.narrow: dict[ir.Value, ir.Value] = {}

    def read(self, node: ir.Node) -> None:
        """Let a chosen node read float16 wherever its schema takes it."""
        schema = _schema(node.op_type, self.opset)
        assert schema is not None
        for place, value in enumerate(node.inputs):
            if value is None or value.dtype != FLOAT or value.producer() in self.chosen:
                continue
            if _takes_half(schema, place, schema.inputs):
                node.replace_input_with(place, self._narrow(value))

    def _narrow(self, value: ir.Value) -> ir.Value:
        if value not in self.narrow:
            self.narrow[value] = self._weight(value) or self._cast(value, HALF, "float16")
        return self.narrow[value]

    def _weight(self, value: ir.Value) -> ir.Value | None:
        """Store a weight as float16."""
        if value.const_value is None or value.producer() is not None or value.is_graph_input():
            return None
        with np.errstate(over="ignore"):
            array = value.const_value.numpy().astype(np.float16)
        return self.store.add(f"{value.name}_float16", array)

    def _cast(self, value: ir.Value, to: ir.DataType, suffix: str) -> ir.Value:
        title = self.store.fresh(f"{value.name}_{suffix}")
        out = ir.Value(name=title, type=ir.TensorType(to), shape=value.shape)
        node = ir.node("Cast", [value], {"to": to}, outputs=[out], name=f"{title}_node")
        maker = value.producer()
        if maker is None:
            self.graph.insert_before(self.graph[0], node)
        else:
            self.graph.insert_after(maker, node)
        return out

    def make(self, node: ir.Node) -> None:
        """Let a chosen node make float16; others read a float32, outputs under the old name."""
        for out in node.outputs:
            if out.dtype != FLOAT:
                continue
            inside = [use for use in out.uses() if use.node in self.chosen]
            out.type = ir.TensorType(HALF)
            if len(inside) == len(list(out.uses())) and not out.is_graph_output():
                continue
            wide = self._cast(out, FLOAT, "float32")
            ir.convenience.replace_all_uses_with([out], [wide], replace_graph_outputs=True)
            for use in [(u.node, u.idx) for u in inside]:
                use[0].replace_input_with(use[1], out)
            cast = wide.producer()
            assert cast is not None
            cast.replace_input_with(0, out)
            if wide.is_graph_output():
                out.name, wide.name = self.store.fresh(f"{out.name}_float16"), out.name
