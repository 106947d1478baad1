"""Plan from somebody else's prices: `plan --costs costs.json`, taken exactly as given.

    {"head_s": {node: s}, "tail_s": {node: s}, "bytes": {tensor: n}}

    latency = Σ head_s + Σ tail_s + 8/UP · Σ bytes that cross + 8/DOWN · Σ bytes that return
              + rtt if the tail is not empty

What crosses: the tensors, graph inputs included, that the tail reads and does not make, once each.
What returns: the graph outputs that the tail makes. No groups, no passes, no codecs, no frame.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

import numpy as np

from splitc.closure import Closure
from splitc.cost.price import Price
from splitc.cuts import Cut
from splitc.errors import RequestError
from splitc.graph import Graph
from splitc.plan.choose import ends, kept, ordered
from splitc.plan.entry import Certificate, Entry, Plan
from splitc.plan.flow import solve_indexed
from splitc.plan.footprint import Footprint
from splitc.plan.naming import named
from splitc.plan.problem import Bools, Floats, Indexed, Prices, Problem
from splitc.plan.ranking import cheapest
from splitc.plan.reader import Network

_LARGEST = 1e250
"""A price above is refused: sums of many, times 8 and over the rate, stay finite so."""

_SHOWN = 200
"""Names of one kind that an error lists."""


@dataclass(frozen=True)
class Costs:
    """Checked prices of one graph: seconds of every node on each side, bytes of every tensor.

    A tensor that never travels (nobody reads it, and it is no graph output) has 0 bytes.
    """

    head_s: Mapping[str, float]
    tail_s: Mapping[str, float]
    bytes: Mapping[str, float]


def plan_from_costs(
    network: Network,
    costs: Mapping[str, object],
    *,
    rate: tuple[float, float],
    rtt: float = 0.0,
    cut: str = "auto",
    top: int = 50,
    max_tensors: int = 3,
) -> Plan:
    """Choose the cut that `costs` make the fastest, or price the one that `cut` names.

    `rate`: bit/s up and down; `rtt`: s; `top`: entries of the ranking to keep, 0 = all.
    Memory in the result: weights as stored, activations by the given bytes. Raises `RequestError`
    where names or numbers of `costs` do not fit the graph.
    """
    graph = network.graph
    given = checked(graph, costs)
    indexed = Indexed.of(graph)
    problem = problem_of(graph, given, rate, rtt)
    prices = Prices.of(problem, indexed)
    found = solve_indexed(problem, indexed, prices)
    closure = Closure(graph)
    pinned = None if cut == "auto" else named(graph, cut, closure)
    must = [*ends(graph, found.head_nodes), *([pinned] if pinned else [])]
    cuts = cheapest(closure, indexed, prices, must=must, top=top, max_tensors=max_tensors)
    pricer = Pricer(network, indexed, given, rate, rtt)
    ranked = ordered((pricer.entry(one) for one in cuts), "latency")
    optimum = ranked[0].price.latency_s
    head = pinned.head_nodes if pinned else ranked[0].cut.head_nodes
    chosen = next(entry for entry in ranked if entry.cut.head_nodes == head)
    bound = min(found.bound, optimum)
    return Plan(
        objective="latency",
        chosen=chosen,
        head_nodes=tuple(node.id for node in graph.nodes if node.id in head),
        ranked=kept(ranked, chosen, top),
        certificate=Certificate(found.method, optimum, bound, optimum - bound),
        notes=_notes(chosen, ranked[0]),
        estimates={"head": "given", "tail": "given"},
    )


def _notes(chosen: Entry, best: Entry) -> tuple[str, ...]:
    if chosen.price.latency_s <= best.price.latency_s:
        return ()
    return (f"the named cut costs more than the best: {best.title}",)


def problem_of(graph: Graph, costs: Costs, rate: tuple[float, float], rtt: float) -> Problem:
    """Write the prices as a minimum-cut problem, in seconds; `rate`: bit/s up and down."""
    up, down = 8 / rate[0], 8 / rate[1]
    send = {name: size * up for name, size in costs.bytes.items()}
    back = {name: costs.bytes[name] * down for name in graph.outputs if name in graph.producer}
    return Problem(graph, costs.head_s, costs.tail_s, send, back, rtt)


class Pricer:
    """Prices one cut after another from the given numbers."""

    def __init__(
        self,
        network: Network,
        indexed: Indexed,
        costs: Costs,
        rate: tuple[float, float],
        rtt: float,
    ) -> None:
        graph = network.graph
        ids = [node.id for node in graph.nodes]
        self._graph, self._indexed, self._rate, self._rtt = graph, indexed, rate, rtt
        self._head_s = _vector(costs.head_s, ids)
        self._tail_s = _vector(costs.tail_s, ids)
        self._bytes = _vector(costs.bytes, graph.tensors)
        self._footprint = Footprint(indexed, self._bytes, network.weight_bytes)

    def entry(self, cut: Cut) -> Entry:
        """Return the cut with its price; the two ends say how the input travels."""
        head = self._indexed.mask(cut.head_nodes)
        codec = {"input": "f32", "output": "none"}.get(cut.kind)
        return Entry(cut, self._price(head, head.all()), codec=codec)

    def _price(self, head: Bools, whole: np.bool_) -> Price:
        sent = self._bytes[self._indexed.crossing(head)].tolist()
        returned = self._bytes[self._indexed.returning(head)].tolist()
        up, down = math.fsum(sent), math.fsum(returned)
        addends = {
            "head_s": math.fsum(self._head_s[head].tolist()),
            "encode_s": 0.0,
            "uplink_s": up * 8 / self._rate[0],
            "rtt_s": 0.0 if whole else self._rtt,
            "decode_s": 0.0,
            "tail_s": math.fsum(self._tail_s[~head].tolist()),
            "downlink_s": down * 8 / self._rate[1],
        }
        return Price(
            wire_bytes=_whole(up),
            return_bytes=_whole(down),
            latency_s=sum(addends.values()),
            energy_j={},
            head_weight_bytes=self._footprint.weights(head),
            head_peak_bytes=self._footprint.peak(head),
            tail_weight_bytes=self._footprint.weights(~head),
            tail_peak_bytes=self._footprint.peak(~head),
            addends=addends,
        )


def _whole(size: float) -> int | float:
    return int(size) if size.is_integer() else size


def _vector(prices: Mapping[str, float], names: Iterable[str]) -> Floats:
    return np.array([prices[name] for name in names], dtype=np.float64)


def checked(graph: Graph, costs: Mapping[str, object]) -> Costs:
    """Check `costs` against the graph; `RequestError` lists missing and unknown names.

    What draws random numbers is no constant but depends on no graph input either: it and what
    depends on it alone may be left out, and is free then.
    """
    tables = _tables(costs)
    nodes = [node.id for node in graph.nodes]
    apart = _rootless(graph)
    read = {t for node in graph.nodes for t in node.inputs}.union(graph.inputs, graph.outputs)
    travels = [t for t in graph.tensors if t in read]
    wanted = {"head_s": nodes, "tail_s": nodes, "bytes": travels}
    known: dict[str, Set[str]] = {k: graph.by_id.keys() for k in ("head_s", "tail_s")}
    known["bytes"] = graph.rank.keys()
    lines: list[str] = []
    for key, table in tables.items():
        missing = [n for n in wanted[key] if n not in table and graph.producer.get(n) not in apart]
        lines += _listed(f"{key} misses", missing)
        lines += _listed(f"{key} has the unknown", [n for n in table if n not in known[key]])
    if lines:
        raise RequestError(
            "the costs do not fit the model",
            where="\n".join(lines),
            hint="head_s and tail_s list every node by its first output, bytes every graph input "
            "and every node output that is read or a graph output; constants stand in none",
        )
    _numbers(tables)
    zeros = dict.fromkeys(nodes, 0.0), dict.fromkeys(graph.tensors, 0.0)
    head_s, tail_s = (zeros[0] | tables[key] for key in ("head_s", "tail_s"))
    return Costs(head_s, tail_s, zeros[1] | tables["bytes"])


def _tables(costs: Mapping[str, object]) -> dict[str, dict[str, float]]:
    """Return the three tables; `RequestError` unless they are there, and nothing else is."""
    keys = ("head_s", "tail_s", "bytes")
    wrong = [f"no {key!r}" for key in keys if key not in costs]
    wrong += [f"unknown {key!r}" for key in costs if key not in keys]
    wrong += [
        f"{key!r} is no object" for key in keys if not isinstance(costs.get(key, {}), Mapping)
    ]
    if wrong:
        hint = '{"head_s": {node: s}, "tail_s": {node: s}, "bytes": {tensor: n}}'
        raise RequestError("the costs have another form", where="\n".join(wrong), hint=hint)
    return {key: dict(costs[key]) for key in keys}  # type: ignore[call-overload]


def _listed(what: str, names: list[str]) -> Iterator[str]:
    if names:
        more = f", … ({len(names)} in all)" if len(names) > _SHOWN else ""
        yield f"{what}: {', '.join(map(str, names[:_SHOWN]))}{more}"


def _numbers(tables: Mapping[str, Mapping[str, object]]) -> None:
    """Raise `RequestError` listing what is no finite number ≥ 0."""
    if all(_plain(table) for table in tables.values()):
        return
    wrong = [
        f"{key}: {name}: {value!r}"
        for key, table in tables.items()
        for name, value in table.items()
        if not _number(value)
    ]
    if wrong:
        more = [f"… ({len(wrong)} in all)"] if len(wrong) > _SHOWN else []
        raise RequestError(
            "the costs hold what is no number ≥ 0", where="\n".join([*wrong[:_SHOWN], *more])
        )


def _plain(table: Mapping[str, object]) -> bool:
    """Tell whether all are numbers ≥ 0, the quick way; False where it takes a closer look."""
    if not set(map(type, table.values())) <= {int, float}:
        return False
    try:
        values = np.fromiter(table.values(), np.float64, len(table))
    except OverflowError:
        return False
    return bool(((values >= 0) & (values <= _LARGEST)).all())


def _number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    return bool(0 <= value <= _LARGEST)


def _rootless(graph: Graph) -> set[str]:
    """Return the nodes that depend on no graph input: random draws and what follows from them."""
    rooted = set(graph.inputs)
    found: set[str] = set()
    for node in graph.nodes:
        if rooted.isdisjoint(node.inputs):
            found.add(node.id)
        else:
            rooted.update(node.outputs)
    return found
