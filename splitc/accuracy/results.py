"""What a network answers on a data set: the outputs of all samples, and how noisy they are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitc.data import Dataset, fixed_batch
from splitc.errors import ModelError
from splitc.execute import run, session
from splitc.model import Model, info

_BYTES_AT_A_TIME = 16 * 2**20
_LARGEST_BATCH = 64

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Results:
    """Outputs of all samples (first axis), their labels, and the original network's outputs."""

    outputs: Outputs
    labels: NDArray[Any] | None = None
    reference: Outputs | None = None

    @property
    def first(self) -> NDArray[Any]:
        """The first output."""
        return next(iter(self.outputs.values()))

    def take(self, at: NDArray[np.int64]) -> "Results":
        """Return the samples at `at`; one may stand there more than once."""
        labels = None if self.labels is None else self.labels[at]
        reference = None if self.reference is None else _rows(self.reference, at)
        return Results(_rows(self.outputs, at), labels, reference)


def _rows(outputs: Outputs, at: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    return {name: array[at] for name, array in outputs.items()}


def predict(
    model: Model, data: Dataset, outputs: Sequence[str] | None = None, *, threads: int = 1
) -> dict[str, NDArray[Any]]:
    """Run `model` in onnxruntime on all samples; return output → array, first axis = samples.

    An output without the batch in front (a state) is stacked, which needs a batch of 1: else
    `ModelError`. The arrays are read-only. `outputs`: names, None for all graph outputs.
    """
    names = [t.name for t in model.outputs] if outputs is None else list(outputs)
    opened = session(model, threads=threads, outputs=outputs)
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for feed in data.feeds(model, _batch(model, data, names)):
        for name, array in run(opened, feed, names, model.source).items():
            parts[name].append(array)
    filled = (fixed_batch(model) or 1) > 1
    return {
        name: joined(name, made, len(data), model.source, filled=filled)
        for name, made in parts.items()
    }


def _batch(model: Model, data: Dataset, names: Sequence[str]) -> int:
    """Return how many samples to run at once: at most 64, at most 16 MB of inputs.

    One, where the batch is symbolic and an output's size in front is not: it cannot be along it.
    """
    fronts = [info(model.values[name]).shape[:1] for name in names]
    if any(not front or isinstance(front[0], int) for front in fronts):
        return 1
    sample = sum(array.nbytes for array in data.inputs.values()) // len(data)
    return max(1, min(_LARGEST_BATCH, _BYTES_AT_A_TIME // max(sample, 1)))


def joined(
    name: str, parts: Sequence[NDArray[Any]], count: int, where: str, *, filled: bool = False
) -> NDArray[Any]:
    """Put the answers of several runs together: first axis = `count` samples, read-only.

    `filled`: the last run may hold more than the samples that are left. Raises `ModelError` where
    samples cannot be told apart.
    """
    alone = len(parts) == count and not filled
    if alone and any(part.shape[:1] != (1,) for part in parts):
        whole = np.stack(parts)
    elif all(part.ndim for part in parts) and sum(map(len, parts)) >= count:
        whole = np.concatenate(parts)[:count]
    else:
        raise ModelError(
            f"output {name!r} has no axis in front that counts the samples of a batch",
            where=where,
            hint="--input with a batch of 1 runs one sample at a time",
        )
    whole.flags.writeable = False
    return whole


def snr_db(want: NDArray[Any], got: NDArray[Any]) -> float:
    """Return 10·log10(Σ y² / Σ (y−ŷ)²), dB: infinite where nothing differs, −inf for NaN."""
    a, b = want.astype(np.float64), got.astype(np.float64)
    noise, signal = float(np.sum((a - b) ** 2)), float(np.sum(a**2))
    if noise == 0:
        return math.inf
    if not math.isfinite(noise) or not signal:
        return -math.inf
    return 10 * math.log10(signal / noise)
