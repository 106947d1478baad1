"""The gate: how much worse a changed network does its task, on the same samples as the original."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitc.accuracy import interval
from splitc.accuracy.metrics import Agreement, Custom, Metric
from splitc.accuracy.results import Outputs, Results, predict, snr_db
from splitc.data import Dataset
from splitc.errors import RequestError
from splitc.model import Model


@dataclass(frozen=True)
class Score:
    """A metric's value on some samples; percent for top1 and agreement.

    `stderr`: the standard error of the mean over samples, in the value's unit; None where the
    metric is the user's.
    """

    metric: str
    value: float
    samples: int
    higher_is_better: bool = True
    stderr: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What a change costs. `drop` is positive where the changed network is worse.

    In percentage points for top1 and agreement, in the metric's unit for a user's. `interval`:
    95 % of the drop, paired on the same samples, made by `method`; where it is None, `method`
    says why. `snr_db`: of the first output against the original's, infinite if equal, None if it
    holds no floats. `random`: the samples were drawn, so this is no accuracy.
    """

    metric: str
    before: float
    after: float
    drop: float
    interval: tuple[float, float] | None
    method: str
    samples: int
    snr_db: float | None
    max_drop: float | None = None
    random: bool = False
    unit: str = "points"

    @property
    def ok(self) -> bool:
        """Whether the drop is within `max_drop`; without one, nothing is asked."""
        return self.max_drop is None or round(self.drop, 9) <= self.max_drop

    @property
    def clear(self) -> bool:
        """Whether the drop keeps one standard error away from `max_drop`: for those who choose.

        What is chosen to be just within a limit on some samples is beyond it on half of all others.
        A drop of 0 or less is always clear: few samples must not forbid everything.
        """
        if self.max_drop is None:
            return True
        low, high = self.interval or (0.0, 0.0)
        error = (high - low) / (2 * 1.96)
        return round(self.drop, 9) <= max(self.max_drop - error, 0.0)

    def to_json(self) -> dict[str, Any]:
        """Return the fields and `ok`, which is null where nothing was asked.

        An infinite `snr_db` is null too.
        """
        snr = self.snr_db if self.snr_db is not None and math.isfinite(self.snr_db) else None
        return {
            "metric": self.metric,
            "unit": self.unit,
            "before": _finite(self.before),
            "after": _finite(self.after),
            "drop": _finite(self.drop),
            "interval": None if self.interval is None else list(self.interval),
            "method": self.method,
            "samples": self.samples,
            "snr_db": snr,
            "random": self.random,
            "max_drop": self.max_drop,
            "ok": None if self.max_drop is None else self.ok,
        }

    def summary(self) -> list[str]:
        """Return lines for people."""
        spread = (
            f"no interval: {self.method}"
            if self.interval is None
            else f"95 % between {self.interval[0]:.4g} and {self.interval[1]:.4g}"
        )
        lines = [
            f"{self.metric} {self.before:.4g} → {self.after:.4g}, drop {self.drop:.4g} {self.unit} "
            f"({spread}; {self.samples} samples, the same before and after)"
        ]
        if self.snr_db is not None:
            noise = "nothing differs" if self.snr_db == math.inf else f"{self.snr_db:.1f} dB"
            lines.append(f"signal to noise of the first output: {noise}")
        return [*lines, *self._gate(), *self._doubts()]

    def _gate(self) -> list[str]:
        if self.max_drop is None:
            return ["ungated: no --max-drop was given"]
        return [f"gate {'kept' if self.ok else 'BROKEN'}: at most {self.max_drop:g} {self.unit}"]

    def _doubts(self) -> list[str]:
        lines = []
        if self.random:
            lines.append("RANDOM INPUTS, NO DATA: this says nothing about accuracy; give --data")
        limit = math.inf if self.max_drop is None else self.max_drop
        if self.ok and self.interval is not None and self.interval[1] > limit:
            lines.append("the interval reaches beyond the gate: more samples would settle it")
        return lines


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class Gate:
    """Compares changed networks with one original; what the original answers is computed once."""

    def __init__(self, original: Model, data: Dataset, metric: Metric, *, threads: int = 1) -> None:
        self.original, self.data, self.metric, self.threads = original, data, metric, threads

    def judge(self, changed: Model, max_drop: float | None = None) -> Verdict:
        """Return what `changed` costs against the original, which has the same outputs.

        Raises `RequestError` if the metric cannot be computed, or is no number for the original.
        """
        return self.compare(self._run(changed), max_drop)

    def compare(self, outputs: Outputs, max_drop: float | None = None) -> Verdict:
        """Return what it costs to answer `outputs` (first axis = samples) instead; see `judge`."""
        before, after = self._results(self._reference), self._results(outputs)
        base, higher = self._value(before)
        value, _ = self._value(after)
        if not math.isfinite(base):
            text = f"{self.metric.name} of the original network is {base}"
            raise RequestError(text, where=self.data.source)
        spread, method = self._interval(before, after)
        return Verdict(
            metric=self.metric.name,
            before=base,
            after=value,
            drop=base - value if higher else value - base,
            interval=spread,
            method=method,
            samples=len(self.data),
            snr_db=_snr(before.first, after.first),
            max_drop=max_drop,
            random=self.data.drawn,
            unit="units" if isinstance(self.metric, Custom) else "points",
        )

    @cached_property
    def _reference(self) -> Outputs:
        return self._run(self.original)

    def _run(self, model: Model) -> Outputs:
        return predict(model, self.data, self._names, threads=self.threads)

    @property
    def _names(self) -> list[str]:
        names = [info.name for info in self.original.outputs]
        return names if isinstance(self.metric, Custom) else names[:1]

    def _results(self, outputs: Outputs) -> Results:
        reference = None if isinstance(self.metric, Custom) else self._reference
        return Results(outputs, self.data.labels, reference)

    def _value(self, results: Results) -> tuple[float, bool]:
        if isinstance(self.metric, Custom):
            return self.metric.value(results)
        return 100 * float(self.metric.hits(results).mean()), True

    def _interval(self, before: Results, after: Results) -> tuple[tuple[float, float] | None, str]:
        if isinstance(self.metric, Custom):
            return self._resampled(before, after)
        hits = self.metric.hits(before), self.metric.hits(after)
        made, method = interval.paired(*hits, one_way=isinstance(self.metric, Agreement))
        return (None if made is None else (100 * made[0], 100 * made[1])), method

    def _resampled(self, before: Results, after: Results) -> tuple[tuple[float, float] | None, str]:
        """Return the bootstrap interval of a user's metric, or None and why there is none."""
        assert isinstance(self.metric, Custom)
        metric, count = self.metric, self.metric.resamples
        if count < 1:
            return None, "the function asks for no resampling"
        if len(self.data) < 2:
            return None, "one sample cannot be resampled"

        def drop(at: NDArray[np.int64]) -> float:
            one, higher = metric.value(before.take(at))
            other, _ = metric.value(after.take(at))
            return one - other if higher else other - one

        try:
            low, high = interval.bootstrap(drop, len(self.data), count)
        except RequestError as error:
            return None, f"on resampled data {error.args[0]}"
        if not math.isfinite(low) or not math.isfinite(high):
            return None, "on resampled data the metric is no number"
        return (low, high), f"paired bootstrap, {count} resamples, seed 0"


