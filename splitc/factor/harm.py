"""How much of a layer's error reaches the network's outputs, measured layer by layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitc.accuracy import predict
from splitc.data import Dataset
from splitc.factor.layers import Layer, Option
from splitc.factor.rewrite import Rewrite
from splitc.model import Model

_SAMPLES = 32
_PROBES = (0.003, 0.03, 0.15, 0.5)
"""Squared relative errors at which a layer is probed, or as near as its ranks come."""
_TINY = 1e-12


def harms(model: Model, known: Sequence[Layer], data: Dataset) -> dict[str, list[float]]:
    """Return node → the squared relative error of the outputs for each of the layer's options.

    Each layer alone is factored, with a few of its options, and the network runs on up to 32
    samples; between these, logarithms are interpolated. All outputs of floats count alike. Small
    errors may fade on their way and large ones need not, so one probe would not do.
    """
    step = max(1, len(data) // _SAMPLES)
    some = data.take(slice(0, step * _SAMPLES, step))
    want = predict(model, some)
    return {layer.node: _harm(model, layer, some, want) for layer in known if layer.options}


def _harm(
    model: Model, layer: Layer, data: Dataset, want: Mapping[str, NDArray[Any]]
) -> list[float]:
    errors = np.log(np.maximum([option.error for option in layer.options], _TINY))
    probed = sorted({int(np.argmin(np.abs(errors - np.log(probe)))) for probe in _PROBES})
    seen = np.log([_measured(model, layer, layer.options[at], data, want) for at in probed])
    known = errors[probed]
    # beyond the probes the outputs' error grows as the layer's does
    inside = np.interp(errors, known, np.maximum.accumulate(seen))
    outside = errors - np.clip(errors, known[0], known[-1])
    return [float(harm) for harm in np.exp(inside + outside)]


def _measured(
    model: Model, layer: Layer, option: Option, data: Dataset, want: Mapping[str, NDArray[Any]]
) -> float:
    copy = model.clone()
    parts, _ = layer.factors(option)
    Rewrite(copy.ir).factor(dict(copy.nodes)[layer.node], layer, option, parts)
    got = predict(copy, data)
    far = [_far(want[name], got[name]) for name in want if want[name].dtype.kind == "f"]
    return max(float(np.mean(far or [1.0])), _TINY)


def _far(want: NDArray[Any], got: NDArray[Any]) -> float:
    power = float(np.sum(want.astype(np.float64) ** 2))
    return float(np.sum((want.astype(np.float64) - got) ** 2)) / max(power, _TINY)
