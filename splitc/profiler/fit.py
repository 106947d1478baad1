"""Fit the additive predictor: seconds = call + Σ a·operations + b·bytes + c·groups, by family.

Features are the price list's own (`cost.roofline.works`, `cost.groups`), so what is fitted is what
is later asked. Least squares on *relative* errors with coefficients ≥ 0, by `scipy.optimize.nnls`;
a weak pull towards this machine's peak and bandwidth decides what the probes leave open.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splitc.cost.groups import groups
from splitc.cost.roofline import CALL, base, counted, family_of, traffic, works
from splitc.model import Model

Row = tuple[float, float, float]
Features = Mapping[str, Row]
"""Family → (operations, bytes, groups) of one network."""

_PULL = 0.003
"""Weight of the pull, against 1 for the relative error of one probe."""

_FOLDS = 8
_OTHER = ("elementwise", "layout", "reduce")


@dataclass(frozen=True)
class Sample:
    """One measured network."""

    name: str
    features: Features
    seconds: float


@dataclass(frozen=True)
class Start:
    """Where the pull goes: seconds per operation, per byte and per group of a plain kernel."""

    per_op: float
    per_byte: float
    per_group: float = 2e-6


def features(model: Model) -> dict[str, Row]:
    """Add up the work of a model's groups by family; bodies count as matrix kernels."""
    work = works(model)
    size = {name: fact.nbytes for name, fact in model.facts.items()}
    found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for group in groups(model):
        parts = [work[name] for name in group]
        own = found[family_of(parts)]
        own[1] += traffic(model.graph, group, work, size)
        own[2] += 1
        for part in counted(parts):
            found["gemm" if base(part.family) == "control" else part.family][0] += part.ops
    return {family: (row[0], row[1], row[2]) for family, row in found.items()}


def predict(predictor: Mapping[str, Row], asked: Features) -> float:
    """Return the seconds of one run of a network with these features."""
    parts = (
        v * w for family, row in asked.items() for v, w in zip(row, predictor[family], strict=True)
    )
    return predictor[CALL][2] + sum(parts)


def fit(samples: Sequence[Sample], start: Start) -> dict[str, Row]:
    """Return family → (seconds per operation, per byte, per group), with 'call' and 'other'."""
    families = sorted({family for sample in samples for family in sample.features})
    found = _solve(samples, families, start)
    if "control" in found:
        found["control"] = (found["gemm"][0], *found["control"][1:])
    rows = [found[family] for family in _OTHER]
    found["other"] = (max(r[0] for r in rows), max(r[1] for r in rows), max(r[2] for r in rows))
    return found


def _solve(samples: Sequence[Sample], families: Sequence[str], start: Start) -> dict[str, Row]:
    """Solve min |A·z / y − 1|² + pull · |z − 1|², z ≥ floor: z is a coefficient over its start."""
    from scipy.optimize import nnls

    unit = np.array([start.per_op, start.per_byte, start.per_group])
    table = np.array([_vector(sample.features, families, unit) for sample in samples])
    table /= np.array([[sample.seconds] for sample in samples])
    width = table.shape[1]
    pull = math.sqrt(_PULL) * np.eye(width)
    floor = np.full(width, 0.02)
    wanted = np.concatenate([np.ones(len(samples)), np.full(width, math.sqrt(_PULL))])
    system = np.concatenate([table, pull])
    solved, _ = nnls(system, wanted - system @ floor)
    scaled = (solved + floor)[1:].reshape(-1, 3) * unit
    found = {
        f: (float(r[0]), float(r[1]), float(r[2])) for f, r in zip(families, scaled, strict=True)
    }
    return {CALL: (0.0, 0.0, float(solved[0] + floor[0]) * start.per_group), **found}


def _vector(
    asked: Features, families: Sequence[str], unit: NDArray[np.float64]
) -> NDArray[np.float64]:
    rows = [np.array(asked.get(family, (0.0, 0.0, 0.0))) * unit for family in families]
    return np.concatenate([[unit[2]], *rows])


def band(samples: Sequence[Sample], start: Start) -> float:
    """Return the factor within which 90 % of probes lie that their own fit has not seen."""
    families = sorted({family for sample in samples for family in sample.features})
    factors = []
    for fold in range(_FOLDS):
        seen = [s for at, s in enumerate(samples) if at % _FOLDS != fold]
        fitted = _solve(seen, families, start)
        for sample in samples[fold::_FOLDS]:
            factors.append(abs(math.log(predict(fitted, sample.features) / sample.seconds)))
    return math.exp(float(np.quantile(factors, 0.9)))
