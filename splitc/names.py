"""Names that do not lie: after a rewrite, a surviving tensor name means the same value.

Only tensors whose own producer changed can lie; those are compared by running both graphs once
on the same drawn inputs, a bounded number of bytes at a time.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from splitc.execute import evaluate
from splitc.feeds import draw_inputs
from splitc.model import Model, captures, random, tensor_digest

_BYTES_AT_A_TIME = 160 * 2**20
_TOLERANCE = 1e-4
"""Largest max|a−b| / max|b| that counts as the same value: folding reorders float sums."""


def honest(before: Model, after: Model) -> str:
    """Compare two graphs, renaming tensors of `after` that carry another value, in place.

    Returns '' if the outputs are the same, else what differs. The new name of a tensor is that of
    the original tensor with its value, if a reader nearby has it, else an invented one, which is
    then not offered as a cut. Graphs that draw random numbers are not compared.
    """
    if any(random(node) for node in before.ir.graph):
        return ""
    vanished = {n for n in before.graph.producer if n not in after.values}
    for chunk in [*_chunks(before, _changed(before, after))] or [[]]:
        nearby = {name: [c for c in _downstream(before, name) if c in vanished] for name in chunk}
        if difference := _settle(before, after, chunk, nearby):
            return difference
    return ""


def _settle(before: Model, after: Model, chunk: list[str], nearby: Mapping[str, list[str]]) -> str:
    """Run both graphs once: compare their outputs, and rename what lies among `chunk`."""
    ends = [t.name for t in before.outputs]
    wanted = list(dict.fromkeys([*ends, *chunk, *(c for cs in nearby.values() for c in cs)]))
    feeds = draw_inputs(before, seed=0)
    old = evaluate(before, feeds, wanted, optimize=False)  # opens four times as fast, runs as fast
    new = evaluate(after, feeds, [*ends, *chunk], optimize=False)
    taken = set(after.values)
    for name in chunk:
        if same(new[name], old[name]):
            continue
        fits = [c for c in nearby[name] if c not in taken and same(new[name], old[c])]
        fresh = fits[0] if fits else f"{name}__simplified"
        taken.add(fresh)
        after.values[name].name = fresh
    for cached in ("graph", "values", "nodes", "facts"):
        after.__dict__.pop(cached, None)
    return next((f"output {n!r} differs" for n in ends if not same(new[n], old[n])), "")


def same(a: Any, b: Any) -> bool:
    """Tell whether two arrays (sequences of them, or None) are equal up to reordered sums."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if a is None or b is None or isinstance(a, list) or isinstance(b, list):
        return a is b
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not b.dtype.name.startswith(("float", "bfloat")):
        return bool(np.array_equal(a, b))
    if b.dtype == np.float32 and b.size:
        with np.errstate(over="ignore", invalid="ignore"):
            far, large = np.abs(a - b).max(), np.abs(b).max()
        if np.isfinite(far) and np.isfinite(large):
            return bool(far <= _TOLERANCE * large)
    gap = np.abs(np.nan_to_num(a.astype(np.float64)) - np.nan_to_num(b.astype(np.float64)))
    scale = np.abs(np.nan_to_num(b.astype(np.float64))).max(initial=0.0)
    return bool(gap.max(initial=0.0) <= _TOLERANCE * scale)


def _changed(before: Model, after: Model) -> list[str]:
    """Tensors that both graphs make, by a node that is not literally the same."""
    outputs = {t.name for t in before.outputs}
    old = {name: _recipe(before, name) for name in before.graph.producer}
    return [
        name
        for name in after.graph.producer
        if name in old and name not in outputs and old[name] != _recipe(after, name)
    ]


def _recipe(model: Model, name: str) -> tuple[object, ...]:
    node = model.nodes[model.graph.producer[name]]
    table = model.ir.graph.initializers
    inputs = [_digest(table, v.name) if v is not None else "" for v in node.inputs]
    attributes = sorted((k, str(a)) for k, a in node.attributes.items())
    place = [out.name for out in node.outputs].index(name)
    return (
        node.domain,
        node.op_type,
        tuple(inputs),
        tuple(attributes),
        tuple(captures(node)),
        place,
    )


def _digest(table: Mapping[str, ir.Value], name: str | None) -> str:
    tensor = table[name].const_value if name is not None and name in table else None
    return str(name) if tensor is None else tensor_digest(tensor)


def _chunks(model: Model, names: list[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for name in names:
        if name not in model.facts:
            continue
        chunk.append(name)
        size += 3 * model.facts[name].nbytes
        if size > _BYTES_AT_A_TIME:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _downstream(model: Model, name: str, hops: int = 3) -> list[str]:
    """Tensors made from `name` by at most `hops` nodes, nearest first."""
    found: list[str] = []
    front = [name]
    for _ in range(hops):
        readers = [r for t in front for r in model.graph.readers.get(t, ())]
        front = [out for r in dict.fromkeys(readers) for out in model.graph.by_id[r].outputs]
        found += [t for t in front if t in model.facts]
    return found
