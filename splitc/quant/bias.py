"""Bias correction: give back to each output channel the mean that rounding took from it.

Rounding shifts the mean of what a layer makes (Nagel et al., "Data-Free Quantization Through
Weight Equalization and Bias Correction", 2019, section 4.2, the empirical form). Layer by layer
in graph order, on calibration data: the mean over samples and positions of float minus int8
output, per channel, is added to the layer's float bias, so that each layer is corrected behind
corrected ones. The int8 graph is run once in all, in pieces between one layer and the next.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from splitc.data import Dataset
from splitc.execute import run, session
from splitc.model import Model, captures, identity
from splitc.quant import qdq
from splitc.quant.numbers import Scheme
from splitc.quant.places import is_weight, weight_of
from splitc.quant.ranges import Range, activations, chunks, some
from splitc.quant.stored import Store

Array = NDArray[Any]
_BATCH = 16
_CHANNELS = 1
"""Axis of the output of Conv, ConvTranspose and Gemm."""
_BYTES = 2**29
"""Activations kept between two pieces, all samples together."""


@dataclass(frozen=True, eq=False)
class Layers:
    """What the layers that can be corrected make in float: mean of each channel, over `data`."""

    data: Dataset
    means: Mapping[str, Array]


def layers(model: Model, nodes: Collection[str], data: Dataset) -> Layers:
    """Measure the float means of those of `nodes` that have a place for a bias.

    A layer without a bias will get one; a MatMul has no place for one.
    """
    found = [name for name in model.nodes if name in nodes and _correctable(model.nodes[name])]
    part = some(data, _affordable(model))
    return Layers(part, _means(model, part, found) if found else {})


def corrected(
    model: Model,
    nodes: Collection[str],
    ranges: Mapping[str, Range],
    scheme: Scheme,
    known: Layers,
) -> Model:
    """Return the float model with the biases that fit its form with `nodes` in int8."""
    wanted = {name: mean for name, mean in known.means.items() if name in nodes}
    rounded = qdq.quantized(model, nodes, ranges, replace(scheme, float_bias=True))
    return with_shifts(model, dict(_walk(rounded, known.data, wanted)))


def _correctable(node: ir.Node) -> bool:
    """Tell whether a node has a place for a bias of its own."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or weight_of(node) is None:
        return False
    absent = len(node.inputs) < 3 or node.inputs[2] is None
    return not qdq.scaled(node) if absent else qdq.plain_bias(node) is not None


def _affordable(model: Model) -> int:
    """Return how many samples fit: their live activations are held between two pieces."""
    sizes = sorted((fact.nbytes for fact in model.facts.values()), reverse=True)
    return max(1, _BYTES // max(1, sum(sizes[:4])))


def _means(model: Model, data: Dataset, layers: Sequence[str]) -> dict[str, Array]:
    """Return layer → mean of each output channel, over the data, float64."""
    totals: dict[str, Array] = {}
    for names in chunks(model, layers):
        for batch in activations(model, data, names):
            for name, array in batch.items():
                totals[name] = totals.get(name, np.float64(0)) + _sums(array)
    return {name: total[:-1] / total[-1] for name, total in totals.items()}


def _sums(array: Array) -> Array:
    """Return the sum of each channel, then how many values each sum has."""
    rows = np.moveaxis(array, _CHANNELS, 0).reshape(array.shape[_CHANNELS], -1)
    return np.append(rows.sum(axis=1, dtype=np.float64), rows.shape[1])


@dataclass(frozen=True)
class _Piece:
    """Nodes that run together; `layer` is the last one."""

    nodes: tuple[ir.Node, ...]
    layer: str


def _walk(model: Model, data: Dataset, wanted: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """Yield layer → what its bias lacks; what follows is computed with the bias corrected."""
    cache: list[dict[str, Array]] = [dict(feeds) for feeds in data.feeds(model, _BATCH)]
    pieces = list(_pieces(model, wanted))
    for at, piece in enumerate(pieces):
        later = {name for other in pieces[at + 1 :] for name in _read(other)}
        _advance(model, piece, cache, later)
        total = np.sum([_sums(feeds[piece.layer]) for feeds in cache], axis=0)
        shift = wanted[piece.layer] - total[:-1] / total[-1]
        shaped = shift.astype(np.float32)
        for feeds in cache:
            array = feeds[piece.layer]
            feeds[piece.layer] = array + shaped.reshape(-1, *[1] * (array.ndim - 2))
        yield piece.layer, shaped


def _pieces(model: Model, layers: Collection[str]) -> Iterator[_Piece]:
    """Divide the graph behind each of the layers; what follows the last one does not matter."""
    nodes: list[ir.Node] = []
    for node in model.ir.graph:
        nodes.append(node)
        if identity(node) in layers:
            yield _Piece(tuple(nodes), identity(node))
            nodes = []


def _read(piece: _Piece) -> set[str]:
    """Return the tensors that a piece reads and does not make, initializers among them."""
    made = {out.name for node in piece.nodes for out in node.outputs}
    read = {v.name for node in piece.nodes for v in node.inputs if v is not None}
    read |= {name for node in piece.nodes for name in captures(node)}
    return {name for name in read - made if name}


def _advance(
    model: Model, piece: _Piece, cache: Sequence[dict[str, Array]], later: Collection[str]
) -> None:
    """Run a piece on what is cached; keep what it makes for later pieces, drop the rest."""
    needed = [name for name in _read(piece) if not _stored(model, name)]
    made = {str(out.name) for node in piece.nodes for out in node.outputs}
    ends = sorted(made & set(later) | {piece.layer})
    opened = session(_segment(model, sorted(needed), ends))
    for feeds in cache:
        found = run(opened, feeds, ends, model.source)
        for name in [name for name in feeds if name not in later]:
            del feeds[name]
        feeds |= found


def _stored(model: Model, name: str) -> bool:
    return is_weight(model.values[name])


def _segment(model: Model, inputs: Sequence[str], outputs: Sequence[str]) -> Model:
    graph = ir.convenience.extract(model.ir.graph, list(inputs), list(outputs))
    return Model(ir.Model(graph, ir_version=model.ir.ir_version), model.source)


def with_shifts(model: Model, shifts: Mapping[str, Array]) -> Model:
    """Return the model with `shifts` (layer → one value for each channel) added to its biases.

    A bias that others read too stays as it is for them.
    """
    copy = model.clone()
    store = Store(copy.ir.graph)
    for name, shift in shifts.items():
        node = copy.nodes[name]
        old = node.inputs[2] if len(node.inputs) > 2 else None
        if old is None or old.const_value is None:
            node.resize_inputs(3)
            node.replace_input_with(2, store.add(f"{name}_bias", shift))
            continue
        array = np.asarray(old.const_value.numpy() + shift, np.float32)
        if len(list(old.uses())) == 1 and not old.is_graph_output():
            old.const_value = ir.tensor(array, name=old.name)
        else:
            node.replace_input_with(2, store.add(f"{name}_bias", array))
    return copy
