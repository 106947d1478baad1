"""Say which node of a segment the builder refuses, in our names.

The parser gives an index into the graph that holds the node; an error while building names a layer,
which is called after its ONNX node; a crash leaves the node that was parsed last. Where none of
them names a node, the shortest prefix of the segment that fails ends with it.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import onnx_ir as ir

from splitc.backends.tensorrt.child import Outcome, Refusal
from splitc.model import Model, bodies, dtype_of, identity

Try = Callable[[Model], Outcome]
"""Builds a segment."""

PARSER = "the parser refuses "
"""How a reason begins that is the parser's and not the builder's."""

_MADE = re.compile(r'While parsing node number \d+ \[\w+ -> "([^"]+)"\]')
_INPUT = re.compile(r"ERROR: (.+):\d+ In function importInput")
_WORD = re.compile(r"[^\s\"'`,;()\[\]{}]+")


def refused(segment: Model, outcome: Outcome, attempt: Try) -> dict[str, str]:
    """Return node → why, at least one, for an outcome that is no engine."""
    names = _Names(segment)
    if outcome.stage == "parse" and outcome.refusals:
        found = {names.of(one): _why(one) for one in outcome.refusals}
        if known := {node: text for node, text in found.items() if node}:
            return known
        if node := names.parsed(outcome.messages):
            return {node: _why(outcome.refusals[0])}
    why = said(outcome)
    node = names.called(outcome.node) if outcome.died else names.within(outcome.messages)
    return {node or shortest(segment, attempt): why}


def shortest(segment: Model, attempt: Try) -> str:
    """Return the last node of a failing prefix whose predecessor builds, by bisection."""
    count = len(segment.ir.graph)
    low, high = 0, count  # the empty prefix builds, the whole does not
    while high - low > 1:
        middle = (low + high) // 2
        if attempt(prefix(segment, middle)).engine is None:
            high = middle
        else:
            low = middle
    return identity(segment.ir.graph[high - 1])


def prefix(segment: Model, count: int) -> Model:
    """Return the first `count` nodes; what they make for the others are its outputs."""
    copy = segment.clone()
    graph = copy.ir.graph
    nodes = list(graph)
    rest = set(nodes[count:])
    late = {value.name for node in rest for value in node.inputs if value is not None}
    late |= {value.name for value in graph.outputs}
    graph.outputs.clear()
    graph.remove(list(rest), safe=False)
    made = [value for node in nodes[:count] for value in node.outputs if value.name]
    graph.outputs.extend([value for value in made if value.name in late] or made[-1:])
    for value in graph.outputs:
        fact = segment.facts.get(str(value.name))
        if value.type is None and fact is not None:  # the parser wants outputs typed
            value.type = ir.TensorType(dtype_of(fact.dtype))
    return Model(copy.ir, segment.source, segment.specs)


def without(segment: Model, nodes: set[str]) -> Model | None:
    """Return the segment without these nodes: what they made is an input now.

    None if too little is left. What is an input and an output at once is no output any more.
    """
    copy = segment.clone()
    graph = copy.ir.graph
    gone = [node for node in graph if identity(node) in nodes]
    for value in [value for node in gone for value in node.outputs if value.name]:
        fact = segment.facts.get(str(value.name))
        if fact is None:
            return None
        shape = value.shape if value.shape is not None else ir.Shape(fact.shape)
        fresh = ir.Value(name=value.name, type=ir.TensorType(dtype_of(fact.dtype)), shape=shape)
        for use in list(value.uses()):
            use.node.replace_input_with(use.idx, fresh)
        graph.inputs.append(fresh)
    dead = {value for node in gone for value in node.outputs}
    kept = [value for value in graph.outputs if value not in dead]
    graph.outputs.clear()
    graph.outputs.extend(kept)
    graph.remove(gone, safe=False)
    made = [value for node in graph for value in node.outputs if value.name]
    if not made:
        return None
    if not kept:
        graph.outputs.append(made[-1])
    return replace(Model(copy.ir, segment.source, segment.specs))


class _Names:
    """From TensorRT's names of nodes to ours: those of bodies stand for the node around them."""

    def __init__(self, segment: Model) -> None:
        self._nodes = list(segment.ir.graph)
        self._known: dict[str, str] = {}
        for node in self._nodes:
            for name in _spellings(node):
                self._known.setdefault(name, identity(node))
        self._readers: dict[str, str] = {}
        for node in self._nodes:
            for value in node.inputs:
                if value is not None and value.name:
                    self._readers.setdefault(value.name, identity(node))

    def of(self, refusal: Refusal) -> str:
        """Return the node that the parser refused, or ''."""
        if 0 <= refusal.index < len(self._nodes):
            node = self._nodes[refusal.index]
            if (node.op_type, node.name or "") == (refusal.operator, refusal.name):
                return identity(node)
        return self.called(refusal.name)

    def parsed(self, messages: tuple[str, ...]) -> str:
        """Return the node, by its output, that an error while parsing speaks of, or ''."""
        made = [found[1] for text in messages if (found := _MADE.search(text))]
        return next(
            (self._known[f"node_of_{n}"] for n in made if f"node_of_{n}" in self._known), ""
        )

    def called(self, name: str) -> str:
        """Return the node that TensorRT calls `name`, or ''."""
        return self._known.get(name) or self._known.get(re.sub(r"_\d+$", "", name), "")

    def within(self, messages: tuple[str, ...]) -> str:
        """Return the node, or the reader of the input, that a message names, or ''.

        The longest name counts, because a short one may be a word of the message.
        """
        words = {word for text in messages for word in _WORD.findall(text)}
        for word in sorted(words, key=lambda word: (-len(word), word)):
            if node := self.called(word):
                return node
        inputs = [found[1] for text in messages if (found := _INPUT.search(text))]
        return next((self._readers[name] for name in inputs if name in self._readers), "")


def _spellings(node: ir.Node) -> Iterator[str]:
    """Yield what TensorRT may call a node: its name, one of its output, those in its bodies."""
    if node.name:
        yield node.name
    for value in node.outputs:
        if value.name:
            yield f"node_of_{value.name}"
    for body in bodies(node):
        for inner in body:
            yield from _spellings(inner)


def _why(refusal: Refusal) -> str:
    """Return the parser's own words, on one line."""
    text = " ".join(refusal.why.split())
    return f"{PARSER}{refusal.operator or 'it'}: {text[:300]}"


def said(outcome: Outcome) -> str:
    """Say in one line what became of an outcome that is no engine."""
    doing = {"parse": "parsing", "build": "building"}.get(outcome.stage, "starting")
    if outcome.died:
        return f"{doing}: the builder {outcome.died}"
    first = [
        *outcome.messages,
        *(one.why for one in outcome.refusals),
        "no engine, no reason given",
    ]
    return f"{doing}: {' '.join(first[0].split())[:300]}"
