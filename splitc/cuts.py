"""Cuts: what `--cut` means, and which boundaries are worth looking at.

A cut is a set of head nodes closed under predecessors; its boundary is derived from it. A list of
tensors means: the tail is what the list reaches and is not an ancestor of it, with the
non-ancestors that feed it; the head is the rest. A float tensor that is quantized (or cast to half
a float) and nothing else is cut behind that node, where it is small, and goes by its own name.
"""

from collections.abc import Collection, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from splitc.closure import Bits, Closure
from splitc.errors import RequestError, did_you_mean
from splitc.graph import Graph
from splitc.wire.codec import DTYPES

if TYPE_CHECKING:
    from splitc.model import Model

INPUT, OUTPUT = "@input", "@output"


@dataclass(frozen=True)
class Cut:
    """`kind`: 'inner', 'input' (nothing on the head) or 'output' (nothing on the tail)."""

    kind: str
    tensors: tuple[str, ...]
    head_nodes: frozenset[str]


def of_head(graph: Graph, head: Set[str]) -> Cut:
    """Return the cut with these head nodes; `ModelError` if they are not closed."""
    graph.check_head(head)
    kind = "input" if not head else "output" if len(head) == len(graph.nodes) else "inner"
    return Cut(kind, graph.boundary(head), frozenset(head))


def resolve(graph: Graph, tensors: str | Sequence[str], closure: Closure | None = None) -> Cut:
    """Return the cut that `--cut` names: '@input', '@output', 'a,b', or a list of tensors.

    Raises `RequestError` for an unknown tensor, one that does not cross (an initializer, or made
    by constants), and for a list that is not its own boundary: the hint is then a whole list.
    """
    names = [graph.narrowed.get(name, name) for name in _names(graph, tensors)]
    if names == [INPUT]:
        return of_head(graph, frozenset())
    if names == [OUTPUT]:
        return of_head(graph, frozenset(graph.by_id))
    closure = closure or Closure(graph)
    cut = of_head(graph, _head(closure, names))
    if set(cut.tensors) != set(names):
        whole = shown(graph, _completed(closure, cut))
        raise RequestError(
            f"cutting at {', '.join(shown(graph, names))} also sends or needs other tensors",
            where="--cut " + ",".join(shown(graph, names)),
            hint="--cut " + (",".join(whole) if whole else OUTPUT),
        )
    return cut


