"""How many channels must go for a target: MACs, bytes or channels, counted from widths alone."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from splitc.errors import PassError
from splitc.pruning.groups import Channels, Group, Part
from splitc.pruning.layers import transposed, weighty, widths

TARGETS = ("macs", "bytes", "channels")
Scores = Mapping[str, NDArray[np.float64]]
"""Group name → a number for each channel: what the network loses with it."""

_MISSED = 0.02
_NEAR, _LATER = 0.003, 200
_FLOOR = 0.1
"""A group keeps at least this share of its channels, and one."""


@dataclass(frozen=True)
class Layer:
    """What a layer costs, and how many outputs and inputs share it: halve one, halve that."""

    both: float
    outputs: float
    out: int
    entry: int


@dataclass(frozen=True)
class Budget:
    """The cost of the whole, and of the layers whose widths may change."""

    target: str
    total: float
    layers: Mapping[str, Layer]
    groups: tuple[Group, ...]

    def saved(self, counts: Mapping[str, int]) -> float:
        """Return what is saved when groups lose as many channels as `counts` says, of `total`."""
        out: dict[str, float] = {}
        entry: dict[str, float] = {}
        for group in self.groups:
            for part in group.parts:
                table = entry if part.side == "in" else out
                gone = counts.get(group.name, 0) * part.places.shape[1]
                table[part.module] = table.get(part.module, 0.0) + gone
        products = sum(g.work * counts.get(g.name, 0) / g.width for g in self.groups)
        return (products if self.target == "macs" else 0.0) + sum(
            _saved(self.layers[name], out.get(name, 0.0), entry.get(name, 0.0))
            for name in {*out, *entry}
            if name in self.layers
        )

    @property
    def cost(self) -> float:
        """What the layers cost as they are, and the products of the groups."""
        products = sum(g.work for g in self.groups) if self.target == "macs" else 0.0
        return products + sum(layer.both + layer.outputs for layer in self.layers.values())

    def share(self, counts: Mapping[str, int]) -> float:
        """Return the saved share of the total, 0 … 1."""
        return self.saved(counts) / self.total if self.total else 0.0

    def each(self, group: Group) -> float:
        """Return what one channel of a group saves while all others are there."""
        return max(self.saved({group.name: 1}), 1e-12)


def _saved(layer: Layer, out: float, entry: float) -> float:
    left = 1 - out / layer.out
    both = layer.both * (1 - left * (1 - entry / layer.entry))
    return both + layer.outputs * (1 - left)


def budget(
    module: fx.GraphModule,
    found: Sequence[Group],
    inputs: tuple[Tensor, ...],
    target: str,
    total: float,
) -> Budget:
    """Return the budget of a module for `target`, one of `TARGETS`.

    `inputs`: one batch. `total`: MACs or bytes of all that the target counts, from the ONNX graph;
    channels of all groups.
    """
    if target == "channels":
        layers = {g.name: Layer(0.0, float(g.width), g.width, 1) for g in found}
        bare = tuple(Group(g.name, g.width, (_self(g),)) for g in found)
        return Budget(target, total, layers, bare)
    count = _COUNT[target]
    walk = _Sizes(module)
    with torch.no_grad():
        walk.run(*inputs)
    special = module.meta.get("selections", {})
    layers = {
        name: count(module.get_submodule(name), places)
        for name, places in walk.places.items()
        if name not in special
    }
    return Budget(target, total, layers, tuple(found))


def _self(group: Group) -> Part:
    return Part(group.name, "out", np.arange(group.width)[:, None])


class _Sizes(fx.Interpreter):
    """Runs a module and notes at how many positions of a sample each layer works."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.places: dict[str, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        made = super().run_node(n)
        if n.op == "call_module" and isinstance(made, Tensor):
            layer = self.module.get_submodule(str(n.target))
            turned = transposed(layer)
            counted, channels = (
                (self.env[n.all_input_nodes[0]] if turned else made),
                widths(layer)[turned],
            )
            batch = max(len(made), 1) if made.ndim else 1
            self.places[str(n.target)] = counted.numel() / channels / batch
        return made


def _macs(layer: nn.Module, places: float) -> Layer:
    """Each weight is used once at each position; nothing but layers with weights counts."""
    both = places * layer.get_parameter("weight").numel() if weighty(layer) else 0.0
    return Layer(both, 0.0, *widths(layer))


