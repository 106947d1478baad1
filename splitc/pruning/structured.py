"""Structured pruning of a lifted module: find groups, score, choose, remove, refit."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from splitc.errors import PassError
from splitc.pruning.budget import budget, choose, floor
from splitc.pruning.calibration import Calibration
from splitc.pruning.groups import Channels, Group, Removed, cut_down, differs, groups, kept, outputs
from splitc.pruning.heads import heads
from splitc.pruning.how import How
from splitc.pruning.importance import scores
from splitc.pruning.layers import trained, widths
from splitc.pruning.repair import repair

KINDS = ("channels", "heads", "mlp")
Work = Mapping[str, int]
"""Identity of an ONNX node → its MACs."""


_STEPS = 3
"""Channels that are refitted after go in so many steps: what is left takes over step by step."""


def shrink(
    module: fx.GraphModule, how: How, samples: Calibration, total: float, work: Work
) -> fx.GraphModule:
    """Return a smaller copy of a lifted module; `total`: what the target counts, of the whole.

    Layers are refitted if `how.repair` is set and the samples are data. Raises `PassError` if
    there is nothing of this kind to prune, or not enough.
    """
    few = _few(samples.batches[0])
    found = FINDERS[how.kind](module, few, work)
    if not found:
        raise PassError(f"there are no {how.kind} here that could be pruned", hint=_HINTS[how.kind])
    all_ = float(sum(group.width for group in found)) if how.target == "channels" else total
    least = {group.name: floor(group.width) for group in found}
    before = budget(module, found, few, how.target, all_).cost
    refits = how.repair and not samples.drawn
    steps = _STEPS if refits and how.kind != "heads" else 1
    made, left = module, dict[str, Channels]()
    for step in range(1, steps + 1):
        here = FINDERS[how.kind](made, few, work) if step > 1 else found
        of = budget(made, here, few, how.target, all_)
        ratio = how.ratio * step / steps - (before - of.cost) / all_
        marks = scores(made, here, how.importance, samples.batches, samples.labels)
        last = step == steps
        removed = choose(
            of,
            marks,
            ratio,
            globally=how.globally,
            round_to=how.round_to if last else 1,
            least=least,
        )
        made, left = _removed(made, here, removed, left, few)
        if refits and removed:
            repair(made, module, samples.batches, trained(module), left)
    return made


def _removed(
    module: fx.GraphModule,
    of: Sequence[Group],
    removed: Removed,
    left: Mapping[str, Channels],
    few: tuple[Tensor, ...],
) -> tuple[fx.GraphModule, dict[str, Channels]]:
    """Return the module without the channels; and layer → those of its first outputs left."""
    with torch.no_grad():
        wrong = differs(module, of, removed, few, outputs(module, few))
    if wrong:
        raise PassError(
            "channels that can go one group at a time cannot go together",
            where=", ".join(sorted(removed)),
            hint="this is a bug of splitc's; a smaller scope may do",
        )
    sizes = {name: widths(layer)[0] for name, layer in module.named_modules()}
    now = kept(of, removed, sizes)
    total = dict(left)
    for name, places in now.items():
        total[name] = left[name][places] if name in left else places
    return cut_down(module, of, removed), total


def _few(batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return two samples of a batch, if it has one."""
    shared = len({len(x) if x.ndim else 0 for x in batch}) == 1
    return tuple(x[:2] for x in batch) if shared and batch[0].ndim else batch


def _channels(module: fx.GraphModule, few: tuple[Tensor, ...], work: Work) -> tuple[Group, ...]:
    del work
    return groups(module, few)


def _mlp(module: fx.GraphModule, few: tuple[Tensor, ...], work: Work) -> tuple[Group, ...]:
    """Return the inner widths of perceptrons: made by a Linear, read by Linears alone."""

    def linear(group: Group) -> bool:
        layers = [module.get_submodule(p.module) for p in group.parts if p.axis is None]
        return all(isinstance(layer, nn.Linear) for layer in layers)

    return tuple(group for group in _channels(module, few, work) if linear(group))


FINDERS: Mapping[str, Callable[[fx.GraphModule, tuple[Tensor, ...], Work], tuple[Group, ...]]] = {
    "channels": _channels,
    "heads": heads,
    "mlp": _mlp,
}
_HINTS = {
    "channels": "a channel can go if all that read it are plain layers, and it is no output",
    "heads": "kind = 'mlp' prunes inner widths, kind = 'channels' filters",
    "mlp": "kind = 'channels' prunes filters",
}
