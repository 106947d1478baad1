"""The price list of a model in a scenario: seconds, bytes and joules, per node and per tensor.

A `CostTable` chooses nothing. The seconds of a fused group are shared out on its nodes in
proportion to what each costs alone, so a sum over whole groups is exact; a cut that goes through a
group prices each part on its own instead (`head_part_s`, `tail_part_s`).
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from splitc.cost import memory
from splitc.cost.groups import Group, groups
from splitc.cost.numbered import Ints, Numbered
from splitc.cost.roofline import seconds_of, works
from splitc.cost.wire import WirePrices, wire_prices
from splitc.graph import Graph
from splitc.model import Model
from splitc.scenario import Device, Scenario

Floats = NDArray[np.float64]
Seconds = Callable[[Iterable[str]], float]


@dataclass(frozen=True)
class CostTable:
    """Prices of one model in one scenario; see the module for `head_s` and `tail_s`.

    `raw_bytes`, `wire`: of each tensor that can cross. `head_w` … `tail_w`: watts. `estimates`:
    side → how its seconds came about and the factor within which they hold. `flagged`: nodes whose
    operator no cost family knows, priced by their elements and traffic.
    """

    model: Model
    scenario: Scenario
    groups: tuple[Group, ...]
    head_s: Mapping[str, float]
    tail_s: Mapping[str, float]
    head_part_s: Seconds
    tail_part_s: Seconds
    raw_bytes: Mapping[str, int]
    wire: WirePrices
    estimates: Mapping[str, str]
    flagged: tuple[str, ...]

    @property
    def graph(self) -> Graph:
        """The graph that is priced."""
        return self.model.graph

    @property
    def head_w(self) -> float:
        """Device power while it computes, watts."""
        return self.scenario.head.active_w

    @property
    def head_idle_w(self) -> float:
        """Device power while it waits, watts."""
        return self.scenario.head.idle_w

    @property
    def tail_w(self) -> float:
        """Server power while it computes, watts."""
        return self.scenario.tail.active_w

    @property
    def radio_up_w(self) -> float:
        """Radio power while sending: P[mW] = alpha · rate[Mbit/s] + beta (Huang, MobiSys 2012)."""
        link = self.scenario.link
        return (link.alpha_mw_per_mbit_s * link.uplink_mbit_s + link.beta_mw) / 1e3

    @property
    def radio_down_w(self) -> float:
        """Radio power while receiving: the base power, without the part that grows with sending."""
        return self.scenario.link.beta_mw / 1e3

    @cached_property
    def numbered(self) -> Numbered:
        """The graph in numbers."""
        return Numbered(self.graph)

    @cached_property
    def seconds(self) -> tuple[Floats, Floats]:
        """`head_s` and `tail_s` as vectors over the graph's nodes."""
        ids = [node.id for node in self.graph.nodes]
        head, tail = ([side[name] for name in ids] for side in (self.head_s, self.tail_s))
        return np.array(head, dtype=np.float64), np.array(tail, dtype=np.float64)

    @cached_property
    def fused(self) -> tuple[Ints, Ints, list[list[int]]]:
        """Of the groups of several nodes: first node, last node, all nodes, by place."""
        place = self.numbered.place
        members = [[place[name] for name in group] for group in self.groups if len(group) > 1]
        ends = np.array([(group[0], group[-1]) for group in members], dtype=np.int64)
        first, last = ends.reshape(-1, 2).T
        return first, last, members

    @cached_property
    def memory(self) -> "memory.Memory":
        """Weights and peak activations of any side."""
        return memory.Memory(self.model)


def table(model: Model, scenario: Scenario) -> CostTable:
    """Price every node on both machines and every tensor on the wire."""
    work = works(model)
    size = {name: fact.nbytes for name, fact in model.facts.items()}
    fused = groups(model)
    first, last = (model.graph.nodes[at].id if work else "" for at in (0, -1))
    head = seconds_of(model, scenario.head, work, size, first)
    tail = seconds_of(model, scenario.tail, work, size, last)
    return CostTable(
        model=model,
        scenario=scenario,
        groups=fused,
        head_s=shares(fused, head),
        tail_s=shares(fused, tail),
        head_part_s=head,
        tail_part_s=tail,
        raw_bytes={t: size[t] for t in model.graph.tensors if t in size},
        wire=wire_prices(model, scenario),
        estimates={"head": _estimate(scenario.head), "tail": _estimate(scenario.tail)},
        flagged=tuple(name for name, part in work.items() if not part.known),
    )


def alone(model: Model, nodes: Collection[str], device: Device) -> float:
    """Return the seconds of these nodes on one machine; a group that is cut is priced by parts."""
    work = works(model)
    size = {name: fact.nbytes for name, fact in model.facts.items()}
    first = next((node.id for node in model.graph.nodes if node.id in nodes), "")
    seconds = seconds_of(model, device, work, size, first)
    parts = ([name for name in group if name in nodes] for group in groups(model))
    return sum(seconds(part) for part in parts if part)


def shares(fused: Iterable[Group], seconds: Seconds) -> dict[str, float]:
    """Share out each group's seconds on its nodes, in proportion to what each costs alone."""
    found: dict[str, float] = {}
    for group in fused:
        whole = seconds(group)
        alone = [seconds((name,)) for name in group]
        total = sum(alone)
        parts = [a / total for a in alone] if total else [1 / len(group)] * len(group)
        found |= {n: whole * part for n, part in zip(group, parts, strict=True)}
    return found


def _estimate(device: Device) -> str:
    how = "predictor fitted on this device" if device.predictor else "analytic roofline"
    return f"{how}, right within a factor {device.error_band:g}"
