"""The tail behind a socket.

Everything a peer can ask for is bounded: the size of a frame by the contract, the number of
connections, and the time for each frame. Without a token only this machine is listened to.
"""

import hmac
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from threading import Event, Lock, Thread

from splitc.errors import RequestError, SplitcError, WireError
from splitc.runtime import Tail, open_tail
from splitc.wire import frame
from splitc.wire.stream import Stream, check_timeout, parse_address

_POLL_S = 0.2


def serve(
    bundle: str | Path,
    listen: str = "127.0.0.1:0",
    *,
    token: str | None = None,
    max_connections: int = 8,
    timeout_s: float = 30.0,
    threads: int = 0,
    on_ready: Callable[[str, int], None] = lambda host, port: None,
    on_event: Callable[[str], None] = lambda line: None,
    stop: Event | None = None,
) -> None:
    """Answer frames of this bundle's head until `stop` is set.

    `listen`: HOST:PORT, port 0 = any free one; `on_ready` is called with what it became. An
    address that other machines reach wants a `token` (`RequestError`), which callers send in
    clear. `timeout_s`: for each frame to arrive, and for each answer to be taken; a connection
    that is silent for longer is closed. `on_event` gets one line for each peer that failed.
    """
    if max_connections < 1:
        raise RequestError("max_connections must be positive")
    check_timeout(timeout_s)
    tail = open_tail(bundle, threads=threads)
    with _listener(listen, token) as listener:
        server = _Server(tail, token or "", timeout_s, max_connections, on_event)
        on_ready(*listener.getsockname()[:2])
        try:
            server.accept(listener, stop or Event())
        finally:
            server.close()


def _listener(listen: str, token: str | None) -> socket.socket:
    """Return the bound and listening socket; see `serve`."""
    host, port = parse_address(listen)
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        if not token and not ip_address(str(address[0])).is_loopback:
            raise RequestError(
                f"listening on {host!r} would let other machines in without a token",
                hint="give --token, or listen on 127.0.0.1",
            )
        listener = socket.socket(family, kind, proto)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
        except OSError:
            listener.close()
            raise
    except (OSError, ValueError) as reason:  # a ValueError: no such host name can be
        raise RequestError(f"cannot listen on {listen!r}: {reason}") from reason
    return listener


@dataclass
class _Server:
    """The open connections, one thread each."""

    tail: Tail
    token: str
    timeout_s: float
    max_connections: int
    on_event: Callable[[str], None]
    _open: dict[Thread, Stream] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def accept(self, listener: socket.socket, stop: Event) -> None:
        """Take connections until `stop`; those over the limit are told so."""
        listener.settimeout(_POLL_S)
        while not stop.is_set():
            try:
                sock, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError as reason:  # this peer is gone already, or there are no more handles
                self.on_event(f"a connection was lost: {reason}")
                stop.wait(_POLL_S)
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream = Stream(sock, self.timeout_s)
            with self._lock:
                full = len(self._open) >= self.max_connections
                if not full:
                    thread = Thread(target=self._connection, args=(stream,), daemon=True)
                    self._open[thread] = stream
            if full:
                self._turn_away(Stream(sock, _POLL_S))
            else:
                thread.start()

    def close(self) -> None:
        """Close all connections and wait for their threads."""
        with self._lock:
            left = dict(self._open)
        for stream in left.values():
            stream.close()
        for thread in left:
            thread.join(self.timeout_s)

    def _connection(self, stream: Stream) -> None:
        """Answer one peer until it hangs up, breaks the contract or is late."""
        try:
            self._hello(stream)
            while (packed := stream.receive(self.tail.contract)) is not None:
                self._answer(stream, packed)
        except WireError as reason:
            self._fail(stream, reason)
        finally:
            stream.close()
            with self._lock:
                self._open = {t: s for t, s in self._open.items() if s is not stream}

    def _turn_away(self, stream: Stream) -> None:
        """Hear the hello first: closing with unread bytes would lose the answer."""
        with suppress(WireError):
            stream.receive(self.tail.contract, frame.HELLO)
        self._fail(stream, WireError("the server has too many connections"))
        stream.close()

    def _hello(self, stream: Stream) -> None:
        contract = self.tail.contract
        packed = stream.receive(contract, frame.HELLO)
        if packed is None:
            raise WireError("a peer hung up before its hello")
        given = frame.unpack_text(packed, contract, frame.HELLO)
        if self.token and not hmac.compare_digest(given.encode(), self.token.encode()):
            raise WireError("the token is wrong", hint="--token as `splitc serve` was given it")
        stream.send(frame.pack_text("", contract, frame.HELLO))

    def _answer(self, stream: Stream, packed: bytes) -> None:
        """Answer one whole frame; when the tail fails on it, the connection stays."""
        try:
            reply = self.tail.reply(packed)
        except SplitcError as reason:
            self._fail(stream, reason)
        else:
            stream.send(reply)

    def _fail(self, stream: Stream, reason: SplitcError) -> None:
        """Tell the peer why it gets no answer, if it still listens."""
        text = "\n".join(part for part in (str(reason.args[0]), reason.hint) if part)
        self.on_event(text)
        with suppress(WireError):
            stream.send(frame.pack_text(text, self.tail.contract, frame.ERROR))
