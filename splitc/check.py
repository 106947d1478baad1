"""What a backend refuses of a model, and why, before anything is planned."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from splitc import backend
from splitc.backend import Examiner, Target
from splitc.model import Model


@dataclass(frozen=True)
class Checked:
    """`refused`: node identity → why the backend cannot take it. `notes`: who was asked."""

    backend: str
    refused: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Tell whether the backend takes the whole model."""
        return not self.refused

    def to_json(self) -> dict[str, Any]:
        """Return {"backend", "refused", "ok"}."""
        return {"backend": self.backend, "refused": dict(self.refused), "ok": self.ok}


def check(model: Model, name: str, target: Target | None = None) -> Checked:
    """Ask the backend `name` about every node, as a planner would.

    A backend that can ask its real compiler does so (`splitc.backend.Examiner`); that may take
    seconds. `target`: the machine to compile for; without one, its limits do not count.
    """
    made = backend.get(name)
    target = target or Target("any")
    if isinstance(made, Examiner):
        refused, notes = made.examine(model, target)
    else:
        refused, notes = made.supports(model, target), ()
    order = {node: place for place, node in enumerate(model.nodes)}
    sorted_ = sorted(refused.items(), key=lambda item: order.get(item[0], len(order)))
    return Checked(name, dict(sorted_), notes)
