"""The planner's question answered the slow way: every legal head, and what each costs, by name."""

from collections.abc import Iterator
from itertools import product

from splitc.plan.problem import Problem


def legal_heads(problem: Problem) -> Iterator[frozenset[str]]:
    """Yield every head that is closed, breaks no group, and keeps what is on one side only."""
    graph = problem.graph
    ids = [node.id for node in graph.nodes]
    for bits in product([False, True], repeat=len(ids)):
        head = frozenset(v for v, kept in zip(ids, bits, strict=True) if kept)
        closed = all(graph.producer.get(t, v) in head for v in head for t in graph.by_id[v].inputs)
        whole = all(head.issuperset(g) or head.isdisjoint(g) for g in problem.groups)
        kept = head >= problem.only_head and not head & problem.only_tail
        if closed and whole and kept:
            yield head


def cost(problem: Problem, head: frozenset[str]) -> float:
    """Return the objective, written a second time."""
    graph = problem.graph
    tail = [node for node in graph.nodes if node.id not in head]
    made = {t for node in tail for t in node.outputs}
    return (
        sum(problem.head[v] for v in head)
        + sum(problem.tail[node.id] for node in tail)
        + sum(problem.send[t] for t in graph.boundary(head))
        + sum(problem.back[t] for t in dict.fromkeys(graph.outputs) if t in made)
        + (problem.offload if tail else 0.0)
    )
