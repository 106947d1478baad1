"""`optimize --search`: the ratio and the precision of each side that save most within the gate.

What is saved is counted in bit operations (BOPs): each MAC counts the bits of one operand times
those of the other (Baskin et al., UNIQ, 2021), so a MAC in int8 is a sixteenth of one in float32.
Every candidate is judged on one half of the evaluation data, where it must keep one standard error
away from the gate; the other half judges the winner.

For each choice of precisions the largest ratio that holds is found by bisection: the drop is taken
to grow with the ratio. Candidates are not trained; the winner is, if there is a recipe.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from splitc import pipeline
from splitc.data import Dataset
from splitc.errors import ModelError, PassError, RequestError
from splitc.judging import Judge, Told
from splitc.macs import macs
from splitc.model import Model
from splitc.pipeline import Pass, Resources
from splitc.quant.share import int8_mac_share
from splitc.scope import BOTH, HEAD, TAIL, Boundary

RATIOS = tuple(round(step / 20, 2) for step in range(1, 19))
"""What a `ratio` may be: 5 % to 90 %."""

_FLOAT, _INT8 = 32 * 32, 8 * 8


@dataclass(frozen=True)
class Trial:
    """One candidate: its passes, what it costs (`drop`, None where it cannot be made), its BOPs."""

    passes: tuple[Pass, ...]
    drop: float | None
    ok: bool
    bops: float
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return {"passes", "drop", "ok", "bops"} and, where it cannot be made, "why".

        A drop that is no number, as a metric of the user's may give, is null.
        """
        drop = self.drop if self.drop is not None and math.isfinite(self.drop) else None
        made = {"passes": pipeline.text(self.passes), "drop": drop, "ok": self.ok}
        return {**made, "bops": self.bops, **({"why": self.why} if self.why else {})}


def bops(model: Model) -> float:
    """Return the bit operations of one inference: MACs × bits × bits."""
    total, share = sum(macs(model).values()), int8_mac_share(model)
    return total * (share * _INT8 + (1 - share) * _FLOAT)


def search(
    passes: Sequence[Pass],
    model: Model,
    resources: Resources,
    *,
    pin: Sequence[str] = (),
    boundary: Boundary | None = None,
    told: Told | None = None,
) -> tuple[tuple[Pass, ...], tuple[Trial, ...]]:
    """Return the passes with the ratios and precisions that save most, and all that was tried.

    Raises `RequestError` without `max_drop` or data, or where nothing is left to choose;
    `PassError` where no candidate holds the gate.
    """
    judged = _tuning(resources)
    choices = list(_precisions(passes, boundary))
    if len(choices) == 1 and not _with_ratio(passes):
        hint = "it chooses ratios (prune{…}) and precisions (quantize{…})"
        raise RequestError("--search has nothing to choose", hint=hint)
    trials = _Trials(model, judged, pin, boundary, told)
    for steps in choices:
        trials.largest(steps)
    good = [trial for trial in trials.made if trial.ok]
    if not good:
        raise PassError(
            "no candidate keeps the accuracy gate",
            where=f"{len(trials.made)} tried; the first: {trials.made[0].why or 'drops too much'}",
            hint="a larger --max-drop, or --train for what pruning breaks",
        )
    return min(good, key=_rank).passes, tuple(trials.made)


def _rank(trial: Trial) -> tuple[float, float]:
    """Least work first; where passes save none (zeros among the weights), the largest ratios."""
    ratios = (getattr(step, "ratio", None) for step in trial.passes)
    return trial.bops, -sum(ratio for ratio in ratios if isinstance(ratio, float))


def _tuning(resources: Resources) -> Resources:
    """Return the resources of the candidates: half the evaluation data, nothing that trains."""
    if resources.max_drop is None:
        raise RequestError("--search needs a gate", hint="--max-drop 1.0")
    data: Dataset | None = resources.evaluation
    if data is None:
        raise RequestError("--search needs data to judge with", hint="--eval FILE")
    return replace(resources, evaluation=data.halves()[0], recipe=None)


def _precisions(passes: Sequence[Pass], boundary: Boundary | None) -> Iterator[tuple[Pass, ...]]:
    """Yield the pipeline with each choice of precision for each side of each `quantize`."""
    sides = (BOTH, HEAD, TAIL) if boundary else (BOTH,)
    options: list[list[tuple[Pass, ...]]] = []
    for step in passes:
        if step.name == "quantize" and getattr(step, "scope", "") == BOTH:
            scoped = [replace(step, scope=side) for side in sides]
            options.append([*((one,) for one in scoped), ()])
        else:
            options.append([(step,)])
    for choice in product(*options):
        yield tuple(step for part in choice for step in part)


def _with_ratio(passes: Sequence[Pass]) -> list[int]:
    """Return the places of the passes whose ratio is open: no other option fixes their size."""
    return [n for n, step in enumerate(passes) if _open(step)]


def _open(step: Pass) -> bool:
    if "ratio" not in pipeline.settable(step):
        return False
    try:
        replace(step, ratio=RATIOS[0])
    except ValueError:  # low-rank by energy, prune 2:4
        return False
    return True


class _Trials:
    """Makes and judges candidates, each once."""

    def __init__(
        self,
        model: Model,
        resources: Resources,
        pin: Sequence[str],
        boundary: Boundary | None,
        told: Told | None,
    ) -> None:
        self.made: list[Trial] = []
        self._model, self._resources, self._told = model, resources, told
        self._pin, self._boundary = pin, boundary

    def largest(self, passes: tuple[Pass, ...]) -> None:
        """Try one choice of precisions with the largest ratio that holds, pass after pass."""
        where = _with_ratio(passes)
        if not where:
            self._try(passes)
            return
        for at in where:
            low, high = -1, len(RATIOS)
            while high - low > 1:
                middle = (low + high) // 2
                held = self._try(_at(passes, at, middle)).ok
                low, high = (middle, high) if held else (low, middle)
            passes = _at(passes, at, low) if low >= 0 else passes[:at] + passes[at + 1 :]
            if low < 0:
                self.largest(passes)
                return

    def _try(self, passes: tuple[Pass, ...]) -> Trial:
        if self._told:
            self._told("search", pipeline.text(passes) or "nothing")
        judge = Judge(self._model, self._resources, lenient=True)
        try:
            after = judge.run(passes, self._model, pin=self._pin, boundary=self._boundary)
        except (PassError, ModelError) as error:
            trial = Trial(passes, None, False, 0.0, str(error.args[0]))
        else:
            last = judge.last
            held = not judge.broken_by and (last is None or last.clear)
            trial = Trial(passes, last.drop if last else 0.0, held, bops(after))
        self.made.append(trial)
        return trial


def _at(passes: tuple[Pass, ...], place: int, ratio: int) -> tuple[Pass, ...]:
    step = replace(passes[place], ratio=RATIOS[ratio])
    return (*passes[:place], step, *passes[place + 1 :])
