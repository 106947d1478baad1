"""Codecs: lossless, bounded, and never larger than raw. Every known codec is enrolled."""

from typing import Any

import numpy as np
import pytest
import zstandard
from numpy.typing import NDArray

from splitc.errors import WireError
from splitc.wire import codec

ARRAYS: dict[str, NDArray[Any]] = {
    "zeros": np.zeros((1, 8, 16, 16), np.float32),
    "noise": np.random.default_rng(0).standard_normal((3, 50)).astype(np.float32),
    "scalar": np.array(3, np.int64),
    "empty": np.zeros((0, 4), np.float16),
    "mask": np.array([True, False] * 300),
    "strided": np.arange(400, dtype=np.int32).reshape(20, 20)[::2, ::-1],
    "transposed": np.arange(600, dtype=np.uint8).reshape(20, 30).T,
}


@pytest.mark.parametrize("name", sorted(codec.known()))
@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_lossless_and_never_larger(name: str, array: NDArray[Any]) -> None:
    used, payload = codec.encode(array, name)
    assert used in (codec.get("raw").id, codec.get(name).id)
    assert len(payload) <= array.nbytes
    chosen = codec.get(name if used else "raw")
    back = chosen.decode(payload, array.dtype, array.shape)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_ids_are_unique() -> None:
    ids = [codec.get(name).id for name in codec.known()]
    assert len(set(ids)) == len(ids)


def test_zstd_falls_back_to_raw_where_it_grows() -> None:
    assert codec.encode(ARRAYS["scalar"], "zstd")[0] == 0
    assert codec.encode(ARRAYS["zeros"], "zstd")[0] == 1


BOMB = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(10_000_000))
BAD = {
    "larger than the shape": BOMB,
    "states its own size": zstandard.ZstdCompressor().compress(bytes(64)),
    "smaller than the shape": zstandard.ZstdCompressor(write_content_size=False).compress(b"x"),
    "noise": b"\x00\x01\x02\x03",
    "nothing": b"",
    "two frames": zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64)) * 2,
}


@pytest.mark.parametrize("payload", BAD.values(), ids=BAD)
def test_zstd_is_bounded(payload: bytes) -> None:
    with pytest.raises(WireError):
        codec.get("zstd").decode(payload, np.dtype("uint8"), (64,))


def test_a_shape_that_no_array_can_have() -> None:
    with pytest.raises(WireError, match="no array can have the shape"):
        codec.get("raw").decode(b"", np.dtype("float32"), (0, 2**32 - 1, 2**32 - 1))


def test_a_bool_is_zero_or_one() -> None:
    with pytest.raises(WireError, match="neither 0 nor 1"):
        codec.get("raw").decode(b"\x02", np.dtype(bool), (1,))


def test_unknown_names_hint() -> None:
    with pytest.raises(WireError, match="did you mean 'zstd'"):
        codec.get("zsdt")
    with pytest.raises(WireError, match="'string' cannot cross"):
        codec.numpy_dtype("string")
