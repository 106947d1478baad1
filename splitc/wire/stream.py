"""Frames over a socket: whole, bounded by the contract, and within a deadline.

A connection carries frames and nothing else. The caller opens it with a `HELLO` that holds the
token (in clear: tunnel it where others listen), the other side answers with a `HELLO`; then each
`DATA` frame is answered by one, or by an `ERROR`.
"""

import socket
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import Self

from splitc.contract import Contract
from splitc.errors import RequestError, WireError
from splitc.wire import frame

_LONGEST_S = 1e6


def parse_address(text: str) -> tuple[str, int]:
    """Read ``HOST:PORT`` or ``[HOST]:PORT``; raises `RequestError`."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise RequestError(f"cannot read the address {text!r}", hint="HOST:PORT, like 127.0.0.1:7")
    return host.removeprefix("[").removesuffix("]"), int(port)


def check_timeout(timeout_s: float) -> None:
    """Raise `RequestError` unless sockets can wait that long: above 0, at most `_LONGEST_S`."""
    if not 0 < timeout_s <= _LONGEST_S:
        raise RequestError(f"a timeout of {timeout_s} s", hint=f"above 0, at most {_LONGEST_S:g} s")


class Stream:
    """One end of a connection between the halves of one bundle."""

    def __init__(self, sock: socket.socket, timeout_s: float) -> None:
        self._socket = sock
        self._timeout_s = timeout_s

    def send(self, packed: bytes) -> None:
        """Send one frame within the deadline; raises `WireError`."""
        self._socket.settimeout(self._timeout_s)
        try:
            self._socket.sendall(packed)  # its timeout is for all of it
        except TimeoutError as reason:
            raise WireError(
                f"the other side took no frame within {self._timeout_s:g} s"
            ) from reason
        except OSError as reason:
            raise WireError(f"the connection broke while sending: {reason}") from reason

    def receive(self, contract: Contract, flag: int | None = None) -> bytes | None:
        """Return one frame whose header and records keep the contract (payloads unchecked).

        `flag`: the only kind that is read beyond its header; None: any kind. Returns None when the
        other side closed the connection between frames. Raises `WireError` when it does so within
        one, or when the whole frame is not there within the deadline.
        """
        deadline = monotonic() + self._timeout_s
        data = bytearray()
        if not self._fill(data, frame.HEADER_BYTES, deadline):
            return None
        header = frame.read_header(bytes(data), contract)
        if flag not in (None, header.flag):
            raise WireError(f"a frame of kind {header.flag} came out of turn")
        self._fill(data, header.records_bytes, deadline)
        records = frame.read_records(memoryview(data)[frame.HEADER_BYTES :], header)
        self._fill(data, frame.rest_bytes(records), deadline)
        return bytes(data)

    def close(self) -> None:
        """Close the connection, also under somebody who waits on it."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _fill(self, data: bytearray, count: int, deadline: float) -> bool:
        """Append `count` bytes; False when the connection was closed before the very first."""
        start = len(data)
        try:
            data.extend(bytes(count))
        except MemoryError as reason:
            raise WireError(f"there is no memory for a frame of {count} bytes") from reason
        place = start
        while place < len(data):
            got = self._receive_into(memoryview(data)[place:], deadline)
            if got == 0 and place == 0:
                return False
            if got == 0:
                raise WireError("the other side closed the connection within a frame")
            place += got
        return True

    def _receive_into(self, room: memoryview, deadline: float) -> int:
        late = f"no whole frame arrived within {self._timeout_s:g} s"
        if (left := deadline - monotonic()) <= 0:
            raise WireError(late)
        self._socket.settimeout(left)
        try:
            return self._socket.recv_into(room)
        except TimeoutError as reason:
            raise WireError(late) from reason
        except OSError as reason:
            raise WireError(f"the connection broke while receiving: {reason}") from reason


class Remote:
    """The tail, elsewhere: a frame goes there, its answer comes back."""

    def __init__(
        self, address: str, contract: Contract, *, token: str | None = None, timeout_s: float = 30.0
    ) -> None:
        self._contract = contract
        check_timeout(timeout_s)
        host, port = parse_address(address)
        try:
            sock = socket.create_connection((host, port), timeout=timeout_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (OSError, ValueError) as reason:  # a ValueError: no such host name can be
            raise WireError(
                f"nobody answers at {address}: {reason}", hint="is `splitc serve` running there?"
            ) from reason
        self._stream = Stream(sock, timeout_s)
        try:
            self._stream.send(frame.pack_text(token or "", contract, frame.HELLO))
            frame.unpack_text(self._answer(contract), contract, frame.HELLO)
        except WireError:
            self._stream.close()
            raise

    def __call__(self, packed: bytes) -> bytes:
        """Send one frame, return the answering frame; its payload is still to be unpacked."""
        try:
            self._stream.send(packed)
        except WireError:
            with suppress(WireError):  # perhaps the other side said why before it hung up
                frame.unpack(self._answer(self._contract.back), self._contract.back)
            raise
        return self._answer(self._contract.back)

    def _answer(self, contract: Contract) -> bytes:
        answer = self._stream.receive(contract)
        if answer is None:
            raise WireError("the other side closed the connection without an answer")
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()
