"""What training makes smaller. Classes are told apart as `splitc.accuracy` does.

An output that is a probability already (a network that ends in Softmax or Sigmoid) is turned back
into logits first: its logarithm.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from splitc.errors import RequestError

TEMPERATURE = 4.0
TEACHER_SHARE = 0.9
_TINY = 1e-12


class Loss(Protocol):
    """What a batch is worth: a scalar that training makes smaller."""

    def __call__(
        self, outputs: Sequence[Tensor], teacher: Sequence[Tensor] | None, labels: Tensor | None
    ) -> Tensor:
        """Judge the network's outputs by the original network's and the labels, where given."""
        ...


def cross_entropy(
    outputs: Sequence[Tensor], teacher: Sequence[Tensor] | None, labels: Tensor | None
) -> Tensor:
    """Return the mean cross-entropy of the first output with the labels."""
    assert labels is not None
    scores = logits(outputs[0])
    wanted = labels.reshape(len(labels), *(s for s in labels.shape[1:] if s != 1)).long()
    if wanted.shape != (scores.shape[0], *scores.shape[2:]):
        raise RequestError(
            f"labels of shape {list(labels.shape)} do not fit an output {list(outputs[0].shape)}"
        )
    return functional.cross_entropy(scores, wanted)


def distill(
    outputs: Sequence[Tensor], teacher: Sequence[Tensor] | None, labels: Tensor | None
) -> Tensor:
    """Return 0.9·T²·KL(teacher ‖ network) + 0.1·cross-entropy; the first alone without labels.

    Both softmaxes are at temperature T = 4. Source: G. Hinton, O. Vinyals, J. Dean, "Distilling
    the knowledge in a neural network", 2015 (§2: the factor T², the small share of the labels).
    """
    assert teacher is not None
    student = functional.log_softmax(logits(outputs[0]) / TEMPERATURE, 1)
    original = functional.log_softmax(logits(teacher[0]) / TEMPERATURE, 1)
    apart = functional.kl_div(student, original, log_target=True, reduction="none").sum(1).mean()
    soft = TEMPERATURE**2 * apart
    if labels is None:
        return soft
    return TEACHER_SHARE * soft + (1 - TEACHER_SHARE) * cross_entropy(outputs, None, labels)


def match(
    outputs: Sequence[Tensor], teacher: Sequence[Tensor] | None, labels: Tensor | None
) -> Tensor:
    """Return the mean squared error to the teacher's outputs, summed over those of floats."""
    assert teacher is not None
    pairs = [(a, b) for a, b in zip(outputs, teacher, strict=True) if a.is_floating_point()]
    return torch.stack([functional.mse_loss(a, b) for a, b in pairs]).sum()


NAMED: dict[str, Loss] = {"cross-entropy": cross_entropy, "distill": distill, "match": match}


def logits(output: Tensor) -> Tensor:
    """Return logits (n, classes, …) of an output of any of the shapes that top-1 knows."""
    plain = output.reshape(len(output), *(size for size in output.shape[1:] if size != 1))
    if plain.ndim == 1:
        return torch.stack([torch.zeros_like(plain), _log_odds(plain)], 1)
    scores = plain.movedim(-1, 1) if plain.ndim == 3 else plain
    if bool((scores >= 0).all()) and _sums_to_one(scores):
        return scores.clamp_min(_TINY).log()
    return scores


def _sums_to_one(scores: Tensor) -> bool:
    return bool(((scores.sum(1) - 1).abs() < 1e-3).all())


def _log_odds(values: Tensor) -> Tensor:
    if bool(((values >= 0) & (values <= 1)).all()):
        inside = values.clamp(_TINY, 1 - 1e-7)
        return inside.log() - (1 - inside).log()
    return values
