"""Plan a model in a scenario: the exact optimum, the ranking, and what the user pinned."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from splitc import cost
from splitc.closure import Closure
from splitc.cost.groups import breaks
from splitc.cost.table import CostTable
from splitc.cuts import Cut, cuttable, listed, of_head, resolve
from splitc.errors import PlanError, RequestError
from splitc.graph import Graph
from splitc.model import Model
from splitc.plan.baselines import image_inputs, input_codec, offloads
from splitc.plan.entry import Certificate, Entry, Plan
from splitc.plan.flow import Solution, solve
from splitc.plan.problem import Problem
from splitc.scenario import Scenario

Refusals = Mapping[str, Mapping[str, str]]
_FORBIDDEN = float("inf")


def plan(
    model: Model,
    scenario: Scenario,
    *,
    cut: str = "auto",
    top: int = 50,
    max_tensors: int = 3,
    input_codec: str | None = None,
    strict: bool = False,
    refusals: Refusals | None = None,
) -> Plan:
    """Choose the cut of `model` in `scenario`, or price the one that `cut` names.

    `refusals`: side → node → why its backend cannot take it; such a node stays on the other side.
    `top`: how many entries of the ranking to keep, 0 = all. Raises `PlanError` when nothing is
    feasible, or with `strict` when a baseline that splitc cannot emit would win.
    """
    table = cost.table(model, scenario)
    refused = refusals or {}
    found = solve(problem(table, refused))
    closure = Closure(model.graph)
    ranked = _ranked(table, closure, found, max_tensors, input_codec, refused)
    best = _entry(table, of_head(model.graph, found.head_nodes))
    _fits(table, best)
    chosen = best if cut == "auto" else _entry(table, named(model.graph, cut, closure))
    if not _allowed(chosen, refused):
        raise PlanError("the named cut puts a node where its backend refuses it", where=_why(refused))
    ranked = _with(ranked, chosen, scenario.objective)
    notes = _notes(table, chosen, best, ranked, strict, refused, input_codec)
    return Plan(
        objective=scenario.objective,
        chosen=next(e for e in ranked if _same(e, chosen)),
        head_nodes=tuple(n.id for n in model.graph.nodes if n.id in chosen.cut.head_nodes),
        ranked=_top(ranked, chosen, top),
        certificate=Certificate(found.method, found.optimum, found.bound, found.gap),
        notes=notes,
        estimates=table.estimates,
    )


def problem(table: CostTable, refusals: Refusals) -> Problem:
    """Write the price list as a minimum-cut problem in seconds, or in the device's joules."""
    weigh = _latency if table.scenario.objective == "latency" else _energy
    prices = weigh(table)
    free = cuttable(table.model) | set(table.graph.inputs)
    send = {t: prices.send.get(t, _FORBIDDEN) if t in free else _FORBIDDEN for t in table.graph.tensors}
    return Problem(
        graph=table.graph,
        head=prices.head,
        tail=prices.tail,
        send=send,
        back=prices.back,
        offload=prices.offload,
        groups=tuple(group for group in table.groups if len(group) > 1),
        only_head=frozenset(refusals.get("tail", ())),
        only_tail=frozenset(refusals.get("head", ())),
    )


def _latency(table: CostTable) -> Problem:
    wire = table.wire
    send = {
        t: size * wire.up_s_per_byte + wire.encode_s[t] + wire.decode_s[t]
        for t, size in wire.bytes.items()
    }
    back = {o: size * wire.down_s_per_byte for o, size in wire.back_bytes.items()}
    once = wire.rtt_s + wire.frame_bytes * (wire.up_s_per_byte + wire.down_s_per_byte)
    return Problem(table.graph, table.head_s, table.tail_s, send, back, once)


def _energy(table: CostTable) -> Problem:
    """The device's joules: it computes, sends, and waits while the server works."""
    wire, busy, idle = table.wire, table.head_w, table.head_idle_w
    listening = idle + table.radio_down_w
    send = {
        t: size * wire.up_s_per_byte * table.radio_up_w
        + busy * wire.encode_s[t]
        + idle * wire.decode_s[t]
        for t, size in wire.bytes.items()
    }
    back = {o: size * wire.down_s_per_byte * listening for o, size in wire.back_bytes.items()}
    up = wire.up_s_per_byte * table.radio_up_w
    once = idle * wire.rtt_s + wire.frame_bytes * (up + wire.down_s_per_byte * listening)
    head = {n: busy * s for n, s in table.head_s.items()}
    tail = {n: idle * s for n, s in table.tail_s.items()}
    return Problem(table.graph, head, tail, send, back, once)


def named(graph: Graph, cut: str, closure: Closure | None = None) -> Cut:
    """Return the cut that `--cut` names; ``@plan.json`` replays the chosen cut of a plan."""
    if cut.startswith("@") and cut.endswith(".json"):
        return of_head(graph, replayed(cut, graph))
    return resolve(graph, cut, closure)


def replayed(cut: str, graph: Graph) -> frozenset[str]:
    """Return the head of a plan file; `RequestError` when it is no plan of this model."""
    nodes = _read_plan(cut).get("head_nodes")
    if not isinstance(nodes, list):
        raise RequestError("not a plan: it has no chosen.head_nodes", where=cut)
    if gone := [name for name in nodes if name not in graph.by_id]:
        raise RequestError(f"the plan is of another model: no node {gone[0]!r}", where=cut)
    return frozenset(nodes)


