"""The network that is learned from."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_TEACHER_BYTES = 256 * 2**20
"""Teacher outputs up to this many bytes are computed once, where nothing is augmented."""


class Teacher:
    """What the original network answers: computed once where it is small, else batch by batch."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module.eval()
        self.kept: list[Tensor] | None = None

    def __call__(self, rows: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the outputs for the samples at `rows`, whose `inputs` these are."""
        if self.kept is not None:
            return tuple(tensor[rows].to(inputs[0].device) for tensor in self.kept)
        return self._answer(inputs)

    def study(self, inputs: Sequence[Tensor], size: int, device: torch.device) -> None:
        """Answer for all samples, `size` at a time, and keep the answers if they are few bytes."""
        count, parts = len(inputs[0]), list[tuple[Tensor, ...]]()
        for start in range(0, count, size):
            pieces = tuple(tensor[start : start + size].to(device) for tensor in inputs)
            parts.append(tuple(tensor.cpu() for tensor in self._answer(pieces)))
            length = len(pieces[0])
            if sum(tensor.nbytes for tensor in parts[-1]) * count > _TEACHER_BYTES * length:
                return
            if any(tensor.shape[:1] != (length,) for tensor in parts[-1]):
                return
        self.kept = [torch.cat(column) for column in zip(*parts, strict=True)]

    def _answer(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return outputs_of(self.module(*inputs))


def outputs_of(made: Any) -> tuple[Tensor, ...]:
    """Return a module's result as a tuple of tensors."""
    return (made,) if isinstance(made, Tensor) else tuple(made)
