"""What a plan holds: priced entries, the chosen one, the ranking, the certificate."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from splitc.cost.price import Price
from splitc.cuts import Cut
from splitc.units import si


@dataclass(frozen=True)
class Entry:
    """One way to split, with its price.

    `codec`: of a baseline, how the input arrives ('f32', 'u8', 'jpeg') or 'none' where nothing is
    sent; None for other cuts. `emittable`: whether splitc can produce it. `names`: of the tensors
    as they are reported, if not their own; `wire_dtype`: of those that cross as integers.
    """

    cut: Cut
    price: Price
    emittable: bool = True
    codec: str | None = None
    breaks_group: bool = False
    names: tuple[str, ...] = ()
    wire_dtype: str | None = None

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of what crosses, as `--cut` takes them."""
        return self.names or self.cut.tensors

    @property
    def title(self) -> str:
        """One line for people: the tensors that cross, or which end it is."""
        if self.cut.kind == "output":
            return "everything on the device"
        if self.cut.kind == "input":
            sent = "it is" if self.codec in (None, "f32") else self.codec
            return f"everything on the server, input as {sent}"
        narrow = f" as {self.wire_dtype}" if self.wire_dtype else ""
        return ", ".join(self.tensors) + narrow if self.tensors else "nothing crosses"

    def cost(self, objective: str) -> float:
        """Seconds for 'latency', the device's joules for 'energy'."""
        return self.price.latency_s if objective == "latency" else self.price.energy_j["device"]

    def to_json(self) -> dict[str, Any]:
        """Return the entry P of the plan's JSON, without `head_nodes`."""
        price = {key: getattr(self.price, key) for key in self.price.__dataclass_fields__}
        entry = {
            "kind": self.cut.kind,
            "tensors": list(self.tensors),
            "emittable": self.emittable,
        }
        extra: dict[str, Any] = {} if self.codec is None else {"codec": self.codec}
        if self.breaks_group:
            extra["breaks_group"] = True
        if self.wire_dtype:
            extra["wire_dtype"] = self.wire_dtype
        return {**entry, **price, **extra}


@dataclass(frozen=True)
class Certificate:
    """The proof: `optimum` is the best price that a cut can have, `bound` what none can beat."""

    method: str
    optimum: float
    bound: float
    gap: float

    def to_json(self) -> dict[str, Any]:
        """Return {"method", "optimum", "bound", "gap"}, in the objective's unit."""
        return {key: getattr(self, key) for key in self.__dataclass_fields__}


@dataclass(frozen=True)
class Plan:
    """The chosen cut, its rivals in order, and the certificate.

    `head_nodes`: identities of the chosen head in topological order, in the graph that the cut was
    chosen in: passes of one side come later, and a replay must find them. `notes`: lines for the
    user; the first says so when something that splitc cannot emit would win.
    """

    objective: str
    chosen: Entry
    head_nodes: tuple[str, ...]
    ranked: tuple[Entry, ...]
    certificate: Certificate
    notes: tuple[str, ...] = ()
    estimates: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return what `splitc plan --json` prints."""
        return {
            "objective": self.objective,
            "chosen": {**self.chosen.to_json(), "head_nodes": list(self.head_nodes)},
            "ranked": [entry.to_json() for entry in self.ranked],
            "certificate": self.certificate.to_json(),
        }

    def runner_up(self) -> Entry | None:
        """Return the best entry that is another cut than the chosen one."""
        others = (
            e for e in self.ranked if e.emittable and e.cut.head_nodes != self.chosen.cut.head_nodes
        )
        return next(others, None)

    def why(self) -> str:
        """Say in one line where the runner-up loses, addend by addend."""
        other = self.runner_up()
        if other is None or not self.chosen.price.addends:
            return ""
        gaps = {k: v - self.chosen.price.addends[k] for k, v in other.price.addends.items()}
        total = other.cost(self.objective) - self.chosen.cost(self.objective)
        pick = max if total >= 0 else min
        worst = pick(gaps, key=lambda key: gaps[key])
        sign = "+" if gaps[worst] >= 0 else "-"
        unit = "s" if self.objective == "latency" else "J"
        verb = "loses by" if total >= 0 else "would win by"
        return (
            f"runner-up ({other.title}) {verb} {si(abs(total), unit)}; "
            f"largest difference: {worst.removesuffix('_s')} {sign}{si(abs(gaps[worst]), 's')}"
        )