def _snr(want: NDArray[Any], got: NDArray[Any]) -> float | None:
    if want.dtype.kind not in "fV" or want.shape != got.shape:
        return None
    return snr_db(want, got)


def measure(
    model: Model,
    data: Dataset,
    metric: Metric,
    reference: Model | None = None,
    *,
    threads: int = 1,
) -> Score:
    """Return the metric's value on all samples; agreement needs the network to agree with.

    Raises `RequestError` for labels, outputs or a function that do not fit.
    """
    names = None if isinstance(metric, Custom) else [model.outputs[0].name]
    base = None
    if reference is not None and not isinstance(metric, Custom):
        base = predict(reference, data, names, threads=threads)
    results = Results(predict(model, data, names, threads=threads), data.labels, base)
    if isinstance(metric, Custom):
        value, higher = metric.value(results)
        return Score(metric.name, value, len(data), higher)
    hits = 100 * metric.hits(results)
    spread = float(hits.std()) / math.sqrt(len(hits))
    return Score(metric.name, float(hits.mean()), len(data), stderr=spread)


def judge(
    original: Model,
    changed: Model,
    data: Dataset,
    metric: Metric,
    max_drop: float | None = None,
    *,
    threads: int = 1,
) -> Verdict:
    """Compare two networks on the same samples; see `Gate` to compare several with one."""
    return Gate(original, data, metric, threads=threads).judge(changed, max_drop)
