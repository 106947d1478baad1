"""Arithmetic on sizes: Shape → Gather → Concat → Reshape becomes `x.size(0)` and plain numbers.

A rule here takes `Sizes` and returns `Sizes`, or None where only tensors can say it.
"""

import operator
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
from torch import fx

from splitc.fx import functions
from splitc.fx.builder import Sizes
from splitc.fx.site import Site

Item = int | fx.Node
_BINARY: dict[str, Callable[..., Any]] = {
    "Add": operator.add,
    "Div": functions.truncated,
    "Equal": operator.eq,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
    "Less": operator.lt,
    "LessOrEqual": operator.le,
    "Max": max,
    "Min": min,
    "Mod": operator.mod,
    "Mul": operator.mul,
    "Sub": operator.sub,
}


def lifted(site: Site) -> Sizes | None:
    """Return the node's output as sizes if all that it reads is known one by one."""
    rule = RULES.get(site.op)
    if rule is None or not site.has(0):
        return None
    if not any(isinstance(site.builder.env.get(str(v.name)), Sizes) for v in site.node.inputs if v):
        return None
    if site.sizes(0) is None:
        return None
    return rule(site)


def _first(site: Site) -> Sizes:
    found = site.sizes(0)
    assert found is not None
    return found


def _same(site: Site) -> Sizes:
    return _first(site)


def _cast(site: Site) -> Sizes | None:
    whole = ir.DataType(site.attr("to")).is_integer()
    return _first(site) if whole else None


def _vector(site: Site) -> Sizes | None:
    """Unsqueeze a scalar, or reshape to one axis."""
    made = _first(site)
    if site.op == "Unsqueeze" and not made.scalar:
        return None
    if site.op == "Reshape" and site.ints(1) not in ([-1], [len(made.items)]):
        return None
    return Sizes(made.items)


def _scalar(site: Site) -> Sizes | None:
    made = _first(site)
    return Sizes(made.items, scalar=True) if len(made.items) == 1 else None


def _gather(site: Site) -> Sizes | None:
    made, places = _first(site), site.sizes(1)
    if made.scalar or places is None or not all(isinstance(i, int) for i in places.items):
        return None
    return Sizes(tuple(made.items[i] for i in places.items if isinstance(i, int)), places.scalar)


def _slice(site: Site) -> Sizes | None:
    bounds = [site.ints(i, name) for i, name in ((1, "starts"), (2, "ends"))]
    steps = site.ints(4) if site.has(4) else [1]
    (start,), (end,), (step,) = bounds[0] or [], bounds[1] or [], steps or []
    return Sizes(_first(site).items[start:end:step])


def _concat(site: Site) -> Sizes | None:
    parts = [site.sizes(index) for index in range(len(site.node.inputs))]
    if any(part is None or part.scalar for part in parts):
        return None
    return Sizes(tuple(item for part in parts if part is not None for item in part.items))


def _binary(site: Site) -> Sizes | None:
    a, b = site.sizes(0), site.sizes(1)
    if a is None or b is None or len(site.node.inputs) != 2:
        return None
    length = max(len(a.items), len(b.items))
    if not all(len(side.items) in (1, length) for side in (a, b)):
        return None
    pairs = zip(*(s.items * (length // len(s.items)) for s in (a, b)), strict=True)
    return Sizes(
        tuple(apply(site, _BINARY[site.op], *pair) for pair in pairs), a.scalar and b.scalar
    )


def _where(site: Site) -> Sizes | None:
    parts = [site.sizes(index) for index in range(3)]
    if any(part is None for part in parts):
        return None
    known = [part for part in parts if part is not None]
    length = max(len(part.items) for part in known)
    spread = [part.items * (length // len(part.items)) for part in known]
    items = tuple(apply(site, functions.choose, *three) for three in zip(*spread, strict=True))
    return Sizes(items, all(part.scalar for part in known))


def _product(site: Site) -> Sizes | None:
    made: Item = 1
    for item in _first(site).items:
        made = apply(site, operator.mul, made, item)
    return Sizes((made,), scalar=not site.attr("keepdims", 1))


def _count(site: Site) -> Sizes:
    """Size or Shape of sizes: how many they are, which is known."""
    made = _first(site)
    shape = () if made.scalar else (len(made.items),)
    return Sizes((len(made.items),), scalar=True) if site.op == "Size" else Sizes(shape)


def _negative(site: Site) -> Sizes:
    made = _first(site)
    return Sizes(tuple(apply(site, operator.neg, item) for item in made.items), made.scalar)


def _opposite(site: Site) -> Sizes:
    made = _first(site)
    return Sizes(tuple(apply(site, operator.not_, item) for item in made.items), made.scalar)


def apply(site: Site, target: Callable[..., Any], *items: Item) -> Item:
    """Compute now what is known now, else add a call."""
    if all(isinstance(item, int) for item in items):
        return int(target(*items))
    return site.call(target, *items)


RULES: dict[str, Callable[[Site], Sizes | None]] = {
    **dict.fromkeys(_BINARY, _binary),
    "Cast": _cast,
    "Concat": _concat,
    "Gather": _gather,
    "Identity": _same,
    "Neg": _negative,
    "Not": _opposite,
    "ReduceProd": _product,
    "Reshape": _vector,
    "Shape": _count,
    "Size": _count,
    "Slice": _slice,
    "Squeeze": _scalar,
    "Unsqueeze": _vector,
    "Where": _where,
}
