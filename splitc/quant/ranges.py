"""Calibration: the range of every activation that will be integers, from data.

`minmax` takes the extremes; `percentile` cuts 0.001 % of the values off; `entropy` takes the
range whose histogram keeps most information (least Kullback–Leibler divergence). The last two are
onnxruntime's own collectors, fed a batch at a time: they alone would keep every activation of
every sample in memory.
"""

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitc.data import Dataset, fixed_batch
from splitc.errors import ModelError, did_you_mean
from splitc.execute import run, session
from splitc.model import Model

METHODS = ("minmax", "entropy", "percentile")
Range = tuple[float, float]
Batch = Mapping[str, NDArray[Any]]

_BYTES = 192 * 2**20
"""Activations held at a time."""
_BATCH = 16
_SETTINGS: Mapping[str, dict[str, Any]] = {
    "entropy": {"num_bins": 128, "num_quantized_bins": 128, "percentile": 100.0},
    "percentile": {"num_bins": 2048, "num_quantized_bins": 128, "percentile": 99.999},
}
"""What onnxruntime's calibrators of these names are set to; both ends of a range count here."""


def check(method: str) -> None:
    """Raise `ValueError` unless `method` is one of `METHODS`."""
    if method not in METHODS:
        raise ValueError(f"method = {method!r}; {did_you_mean(method, METHODS)}")


def ranges(
    model: Model, data: Dataset, tensors: Sequence[str], method: str = "minmax"
) -> dict[str, Range]:
    """Return tensor → (lowest, highest) over all samples of `data`.

    Raises `ModelError` naming a tensor that is not finite: no scale could hold it.
    """
    found: dict[str, Range] = {}
    for names in chunks(model, tensors):
        collect, result = _minmax() if method == "minmax" else _histogram(method)
        for batch in activations(model, data, names):
            collect(batch)
        found |= result()
    for name, (low, high) in found.items():
        if not np.isfinite(low) or not np.isfinite(high):
            raise ModelError(f"tensor {name!r} is not finite on the calibration data", where=name)
    return found


def some(data: Dataset, count: int) -> Dataset:
    """Return `count` samples at most, evenly spread: files are often sorted by class."""
    if len(data) <= count:
        return data
    return data.take(np.linspace(0, len(data) - 1, count).round().astype(np.int64))


def activations(model: Model, data: Dataset, tensors: Sequence[str]) -> Iterator[Batch]:
    """Yield the named tensors, some samples at a time, in order."""
    opened = session(model, outputs=tensors)
    for feeds in data.feeds(model, _BATCH):
        made = run(opened, feeds, [t for t in tensors if t not in feeds], model.source)
        yield {t: made[t] if t in made else feeds[t] for t in tensors}


def chunks(model: Model, tensors: Sequence[str]) -> Iterator[list[str]]:
    """Divide tensors so that a batch of each part stays within `_BYTES`."""
    batch = 1 if fixed_batch(model) else _BATCH
    chunk: list[str] = []
    size = 0
    for name in dict.fromkeys(tensors):
        needed = model.facts[name].nbytes * batch if name in model.facts else 0
        if chunk and size + needed > _BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(name)
        size += needed
    if chunk:
        yield chunk


Collector = tuple[Callable[[Batch], None], Callable[[], dict[str, Range]]]


def _minmax() -> Collector:
    found: dict[str, Range] = {}

    def collect(batch: Batch) -> None:
        for name, array in batch.items():
            low, high = found.get(name, (np.inf, -np.inf))
            extremes = (array.min(), array.max()) if array.size else (0.0, 0.0)
            ends = np.minimum(low, extremes[0]), np.maximum(high, extremes[1])
            found[name] = (float(ends[0]), float(ends[1]))

    return collect, lambda: found


def _histogram(method: str) -> Collector:
    from onnxruntime.quantization.calibrate import HistogramCollector

    made = HistogramCollector(method=method, symmetric=False, scenario="same", **_SETTINGS[method])

    def collect(batch: Batch) -> None:
        if bad := [name for name, array in batch.items() if not np.isfinite(array).all()]:
            raise ModelError(f"tensor {bad[0]!r} is not finite on the calibration data")
        made.collect_value(batch)

    def result() -> dict[str, Range]:
        with contextlib.redirect_stdout(io.StringIO()):
            table = made.compute_collection_result()
        return {name: _ends(*value[:2]) for name, value in table.items()}

    return collect, result


def _ends(low: Any, high: Any) -> Range:
    return float(np.asarray(low).item()), float(np.asarray(high).item())