def _bytes(layer: nn.Module, places: float) -> Layer:
    """Matrices shrink with both widths, vectors with the outputs."""
    del places
    held = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
    both = sum(t.nbytes for t in held if t.ndim > 1)
    return Layer(float(both), float(sum(t.nbytes for t in held if t.ndim == 1)), *widths(layer))


_COUNT: Mapping[str, Callable[[nn.Module, float], Layer]] = {"macs": _macs, "bytes": _bytes}


def choose(
    of: Budget,
    scores: Scores,
    ratio: float,
    *,
    globally: bool,
    round_to: int = 1,
    least: Mapping[str, int] | None = None,
) -> dict[str, Channels]:
    """Return group name → channels to remove, so that about `ratio` of the total is saved.

    Globally: channels are ranked over the whole network by score per cost saved, the cheapest
    loss first; else every group loses the same share of its own. Of the two choices next to the
    target, the nearer one. Widths become multiples of `round_to`, where they are larger; `least`
    are those that must stay, a tenth by default. Raises `PassError` if the most that can go is too
    little by more than 2 % of the total.
    """
    order = _ranked(of, scores) if globally else _evenly(of)
    floors = {g.name: floor(g.width) for g in of.groups} if least is None else least

    def taken(steps: Sequence[str]) -> dict[str, Channels]:
        return _taken(of, scores, steps, floors, round_to)

    most = _share(of, taken(order))
    if most < ratio - _MISSED:
        raise PassError(
            f"at most {most:.1%} can be pruned away here, not {ratio:.1%}",
            hint="what inputs and outputs fix stays, and a tenth of every group",
        )
    low, high = 0, len(order)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _share(of, taken(order[:middle])) >= ratio else (middle, high)
    above = taken(order[:high])
    if _share(of, above) - ratio < _NEAR:
        return above
    below = _filled(of, ratio, taken, low, order)
    return min((below, above), key=lambda chosen: abs(_share(of, chosen) - ratio))


def _filled(
    of: Budget,
    ratio: float,
    taken: Callable[[Sequence[str]], dict[str, Channels]],
    low: int,
    order: Sequence[str],
) -> dict[str, Channels]:
    """Return what is gone after `low` steps, and after later steps that still fit the ratio."""
    steps = list(order[:low])
    for name in order[low + 1 : low + 1 + _LATER]:
        if ratio - _share(of, taken(steps)) < _NEAR:
            break
        if _share(of, taken([*steps, name])) <= ratio:
            steps.append(name)
    return taken(steps)


def floor(width: int) -> int:
    """Return how many channels of a group stay at least."""
    return max(1, round(width * _FLOOR))


def _share(of: Budget, chosen: Mapping[str, Channels]) -> float:
    return of.share({name: len(channels) for name, channels in chosen.items()})


def _ranked(of: Budget, scores: Scores) -> list[str]:
    """Return the group that loses its next channel, step by step."""
    items = [
        (float(score) / of.each(group), place, group.name)
        for group in of.groups
        for place, score in enumerate(np.sort(scores[group.name]))
    ]
    return [name for _, _, name in sorted(items)]


def _evenly(of: Budget) -> list[str]:
    """Return the same, such that every group has lost about the same share at any step."""
    items = [
        ((place + 0.5) / group.width, group.name)
        for group in of.groups
        for place in range(group.width)
    ]
    return [name for _, name in sorted(items)]


def _taken(
    of: Budget,
    scores: Scores,
    order: Sequence[str],
    floors: Mapping[str, int],
    round_to: int,
) -> dict[str, Channels]:
    """Return the channels that are gone after these steps, the lowest scores first."""
    counts = Counter(order)
    made: dict[str, Channels] = {}
    for group in of.groups:
        left = max(group.width - counts[group.name], min(floors[group.name], group.width))
        gone = group.width - _rounded(left, group.width, round_to)
        if gone > 0:
            ranked = np.argsort(scores[group.name], kind="stable")
            made[group.name] = np.sort(ranked[:gone]).astype(np.intp)
    return made


def _rounded(left: int, width: int, round_to: int) -> int:
    """Return the nearest multiple of `round_to`, at least one of it and at most the width."""
    return min(max(round(left / round_to), 1) * round_to, width)
