"""Losses: what they make of a network's answers, by hand."""

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs splitc[torch]")

from torch import Tensor  # noqa: E402

from splitc.errors import RequestError  # noqa: E402
from splitc.train import (  # noqa: E402
    cross_entropy,
    distill,
)
from splitc.train.losses import logits  # noqa: E402

pytestmark = pytest.mark.torch


OUTPUTS = {
    "logits": (torch.tensor([[1.0, 3.0]]), [[1.0, 3.0]]),
    "probabilities": (torch.tensor([[0.25, 0.75]]), [[math.log(0.25), math.log(0.75)]]),
    "axes of size 1": (torch.tensor([[1.0, 3.0]])[:, :, None, None], [[1.0, 3.0]]),
    "one logit": (torch.tensor([[2.0]]), [[0.0, 2.0]]),
    "one probability": (torch.tensor([0.75]), [[0.0, math.log(3)]]),
    "positions": (torch.arange(4.0).reshape(1, 2, 2) - 1, [[[-1.0, 1.0], [0.0, 2.0]]]),
}


@pytest.mark.parametrize(("output", "wanted"), OUTPUTS.values(), ids=OUTPUTS)
def test_logits_of_what_a_network_gives(output: Tensor, wanted: Any) -> None:
    torch.testing.assert_close(logits(output), torch.tensor(wanted), rtol=1e-5, atol=1e-5)


def test_distill_by_hand() -> None:
    student, teacher = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    p, q = 1 / (1 + math.e), math.e / (1 + math.e)  # softmax of (0, 4) / 4
    divergence = p * math.log(p / q) + q * math.log(q / p)
    assert float(distill([student], [teacher], None)) == pytest.approx(16 * divergence, rel=1e-5)
    both = float(distill([student], [teacher], torch.tensor([0])))
    hard = math.log(1 + math.exp(-4))
    assert both == pytest.approx(0.9 * 16 * divergence + 0.1 * hard, rel=1e-5)


def test_labels_that_do_not_fit_are_said() -> None:
    with pytest.raises(RequestError, match=r"labels of shape \[2, 3\]"):
        cross_entropy([torch.zeros(2, 4)], None, torch.zeros(2, 3, dtype=torch.long))
