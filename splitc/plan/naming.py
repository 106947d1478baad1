"""The cut that the user names: tensors, an end, or the cut that a plan file recorded."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from splitc.closure import Closure
from splitc.cuts import Cut, of_head, resolve
from splitc.errors import RequestError
from splitc.graph import Graph


def named(
    graph: Graph,
    cut: str | Sequence[str] | Cut,
    closure: Closure | None = None,
    *,
    loose: bool = False,
) -> Cut:
    """Return the cut that `--cut` names; ``@plan.json`` replays the chosen cut of a plan.

    `loose`: the plan was made after other passes, so where its nodes are no head of this graph the
    tensors say where it cuts.
    """
    if isinstance(cut, Cut):
        return of_head(graph, cut.head_nodes)
    if isinstance(cut, str) and cut.startswith("@") and cut.endswith(".json"):
        tensors = replayed_tensors(cut) if loose else ()
        if tensors and not _closed(graph, _head_nodes(cut)):
            return resolve(graph, tensors, closure)
        return of_head(graph, replayed(cut, graph))
    return resolve(graph, cut, closure)


def replayed(cut: str, graph: Graph) -> frozenset[str]:
    """Return the head of a plan file; `RequestError` when it is no plan of this model."""
    nodes = _head_nodes(cut)
    if gone := [name for name in nodes if name not in graph.by_id]:
        raise RequestError(f"the plan is of another model: no node {gone[0]!r}", where=cut)
    return frozenset(nodes)


def _head_nodes(cut: str) -> list[str]:
    nodes = _read_plan(cut).get("head_nodes")
    if not isinstance(nodes, list) or not all(isinstance(name, str) for name in nodes):
        raise RequestError("not a plan: it has no chosen.head_nodes", where=cut)
    return nodes


def _closed(graph: Graph, nodes: list[str]) -> bool:
    """Tell whether nodes are a head of the graph: all there, with all that leads to them."""
    there = [graph.by_id[name] for name in nodes if name in graph.by_id]
    makers = {graph.producer.get(t, node.id) for node in there for t in node.inputs}
    return len(there) == len(nodes) and makers <= {*nodes}


def replayed_tensors(cut: str) -> tuple[str, ...]:
    """Return the boundary that a plan file recorded."""
    tensors = _read_plan(cut).get("tensors")
    return tuple(map(str, tensors)) if isinstance(tensors, list) else ()


def _read_plan(cut: str) -> Mapping[str, object]:
    path = Path(cut[1:])
    try:
        chosen = json.loads(path.read_text("utf-8"))["chosen"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RequestError(f"cannot read the plan: {error}", where=str(path)) from error
    if not isinstance(chosen, dict):
        raise RequestError("not a plan: 'chosen' is no object", where=str(path))
    return chosen
