"""What a network loses with a channel, by four measures; each is a number for every channel.

Numbers of different groups are compared with each other, so each is relative to something: an
amplitude to that of what it goes into, a norm to the layer's, a change of the loss to nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from splitc.errors import PassError
from splitc.pruning.budget import Scores
from splitc.pruning.groups import Group, Part, outputs
from splitc.pruning.layers import transposed
from splitc.pruning.repair import added
from splitc.train import cross_entropy

IMPORTANCES = ("energy", "magnitude", "taylor", "bn-scale")
Batches = Sequence[tuple[Tensor, ...]]
_Vector = NDArray[np.float64]


def energy(module: fx.GraphModule, of: Sequence[Group], batches: Batches) -> Scores:
    """Return the sum over readers of √(|W_c|² E[x_c²] / (E[y²] · outputs)), y what is made of it.

    x_c is the channel as a reader sees it, W_c the reader's weights for it, y the reader's output
    with all that is added to it before anything else reads it (a residual sum). E is over samples
    and positions.
    """
    readers = {part.module for group in of for part in group.readers}
    seen = Energies.of(module, readers, batches)
    return {g.name: _summed(g.width, g.readers, seen.share) for g in of}


def _summed(width: int, parts: Sequence[Part], share: Callable[[str], _Vector]) -> _Vector:
    """Return the sum over parts of √(the channel's share of the part)."""
    total = np.zeros(width)
    for part in parts:
        total += np.sqrt(_in_channels(part, share(part.module)))
    return total


class Energies(fx.Interpreter):
    """Runs a module; sums squares of what layers read, by channel, and of what comes of it."""

    def __init__(self, module: fx.GraphModule, layers: set[str]) -> None:
        super().__init__(module)
        self.read: dict[str, _Vector | float] = {}
        self.made: dict[str, float] = {}
        self.count: dict[str, int] = {}
        self.ends: dict[fx.Node, list[str]] = {}
        for node in self.graph.nodes:
            if node.op == "call_module" and node.target in layers:
                end = ([node] + [total for _, total in added(node)])[-1]
                self.ends.setdefault(end, []).append(str(node.target))

    @classmethod
    def of(cls, module: fx.GraphModule, layers: set[str], batches: Batches) -> "Energies":
        """Return what was seen over all batches, each of the same weight."""
        made = cls(module, layers)
        with torch.no_grad():
            for batch in batches:
                made.run(*batch)
        return made

    def run_node(self, n: fx.Node) -> Any:  # noqa: D102
        made = super().run_node(n)
        for name in self.ends.get(n, ()):
            self.made[name] = self.made.get(name, 0.0) + float(made.square().mean())
        target = str(n.target)
        if n.op == "call_module" and any(target in names for names in self.ends.values()):
            x = self.env[n.all_input_nodes[0]]
            axis = x.ndim - 1 if isinstance(self.module.get_submodule(target), nn.Linear) else 1
            rest = [a for a in range(x.ndim) if a != axis]
            mean = x.square().mean(rest).double().numpy() if rest else x.square().double().numpy()
            self.read[target] = self.read.get(target, 0.0) + mean
        return made

    def share(self, name: str) -> _Vector:
        """Return, for each input of a layer, its share of the energy of what comes of it."""
        layer = self.module.get_submodule(name)
        weight = layer.get_parameter("weight").detach().double()
        axis = 0 if transposed(layer) else 1
        norms = weight.square().sum([a for a in range(weight.ndim) if a != axis]).numpy()
        outs = weight.shape[1 - axis]
        total = self.made[name] * outs
        return np.asarray(norms * self.read[name] / total if total > 0 else norms * 0.0)


def _in_channels(part: Part, positions: _Vector) -> _Vector:
    """Sum a number of each position over the positions of each channel."""
    return np.asarray(positions[part.places].sum(1))


def magnitude(module: nn.Module, of: Sequence[Group]) -> Scores:
    """Return the sum over makers of √(the filter's share of the layer's sum of squares)."""

    def share(name: str) -> _Vector:
        squares = _by_output(module.get_submodule(name))
        return squares / max(float(squares.sum()), 1e-30)

    return {g.name: _summed(g.width, g.makers, share) for g in of}


def _by_output(layer: nn.Module, values: Tensor | None = None) -> _Vector:
    """Sum over each output's weights: their squares, or the given values."""
    weight = layer.get_parameter("weight").detach().double()
    table = weight.square() if values is None else values.double()
    axis = 1 if transposed(layer) else 0
    return np.asarray(table.sum([a for a in range(table.ndim) if a != axis]).numpy())


def taylor(
    module: fx.GraphModule,
    of: Sequence[Group],
    batches: Batches,
    labels: Sequence[Tensor | None],
) -> Scores:
    """Return √ of the mean over batches of (Σ g·w)² over each channel's weights in its makers.

    That is the squared first-order change of the loss when they become 0: P. Molchanov et al.,
    "Importance estimation for neural network pruning", CVPR 2019, equation 8. The loss is the
    cross-entropy of the first output with the labels, or with the network's own answers.
    """
    total = {group.name: np.zeros(group.width) for group in of}
    makers = {p.module: module.get_submodule(p.module) for g in of for p in g.makers}
    held = {name: layer.get_parameter("weight") for name, layer in makers.items()}
    weights = {name: weight for name, weight in held.items() if weight.requires_grad}
    for grads in gradients(module, list(weights.values()), batches, labels):
        pairs = zip(weights.items(), grads, strict=True)
        change = {
            name: _by_output(makers[name], (weight * grad).detach())
            for (name, weight), grad in pairs
            if grad is not None
        }
        for group in of:
            sums = [_in_channels(p, change[p.module]) for p in group.makers if p.module in change]
            total[group.name] += np.square(sum(sums)) if sums else 0.0
    return {name: np.sqrt(sums / max(len(batches), 1)) for name, sums in total.items()}


def gradients(
    module: fx.GraphModule,
    weights: Sequence[Tensor],
    batches: Batches,
    labels: Sequence[Tensor | None],
) -> Iterator[tuple[Tensor | None, ...]]:
    """Yield, batch by batch, the loss's gradients: cross-entropy with labels or own answers."""
    for batch, wanted in zip(batches, labels, strict=True):
        with torch.enable_grad():
            made = outputs(module, batch)
            loss = cross_entropy(made, None, answers(made[0]) if wanted is None else wanted)
            yield torch.autograd.grad(loss, weights, allow_unused=True)


def answers(logits: Tensor) -> Tensor:
    """Return the class that the network itself says."""
    plain = logits.reshape(len(logits), *(size for size in logits.shape[1:] if size != 1))
    if plain.ndim == 1:
        return (
            (plain > 0.5).long()
            if bool(((plain >= 0) & (plain <= 1)).all())
            else (plain > 0).long()
        )
    return plain.argmax(-1)


def bn_scale(module: nn.Module, of: Sequence[Group]) -> Scores:
    """Return |γ| of the BatchNorm of each channel: the largest, where there are several.

    Z. Liu et al., "Learning efficient convolutional networks through network slimming", ICCV 2017.
    Raises `PassError` for a group without one: a folded network has none.
    """
    made: dict[str, _Vector] = {}
    for group in of:
        norms = [p for p in group.parts if p.axis is None and _scaled(module, p)]
        if not norms:
            raise PassError(
                f"no BatchNorm scales the channels of {group.name!r}; a folded network has none",
                hint="importance = 'energy' or 'taylor', or load the network with its BatchNorms",
            )
        scales = [_in_channels(p, _gamma(module.get_submodule(p.module))) for p in norms]
        made[group.name] = np.max(scales, axis=0)
    return made


def _scaled(module: nn.Module, part: Part) -> bool:
    layer = module.get_submodule(part.module)
    return isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.affine


def _gamma(layer: nn.Module) -> _Vector:
    return np.asarray(layer.get_parameter("weight").detach().abs().double().numpy())


def scores(
    module: fx.GraphModule,
    of: Sequence[Group],
    importance: str,
    batches: Batches,
    labels: Sequence[Tensor | None],
) -> Scores:
    """Return the scores by one of `IMPORTANCES`; `batches` may be empty where they say nothing."""
    made: Mapping[str, Any] = {
        "energy": lambda: energy(module, of, batches),
        "magnitude": lambda: magnitude(module, of),
        "taylor": lambda: taylor(module, of, batches, labels),
        "bn-scale": lambda: bn_scale(module, of),
    }
    found: Scores = made[importance]()
    return found
