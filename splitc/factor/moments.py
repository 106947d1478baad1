"""What the data say about the inputs of each weight: their second moments, channel by channel."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from splitc.data import Dataset
from splitc.execute import run, session
from splitc.factor.decompose import Array
from splitc.factor.layers import Layer
from splitc.model import Model

_SAMPLES, _BATCH = 256, 8
_RIDGE = 1e-4
"""Share of the mean second moment that is added to each channel: rare ones must not explode."""


def fitted(model: Model, known: Sequence[Layer], data: Dataset) -> list[Layer]:
    """Return the layers with the roots of their inputs' second moments, from up to 256 samples.

    Nodes that share a weight share one moment, the sum of theirs. An input that is zero throughout
    leaves its layer as it is.
    """
    found: dict[str, Array] = {}
    for layer in known:
        size = layer.array.shape[layer.axis]
        found.setdefault(layer.weight, np.zeros((size, size)))
    names = sorted({layer.data for layer in known} - set(model.graph.inputs))
    opened = session(model, outputs=names) if names else None
    step = max(1, len(data) // _SAMPLES)
    for feed in data.take(slice(0, step * _SAMPLES, step)).feeds(model, _BATCH):
        seen = dict(feed) | (run(opened, feed, names, model.source) if opened else {})
        for layer in known:
            found[layer.weight] += _moment(seen[layer.data], layer)
    return [replace(layer, root=_root(found[layer.weight])) for layer in known]


def _moment(array: NDArray[np.float32], layer: Layer) -> Array:
    channels = array.shape[layer.channel]
    rows = np.moveaxis(array, layer.channel, -1).reshape(-1, channels).astype(np.float32)
    return np.asarray(rows.T @ rows, np.float64)


def _root(moment: Array) -> Array | None:
    """Return L of moment + ridge = L·Lᵀ; None where there is nothing to see."""
    mean = float(np.trace(moment)) / len(moment)
    if not np.isfinite(mean) or mean <= 0:
        return None
    return np.asarray(np.linalg.cholesky(moment / mean + _RIDGE * np.eye(len(moment))))