def replayed_tensors(cut: str) -> tuple[str, ...]:
    """Return the boundary that a plan file recorded."""
    tensors = _read_plan(cut).get("tensors")
    return tuple(map(str, tensors)) if isinstance(tensors, list) else ()


def _read_plan(cut: str) -> Mapping[str, object]:
    path = Path(cut[1:])
    try:
        chosen = json.loads(path.read_text("utf-8"))["chosen"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"cannot read the plan: {error}", where=str(path)) from error
    if not isinstance(chosen, dict):
        raise RequestError("not a plan: 'chosen' is no object", where=str(path))
    return chosen


def _ranked(
    table: CostTable,
    closure: Closure,
    found: Solution,
    max_tensors: int,
    codec: str | None,
    refusals: Refusals,
) -> list[Entry]:
    """Price every listed cut, the optimum and the baselines; cheapest first."""
    graph = table.graph
    cuts = listed(graph, max_tensors=max_tensors, allowed=cuttable(table.model), closure=closure)
    entries = [_entry(table, cut) for cut in cuts]
    if all(entry.cut.head_nodes != found.head_nodes for entry in entries):
        entries.append(_entry(table, of_head(graph, found.head_nodes)))
    whole = entries[0]
    entries = [e for e in entries if _allowed(e, refusals) and _held(table, e)]
    entries += offloads(table, whole, codec)
    if not any(e.emittable for e in entries):
        raise PlanError("no cut is feasible", where=_why(refusals) or "device memory")
    return sorted(entries, key=lambda e: _order(e, table.scenario.objective))


def _order(entry: Entry, objective: str) -> tuple[float, bool, int]:
    return entry.cost(objective), not entry.emittable, len(entry.cut.head_nodes)


def _entry(table: CostTable, cut: Cut) -> Entry:
    codec = {"input": "f32", "output": "none"}.get(cut.kind)
    crossed = breaks(table.groups, cut.head_nodes)
    return Entry(cut, cost.price(table, cut.head_nodes), codec=codec, breaks_group=crossed)


def _allowed(entry: Entry, refusals: Refusals) -> bool:
    head = entry.cut.head_nodes
    return head.isdisjoint(refusals.get("head", ())) and head >= set(refusals.get("tail", ()))


def _held(table: CostTable, entry: Entry) -> bool:
    """Tell whether both sides' weights and activations fit their machines."""
    price, scenario = entry.price, table.scenario
    head, tail = scenario.head.memory_bytes, scenario.tail.memory_bytes
    return (not head or price.head_weight_bytes + price.head_peak_bytes <= head) and (
        not tail or price.tail_weight_bytes + price.tail_peak_bytes <= tail
    )


def _fits(table: CostTable, best: Entry) -> None:
    if not _held(table, best):
        raise PlanError(
            "the best cut does not fit into the memory of its machines",
            where=f"head {best.price.head_weight_bytes + best.price.head_peak_bytes:,} bytes, "
            f"tail {best.price.tail_weight_bytes + best.price.tail_peak_bytes:,} bytes",
            hint="a search under a memory limit comes later; name a cut with --cut",
        )


def _same(one: Entry, other: Entry) -> bool:
    return one.emittable == other.emittable and one.cut.head_nodes == other.cut.head_nodes


def _with(ranked: list[Entry], chosen: Entry, objective: str) -> list[Entry]:
    """Return the ranking with the chosen entry in it."""
    if any(_same(entry, chosen) for entry in ranked):
        return ranked
    return sorted([*ranked, chosen], key=lambda e: _order(e, objective))


def _top(ranked: Sequence[Entry], chosen: Entry, top: int) -> tuple[Entry, ...]:
    """Keep the `top` best, and the chosen one wherever it stands."""
    kept = list(ranked if top == 0 else ranked[:top])
    if not any(_same(entry, chosen) for entry in kept):
        kept[-1] = next(entry for entry in ranked if _same(entry, chosen))
    return tuple(kept)


def _why(refusals: Refusals) -> str:
    lines = [f"{side}: {node}: {why}" for side, t in refusals.items() for node, why in t.items()]
    return "\n".join(lines[:5])


def _notes(
    table: CostTable,
    chosen: Entry,
    best: Entry,
    ranked: Sequence[Entry],
    strict: bool,
    refusals: Refusals,
    codec: str | None,
) -> tuple[str, ...]:
    objective = table.scenario.objective
    lines: list[str] = []
    if not ranked[0].emittable:
        winner = ranked[0]
        text = (
            f"{winner.title} would win ({winner.cost(objective):.3g} against "
            f"{chosen.cost(objective):.3g}), but splitc cannot emit it"
        )
        if strict:
            raise PlanError(text, hint="leave --strict out to take the best that splitc can emit")
        lines.append(text)
    if chosen.cost(objective) > best.cost(objective) * (1 + 1e-12):
        lines.append(f"the named cut costs more than the best: {best.title}")
    if chosen.breaks_group:
        lines.append("the cut goes through a group that backends fuse; its parts are priced alone")
    given = input_codec(codec)
    if image_inputs(table) and not (given and given[1]):
        lines.append("the JPEG size of the input is an estimate; give it: --input-codec jpeg:BYTES")
    if table.flagged:
        lines.append(f"priced by traffic alone (unknown operator family): {', '.join(table.flagged[:5])}")
    if table.wire.note:
        lines.append(table.wire.note)
    lines += [f"{side} cannot take {len(nodes)} nodes: {_why({side: nodes})}" for side, nodes in refusals.items() if nodes]
    return tuple(lines)
