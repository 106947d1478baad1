"""Lossless coding of one tensor: array → bytes → array.

A codec runs outside the two halves, so it never changes what they compute. It has a name, which
stands in the contract, and an id, which stands in every frame: 0 to 127 are splitc's, 128 to 255
are free for packages that add a codec through the entry-point group ``splitc.codecs``.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from math import prod
from typing import Any, ClassVar, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from splitc import plugins
from splitc.errors import WireError

GROUP = "splitc.codecs"
BUILT_IN = {"raw": "splitc.wire.codec:Raw", "zstd": "splitc.wire.codec:Zstd"}

DTYPES: Mapping[str, int] = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
    "uint32": 12,
    "uint64": 13,
    "complex64": 14,
    "complex128": 15,
    "bfloat16": 16,
    "float8_e4m3fn": 17,
    "float8_e4m3fnuz": 18,
    "float8_e5m2": 19,
    "float8_e5m2fnuz": 20,
}
"""Name of a dtype that may cross → its code in a frame (the numbers of onnx.TensorProto)."""


class Codec(Protocol):
    """Tensor ↔ bytes, losslessly.

    `encode` takes a little-endian, C-contiguous array. `decode` gets the payload, whose length is
    at most the raw size, with a dtype and a shape that the contract allows; it must not allocate
    more than that array, and raises `WireError` when the payload is not exactly one such array.
    """

    name: ClassVar[str]
    id: ClassVar[int]

    def encode(self, array: NDArray[Any]) -> bytes:
        """Return the payload; when it is not smaller than the raw bytes, those are sent."""
        ...

    def decode(
        self, payload: bytes | memoryview, dtype: np.dtype[Any], shape: Sequence[int]
    ) -> NDArray[Any]:
        """Return the array, writable, of exactly `dtype` and `shape`."""
        ...


class Raw:
    """The array's own bytes, little-endian, in C order."""

    name: ClassVar[str] = "raw"
    id: ClassVar[int] = 0

    def encode(self, array: NDArray[Any]) -> bytes:
        """Return the bytes as they lie in memory."""
        return array.tobytes()

    def decode(
        self, payload: bytes | memoryview, dtype: np.dtype[Any], shape: Sequence[int]
    ) -> NDArray[Any]:
        """Copy the bytes; a bool must be 0 or 1."""
        if len(payload) != prod(shape) * dtype.itemsize:
            raise WireError(f"a raw payload has {len(payload)} bytes for shape {list(shape)}")
        if dtype == np.bool_ and np.any(np.frombuffer(payload, np.uint8) > 1):
            raise WireError("a bool payload holds a byte that is neither 0 nor 1")
        try:
            return np.frombuffer(payload, dtype).reshape(shape).copy()
        except ValueError as reason:  # one size is 0, the product of the others no address
            raise WireError(f"no array can have the shape {list(shape)}") from reason


class Zstd:
    """Zstandard at level 1, without size header and checksum: the frame has both."""

    name: ClassVar[str] = "zstd"
    id: ClassVar[int] = 1
    _level: ClassVar[int] = 1

    def encode(self, array: NDArray[Any]) -> bytes:
        """Compress; the same bytes each time for one version of zstandard."""
        import zstandard

        maker = zstandard.ZstdCompressor(
            level=self._level, write_content_size=False, write_checksum=False
        )
        return maker.compress(array.tobytes())

    def decode(
        self, payload: bytes | memoryview, dtype: np.dtype[Any], shape: Sequence[int]
    ) -> NDArray[Any]:
        """Decompress into at most the array's size."""
        import zstandard

        size = prod(shape) * dtype.itemsize
        try:
            # A size in the header would override `max_output_size`.
            if zstandard.frame_content_size(payload) != -1 or not size:
                raise WireError("a zstd payload states its own size")
            plain = zstandard.ZstdDecompressor().decompress(
                payload, max_output_size=size, allow_extra_data=False
            )
        except zstandard.ZstdError as reason:
            raise WireError(f"a zstd payload is damaged: {reason}") from reason
        return Raw().decode(plain, dtype, shape)


@cache
def get(name: str) -> Codec:
    """Return the codec called `name`; raises `WireError` for an unknown or clashing one."""
    made = plugins.load(GROUP, name, BUILT_IN, error=WireError)
    codec = cast("type[Codec]", made)()
    if name not in BUILT_IN and not 128 <= codec.id <= 255:
        raise WireError(
            f"codec {name!r} has id {codec.id}",
            hint="ids of added codecs are 128 to 255; smaller ones are splitc's own",
        )
    return codec


def known() -> Mapping[str, str]:
    """Return codec name → where it lives, built-in and added."""
    return plugins.lookup(GROUP, BUILT_IN, error=WireError)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the little-endian numpy dtype called `name`; `WireError` if it cannot cross."""
    if name not in DTYPES:
        raise WireError(
            f"a tensor of type {name!r} cannot cross the wire",
            hint=f"types that can: {', '.join(DTYPES)}",
        )
    if DTYPES[name] >= DTYPES["bfloat16"]:
        import ml_dtypes

        narrow: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return narrow
    return np.dtype(name).newbyteorder("<")


def encode(array: NDArray[Any], codec: str) -> tuple[int, bytes]:
    """Return (codec id, payload): what goes on the wire for one tensor.

    Where `codec` does not make the tensor smaller, it goes raw. `array` is little-endian.
    """
    chosen, array = get(codec), np.ascontiguousarray(array).reshape(array.shape)
    payload = chosen.encode(array)
    if chosen.id != Raw.id and len(payload) >= array.nbytes:
        return Raw.id, array.tobytes()
    return chosen.id, payload
