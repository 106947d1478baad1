"""A codec: deflate from the standard library."""

import zlib
from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from splitc.errors import WireError


class Deflate:
    """zlib's deflate without header; lossless and bounded."""

    name: ClassVar[str] = "acme-deflate"
    id: ClassVar[int] = 128

    def encode(self, array: NDArray[Any]) -> bytes:
        """Compress at level 6."""
        maker = zlib.compressobj(6, zlib.DEFLATED, -15)
        return maker.compress(array.tobytes()) + maker.flush()

    def decode(
        self, payload: bytes | memoryview, dtype: np.dtype[Any], shape: Sequence[int]
    ) -> NDArray[Any]:
        """Decompress at most one byte more than the array, which must come out exactly."""
        size = prod(shape) * dtype.itemsize
        reader = zlib.decompressobj(-15)
        try:
            plain = reader.decompress(payload, size + 1)
        except zlib.error as reason:
            raise WireError(f"a deflate payload is damaged: {reason}") from reason
        if len(plain) != size or not reader.eof or reader.unused_data:
            raise WireError("a deflate payload is not exactly one array")
        return np.frombuffer(plain, dtype).reshape(shape).copy()
