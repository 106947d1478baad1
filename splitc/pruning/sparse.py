"""Set single weights to 0: the smallest anywhere, or two of every four in a row (2:4).

The matrix keeps its size, so nothing gets faster unless a backend looks for zeros: the note that
the pass leaves says so. 2:4 counts along a layer's inputs, as NVIDIA's sparse matrix units want
it: A. Mishra et al., "Accelerating sparse deep neural networks", 2021.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, fx, nn

from splitc.errors import PassError
from splitc.pruning.calibration import Calibration
from splitc.pruning.how import How
from splitc.pruning.importance import Energies, gradients
from splitc.pruning.layers import copied, trained, transposed, weighty

Marks = Mapping[str, Tensor]
"""Layer → a number for each of its weights: what the network loses with it."""
SPARSE = ("weights", "2:4")


def sparsify(module: fx.GraphModule, how: How, samples: Calibration) -> fx.GraphModule:
    """Return a copy of a lifted module with the share `how.ratio` of its weights 0.

    Layers whose inputs do not come in fours stay as they are in 2:4. Where a parameter may be
    other than 0 is in `module.meta["masks"]`. Raises `PassError` where nothing fits.
    """
    names = [name for name in trained(module) if weighty(module.get_submodule(name))]
    marks = _MEASURES[how.importance](module, names, samples)
    if how.kind == "2:4":
        masks = {n: two_of_four(m, _axis(module.get_submodule(n))) for n, m in marks.items()}
    else:
        masks = dict(smallest(marks, how.ratio, how.globally))
    chosen = {name: mask for name, mask in masks.items() if mask is not None}
    if not chosen:
        raise PassError(f"there are no weights here that kind = {how.kind!r} fits")
    made = copied(module)
    with torch.no_grad():
        for name, mask in chosen.items():
            made.get_parameter(f"{name}.weight").mul_(mask)
    made.meta["masks"] = {f"{name}.weight": mask for name, mask in chosen.items()}
    return made


@contextmanager
def masked(module: fx.GraphModule) -> Iterator[None]:
    """Meanwhile, training leaves what is 0 by a mask at 0: no gradient comes to it."""
    hooks = [
        module.get_parameter(name).register_hook(partial(torch.mul, mask))  # type: ignore[no-untyped-call]
        for name, mask in module.meta.get("masks", {}).items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _axis(layer: nn.Module) -> int:
    return 0 if transposed(layer) else 1


def two_of_four(marks: Tensor, axis: int) -> Tensor | None:
    """Return a mask that keeps the two largest of every four along an axis; None: no fours."""
    if marks.shape[axis] % 4:
        return None
    rows = marks.movedim(axis, -1)
    fours = rows.reshape(-1, 4)
    kept = torch.zeros_like(fours).scatter_(1, fours.topk(2, 1).indices, 1.0)
    return kept.reshape(rows.shape).movedim(-1, axis).contiguous()


def smallest(marks: Marks, ratio: float, globally: bool) -> Iterator[tuple[str, Tensor]]:
    """Yield layer → mask without the share `ratio` of smallest marks, of all or of each layer.

    Of all, a layer's marks are relative to their root mean square.
    """
    if not globally:
        for name, mark in marks.items():
            yield name, _above(mark, mark.reshape(-1), ratio)
        return
    relative = {n: m / m.square().mean().sqrt().clamp_min(1e-30) for n, m in marks.items()}
    every = torch.cat([mark.reshape(-1) for mark in relative.values()])
    for name, mark in relative.items():
        yield name, _above(mark, every, ratio)


def _above(marks: Tensor, of: Tensor, ratio: float) -> Tensor:
    limit = of.kthvalue(max(round(ratio * of.numel()), 1)).values
    return (marks > limit).to(marks.dtype)


def _magnitude(module: fx.GraphModule, names: Sequence[str], samples: Calibration) -> Marks:
    del samples
    return {name: module.get_parameter(f"{name}.weight").detach().abs() for name in names}


def _energy(module: fx.GraphModule, names: Sequence[str], samples: Calibration) -> Marks:
    """Return |w| · √E[x²], x being what the weight multiplies (M. Sun et al., "Wanda", 2023)."""
    seen = Energies.of(module, set(names), samples.batches)
    made = {}
    for name in names:
        layer = module.get_submodule(name)
        weight = module.get_parameter(f"{name}.weight").detach().abs()
        rms = torch.from_numpy(seen.read[name]).sqrt().to(weight.dtype)
        made[name] = weight * _spread(layer, rms, weight)
    return made


def _spread(layer: nn.Module, of_input: Tensor, weight: Tensor) -> Tensor:
    """Return a number of each input where the weight's axes have it; groups share theirs."""
    axis = _axis(layer)
    groups = int(getattr(layer, "groups", 1))
    shape = [1] * weight.ndim
    if groups == 1 or axis == 0:
        shape[axis] = -1
        return of_input.reshape(shape)
    each = of_input.reshape(groups, -1).repeat_interleave(weight.shape[0] // groups, 0)
    return each.reshape(weight.shape[0], weight.shape[1], *shape[2:])


def _taylor(module: fx.GraphModule, names: Sequence[str], samples: Calibration) -> Marks:
    weights = [module.get_parameter(f"{name}.weight") for name in names]
    total = [torch.zeros_like(weight) for weight in weights]
    for grads in gradients(module, weights, samples.batches, samples.labels):
        for sums, weight, grad in zip(total, weights, grads, strict=True):
            if grad is not None:
                sums += (weight.detach() * grad).square()
    return {name: sums.sqrt() for name, sums in zip(names, total, strict=True)}


def _no_norm(module: fx.GraphModule, names: Sequence[str], samples: Calibration) -> Marks:
    hint = "importance = 'energy', 'magnitude' or 'taylor'"
    raise PassError("importance = 'bn-scale' ranks channels, not weights", hint=hint)


_MEASURES: Mapping[str, Callable[[fx.GraphModule, Sequence[str], Calibration], Marks]] = {
    "energy": _energy,
    "magnitude": _magnitude,
    "taylor": _taylor,
    "bn-scale": _no_norm,
}
