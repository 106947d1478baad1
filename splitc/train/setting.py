"""What training sets up around itself and puts back: names, device, generators, modes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import nn

from splitc.errors import RequestError, did_you_mean
from splitc.train.recipes import Recipe

_BATCH_NORM = nn.modules.batchnorm._BatchNorm


def device(name: str) -> torch.device:
    """Return the recipe's device; `RequestError` if this machine has none."""
    if name == "cuda" and not torch.cuda.is_available():
        hint = "device = 'cpu', or a torch built for CUDA on a machine with a GPU"
        raise RequestError("the recipe's device 'cuda' is not there", hint=hint)
    return torch.device(name)


def trained(module: nn.Module, freeze: Sequence[str]) -> list[str]:
    """Return the names of the parameters to train: those that need gradients and are not frozen."""
    aliases = _aliases(module)
    for pattern in freeze:
        if not any(fnmatchcase(n, pattern) for names in aliases.values() for n in names):
            known = {n for names in aliases.values() for n in names}
            hint = did_you_mean(pattern, known)
            raise RequestError(f"nothing to freeze is called {pattern!r}", hint=hint)
    found = [
        name
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
        and not any(fnmatchcase(n, pattern) for n in aliases[name] for pattern in freeze)
    ]
    if not found:
        raise RequestError("nothing is left to train", hint="freeze less")
    return found


def _aliases(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return parameter → the names it goes by: its own, and its initializer's where lifted."""
    slots = getattr(module, "meta", {}).get("parameters", {})
    return {
        name: (name, *filter(None, [getattr(slots.get(name), "initializer", None)]))
        for name, _ in module.named_parameters()
    }


def optimizer(module: nn.Module, names: Sequence[str], recipe: Recipe) -> torch.optim.Optimizer:
    """Make the recipe's optimizer of the named parameters; vectors do not decay."""
    chosen = {n: p for n, p in module.named_parameters() if n in set(names)}
    groups = [
        {"params": [p for p in chosen.values() if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in chosen.values() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=recipe.learning_rate, betas=(recipe.momentum, 0.999))


@contextmanager
def seeded(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """Seed torch's generators meanwhile, and put them back."""
    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(recipe.seed)
        yield


@contextmanager
def placed(module: nn.Module, teacher: nn.Module | None, device: torch.device) -> Iterator[None]:
    """Move both networks to the device, and back."""
    moved = [one for one in (module, teacher) if one is not None]
    homes = [next((p.device for p in one.parameters()), device) for one in moved]
    try:
        for one in moved:
            one.to(device)
        yield
    finally:
        for one, home in zip(moved, homes, strict=True):
            one.to(home)


@contextmanager
def switched(module: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Put the module into training mode, frozen parameters and their BatchNorms left out."""
    wanted = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    module.train()
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in names)
    for one in module.modules():
        if isinstance(one, _BATCH_NORM) and _frozen(one):
            one.eval()
    try:
        yield
    finally:
        module.eval()
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(wanted[name])
            parameter.grad = None


def _frozen(module: nn.Module) -> bool:
    own = [parameter.requires_grad for parameter in module.parameters()]
    return bool(own) and not any(own)
