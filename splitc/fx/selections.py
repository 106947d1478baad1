"""Put the 1×1 convolution that stood for Slice + Pad back as what it is.

    y = Pad(Slice(x))  was lifted as  y = Conv(x, 0/1 matrix)

A matrix that still copies channels in order, zeros around them, becomes the Slice and the Pad
again, with other pads; any other matrix becomes a convolution.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch import fx, nn

from splitc.errors import ModelError
from splitc.fx.graphs import constant, drop_unread, fresh, read_other
from splitc.fx.stepping import as_array
from splitc.model import Model


def select(model: Model, module: fx.GraphModule) -> bool:
    """Write every such convolution of `module` into `model`, in place; tell whether any changed."""
    done = False
    for path, (slice_name, pad_name) in module.meta.get("selections", {}).items():
        layer = module.get_submodule(path)
        if not isinstance(layer, nn.Conv2d) or layer.bias is not None:
            raise ModelError(f"{path!r} is no longer the convolution that it was lifted as")
        matrix = as_array(layer.weight)[:, :, 0, 0]
        sliced, padded = model.nodes[slice_name], model.nodes[pad_name]
        pads = _shift(matrix)
        if pads is None:
            _convolve(sliced, padded, matrix, layer)
        done |= pads is None or _pad(padded, pads)
    return done


def _shift(matrix: NDArray[Any]) -> tuple[int, int] | None:
    """Return (zero rows in front, behind) around an identity matrix; None for another matrix."""
    out, width = matrix.shape
    front = int(np.argmax(matrix[:, 0] != 0))
    behind = out - width - front
    if behind < 0:
        return None
    want = np.zeros_like(matrix)
    want[front : front + width] = np.eye(width)
    return (front, behind) if np.array_equal(matrix, want) else None


def _pad(node: ir.Node, pads: tuple[int, int]) -> bool:
    """Write a Pad's numbers; tell whether they are others."""
    front, behind = pads
    wanted = np.array([0, front, 0, 0, 0, behind, 0, 0], np.int64)
    if "pads" in node.attributes:
        given = list(node.attributes["pads"].as_ints())
        node.attributes["pads"] = ir.AttrInt64s("pads", wanted.tolist())
        return bool(given != wanted.tolist())
    known = constant(node.inputs[1])
    if known is None or np.array_equal(known, wanted):
        return False
    read_other(node, 1, wanted, f"{node.outputs[0].name}_pads")
    return True


def _convolve(sliced: ir.Node, padded: ir.Node, matrix: NDArray[Any], layer: nn.Conv2d) -> None:
    """Replace both nodes by a convolution whose output has the Pad's name."""
    graph, out = padded.graph, padded.outputs[0]
    assert isinstance(graph, ir.Graph)
    name = str(out.name)
    weight = fresh(graph, f"{name}_select", np.ascontiguousarray(matrix[:, :, None, None]))
    strides = [int(s) for s in layer.stride]
    attributes = {"kernel_shape": [1, 1], "strides": strides}
    conv = ir.node("Conv", [sliced.inputs[0], weight], attributes, name=padded.name)
    made = conv.outputs[0]
    graph.insert_before(padded, conv)
    ir.convenience.replace_all_uses_with(out, made, replace_graph_outputs=True)
    made.type = out.type
    read = [*padded.inputs[1:], *sliced.inputs[1:]]
    graph.remove([padded, sliced], safe=True)
    made.name = name
    for value in read:
        drop_unread(value)
