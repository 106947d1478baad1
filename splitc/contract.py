"""The boundary contract: what may cross the wire, both ways, and between which halves."""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from splitc.errors import WireError


class BoundaryTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor that crosses.

    `dtype`: a numpy-like name. `shape`: sizes, or the names of symbolic dimensions, which must be
    equal wherever they stand in one frame. `scale`, `zero_point`: of a quantised tensor.
    `max_bytes`: the largest raw (decoded) size in bytes; an encoded payload is never larger.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    codec: str
    max_bytes: int
    layout: str = ""
    scale: float | None = None
    zero_point: int | None = None

    def check_shape(self, shape: Sequence[int], known: dict[str, int]) -> None:
        """Raise `WireError` unless the sizes `shape` fit; `known` collects symbolic dimensions."""
        fits = len(shape) == len(self.shape)
        for size, want in zip(shape, self.shape, strict=False):
            fits &= size == (known.setdefault(want, size) if isinstance(want, str) else want)
        if not fits:
            raise WireError(
                f"tensor {self.name!r} has shape {list(shape)}, expected {list(self.shape)}",
                where=", ".join(f"{k} = {v}" for k, v in known.items()),
            )


class Contract(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What binds two halves: the boundary there, the tail's outputs back, and whose they are.

    `pair`: the pair digest, 64 hex digits; its first 16 bytes stand in every frame.
    """

    tensors: tuple[BoundaryTensor, ...]
    gives: tuple[BoundaryTensor, ...]
    pair: str
    byte_order: Literal["little"] = "little"

    @property
    def tag(self) -> bytes:
        """The first 16 bytes of the pair digest, as frames carry them."""
        return bytes.fromhex(self.pair)[:16]

    @property
    def back(self) -> "Contract":
        """The contract of the reply: what the tail gives crosses, nothing comes back."""
        return Contract(tensors=self.gives, gives=(), pair=self.pair, byte_order=self.byte_order)

    def without_pair(self) -> Mapping[str, object]:
        """Return what the pair digest covers, beside the digests of the portable halves."""
        plain: dict[str, object] = msgspec.to_builtins(self)
        return {key: value for key, value in plain.items() if key != "pair"}
