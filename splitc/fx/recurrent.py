"""The recurrent layers of ONNX around torch's: outputs by direction, states as inputs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Recurrent(nn.Module):
    """An nn.LSTM, nn.GRU or nn.RNN that speaks ONNX: X [length, batch, entry].

    Returns (Y [length, directions, batch, hidden], Y_h, Y_c) as ONNX does; Y_c of an LSTM only.
    `reverse`: the one direction goes backwards. `batch_first`: ONNX's layout 1.
    """

    def __init__(self, core: nn.RNNBase, *, reverse: bool = False) -> None:
        super().__init__()
        self.core = core
        self.reverse = reverse

    @property
    def hidden_size(self) -> int:
        """Width of the state."""
        return int(self.core.hidden_size)

    def forward(
        self, x: Tensor, hidden: Tensor | None = None, cell: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Run over a sequence; states [directions, batch, hidden] are 0 where there are none."""
        width, two = self.hidden_size, bool(self.core.bidirectional)
        start = _start(x, width, two, isinstance(self.core, nn.LSTM), hidden, cell)
        made, states = self.core(x.flip(0) if self.reverse else x, start)
        return _as_onnx(made, states, width, self.reverse)


def run_recurrent(
    kind: str,
    order: Sequence[int],
    direction: str,
    x: Tensor,
    inputs: Tensor,
    states: Tensor,
    biases: Tensor | None,
    hidden: Tensor | None,
    cell: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Run an LSTM, GRU or RNN whose weights, laid out as ONNX has them, are computed.

    `order`: torch's gate i is ONNX's gate `order[i]`.
    """
    reverse, two = direction == "reverse", direction == "bidirectional"
    flat: list[Tensor] = []
    for index in range(inputs.shape[0]):
        pieces = [inputs[index], states[index]]
        pieces += [] if biases is None else list(biases[index].chunk(2))
        flat += [torch.cat([piece.chunk(len(order))[g] for g in order]) for piece in pieces]
    width = states.shape[2]
    start = _start(x, width, two, kind == "LSTM", hidden, cell)
    if start is None:
        start = _empty(x, width, two)
        start = (start, start) if kind == "LSTM" else start
    runs: dict[str, Any] = {"LSTM": torch.lstm, "GRU": torch.gru, "RNN": torch.rnn_tanh}
    turned = x.flip(0) if reverse else x
    made, *after = runs[kind](turned, start, flat, biases is not None, 1, 0.0, False, two, False)
    return _as_onnx(made, tuple(after), width, reverse)


def _start(
    x: Tensor, width: int, two: bool, cells: bool, hidden: Tensor | None, cell: Tensor | None
) -> Any:
    """Return the first state as torch takes it; None if both parts are 0."""
    if hidden is None and cell is None:
        return None
    first = _empty(x, width, two) if hidden is None else hidden.contiguous()
    if not cells:
        return first
    return first, _empty(x, width, two) if cell is None else cell.contiguous()


def _empty(x: Tensor, width: int, two: bool) -> Tensor:
    return torch.zeros(2 if two else 1, x.shape[1], width, dtype=x.dtype, device=x.device)


def _as_onnx(made: Tensor, states: Any, width: int, reverse: bool) -> tuple[Tensor, ...]:
    """Give the directions an axis of their own, after the length."""
    length, batch, _ = made.shape
    split = made.reshape(length, batch, -1, width).permute(0, 2, 1, 3)
    split = split.flip(0) if reverse else split
    return (split, *states) if isinstance(states, tuple) else (split, states)
