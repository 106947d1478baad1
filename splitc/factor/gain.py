"""How much of a layer's error reaches the network's outputs, measured layer by layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitc.accuracy import predict
from splitc.data import Dataset
from splitc.factor.layers import Layer
from splitc.factor.rewrite import Rewrite
from splitc.model import Model

_SAMPLES = 32
_PROBE = 0.01
"""Squared relative error at which a layer is probed, or as near as its ranks come."""


def gains(model: Model, known: Sequence[Layer], data: Dataset) -> dict[str, float]:
    """Return node → squared relative error of the outputs per squared relative error of the layer.

    Each layer alone is factored, and the network runs on up to 32 samples. Outputs of floats
    count alike.
    """
    step = max(1, len(data) // _SAMPLES)
    some = data.take(slice(0, step * _SAMPLES, step))
    want = predict(model, some)
    return {layer.node: _gain(model, layer, some, want) for layer in known if layer.options}


def _gain(model: Model, layer: Layer, data: Dataset, want: Mapping[str, NDArray[Any]]) -> float:
    option = min(layer.options, key=lambda o: abs(np.log(max(o.error, 1e-12) / _PROBE)))
    copy = model.clone()
    rewrite = Rewrite(copy.ir)
    parts, error = layer.factors(option)
    rewrite.factor(dict(copy.nodes)[layer.node], layer, option, parts)
    got = predict(copy, data)
    far = [_far(want[name], got[name]) for name in want if want[name].dtype.kind == "f"]
    return float(np.mean(far or [1.0])) / max(error**2, 1e-12)


def _far(want: NDArray[Any], got: NDArray[Any]) -> float:
    power = float(np.sum(want.astype(np.float64) ** 2))
    return float(np.sum((want.astype(np.float64) - got) ** 2)) / max(power, 1e-300)
