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
from collections import deque
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

    `pruned` has the graph of `whole`, or less of it under the same names. `kept`: layer → which of
    its outputs are left, for those that lost any.
    """
    mine, theirs = _Run(pruned, batches), _Run(whole, batches)
    twins = {str(node.target): node for node in whole.graph.nodes if node.op == "call_module"}
    with torch.no_grad():
        for node in pruned.graph.nodes:
            target = str(node.target)
            layer = pruned.get_submodule(target) if node.op == "call_module" else None
            if layer is not None and refittable(layer) and target in layers and target in twins:
                theirs.reach(twins[target])
                pairs = zip(mine.runs, theirs.runs, strict=True)
                chosen = kept.get(target)
                wanted = [_wanted(node, twins[target], chosen, layer, pair) for pair in pairs]
                (read,) = node.all_input_nodes
                refit(layer, [run.env[read] for run in mine.runs], wanted, ridge=ridge)
            mine.reach(node)


class _Run:
    """One network, node by node, on several batches; a value goes after its last reader."""

    def __init__(self, module: fx.GraphModule, batches: Sequence[tuple[Tensor, ...]]) -> None:
        self.runs = [fx.Interpreter(module) for _ in batches]
        self.last = {read: node for node in module.graph.nodes for read in node.all_input_nodes}
        entries = [node for node in module.graph.nodes if node.op == "placeholder"]
        for run, batch in zip(self.runs, batches, strict=True):
            run.env.update(zip(entries, batch, strict=True))
        steps = [n for n in module.graph.nodes if n.op not in ("placeholder", "output")]
        self.ahead = deque(steps)

    def reach(self, node: fx.Node) -> None:
        """Run everything up to a node, and the node."""
        if node not in self.ahead:
            return
        while self.ahead:
            now = self.ahead.popleft()
            done = [read for read in now.all_input_nodes if self.last[read] is now]
            for run in self.runs:
                run.env[now] = run.run_node(now)
                for read in done:
                    del run.env[read]
            if now is node:
                return


def _wanted(
    node: fx.Node,
    twin: fx.Node,
    chosen: Channels | None,
    layer: nn.Module,
    pair: tuple[fx.Interpreter, fx.Interpreter],
) -> Tensor:
    """Return what a layer should compute: what it did, and what is lacking where that is added."""
    mine, theirs = pair
    total: Tensor = theirs.env[twin]
    missing: Tensor | float = 0.0
    for (now, _), (once, _) in zip(added(node), added(twin), strict=False):
        ready = now in mine.env and once in theirs.env
        if ready and theirs.env[once].shape == total.shape:
            total = total + theirs.env[once]
            missing = missing + mine.env[now]
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
