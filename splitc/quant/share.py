"""How much of a graph's work is int8."""

import onnx_ir as ir

from splitc.macs import macs
from splitc.model import Model
from splitc.quant.places import dequantized

_INTEGER = frozenset(("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"))
_EIGHT_BITS = frozenset((ir.DataType.INT8, ir.DataType.UINT8))


def int8_mac_share(model: Model) -> float:
    """Return the share of MACs, 0 to 1, whose two operands are 8-bit integers; 0 without MACs."""
    counts = macs(model)
    total = sum(counts.values())
    narrow = sum(count for name, count in counts.items() if count and _is_int8(model.nodes[name]))
    return narrow / total if total else 0.0


def _is_int8(node: ir.Node) -> bool:
    return node.op_type in _INTEGER or all(map(_widened, node.inputs[:2]))


def _widened(value: ir.Value | None) -> bool:
    """Tell whether DequantizeLinear made a tensor from 8-bit integers."""
    if value is None or not dequantized(value):
        return False
    node = value.producer()
    stored = node.inputs[0] if node is not None else None
    return stored is not None and stored.dtype in _EIGHT_BITS
