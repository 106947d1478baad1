"""`splitc sensitivity`: what int8 at each node alone costs the outputs, and what it would save."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from splitc import data as samples
from splitc.data import Dataset
from splitc.model import Model
from splitc.plan.naming import named
from splitc.quant import places
from splitc.quant.int8 import Int8
from splitc.quant.noise import NodeCost, Noise, alone, few
from splitc.quant.numbers import Scheme
from splitc.quant.opset import with_axes
from splitc.quant.ranges import some
from splitc.stages import Progress, quiet

CALIBRATE, DRAW = 256, 32
"""Samples: for the ranges; drawn where there are no data."""


@dataclass(frozen=True)
class Sensitivity:
    """The nodes that can be int8, worst first. `sides`: node → 'head' or 'tail', with a cut.

    `samples` of `source` measured the noise; `drawn`: they are random numbers and no data.
    """

    nodes: tuple[NodeCost, ...]
    samples: int
    source: str
    drawn: bool
    sides: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return {"nodes", "samples", "source", "drawn"}; an infinite `snr_db` is null."""
        return {
            "nodes": [self._row(cost) for cost in self.nodes],
            "samples": self.samples,
            "source": self.source,
            "drawn": self.drawn,
        }

    def _row(self, cost: NodeCost) -> dict[str, Any]:
        snr = cost.snr_db if math.isfinite(cost.snr_db) else None
        side = {"side": self.sides[cost.id]} if self.sides else {}
        return {**asdict(cost), "snr_db": snr, **side}


def sensitivity(
    model: Model,
    data: Dataset | None,
    *,
    cut: str | None = None,
    scheme: Scheme | None = None,
    method: str = "minmax",
    progress: Progress = quiet,
) -> Sensitivity:
    """Measure each node that can be int8 when it alone is; ranges come from `data`.

    Raises `RequestError` for data or a cut that do not fit, `ModelError` where no output is made
    from floats.
    """
    head = named(model.graph, cut).head_nodes if cut else frozenset[str]()
    raised = with_axes(model)
    known = samples.drawn(raised, DRAW) if data is None else some(data, CALIBRATE)
    found = places.candidates(raised)
    job = Int8(raised, found, frozenset(found), known, scheme or Scheme(), method, correct=False)
    progress("calibrate", f"{len(known)} samples")
    noise = Noise(raised, few(raised, known))

    def step(done: int, total: int, what: str) -> None:
        progress("sensitivity", f"{done} of {total}, {what}")

    costs = alone(noise, found, job.ranges, job.scheme, step)
    sides = {name: "head" if name in head else "tail" for name in found} if cut else {}
    return Sensitivity(
        nodes=tuple(sorted(costs, key=lambda cost: (cost.snr_db, cost.id))),
        samples=len(noise.data),
        source=known.source,
        drawn=known.drawn,
        sides=sides,
        notes=(*raised.notes, *_notes(known, found)),
    )


def _notes(known: Dataset, found: tuple[str, ...]) -> tuple[str, ...]:
    random = ("RANDOM INPUTS, NO DATA: this says little about real ones; give --data",)
    nothing = ("no node can be int8",)
    return (random if known.drawn else ()) + (() if found else nothing)