def shown(graph: Graph, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names that tensors are reported under: one narrowed has that of its float.

    Where the float crosses too, or is narrowed twice, each has its own.
    """
    wide = [graph.widened.get(name, name) for name in names]
    return tuple(w if wide.count(w) == 1 else n for n, w in zip(names, wide, strict=True))


def wire_dtype(model: "Model", names: Sequence[str]) -> str | None:
    """Return the type that tensors reported under a float's name cross in; None if there is none.

    Several types are joined by commas.
    """
    narrow = (model.facts[name].dtype for name in names if name in model.graph.widened)
    return ",".join(dict.fromkeys(narrow)) or None


def crossing(graph: Graph, names: Sequence[str]) -> tuple[str, ...]:
    """Return what really crosses where a list of known tensors is cut."""
    return of_head(graph, _head(Closure(graph), names)).tensors


def _completed(closure: Closure, cut: Cut) -> tuple[str, ...]:
    """Return the first list, made by taking what crosses for the list, that is its own boundary.

    What crosses may reach nodes that the list did not, which then need more: each round the head
    shrinks, so there is an end, at the latest when nothing is left of it.
    """
    left = None
    while cut.tensors and cut.head_nodes and left != cut.head_nodes:
        left = cut.head_nodes
        after = of_head(closure.graph, _head(closure, cut.tensors))
        if after.tensors == cut.tensors:
            break
        cut = of_head(closure.graph, after.head_nodes & left)
    return cut.tensors


def _names(graph: Graph, tensors: str | Sequence[str]) -> list[str]:
    names = parted(tensors, graph.rank) if isinstance(tensors, str) else list(tensors)
    for name in names:
        if name not in graph.rank and (name not in (INPUT, OUTPUT) or len(names) > 1):
            raise RequestError(
                f"no tensor called {name!r} can be cut",
                where="--cut " + ",".join(names),
                hint=did_you_mean(name, [*graph.rank, INPUT, OUTPUT]),
            )
    return list(dict.fromkeys(names))


def parted(text: str, known: Collection[str]) -> list[str]:
    """Take a list such as 'a,b' apart; a comma within a known name does not part it."""
    if text in (INPUT, OUTPUT):
        return [text]
    parts, names = text.split(","), list[str]()
    while parts:
        joined = (",".join(parts[:n]) for n in range(len(parts), 1, -1))
        name = next((j for j in map(str.strip, joined) if j in known), parts[0].strip())
        names.append(name)
        parts = parts[name.count(",") + 1 :]
    return names


def _head(closure: Closure, names: Sequence[str]) -> frozenset[str]:
    """Return the head that a list means, closed under predecessors."""
    return closure.names(_head_row(closure, names))


def _head_row(closure: Closure, names: Sequence[str]) -> Bits:
    """Return the head that a list means as a packed row."""
    graph, index = closure.graph, closure.index
    makers = [index[graph.producer[n]] for n in names if n in graph.producer]
    above = closure.union(closure.ancestors, makers)
    readers = sorted({index[r] for n in names for r in graph.readers[n]})
    tail = closure.union(closure.descendants, readers) & ~above
    feeding = closure.union(closure.ancestors, closure.numbers(tail)) & ~above
    tail = closure.union(closure.descendants, closure.numbers(tail | feeding)) & ~above
    return closure.row(range(closure.count)) & ~tail


def listed(
    graph: Graph,
    *,
    max_tensors: int = 3,
    allowed: Set[str] | None = None,
    closure: Closure | None = None,
) -> list[Cut]:
    """List the two ends and, for every node, the boundary of that node with all its ancestors.

    Duplicates are merged; a boundary has at most `max_tensors` tensors, all of them in `allowed`
    (if given), and is one that `resolve` reproduces.
    """
    closure = closure or Closure(graph)
    rows = inner_rows(closure, max_tensors=max_tensors, allowed=allowed)
    inner = [Cut("inner", tensors, closure.names(row)) for tensors, row in rows]
    return [resolve(graph, INPUT), *inner, resolve(graph, OUTPUT)]


def inner_rows(
    closure: Closure, *, max_tensors: int = 3, allowed: Set[str] | None = None
) -> Iterator[tuple[tuple[str, ...], Bits]]:
    """Yield (boundary, head as a packed row) of what `listed` lists between the two ends.

    The ancestor cut of a node whose tensors somebody reads is its own: all else reads it, or a
    tensor that crosses with it, or what such readers make. The others are resolved like a list.
    """
    graph = closure.graph
    seen = {frozenset(of_head(graph, frozenset()).tensors), frozenset[str]()}
    sourceless = any(not node.inputs for node in graph.nodes)
    for tensors, number in _boundaries(closure, max_tensors):
        if frozenset(tensors) in seen or (allowed is not None and not set(tensors) <= allowed):
            continue
        seen.add(frozenset(tensors))
        if not sourceless and any(graph.readers[t] for t in graph.nodes[number].outputs):
            yield tensors, closure.ancestors[number]
        elif (row := _reproduced(closure, tensors)) is not None:
            yield tensors, row


def _boundaries(closure: Closure, most: int) -> list[tuple[tuple[str, ...], int]]:
    """Return (boundary in rank order, node number) of every node's ancestor cut."""
    crossing, count = closure.crossing, closure.count
    parts = [crossing[start : start + 255] for start in range(0, len(crossing), 255)]
    counts = np.zeros(count, np.int64)
    for rows in parts:
        counts += np.unpackbits(rows, axis=1, count=count).sum(axis=0, dtype=np.uint8)
    numbers = np.flatnonzero((counts > 0) & (counts <= most)).tolist()
    fits = closure.row(numbers)
    found: dict[int, list[str]] = {number: [] for number in numbers}
    names = iter(closure.graph.tensors)
    for rows in parts:
        part = [next(names) for _ in rows]
        crosses = np.flatnonzero(np.unpackbits(rows & fits, axis=1, count=count).view(bool))
        for row, number in zip(*(at.tolist() for at in np.divmod(crosses, count)), strict=True):
            found[number].append(part[row])
    return [(tuple(tensors), number) for number, tensors in found.items()]


def _reproduced(closure: Closure, tensors: tuple[str, ...]) -> Bits | None:
    """Return the head that `--cut` makes of the list, or None if it would send something else."""
    row = _head_row(closure, tensors)
    head = closure.names(row)
    if not head or len(head) == closure.count:
        return None
    return row if closure.graph.boundary(head) == tensors else None


@dataclass(frozen=True)
class Listing:
    """One row of `splitc cuts`. `bytes`: raw, at batch 1 or the `--input` sizes.

    `tensors`: names as `--cut` takes them; `wire_dtype`: of those that cross as integers.
    """

    cut: Cut
    bytes: int
    head_macs: int
    head_mac_share: float
    natural_bottleneck: bool
    breaks_group: bool
    tensors: tuple[str, ...]
    wire_dtype: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the row as the command's `--json` prints it."""
        hidden = {"cut", "tensors"} | ({"wire_dtype"} if self.wire_dtype is None else set())
        row = {key: getattr(self, key) for key in self.__dataclass_fields__ if key not in hidden}
        return {"kind": self.cut.kind, "tensors": list(self.tensors), **row}


@dataclass(frozen=True)
class CutList:
    """What `splitc cuts` returns."""

    cuts: tuple[Listing, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return {"cuts": [...]}."""
        return {"cuts": [row.to_json() for row in self.cuts]}


def cuts(model: "Model", *, max_tensors: int = 3) -> CutList:
    """List the boundaries of `model` worth looking at, with their bytes and shares of MACs."""
    from splitc.cost.groups import breaks, groups
    from splitc.macs import macs

    graph, facts = model.graph, model.facts
    counts = macs(model)
    total = sum(counts.values())
    fused = groups(model)
    entry = sum(facts[name].elements for name in graph.inputs if name in facts)
    rows = []
    for cut in listed(graph, max_tensors=max_tensors, allowed=cuttable(model)):
        ahead = sum(counts.get(node, 0) for node in cut.head_nodes)
        crossing = [facts[t] for t in cut.tensors if t in facts]
        elements = sum(fact.elements for fact in crossing)
        rows.append(
            Listing(
                cut=cut,
                bytes=sum(fact.nbytes for fact in crossing),
                head_macs=ahead,
                head_mac_share=ahead / total if total else 0.0,
                natural_bottleneck=cut.kind == "inner" and elements < entry,
                breaks_group=breaks(fused, cut.head_nodes),
                tensors=shown(graph, cut.tensors),
                wire_dtype=wire_dtype(model, cut.tensors),
            )
        )
    return CutList(tuple(rows), model.notes)


def cuttable(model: "Model") -> frozenset[str]:
    """Tensors that may cross: of the loaded graph, still there, of a type that a frame carries.

    Where such a tensor is narrowed and nothing else, what that makes may cross in its place.
    """
    graph = model.graph
    plain = {name for name, fact in model.facts.items() if fact.dtype in DTYPES}
    offered = {n: w for w, n in graph.narrowed.items()}
    known = (t for t in graph.tensors if offered.get(t, t) in model.cuttable)
    return frozenset(t for t in known if t in plain and t not in graph.narrowed)
