"""k-means in one dimension: a table of values, and for each weight the place of its nearest one.

Lloyd's iteration on sorted values, from runs that were halved where the error was largest. No
random numbers.
"""

import heapq
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 100


def codebook(values: NDArray[Any], size: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return (`size` float32 centres at most, ascending; uint8 places, shaped as `values`).

    No centre is lost where the values are few: then nothing changes.
    """
    assert 1 <= size <= 256
    flat = values.reshape(-1).astype(np.float64)
    distinct = np.unique(flat)
    centres = distinct if len(distinct) <= size else _settled(np.sort(flat), size)
    table = np.unique(centres.astype(np.float32))
    places = np.searchsorted(_middles(table), flat.astype(np.float32))
    return table, places.astype(np.uint8).reshape(values.shape)


def _middles(centres: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray((centres[1:].astype(np.float64) + centres[:-1]) / 2)


def _settled(ordered: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Move centres to the mean of what is nearest to them until nothing moves."""
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    edges = _parts(ordered, size)
    for _ in range(_ROUNDS):
        centres = np.diff(sums[edges]) / np.diff(edges)
        moved = np.concatenate([[0], np.searchsorted(ordered, _middles(centres)), edges[-1:]])
        moved = np.unique(moved)  # a centre that nothing is nearest to is no centre
        if np.array_equal(moved, edges):
            break
        edges = moved
    return np.asarray(np.diff(sums[edges]) / np.diff(edges))


def _parts(ordered: NDArray[np.float64], size: int) -> NDArray[np.int64]:
    """Divide sorted values into `size` runs: the one with most squared error is halved, again.

    It is halved at its mean, so that a few large values get a run of their own early.
    """
    sums = [np.concatenate([[0.0], np.cumsum(ordered**power)]) for power in (1, 2)]

    def run(low: int, high: int) -> tuple[float, int, int]:
        total, squares = (s[high] - s[low] for s in sums)
        gain = float(total * total / (high - low) - squares) if high - low > 1 else 0.0
        return min(gain, 0.0), low, high

    heap = [run(0, len(ordered))]
    while len(heap) < size:
        _, low, high = heap[0]
        if high - low == 1:
            break
        heapq.heappop(heap)
        mean = (sums[0][high] - sums[0][low]) / (high - low)
        middle = int(np.clip(np.searchsorted(ordered[low:high], mean) + low, low + 1, high - 1))
        heapq.heappush(heap, run(low, middle))
        heapq.heappush(heap, run(middle, high))
    return np.array([0, *sorted(high for _, _, high in heap)])
