"""Plan a model in a scenario: the exact optimum, the ranking, and what the user pinned."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from splitc import cost
from splitc.closure import Closure
from splitc.cost.groups import breaks
from splitc.cost.table import CostTable
from splitc.cuts import Cut, cuttable, listed, shown, wire_dtype
from splitc.errors import PlanError, RequestError
from splitc.graph import Graph
from splitc.model import Model
from splitc.plan.baselines import guessed, offloads
from splitc.plan.entry import Certificate, Entry, Plan
from splitc.plan.flow import Solution, solve
from splitc.plan.footprint import Footprint
from splitc.plan.limits import Limits, solve_limited
from splitc.plan.naming import named
from splitc.plan.objective import Refusals, problem
from splitc.plan.problem import Indexed
from splitc.scenario import Scenario


def plan(
    model: Model,
    scenario: Scenario,
    *,
    cut: str | Sequence[str] | Cut = "auto",
    top: int = 50,
    max_tensors: int = 3,
    input_codec: str | None = None,
    strict: bool = False,
    refusals: Refusals | None = None,
) -> Plan:
    """Choose the cut of `model` in `scenario`, or price the one that `cut` names, or is.

    `refusals`: side → node → why its backend cannot take it; such a node stays on the other side.
    `top`: how many entries of the ranking to keep, 0 = all. Raises `PlanError` when nothing is
    feasible, or with `strict` when a baseline that splitc cannot emit would win.
    """
    table, refused, objective = cost.table(model, scenario), refusals or {}, scenario.objective
    closure = Closure(model.graph)
    found = optimum(table, refused)
    wanted = None if cut == "auto" else named(model.graph, cut, closure)
    pinned = None if wanted is None else _pinned(table, wanted, refused)
    cuts = listed(table.graph, max_tensors=max_tensors, allowed=cuttable(model), closure=closure)
    heads = {one.head_nodes: one for one in (*ends(table.graph, found.head_nodes), *cuts)}
    if pinned:
        heads[pinned.cut.head_nodes] = pinned.cut
    entries = _priced(table, heads.values(), refused)
    ranked = ordered([*entries, *offloads(table, entries, input_codec)], objective)
    best = next(e for e in ranked if e.emittable and not e.breaks_group)
    chosen = pinned or best
    return Plan(
        objective=objective,
        chosen=chosen,
        head_nodes=tuple(n.id for n in model.graph.nodes if n.id in chosen.cut.head_nodes),
        ranked=kept(ranked, chosen, top),
        certificate=_proof(found, entries, best.cost(objective), objective),
        notes=(
            *_unbeaten(chosen, best, ranked[0], objective, strict, isinstance(cut, Cut)),
            *_remarks(table, chosen, refused, guessed(table, input_codec)),
        ),
        estimates=table.estimates,
    )


def _proof(found: Solution, entries: Iterable[Entry], least: float, objective: str) -> Certificate:
    """Certify the cheapest cut, priced again addend by addend."""
    summed = next(e.cost(objective) for e in entries if e.cut.head_nodes == found.head_nodes)
    assert math.isclose(summed, found.optimum, rel_tol=1e-9), "one cut has two prices"
    bound = min(found.bound, least)
    return Certificate(found.method, least, bound, least - bound)


def optimum(table: CostTable, refusals: Refusals) -> Solution:
    """Return the cheapest head that both backends take and both memories hold."""
    asked = problem(table, refusals)
    found = solve(asked)
    sides = table.scenario.head, table.scenario.tail
    limits = Limits(*(side.memory_bytes for side in sides))
    memory, graph = table.memory, table.graph
    sizes = np.array([memory.sizes.get(t, 0) for t in graph.tensors], dtype=np.float64)
    footprint = Footprint(Indexed.of(graph), sizes, memory.weight_bytes)
    head = footprint.indexed.mask(found.head_nodes)
    if limits.hold(footprint.total(head), footprint.total(~head)):
        return found
    return solve_limited(asked, footprint, limits, found)


def ends(graph: Graph, head: frozenset[str]) -> tuple[Cut, Cut, Cut]:
    """Return the two ends and the cut with this head: what every ranking holds."""
    whole = frozenset(graph.by_id)
    inner = Cut("inner", graph.boundary(head), head)
    first, last = Cut("input", graph.boundary(()), frozenset()), Cut("output", (), whole)
    return first, last, first if not head else last if head == whole else inner


def ordered(entries: Iterable[Entry], objective: str) -> list[Entry]:
    """Sort by price; where prices tie, what splitc can emit first, then the smallest head."""
    return sorted(
        entries, key=lambda e: (e.cost(objective), not e.emittable, len(e.cut.head_nodes))
    )


def kept(ranked: Sequence[Entry], chosen: Entry, top: int) -> tuple[Entry, ...]:
    """Keep the `top` best (0: all), the last of them giving way to the chosen one if need be."""
    if top < 0:
        raise RequestError(f"--top {top} is below 0", hint="--top N, 0 = all")
    first = list(ranked if top == 0 else ranked[:top])
    if chosen not in first:
        first[-1] = chosen
    return tuple(first)


def _priced(table: CostTable, cuts: Iterable[Cut], refusals: Refusals) -> list[Entry]:
    """Price the cuts that are feasible."""
    fit = (cut for cut in cuts if not _refused(table, cut, refusals))
    return [entry for entry in (_entry(table, cut) for cut in fit) if _held(table, entry)]


def _pinned(table: CostTable, cut: Cut, refusals: Refusals) -> Entry:
    """Price the cut that the user named; `PlanError` where it is not feasible."""
    if why := _refused(table, cut, refusals):
        raise PlanError(
            "the named cut cannot be made", where=why, hint="--cut auto finds one that can"
        )
    entry = _entry(table, cut)
    if not _held(table, entry):
        price, scenario = entry.price, table.scenario
        need = (
            ("head", price.head_weight_bytes + price.head_peak_bytes, scenario.head),
            ("tail", price.tail_weight_bytes + price.tail_peak_bytes, scenario.tail),
        )
        raise PlanError(
            "the named cut does not fit the memory of its machines",
            where="\n".join(
                f"the {side} needs {size:,} bytes, {machine.name} has {machine.memory_bytes:,}"
                for side, size, machine in need
                if machine.memory_bytes and size > machine.memory_bytes
            ),
            hint="--cut auto finds one that fits, if there is one",
        )
    return entry


def _entry(table: CostTable, cut: Cut) -> Entry:
    codec = {"input": "f32", "output": "none"}.get(cut.kind)
    crossed = breaks(table.groups, cut.head_nodes)
    return Entry(
        cut,
        cost.price(table, cut.head_nodes),
        codec=codec,
        breaks_group=crossed,
        names=shown(table.graph, cut.tensors),
        wire_dtype=wire_dtype(table.model, cut.tensors),
    )


def _refused(table: CostTable, cut: Cut, refusals: Refusals) -> str:
    """Say why a cut cannot be made: a backend refuses a node, or what is no tensor would travel."""
    for side, nodes in refusals.items():
        for node, why in nodes.items():
            if (node in cut.head_nodes) == (side == "head"):
                return f"{side}: {node}: {why}"
    maker, wire = table.graph.producer, table.wire
    back = [o for o in table.graph.outputs if o in maker and maker[o] not in cut.head_nodes]
    lost = [t for t in cut.tensors if t not in wire.bytes]
    lost += [o for o in back if o not in wire.back_bytes]
    return f"{lost[0]!r} is no plain tensor and cannot cross" if lost else ""


def _held(table: CostTable, entry: Entry) -> bool:
    """Tell whether both sides' weights and activations fit their machines."""
    price, scenario = entry.price, table.scenario
    return Limits(scenario.head.memory_bytes, scenario.tail.memory_bytes).hold(
        price.head_weight_bytes + price.head_peak_bytes,
        price.tail_weight_bytes + price.tail_peak_bytes,
    )


