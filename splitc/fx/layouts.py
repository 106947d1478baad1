"""How a torch parameter lies in its ONNX initializer, and back.

A layout turns the initializer's array into one or more parts (what torch wants), and joins the
parts, whose widths may have changed, into an array for the initializer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]


class Layout(Protocol):
    """Two directions of one rearrangement."""

    def parts(self, array: Array) -> list[Array]:
        """Return what torch holds of `array`."""
        ...

    def join(self, parts: Sequence[Array]) -> Array:
        """Return the initializer that the parts make up."""
        ...


@dataclass(frozen=True)
class Permuted:
    """Axes exchanged: torch's axis i is ONNX's axis `order[i]`. No order: as it is."""

    order: tuple[int, ...] = ()

    def parts(self, array: Array) -> list[Array]:
        """Return the array with its axes in torch's order."""
        return [np.ascontiguousarray(array.transpose(self.order)) if self.order else array]

    def join(self, parts: Sequence[Array]) -> Array:
        """Return the one part with its axes in ONNX's order."""
        (part,) = parts
        return np.ascontiguousarray(part.transpose(np.argsort(self.order))) if self.order else part


@dataclass(frozen=True)
class Vector:
    """A vector that has axes of size 1 around it: [1, C, 1, 1] in ONNX, [C] in torch."""

    rank: int
    axis: int

    def parts(self, array: Array) -> list[Array]:
        """Return the vector."""
        return [array.reshape(-1)]

    def join(self, parts: Sequence[Array]) -> Array:
        """Return the vector with its axes of size 1."""
        shape = [1] * self.rank
        if self.rank:
            shape[self.axis] = -1
        return parts[0].reshape(shape)


@dataclass(frozen=True)
class Gates:
    """A recurrent layer's W, R or B: directions in front, gates in another order.

    `order`: torch's gate i is ONNX's gate `order[i]`. `halves`: B holds two biases in a row. The
    parts are direction by direction, both biases of one before the next.
    """

    order: tuple[int, ...]
    directions: int
    halves: int = 1

    def parts(self, array: Array) -> list[Array]:
        """Return one array for each direction and bias."""
        pieces = [half for one in array for half in np.split(one, self.halves)]
        return [self._exchange(piece, self.order) for piece in pieces]

    def join(self, parts: Sequence[Array]) -> Array:
        """Return the array with directions in front."""
        back = tuple(int(i) for i in np.argsort(self.order))
        pieces = [self._exchange(part, back) for part in parts]
        each = len(pieces) // self.directions
        return np.stack(
            [np.concatenate(pieces[d * each : (d + 1) * each]) for d in range(self.directions)]
        )

    @staticmethod
    def _exchange(piece: Array, order: tuple[int, ...]) -> Array:
        gates = np.split(piece, len(order))
        return np.concatenate([gates[index] for index in order])


@dataclass(frozen=True)
class Slot:
    """Where a torch parameter or buffer comes from: part `part` of an ONNX initializer."""

    initializer: str
    layout: Layout = Permuted()
    part: int = 0


def to_torch(array: Array) -> torch.Tensor:
    """Copy an array (bfloat16 and 8-bit floats of ml_dtypes included) into a tensor."""
    if array.dtype.kind == "V" or array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).to(getattr(torch, array.dtype.name))
    if array.dtype.name in ("uint16", "uint32", "uint64"):
        return torch.from_numpy(array.astype(np.int64))
    return torch.from_numpy(np.array(array, copy=True, order="C"))


def to_numpy(tensor: torch.Tensor, like: np.dtype[Any]) -> Array:
    """Copy a tensor into an array of the dtype `like`."""
    plain = tensor.detach().cpu()
    wide = plain.float() if plain.dtype == torch.bfloat16 else plain
    return np.array(wide.numpy(), copy=True).astype(like, copy=False)


def joined(slots: Mapping[str, Slot], tensors: Mapping[str, torch.Tensor], like: Array) -> Array:
    """Return the array of one initializer from the torch tensors that it was taken apart into."""
    layout = next(iter(slots.values())).layout
    by_part = {slot.part: to_numpy(tensors[name], like.dtype) for name, slot in slots.items()}
    return layout.join([by_part[part] for part in sorted(by_part)])
