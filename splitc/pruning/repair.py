"""Refit layers in closed form after channels are gone, against what the whole network computed.

A folded network has no BatchNorm to recover with. But what a layer should have computed is known
for any sample: so each layer gets the weights W that minimise, over samples and positions,
|W x − y|² + λ |W − W₀|², with x its inputs in the pruned network, y its outputs in the whole one
(those that are left), W₀ the weights that were left to it, and λ a small share of the mean of x².
Where the outputs go into a sum alone (a shortcut), y is what the sum lacks: so the error that
layers before it made is taken back too. Both networks run side by side, node by node, so each is
run once.

Layer by layer with the layers before it already pruned and refitted: Y. He et al., "Channel
pruning for accelerating very deep neural networks", ICCV 2017, section 3.1.
"""

import operator
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from splitc.pruning.groups import Channels

RIDGE = 1e-3
_ROWS = 2**17
"""At most this many positions are summed over; of more, an even choice."""
_ELEMENTS = 2**24
_SUMS = (operator.add, torch.add)


def repair(
    pruned: fx.GraphModule,
    whole: fx.GraphModule,
    batches: Sequence[tuple[Tensor, ...]],
    layers: Collection[str],
    kept: Mapping[str, Channels],
    *,
    ridge: float = RIDGE,
) -> None:
    """Refit the named layers of `pruned` in place; those that `refittable` refuses stay.

    Both modules have the same graph. `kept`: layer → which of its outputs are left, for those that
    lost any.
    """
    walk = _Walk(pruned, whole, batches)
    for node in whole.graph.nodes:
        if node.op == "output":
            return
        if node.op == "placeholder":
            continue
        with torch.no_grad():
            walk.whole(node)
            if node.op == "call_module" and node.target in layers:
                layer = pruned.get_submodule(str(node.target))
                refit(layer, *walk.sides(node, layer, kept.get(str(node.target))), ridge=ridge)
            walk.pruned(node)


