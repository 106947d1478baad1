"""Frame v1: exactly what the wire carries, little-endian, every field checked before use.

    header    magic "SPLF" · version u16 · flags u16 · pair digest 16 bytes · sequence u64 · n u16
    records   n × (dtype u8 · rank u8 · codec u8 · 0 u8 · dims rank × u32 · payload length u64)
    payloads  n × bytes
    trailer   CRC32 u32 of everything before

The number of tensors, their dtypes, ranks, shapes and largest sizes are known from the contract,
so header and records have a known length, and a receiver learns the length of the rest from them.
A frame's flag says which contract it keeps: the boundary's own (`DATA`), or that of a line of text
(`HELLO`, which opens a connection with the token, and `ERROR`, which says why there is no answer).
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from splitc.contract import BoundaryTensor, Contract
from splitc.errors import WireError
from splitc.wire import codec as coding

MAGIC = b"SPLF"
VERSION = 1
DATA, HELLO, ERROR = 0, 1, 2
MAX_TEXT = 4096
"""The largest text of a `HELLO` or `ERROR` frame, in bytes of UTF-8."""

_HEADER = struct.Struct("<4sHH16sQH")
_RECORD = struct.Struct("<BBBx")
_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_TEXT = (BoundaryTensor("text", "uint8", ("bytes",), codec="raw", max_bytes=MAX_TEXT),)


def fixed_bytes() -> int:
    """Return the bytes of a frame without tensors: header and trailer."""
    return _HEADER.size + _CRC.size


def record_bytes(rank: int) -> int:
    """Return the bytes that one tensor of this rank adds to its encoded payload."""
    return _RECORD.size + 4 * rank + _LENGTH.size


def max_bytes(contract: Contract) -> int:
    """Return the length of the largest frame that keeps the contract."""
    records = sum(record_bytes(len(t.shape)) + t.max_bytes for t in contract.tensors)
    return fixed_bytes() + records


@dataclass(frozen=True, slots=True)
class Header:
    """What a frame says before its first record."""

    flag: int
    sequence: int
    contract: Contract

    @property
    def records_bytes(self) -> int:
        """Bytes of all records, which follow the header."""
        return sum(record_bytes(len(tensor.shape)) for tensor in self.contract.tensors)


@dataclass(frozen=True, slots=True)
class Record:
    """One tensor's description, checked against the contract."""

    tensor: BoundaryTensor
    shape: tuple[int, ...]
    codec: int
    length: int


HEADER_BYTES = _HEADER.size


def pack(
    arrays: Sequence[NDArray[Any]], contract: Contract, sequence: int, flag: int = DATA
) -> bytes:
    """Return the frame that carries `arrays`, one for each of `contract.tensors`, in order.

    Raises `WireError` naming the tensor that does not keep the contract.
    """
    if len(arrays) != len(contract.tensors):
        raise WireError(f"{len(arrays)} tensors for a contract of {len(contract.tensors)}")
    sizes: dict[str, int] = {}
    records, payloads = [], []
    for array, tensor in zip(arrays, contract.tensors, strict=True):
        _check_array(array, tensor, sizes)
        dtype = coding.numpy_dtype(tensor.dtype)
        used, payload = coding.encode(array.astype(dtype, copy=False), tensor.codec)
        records.append(
            _RECORD.pack(coding.DTYPES[tensor.dtype], array.ndim, used)
            + struct.pack(f"<{array.ndim}I", *array.shape)
            + _LENGTH.pack(len(payload))
        )
        payloads.append(payload)
    header = _HEADER.pack(MAGIC, VERSION, flag, contract.tag, sequence, len(arrays))
    parts, check = (header, *records, *payloads), 0
    for part in parts:
        check = crc32(part, check)
    return b"".join((*parts, _CRC.pack(check)))


def pack_text(text: str, contract: Contract, flag: int, sequence: int = 0) -> bytes:
    """Return a `HELLO` or `ERROR` frame; a longer text is cut at `MAX_TEXT` bytes."""
    letters = np.frombuffer(text.encode()[:MAX_TEXT], np.uint8)
    return pack([letters], _text_contract(contract), sequence, flag)


def unpack(frame: bytes | memoryview, contract: Contract) -> tuple[int, list[NDArray[Any]]]:
    """Return (sequence number, one writable array for each of `contract.tensors`).

    Raises `WireError` for anything but a whole `DATA` frame of this very pair that keeps the
    contract; an `ERROR` frame is raised as what it says.
    """
    view = memoryview(frame)
    header = read_header(view[:HEADER_BYTES], contract)
    if header.flag != DATA:
        raise _unexpected(header, view)
    return header.sequence, _arrays(header, view)


def unpack_text(frame: bytes | memoryview, contract: Contract, flag: int) -> str:
    """Return the text of a frame of kind `flag`; raises as `unpack` does."""
    view = memoryview(frame)
    header = read_header(view[:HEADER_BYTES], contract)
    if header.flag != flag:
        raise _unexpected(header, view)
    return _text(header, view)


