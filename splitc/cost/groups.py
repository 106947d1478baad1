"""Groups: the nodes that a backend fuses into one kernel, named without naming a backend.

    Conv → BatchNormalization → Relu            one group
    Conv → Add(residual) → Relu                 one group
    MatMul → Add(bias) → GELU's five nodes      one group (the diamond closes inside it)
    DQ → Conv → Relu → Q                        one group: DQ begins it, Q ends it
    DQ, DQ → Add → Q                            one group: each DQ has one reader

Every inner tensor of a group is read inside the group only and is no graph output, so a group is
convex: a path that left it would have to return through a tensor that a stranger reads.
"""

from collections.abc import Mapping, Sequence, Set

from splitc.graph import Graph, Node
from splitc.macs import kind
from splitc.model import Model

Group = tuple[str, ...]

_ANCHORS = frozenset(("conv", "depthwise", "grouped", "gemm", "pool", "reduce"))
_ENDS = frozenset(("QuantizeLinear",))
_REACH = 12
"""Longest branching run of elementwise nodes that is looked through for its end."""

_BEGINS = frozenset(("DequantizeLinear",))


def groups(model: Model) -> tuple[Group, ...]:
    """Return the groups of the model's nodes (singletons included), in topological order."""
    return fuse(
        model.graph, {n.id: kind(model.nodes[n.id], model.facts) for n in model.graph.nodes}
    )


def fuse(graph: Graph, kinds: Mapping[str, str]) -> tuple[Group, ...]:
    """Group nodes by their cost families: an anchor with what is elementwise behind it.

    A node joins the group of the producer of one of its inputs when that tensor has no reader
    outside the group. Several readers of a tensor (SiLU: Sigmoid and Mul) join together.
    """
    home: dict[str, int] = {}
    members: list[list[str]] = []
    outputs = set(graph.outputs)
    for node in graph.nodes:
        if node.id in home:
            continue
        cluster = _cluster(graph, kinds, node.id, home, outputs)
        for name in cluster:
            home[name] = len(members)
        members.append(cluster)
    _join_readers(graph, home, members, outputs)
    members = [cluster for cluster in members if cluster]
    order = {node.id: place for place, node in enumerate(graph.nodes)}
    found = [tuple(sorted(cluster, key=order.__getitem__)) for cluster in members]
    assert acyclic(graph, found), "groups make a cycle"
    return tuple(found)


def _join_readers(
    graph: Graph, home: dict[str, int], members: list[list[str]], outputs: Set[str]
) -> None:
    """Move each DQ that stands alone into the group of its one reader (the other input of an Add).

    What it reads leads to that group anyway, and nothing else reads it: no cycle can arise.
    """
    for node in graph.nodes:
        alone = node.op in _BEGINS and len(members[home[node.id]]) == len(node.outputs) == 1
        if not alone:
            continue
        readers = dict.fromkeys(graph.readers[node.outputs[0]])
        if len(readers) == 1 and node.outputs[0] not in outputs:
            here, there = home[node.id], home[next(iter(readers))]
            members[here].clear()
            members[there].insert(0, node.id)
            home[node.id] = there


def _cluster(
    graph: Graph, kinds: Mapping[str, str], seed: str, home: Mapping[str, int], outputs: Set[str]
) -> list[str]:
    """Grow from `seed`: take in all readers of the group's tail, while they are elementwise."""
    cluster = [seed]
    inside = {seed}
    if not _fusible(graph, kinds, seed):
        return cluster
    while True:
        last = graph.by_id[cluster[-1]]
        if last.op in _ENDS:
            return cluster
        step = _next(graph, kinds, last.id, inside, home, outputs)
        if not step:
            return cluster
        cluster += step
        inside |= set(step)


def _fusible(graph: Graph, kinds: Mapping[str, str], node: str) -> bool:
    return (
        kinds[node] in _ANCHORS or kinds[node] == "elementwise" or graph.by_id[node].op in _BEGINS
    )


