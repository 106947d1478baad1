"""Say a Reshape by its input's sizes, so that it stays right when a width changes.

    [N, 64, 7, 7] → [-1, 3136]        becomes      flatten from axis 1 on
    [N, L, 96] → [N, L, 4, 24]        becomes      [x.size(0), x.size(1), -1, 24]

Axes before and after are put into groups of equal products; sizes that a group alone decides are
derived from the input. Of an axis that is split, the number of heads is derived where it is the
last one, the width of a group where it is not (a channel shuffle).
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from splitc.fx.builder import Builder

Item = int | fx.Node


@dataclass(frozen=True)
class Group:
    """Axes of the input that become axes of the output."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def groups(before: Sequence[int], after: Sequence[int]) -> list[Group]:
    """Divide the axes of two shapes of equal product into the smallest groups of equal products.

    Axes of size 1 at the end belong to the last group.
    """
    if math.prod(before) != math.prod(after) or 0 in before:
        return [Group(tuple(range(len(before))), tuple(range(len(after))))]
    made: list[Group] = []
    i = j = 0
    while i < len(before) and j < len(after):
        left, right = [i], [j]
        a, b = before[i], after[j]
        while a != b:
            if a < b:
                left.append(left[-1] + 1)
                a *= before[left[-1]]
            else:
                right.append(right[-1] + 1)
                b *= after[right[-1]]
        made.append(Group(tuple(left), tuple(right)))
        i, j = left[-1] + 1, right[-1] + 1
    if not made:
        return [Group(tuple(range(len(before))), tuple(range(len(after))))]
    last = made.pop()
    made.append(Group((*last.before, *range(i, len(before))), (*last.after, *range(j, len(after)))))
    return made


def derived(
    builder: Builder,
    x: fx.Node,
    items: Sequence[Item],
    before: Sequence[int],
    after: Sequence[int],
    sure: bool,
) -> list[Item]:
    """Return `items`, a Reshape's target, with what the input's sizes decide said by them.

    `before`, `after`: sizes of input and output at one batch; `sure` if that is one which no other
    size equals. Where it is not, one size at most is left open: that is right whatever it is.
    """
    made = list(items)
    for group in sorted(groups(before, after), key=lambda g: -1 not in [items[a] for a in g.after]):
        place = _place(group, items, len(before), after)
        if place is None:
            continue
        rest = [made[axis] for axis in group.after if axis != place]
        alone = len(group.before) == 1 and all(item == 1 for item in rest)
        if alone and sure:
            made[place] = builder.size(x, group.before[0])
        elif -1 not in made and not alone:
            made[place] = -1
        elif sure and made[place] != -1:
            made[place] = _quotient(builder, x, group.before, rest)
    return made


def _place(group: Group, items: Sequence[Item], rank: int, after: Sequence[int]) -> int | None:
    """Return which axis of the output a group derives; None: its sizes stay as they are."""
    if any(items[axis] == -1 for axis in group.after):
        return next(axis for axis in group.after if items[axis] == -1)
    wide = [axis for axis in group.after if after[axis] != 1] or [group.after[0]]
    one = len(group.before) == 1
    place = wide[0]
    if one and len(wide) > 1:
        place = wide[-2] if group.before[0] == rank - 1 else wide[-1]
    said = isinstance(items[place], fx.Node)
    return None if said and (one or len(wide) > 1) else place


def _quotient(builder: Builder, x: fx.Node, axes: Sequence[int], rest: Sequence[Item]) -> Item:
    made: Item = builder.size(x, axes[0])
    for axis in axes[1:]:
        made = builder.call(operator.mul, made, builder.size(x, axis))
    for item in rest:
        if item != 1:
            made = builder.call(operator.floordiv, made, item)
    return made


def flattened(items: Sequence[Item], before: Sequence[int], x: fx.Node) -> tuple[int, int] | None:
    """Return the axes (first, last) that a target merges, where it does nothing else."""
    if list(items).count(-1) != 1:
        return None
    rank = len(before)
    place = list(items).index(-1)
    behind = len(items) - 1 - place
    kept = [*enumerate(items[:place]), *enumerate(items[place + 1 :], rank - behind)]
    if rank - behind - place < 2 or not all(_is_size(item, x, axis) for axis, item in kept):
        return None
    return place, rank - behind - 1


def _is_size(item: Item, x: fx.Node, axis: int) -> bool:
    return isinstance(item, fx.Node) and item.target == "size" and item.args == (x, axis)