def read_header(data: bytes | memoryview, contract: Contract) -> Header:
    """Check the first `HEADER_BYTES` bytes of a frame, and say which contract it is to keep."""
    if len(data) < HEADER_BYTES:
        raise WireError(f"a frame ends after {len(data)} bytes, within its header")
    magic, version, flag, pair, sequence, count = _HEADER.unpack(data[:HEADER_BYTES])
    if magic != MAGIC:
        raise WireError("this is not a splitc frame", where=f"it begins with {magic!r}")
    if version != VERSION:
        raise WireError(f"frame version {version} is unknown", hint=f"this is version {VERSION}")
    if pair != contract.tag:
        raise WireError(
            "this frame comes from another bundle",
            where=f"its pair is {pair.hex()}, ours {contract.tag.hex()}",
            hint="give both machines the two sides of one bundle",
        )
    if flag not in (DATA, HELLO, ERROR):
        raise WireError(f"a frame has the unknown flag {flag}")
    keeps = contract if flag == DATA else _text_contract(contract)
    if count != len(keeps.tensors):
        raise WireError(f"a frame carries {count} tensors, expected {len(keeps.tensors)}")
    return Header(flag, sequence, keeps)


def read_records(data: bytes | memoryview, header: Header) -> list[Record]:
    """Check the records, which follow the header, against the contract; allocate nothing."""
    if len(data) < header.records_bytes:
        raise WireError(f"a frame ends after {HEADER_BYTES + len(data)} bytes, within its records")
    records, offset, sizes = [], 0, dict[str, int]()
    for tensor in header.contract.tensors:
        records.append(_record(data[offset:], tensor, sizes))
        offset += record_bytes(len(tensor.shape))
    return records


def rest_bytes(records: Sequence[Record]) -> int:
    """Return how many bytes follow the records: payloads and trailer."""
    return sum(record.length for record in records) + _CRC.size


def _record(data: bytes | memoryview, tensor: BoundaryTensor, sizes: dict[str, int]) -> Record:
    code, rank, used = _RECORD.unpack_from(data)
    if code != coding.DTYPES.get(tensor.dtype) or rank != len(tensor.shape) or data[3]:
        raise WireError(
            f"tensor {tensor.name!r} has type {code} and rank {rank} in the frame",
            where=f"the contract says {tensor.dtype} and rank {len(tensor.shape)}",
        )
    shape = struct.unpack_from(f"<{rank}I", data, _RECORD.size)
    tensor.check_shape(shape, sizes)
    raw = prod(shape) * coding.numpy_dtype(tensor.dtype).itemsize
    (length,) = _LENGTH.unpack_from(data, _RECORD.size + 4 * rank)
    if raw > tensor.max_bytes or length > raw or (used == coding.Raw.id and length != raw):
        raise WireError(
            f"tensor {tensor.name!r} has {raw} bytes, {length} of them sent",
            where=f"the contract allows {tensor.max_bytes}",
        )
    if used not in (coding.Raw.id, coding.get(tensor.codec).id):
        raise WireError(f"tensor {tensor.name!r} has codec {used}, expected {tensor.codec!r}")
    return Record(tensor, shape, used, length)


def _arrays(header: Header, view: memoryview) -> list[NDArray[Any]]:
    """Check lengths and CRC, then decode the payloads."""
    records = read_records(view[HEADER_BYTES:], header)
    start = HEADER_BYTES + header.records_bytes
    if len(view) != start + rest_bytes(records):
        raise WireError(f"a frame has {len(view)} bytes, expected {start + rest_bytes(records)}")
    if crc32(view[: -_CRC.size]) != _CRC.unpack(view[-_CRC.size :])[0]:
        raise WireError("a frame was damaged on its way", where="its CRC32 differs")
    return list(_decode(records, view[start:]))


def _decode(records: Sequence[Record], payloads: memoryview) -> Iterator[NDArray[Any]]:
    offset = 0
    for record in records:
        name = "raw" if record.codec == coding.Raw.id else record.tensor.codec
        payload = payloads[offset : offset + record.length]
        dtype = coding.numpy_dtype(record.tensor.dtype)
        try:
            yield coding.get(name).decode(payload, dtype, record.shape)
        except WireError as reason:
            raise WireError(str(reason.args[0]), where=f"tensor {record.tensor.name!r}") from reason
        offset += record.length


def _check_array(array: NDArray[Any], tensor: BoundaryTensor, sizes: dict[str, int]) -> None:
    """Raise `WireError` unless the array keeps its line of the contract."""
    if array.dtype.name != tensor.dtype:
        raise WireError(f"tensor {tensor.name!r} is {array.dtype.name}, expected {tensor.dtype}")
    tensor.check_shape(array.shape, sizes)
    if array.nbytes > tensor.max_bytes:
        raise WireError(
            f"tensor {tensor.name!r} has {array.nbytes} bytes",
            where=f"the contract allows {tensor.max_bytes}",
            hint="compile with a larger maximum: --input NAME=MIN..BEST..MAXx…",
        )


def _text_contract(contract: Contract) -> Contract:
    return Contract(tensors=_TEXT, gives=(), pair=contract.pair)


def _text(header: Header, view: memoryview) -> str:
    return _arrays(header, view)[0].tobytes().decode(errors="replace")


def _unexpected(header: Header, view: memoryview) -> WireError:
    """Return what to raise for a frame of another kind than expected."""
    if header.flag == ERROR:
        return WireError("the other side failed", where=_text(header, view))
    return WireError(f"a frame of kind {header.flag} came out of turn")