def _next(
    graph: Graph,
    kinds: Mapping[str, str],
    last: str,
    inside: Set[str],
    home: Mapping[str, int],
    outputs: Set[str],
) -> list[str]:
    """Return the nodes that join next: one reader, or readers that come together again."""
    node = graph.by_id[last]
    if len(node.outputs) != 1 or node.outputs[0] in outputs:
        return []
    readers = [r for r in dict.fromkeys(graph.readers[node.outputs[0]]) if r not in inside]
    joins = [r for r in readers if _elementwise(graph, kinds, r) and r not in home]
    if not readers or len(joins) != len(readers):
        return _anchor_after_dq(graph, kinds, node.op, readers, home)
    return _closing(graph, kinds, node, outputs, inside, home)


def _elementwise(graph: Graph, kinds: Mapping[str, str], node: str) -> bool:
    return kinds[node] == "elementwise" and graph.by_id[node].op not in _BEGINS


def _anchor_after_dq(
    graph: Graph, kinds: Mapping[str, str], op: str, readers: Sequence[str], home: Mapping[str, int]
) -> list[str]:
    if op not in _BEGINS or len(readers) != 1 or readers[0] in home:
        return []
    fits = kinds[readers[0]] in _ANCHORS and _inputs_before(graph, readers[0], set(), home, op)
    return list(readers) if fits else []


def _inputs_before(
    graph: Graph, node: str, inside: Set[str], home: Mapping[str, int], op: str = ""
) -> bool:
    """Tell whether all other inputs come from finished groups: then no cycle can arise."""
    made = (graph.producer.get(t) for t in graph.by_id[node].inputs)
    fresh = [m for m in made if m is not None and m not in inside and m not in home]
    return len(fresh) <= (1 if op else 0)


def _closing(
    graph: Graph,
    kinds: Mapping[str, str],
    last: Node,
    outputs: Set[str],
    inside: Set[str],
    home: Mapping[str, int],
) -> list[str]:
    """Return the fewest elementwise nodes behind `last` that leave through one node alone.

    One reader is the plain case; SiLU closes after two nodes, an exported GELU after five.
    """
    region: list[str] = []
    open_tensors = [last.outputs[0]]
    while len(region) < _REACH:
        known = {*inside, *region}
        readers = dict.fromkeys(r for t in open_tensors for r in graph.readers[t] if r not in known)
        ready = (
            r
            for r in readers
            if r not in home
            and _elementwise(graph, kinds, r)
            and len(graph.by_id[r].outputs) == 1
            and _inputs_before(graph, r, known, home)
        )
        if (node := next(ready, None)) is None:
            return []
        if set(readers) == {node}:
            return [*region, node]
        region.append(node)
        open_tensors.append(graph.by_id[node].outputs[0])
        made = open_tensors[-1]
        if made in outputs or not graph.readers[made] or graph.by_id[node].op in _ENDS:
            return []
    return []


def breaks(fused: Sequence[Group], head: Set[str]) -> bool:
    """Tell whether a cut with this head (closed under predecessors) goes through a group.

    A group's first node is an ancestor of the whole group and its last node a descendant.
    """
    return any(group[0] in head and group[-1] not in head for group in fused if len(group) > 1)


def acyclic(graph: Graph, fused: Sequence[Group]) -> bool:
    """Tell whether the graph with each group as one node has no cycle."""
    home = {node: place for place, group in enumerate(fused) for node in group}
    sources: list[set[int]] = [set() for _ in fused]
    for node in graph.nodes:
        made = (graph.producer.get(t) for t in node.inputs)
        sources[home[node.id]] |= {home[m] for m in made if m is not None} - {home[node.id]}
    waiting = [len(s) for s in sources]
    readers: list[list[int]] = [[] for _ in fused]
    for place, before in enumerate(sources):
        for other in before:
            readers[other].append(place)
    ready = [place for place, count in enumerate(waiting) if count == 0]
    done = 0
    while ready:
        done += 1
        for place in readers[ready.pop()]:
            waiting[place] -= 1
            if waiting[place] == 0:
                ready.append(place)
    return done == len(fused)
