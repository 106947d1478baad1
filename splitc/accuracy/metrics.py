"""Metrics: top-1 against labels, top-1 agreement with the original, or the user's own function.

Top-1 looks at the first output. Logits of shape (samples, classes), or one prediction for each of
several positions: (samples, positions, classes), (samples, classes, height, width). One value per
sample is a decision: above 0.5 if all values are probabilities, else above 0. Integers are
predictions already. A row with a NaN predicts nothing, so it never counts.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from splitc.accuracy.results import Results
from splitc.data import Dataset
from splitc.errors import RequestError, did_you_mean
from splitc.importing import call, function, importable

_SHAPE = "a metric is fn(outputs: dict of arrays, labels) -> (value, higher_is_better)"
_OWN = "--metric pkg.mod:fn takes a function of your own"
RESAMPLES = 200
"""How often a user's metric is evaluated on resampled data, before and after each."""


@dataclass(frozen=True)
class Top1:
    """Share of samples whose largest logit is the label's, in percent."""

    name: ClassVar[str] = "top1"

    def hits(self, results: Results) -> NDArray[np.float64]:
        """Return each sample's share of right predictions, 0 to 1."""
        if results.labels is None:
            raise RequestError("top1 needs labels", hint="an array 'label', or --metric agreement")
        made = predictions(results)
        return _share(made, _labels(results.labels, made.shape, _classes(results.first)))


@dataclass(frozen=True)
class Agreement:
    """Share of samples on which the prediction is the original network's, in percent."""

    name: ClassVar[str] = "agreement"

    def hits(self, results: Results) -> NDArray[np.float64]:
        """Return each sample's share of predictions that agree, 0 to 1."""
        if results.reference is None:
            raise RequestError("agreement needs the original network to compare with")
        original = Results(results.reference, reference=results.reference)
        return _share(predictions(results), predictions(original))


@dataclass(frozen=True)
class Custom:
    """The user's function: ``fn(outputs, labels) -> (value, higher_is_better)``.

    An attribute ``resamples`` on the function replaces `RESAMPLES`; 0 means that there is to be
    no interval.
    """

    name: str
    fn: Callable[..., Any] = field(compare=False, repr=False)

    def value(self, results: Results) -> tuple[float, bool]:
        """Call the function; `RequestError` if it fails, or returns something else."""
        what = f"the metric {self.name!r}"
        made = call(self.fn, dict(results.outputs), results.labels, what=what, where=self.name)
        try:
            value, higher = made
            return float(value), bool(higher)
        except (TypeError, ValueError) as error:
            shown = f"{what} returns {made!r:.80}"
            raise RequestError(shown, where=self.name, hint=_SHAPE) from error

    @property
    def resamples(self) -> int:
        """How often the function may be called on resampled data."""
        return int(getattr(self.fn, "resamples", RESAMPLES))


Metric = Top1 | Agreement | Custom


def metric(name: str | None, data: Dataset) -> Metric:
    """Return the metric of that name; None is top1 where `data` have labels, else agreement.

    ``pkg.mod:fn`` is the user's function, which RUNS that code. Raises `RequestError` for another
    name, or for top1 without labels.
    """
    if name is None:
        return Agreement() if data.labels is None else Top1()
    if name == Top1.name and data.labels is None:
        hint = "an array 'label', or --metric agreement"
        raise RequestError("top1 needs labels", where=data.source, hint=hint)
    if name in (Top1.name, Agreement.name):
        return Top1() if name == Top1.name else Agreement()
    if ":" not in name:
        hint = f"{did_you_mean(name, (Top1.name, Agreement.name))}; {_OWN}"
        raise RequestError(f"unknown metric {name!r}", hint=hint)
    with importable():
        return Custom(name, function(name, shape=_SHAPE, spelling="name a metric as pkg.mod:fn"))


def predictions(results: Results) -> NDArray[np.int64]:
    """Return the predicted class of each sample (n,), or of its positions (n, …); −1 for NaN."""
    output = _plain(results.first)
    if output.dtype.kind in "iub":
        return output.astype(np.int64)
    if output.dtype.kind == "V":  # ml_dtypes
        output = output.astype(np.float32)
    if output.dtype.kind != "f":
        raise RequestError(f"the first output is {output.dtype.name}: no logits", hint=_OWN)
    if output.ndim == 1:
        reference = output if results.reference is None else _plain(_first(results))
        limit = 0.5 if np.all((reference >= 0) & (reference <= 1)) else 0.0
        return np.where(np.isnan(output), -1, output > limit).astype(np.int64)
    axis = 1 if output.ndim > 3 else -1
    made = np.argmax(output, axis).astype(np.int64)
    return np.where(np.isnan(output).any(axis), -1, made)


def _first(results: Results) -> NDArray[Any]:
    assert results.reference is not None
    return next(iter(results.reference.values()))


def _plain(output: NDArray[Any]) -> NDArray[Any]:
    """Drop axes of size 1 after the first."""
    return output.reshape(len(output), *(size for size in output.shape[1:] if size != 1))


def _classes(output: NDArray[Any]) -> int | None:
    plain = _plain(output)
    if plain.dtype.kind in "iub":
        return None
    return 2 if plain.ndim == 1 else plain.shape[1 if plain.ndim > 3 else -1]


def _labels(labels: NDArray[Any], shape: tuple[int, ...], classes: int | None) -> NDArray[np.int64]:
    """Check labels against predictions of that shape."""
    if labels.dtype.kind not in "iub":
        raise RequestError(f"labels are {labels.dtype.name}, top1 needs integers", hint=_OWN)
    if _plain(labels).shape != shape:
        found = f"labels have the shape {list(labels.shape)}, the predictions {list(shape)}"
        raise RequestError(found, hint=_OWN)
    low, high = int(labels.min()), int(labels.max())
    if classes is not None and (low < 0 or high >= classes):
        hint = f"labels count from 0, in the order of the logits; {_OWN}"
        raise RequestError(f"labels from {low} to {high}, but {classes} classes", hint=hint)
    return _plain(labels).astype(np.int64)


def _share(made: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.float64]:
    right = ((made == wanted) & (made >= 0)).reshape(len(made), -1)
    return np.asarray(right.mean(axis=1), np.float64)
