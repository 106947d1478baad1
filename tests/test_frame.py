"""The frame: what goes in comes out, and nothing else is ever let in."""

import struct
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from splitc.contract import BoundaryTensor, Contract
from splitc.errors import WireError
from splitc.wire import codec, frame

PAIR = "ab" * 32


def contract_for(arrays: list[NDArray[Any]], codec_name: str = "raw") -> Contract:
    tensors = tuple(
        BoundaryTensor(f"t{i}", a.dtype.name, a.shape, codec=codec_name, max_bytes=a.nbytes)
        for i, a in enumerate(arrays)
    )
    return Contract(tensors=tensors, gives=(), pair=PAIR)


@st.composite
def any_array(draw: st.DrawFn) -> NDArray[Any]:
    dtype = codec.numpy_dtype(draw(st.sampled_from(sorted(codec.DTYPES))))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    count = int(np.prod(shape)) * dtype.itemsize
    if dtype == np.bool_:
        return (
            np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
            .reshape(shape)
            .astype(bool)
        )
    data = draw(st.sampled_from([bytes(count), draw(st.binary(min_size=count, max_size=count))]))
    return np.frombuffer(data, dtype).reshape(shape)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(any_array(), max_size=4),
    st.sampled_from(sorted(codec.BUILT_IN)),
    st.integers(0, 2**64 - 1),
)
def test_round_trip(arrays: list[NDArray[Any]], name: str, sequence: int) -> None:
    contract = contract_for(arrays, name)
    packed = frame.pack(arrays, contract, sequence)
    assert len(packed) <= frame.max_bytes(contract)
    got_sequence, got = frame.unpack(packed, contract)
    assert got_sequence == sequence
    for before, after in zip(arrays, got, strict=True):
        assert after.dtype == before.dtype
        assert after.shape == before.shape
        assert after.tobytes() == before.tobytes()
        assert after.flags.writeable


@settings(max_examples=300, deadline=None)
@given(st.lists(any_array(), min_size=1, max_size=3), st.sampled_from(["raw", "zstd"]), st.data())
def test_damage_is_a_wire_error_and_nothing_worse(
    arrays: list[NDArray[Any]], name: str, data: st.DataObject
) -> None:
    contract = contract_for(arrays, name)
    good = frame.pack(arrays, contract, 7)
    place = data.draw(st.integers(0, len(good) - 1))
    flipped = bytearray(good)
    flipped[place] ^= data.draw(st.integers(1, 255))
    for bad in (bytes(flipped), good[:place], good + b"x"):
        with pytest.raises(WireError):
            frame.unpack(bad, contract)


@settings(max_examples=300, deadline=None)
@given(st.lists(any_array(), min_size=1, max_size=2), st.data())
def test_damage_with_a_right_crc_is_refused_or_harmless(
    arrays: list[NDArray[Any]], data: st.DataObject
) -> None:
    """Whoever can compute a CRC gets arrays of the contract's shapes, or a `WireError`."""
    contract = contract_for(arrays, "zstd")
    bad = bytearray(frame.pack(arrays, contract, 7)[:-4])
    bad[data.draw(st.integers(0, len(bad) - 1))] ^= data.draw(st.integers(1, 255))
    sealed = bytes(bad) + struct.pack("<I", crc32(bytes(bad)))
    try:
        _, got = frame.unpack(sealed, contract)
    except WireError:
        return
    assert [a.shape for a in got] == [a.shape for a in arrays]
    assert [a.dtype for a in got] == [a.dtype for a in arrays]


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(WireError):
        frame.unpack(noise, contract_for([np.zeros(3, np.float32)]))


def test_price_is_the_length() -> None:
    arrays: list[NDArray[Any]] = [np.zeros((2, 3), np.float32), np.array(5, np.int64)]
    price = frame.fixed_bytes() + sum(frame.record_bytes(a.ndim) + a.nbytes for a in arrays)
    contract = contract_for(arrays)
    assert len(frame.pack(arrays, contract, 0)) == price == frame.max_bytes(contract)
    assert len(frame.pack([], contract_for([]), 0)) == frame.fixed_bytes()


def test_a_foreign_pair_is_named() -> None:
    arrays = [np.zeros(3, np.float32)]
    ours = contract_for(arrays)
    theirs = Contract(tensors=ours.tensors, gives=(), pair="cd" * 32)
    with pytest.raises(WireError, match="this frame comes from another bundle"):
        frame.unpack(frame.pack(arrays, theirs, 0), ours)


def symbolic(*shapes: tuple[int | str, ...], limit: int = 64) -> Contract:
    tensors = tuple(
        BoundaryTensor(f"t{i}", "float32", shape, codec="raw", max_bytes=limit)
        for i, shape in enumerate(shapes)
    )
    return Contract(tensors=tensors, gives=(), pair=PAIR)


def test_symbolic_dimensions_hold_within_a_frame() -> None:
    contract = symbolic(("N", 2), ("N",))
    good = [np.ones((3, 2), np.float32), np.ones(3, np.float32)]
    assert frame.unpack(frame.pack(good, contract, 1), contract)[1][0].shape == (3, 2)
    bad = [np.ones((3, 2), np.float32), np.ones(4, np.float32)]
    with pytest.raises(WireError, match=r"'t1' has shape \[4\]"):
        frame.pack(bad, contract, 1)
    lax = symbolic(("N", 2), ("M",))
    with pytest.raises(WireError, match=r"'t1' has shape \[4\]"):
        frame.unpack(frame.pack(bad, lax, 1), contract)


def test_a_size_is_bounded_before_it_is_allocated() -> None:
    big = symbolic(("N",), limit=2**40)
    packed = bytearray(frame.pack([np.ones(4, np.float32)], big, 1))
    struct.pack_into("<I", packed, frame.HEADER_BYTES + 4, 2**32 - 1)
    struct.pack_into("<Q", packed, frame.HEADER_BYTES + 8, 2**34 - 4)
    with pytest.raises(WireError, match="'t0' has 17179869180 bytes"):
        frame.unpack(bytes(packed), symbolic(("N",)))
    with pytest.raises(WireError, match="contract allows 64"):
        frame.pack([np.ones(17, np.float32)], symbolic(("N",)), 1)


def test_wrong_type_and_count() -> None:
    contract = symbolic((2,))
    with pytest.raises(WireError, match="'t0' is float64, expected float32"):
        frame.pack([np.ones(2)], contract, 1)
    with pytest.raises(WireError, match="0 tensors for a contract of 1"):
        frame.pack([], contract, 1)
    with pytest.raises(WireError, match="carries 0 tensors, expected 1"):
        frame.unpack(frame.pack([], symbolic(), 1), contract)


def test_error_frames_are_raised() -> None:
    contract = symbolic((2,))
    packed = frame.pack_text("out of memory: é", contract, frame.ERROR)
    with pytest.raises(WireError, match="the other side failed\n   at: out of memory: é"):
        frame.unpack(packed, contract)
    hello = frame.pack_text("token", contract, frame.HELLO)
    assert frame.unpack_text(hello, contract, frame.HELLO) == "token"
    with pytest.raises(WireError, match="out of turn"):
        frame.unpack(hello, contract)
    long = frame.pack_text("x" * 10_000, contract, frame.ERROR)
    assert len(long) < 5_000