def _unbeaten(
    chosen: Entry, best: Entry, first: Entry, objective: str, strict: bool, again: bool
) -> list[str]:
    """Say what beats the chosen cut; `PlanError` with `strict` if splitc cannot emit the winner.

    `again`: the cut was chosen before passes changed its sides.
    """
    lines: list[str] = []
    if not first.emittable:
        text = (
            f"{first.title} would win ({first.cost(objective):.3g} against "
            f"{chosen.cost(objective):.3g}), but splitc cannot emit it"
        )
        if strict:
            raise PlanError(text, hint="leave --strict out to take the best that splitc can emit")
        lines.append(text)
    if chosen.cost(objective) > best.cost(objective):
        what = "after the passes of its sides this" if again else "the named"
        lines.append(f"{what} cut costs more than the best: {best.title}")
    return lines


def _remarks(table: CostTable, chosen: Entry, refusals: Refusals, guessed: bool) -> list[str]:
    """Say what to know about the prices."""
    lines: list[str] = []
    if chosen.breaks_group:
        lines.append("the cut goes through a group that backends fuse; its parts are priced alone")
    if guessed:
        lines.append("the JPEG size of the input is an estimate; give it: --input-codec jpeg:BYTES")
    if table.flagged:
        lines.append(
            f"priced by traffic alone (unknown operator family): {', '.join(table.flagged[:5])}"
        )
    if table.wire.note:
        lines.append(table.wire.note)
    return [*lines, *(_told(side, nodes) for side, nodes in refusals.items() if nodes)]


def _told(side: str, nodes: Mapping[str, str]) -> str:
    """Say what a side's backend refuses: nodes with the same reason together, three by name."""
    by_reason: dict[str, list[str]] = {}
    for node, why in nodes.items():
        by_reason.setdefault(why, []).append(node)
    parts = [
        ", ".join(same[:3]) + (f" and {len(same) - 3} more" if same[3:] else "") + f": {why}"
        for why, same in list(by_reason.items())[:5]
    ]
    count = f"{len(nodes)} node{'s' * (len(nodes) != 1)}"
    return f"the {side}'s backend cannot take {count}: " + "; ".join(parts)
