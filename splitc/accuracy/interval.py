"""95 % intervals of a drop, from results on the same samples before and after."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Z = 1.959963984540054
"""The normal distribution's quantile at 0.975."""

Interval = tuple[float, float]


def paired(
    before: NDArray[np.float64], after: NDArray[np.float64], *, one_way: bool = False
) -> tuple[Interval | None, str]:
    """Return the interval of mean(before − after), and how it was made; values lie in [0, 1].

    Hits and misses: `matched`; `proportion` where nothing can be won (`one_way`). Shares of a
    sample (several positions each): Student's t of the differences, mean ± t₀.₉₇₅(n−1)·s/√n; no
    interval for a single sample.
    """
    if _binary(before) and _binary(after):
        lost = int(np.sum((before == 1) & (after == 0)))
        won = int(np.sum((before == 0) & (after == 1)))
        if one_way and not won:
            return proportion(lost, len(before)), "proportion, Wilson"
        return matched(lost, won, len(before)), "matched proportions, Agresti and Min"
    if len(before) < 2:
        return None, "one sample has no spread"
    from scipy.stats import t

    drop = before - after
    half = float(t.ppf(0.975, len(drop) - 1)) * float(np.std(drop, ddof=1)) / math.sqrt(len(drop))
    middle = float(np.mean(drop))
    return (max(middle - half, -1.0), min(middle + half, 1.0)), "Student's t of paired differences"


def _binary(values: NDArray[np.float64]) -> bool:
    return bool(np.all((values == 0) | (values == 1)))


def matched(lost: int, won: int, samples: int) -> Interval:
    """Return the interval of (lost − won) / samples for matched pairs of hits and misses.

    Wald's interval after half a pair is added to each of the four cells: with b = lost + ½,
    c = won + ½, n = samples + 2, it is (b−c)/n ± z·√(b + c − (b−c)²/n)/n, within [−1, 1]. It
    keeps its coverage at small n, where Wald's own has none. Source: A. Agresti, Y. Min, "Simple
    improved confidence intervals for comparing matched proportions", Statistics in Medicine 24
    (2005) 729–740.
    """
    b, c, n = lost + 0.5, won + 0.5, samples + 2
    half = Z * math.sqrt(b + c - (b - c) ** 2 / n) / n
    return max((b - c) / n - half, -1.0), min((b - c) / n + half, 1.0)


def proportion(hits: int, samples: int) -> Interval:
    """Return Wilson's score interval of hits / samples.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    Journal of the American Statistical Association 22 (1927) 209–212.
    """
    share, square = hits / samples, Z * Z
    middle = (share + square / (2 * samples)) / (1 + square / samples)
    spread = share * (1 - share) / samples + square / (4 * samples**2)
    half = Z * math.sqrt(spread) / (1 + square / samples)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def bootstrap(
    drop: Callable[[NDArray[np.int64]], float], samples: int, resamples: int, seed: int = 0
) -> Interval:
    """Return the percentile interval of `drop` over resampled sets of samples, drawn in pairs.

    `drop` maps indices (with repeats) to the drop on those samples. Source: B. Efron,
    R. Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
    """
    rng = np.random.default_rng(seed)
    drawn = [drop(rng.integers(0, samples, samples)) for _ in range(resamples)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)