class _Walk:
    """Both networks, node by node and batch by batch; a value goes after its last reader."""

    def __init__(
        self, pruned: fx.GraphModule, whole: fx.GraphModule, batches: Sequence[tuple[Tensor, ...]]
    ) -> None:
        self.twin = dict(zip(whole.graph.nodes, pruned.graph.nodes, strict=True))
        self.last = {read: node for node in whole.graph.nodes for read in node.all_input_nodes}
        self.pairs = [(fx.Interpreter(pruned), fx.Interpreter(whole)) for _ in batches]
        entries = [node for node in whole.graph.nodes if node.op == "placeholder"]
        for (mine, theirs), batch in zip(self.pairs, batches, strict=True):
            theirs.env.update(zip(entries, batch, strict=True))
            mine.env.update(zip(map(self.twin.__getitem__, entries), batch, strict=True))

    def whole(self, node: fx.Node) -> None:
        """Run a node of the whole network."""
        for _, theirs in self.pairs:
            theirs.env[node] = theirs.run_node(node)

    def pruned(self, node: fx.Node) -> None:
        """Run its twin, and forget what nobody reads any more."""
        done = [read for read in node.all_input_nodes if self.last[read] is node]
        for mine, theirs in self.pairs:
            mine.env[self.twin[node]] = mine.run_node(self.twin[node])
            for read in done:
                del theirs.env[read], mine.env[self.twin[read]]

    def sides(
        self, node: fx.Node, layer: nn.Module, chosen: Channels | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return what a layer reads in the pruned network and what it should compute, by batch."""
        (read,) = node.all_input_nodes
        given = [mine.env[self.twin[read]] for mine, _ in self.pairs]
        return given, [_wanted(node, self.twin, chosen, layer, pair) for pair in self.pairs]


def _wanted(
    node: fx.Node,
    twin: Mapping[fx.Node, fx.Node],
    chosen: Channels | None,
    layer: nn.Module,
    pair: tuple[fx.Interpreter, fx.Interpreter],
) -> Tensor:
    """Return what a layer should compute: what it did, and what is lacking where that is added."""
    mine, theirs = pair
    total = theirs.env[node]
    missing: Tensor | float = 0.0
    for other, _ in added(node):
        if twin[other] in mine.env and theirs.env[other].shape == total.shape:
            total = total + theirs.env[other]
            missing = missing + mine.env[twin[other]]
    if chosen is not None:
        axis = total.ndim - 1 if isinstance(layer, nn.Linear) else 1
        total = total.index_select(axis, torch.from_numpy(chosen))
    made: Tensor = total - missing
    return made


def added(node: fx.Node) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Yield what is added to the node's output before anything else reads it, and the sum."""
    while len(node.users) == 1:
        user = next(iter(node.users))
        others = [a for a in user.args if a is not node]
        if user.target not in _SUMS or len(others) != 1 or not isinstance(others[0], fx.Node):
            return
        yield others[0], user
        node = user


def refittable(layer: nn.Module) -> bool:
    """Tell whether a layer can be refitted: a Linear, or a plain convolution in 1 or 2 axes."""
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return layer.groups == 1 and plain
    return isinstance(layer, nn.Linear)


def refit(
    layer: nn.Module, given: Sequence[Tensor], wanted: Sequence[Tensor], *, ridge: float = RIDGE
) -> None:
    """Give the layer the weights (and bias) with which it computes `wanted` from `given` best."""
    if not refittable(layer):
        return
    weight = layer.get_parameter("weight").detach()
    bias = layer._parameters.get("bias")
    flat = weight.reshape(weight.shape[0], -1).double()
    start = flat if bias is None else torch.cat([flat, bias.detach().double()[:, None]], 1)
    gram = start.new_zeros(start.shape[1], start.shape[1])
    cross = start.new_zeros(start.shape[1], start.shape[0])
    share = sum(len(x) for x in given)
    for x, y in zip(given, wanted, strict=True):
        for rows, target in _rows(layer, x, y, max(_ROWS * len(x) // share, 1)):
            seen = rows if bias is None else torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
            gram += (seen.T @ seen).double()
            cross += (seen.T @ target).double()
    pull = ridge * float(gram.diagonal().mean())
    if pull <= 0:
        return
    gram.diagonal().add_(pull)
    made = torch.linalg.solve(gram, cross + pull * start.T).T.to(weight.dtype)
    weight.copy_(made[:, : flat.shape[1]].reshape(weight.shape))
    if bias is not None:
        bias.detach().copy_(made[:, -1])


def _rows(layer: nn.Module, x: Tensor, y: Tensor, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (positions × inputs, positions × outputs), in pieces; about `most` positions."""
    if isinstance(layer, nn.Linear):
        flat, target = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        stride = -(-len(flat) // most)
        yield flat[::stride], target[::stride]
        return
    if isinstance(layer, nn.Conv1d):
        x, y = x.unsqueeze(2), y.unsqueeze(2)
    places = y[0, 0].numel()
    kept = min(places, max(most // len(x), 1))
    chosen = torch.randperm(places, generator=torch.Generator().manual_seed(0))[:kept]
    step = max(_ELEMENTS // (layer.get_parameter("weight")[0].numel() * places), 1)
    for at in range(0, len(x), step):
        seen = _patches(layer, x[at : at + step])[:, :, chosen]
        target = y[at : at + step].flatten(2)[:, :, chosen]
        yield seen.transpose(1, 2).flatten(0, 1), target.transpose(1, 2).flatten(0, 1)


def _patches(layer: nn.Module, x: Tensor) -> Tensor:
    """Return what each output position sees: samples × inputs × positions."""
    names = ("kernel_size", "dilation", "padding", "stride")
    numbers = [tuple(getattr(layer, name)) for name in names]
    if isinstance(layer, nn.Conv1d):
        numbers = [(one, *given) for one, given in zip((1, 1, 0, 1), numbers, strict=True)]
    return functional.unfold(x, *numbers)
