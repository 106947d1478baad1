"""Choose ranks: by the energy that each layer keeps, or by what all layers together must save."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from splitc.factor.layers import Layer, Option

Chosen = Mapping[str, Option]
"""Node → the ranks that it gets; a node that is not there stays as it is."""

_STEPS = 4096


def by_energy(layers: Sequence[Layer], energy: float) -> dict[str, Option]:
    """Return for each layer the fewest MACs that keep this share of its weight's energy.

    Energy is the sum of squares, so the relative Frobenius error is at most √(1 − energy).
    """
    chosen = {}
    for layer in layers:
        fits = [option for option in layer.options if option.error <= 1 - energy]
        if fits:
            chosen[layer.node] = min(fits, key=lambda option: (option.macs, option.error))
    return chosen


def by_target(
    layers: Sequence[Layer],
    cost: str,
    need: int,
    harms: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, Option] | None:
    """Save at least `need` of `cost` ('macs' or 'bytes') at the least sum of harms.

    `harms`: node → what each of the layer's options does to the outputs; else its squared error.
    A multiple-choice knapsack, solved by dynamic programming over what is saved in steps of
    need / 4096, rounded down: exact but for that. None if all layers together cannot save that
    much.
    """
    if most(layers, cost) < need:
        return None
    least = np.full(_STEPS + 1, np.inf)  # [steps saved at least] → error
    least[0] = 0.0
    picks: list[tuple[list[int], NDArray[np.int64]]] = []
    for layer in layers:
        saved = [min(_saved(layer, o, cost) * _STEPS // need, _STEPS) for o in layer.options]
        harm = (harms or {}).get(layer.node) or [option.error for option in layer.options]
        best, pick = least.copy(), np.full(_STEPS + 1, -1)
        for number, (steps, bad) in enumerate(zip(saved, harm, strict=True)):
            error = _shifted(least, steps) + bad
            better = error < best
            best[better], pick[better] = error[better], number
        least = best
        picks.append((saved, pick))
    if not np.isfinite(least[-1]):
        return {
            x.node: max(x.options, key=lambda o: _saved(x, o, cost)) for x in layers if x.options
        }
    return _traced(layers, picks)


def _shifted(least: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """Return the errors of what is left to save once these steps are."""
    return np.concatenate([np.full(steps, least[0]), least[: len(least) - steps]])


def _traced(
    layers: Sequence[Layer], picks: Sequence[tuple[list[int], NDArray[np.int64]]]
) -> dict[str, Option]:
    chosen, left = {}, _STEPS
    for layer, (saved, pick) in zip(layers[::-1], picks[::-1], strict=True):
        if (number := int(pick[left])) >= 0:
            chosen[layer.node] = layer.options[number]
            left = max(left - saved[number], 0)
    return chosen


def most(layers: Sequence[Layer], cost: str) -> int:
    """Return the most that all layers together can save."""
    return sum(max((_saved(x, o, cost) for o in x.options), default=0) for x in layers)


def _saved(layer: Layer, option: Option, cost: str) -> int:
    return int(getattr(layer, cost) - getattr(option, cost))
