"""The tail behind a socket: bounded, within a deadline, and clear about what went wrong."""

import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import numpy as np
import onnx
import pytest

import splitc
from splitc import runtime
from splitc.contract import BoundaryTensor, Contract
from splitc.errors import RequestError, WireError
from splitc.records import Segment
from splitc.serve import serve
from splitc.wire import frame
from splitc.wire.stream import Remote, Stream, parse_address
from tests.bundles import described, record

TAIL = """
<ir_version: 10, opset_import: ["": 21]>
tail (float[N] a, float[M] b) => (float[K] y) { y = Add(a, b) }
"""
ROOT = Path(__file__).resolve().parent.parent
A, B = np.arange(4, dtype=np.float32), np.ones(4, np.float32)


def contract(pair: str = "ab" * 32) -> Contract:
    def crosses(name: str, size: str) -> BoundaryTensor:
        return BoundaryTensor(name, "float32", (size,), codec="raw", max_bytes=64)

    return Contract(
        tensors=(crosses("a", "N"), crosses("b", "M")), gives=(crosses("y", "K"),), pair=pair
    )


Start = Callable[..., str]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start servers of one small tail; they are stopped, and must stop, at the end."""
    (tmp_path / "model.onnx").write_bytes(onnx.parser.parse_model(TAIL).SerializeToString())
    head = Segment(name="head", tier="device", needs=(), gives=("a", "b"), model=None)
    tail = Segment(name="tail", tier="server", needs=("a", "b"), gives=("y",), model="model.onnx")
    read = described((head, tail), contract(), outputs=[record("y", "float32", "K")])
    monkeypatch.setattr(runtime.manifest, "read", lambda folder: read)
    stop, running = Event(), []

    def begin(listen: str = "127.0.0.1:0", **options: object) -> str:
        ready, found = Event(), list[str]()

        def on_ready(host: str, port: int) -> None:
            found.append(f"{host}:{port}")
            ready.set()

        thread = Thread(
            target=serve,
            args=(tmp_path, listen),
            kwargs={"stop": stop, "on_ready": on_ready, "timeout_s": 1.0, **options},
        )
        thread.start()
        running.append(thread)
        assert ready.wait(10)
        return found[0]

    yield begin
    stop.set()
    for thread in running:
        thread.join(5)
        assert not thread.is_alive()


def ask(address: str, a: np.ndarray = A, b: np.ndarray = B, **options: object) -> np.ndarray:
    with Remote(address, contract(), timeout_s=5, **options) as remote:  # type: ignore[arg-type]
        reply = remote(frame.pack([a, b], contract(), 5))
    sequence, (y,) = frame.unpack(reply, contract().back)
    assert sequence == 5
    return y


@contextmanager
def raw_peer(address: str) -> Iterator[socket.socket]:
    with socket.create_connection(parse_address(address), timeout=5) as sock:
        yield sock


def test_answers(start: Start) -> None:
    address = start()
    np.testing.assert_array_equal(ask(address), A + B)
    with Remote(address, contract(), timeout_s=5) as remote:
        for number in range(3):
            reply = remote(frame.pack([A, B * number], contract(), number))
            assert frame.unpack(reply, contract().back)[0] == number


def test_a_tails_failure_comes_back_and_the_connection_stays(start: Start) -> None:
    with Remote(start(), contract(), timeout_s=5) as remote:
        reply = remote(frame.pack([A, B[:3]], contract(), 0))
        with pytest.raises(WireError, match=r"the other side failed(.|\n)*onnxruntime"):
            frame.unpack(reply, contract().back)
        assert remote(frame.pack([A, B], contract(), 1))


def test_the_token_is_asked_for(start: Start) -> None:
    address = start("0.0.0.0:0", token="sesame").replace("0.0.0.0", "127.0.0.1")
    np.testing.assert_array_equal(ask(address, token="sesame"), A + B)
    for wrong in (None, "", "sesam", "sésame"):
        with pytest.raises(WireError, match=r"the other side failed(.|\n)*token is wrong"):
            ask(address, token=wrong)


def test_other_machines_need_a_token(start: Start, tmp_path: Path) -> None:
    for listen in ("0.0.0.0:0", "[::]:0"):
        with pytest.raises(RequestError, match="without a token"):
            serve(tmp_path, listen)
    for listen in ("nonsense", "127.0.0.1:99999", ":5", "127.0.0.1:-1"):
        with pytest.raises(RequestError, match="cannot read the address"):
            serve(tmp_path, listen)


def test_a_foreign_head_is_refused_before_it_sends(start: Start) -> None:
    with pytest.raises(WireError, match="comes from another bundle"):
        Remote(start(), contract("cd" * 32), timeout_s=5)


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(WireError, match="nobody answers"):
        Remote(f"127.0.0.1:{port}", contract(), timeout_s=5)


def test_a_frame_is_bounded_before_it_is_read(start: Start) -> None:
    hello = frame.pack_text("", contract(), frame.HELLO)
    bad = bytearray(frame.pack([A, B], contract(), 0))
    struct.pack_into("<I", bad, frame.HEADER_BYTES + 4, 2**32 - 1)
    struct.pack_into("<Q", bad, frame.HEADER_BYTES + 8, 2**34 - 4)
    with raw_peer(start()) as sock:
        sock.sendall(hello)
        stream = Stream(sock, 5)
        assert stream.receive(contract())
        sock.sendall(bytes(bad[: frame.HEADER_BYTES + 2 * frame.record_bytes(1)]))
        answer = stream.receive(contract())
        assert answer is not None
        assert "17179869180 bytes" in frame.unpack_text(answer, contract(), frame.ERROR)
        assert stream.receive(contract()) is None, "the server hangs up"


def test_nothing_but_a_hello_is_read_first(start: Start) -> None:
    """Who has no token makes the server hold no more than the header of a frame."""
    with raw_peer(start(token="s")) as sock:
        sock.sendall(frame.pack([A, B], contract(), 0)[: frame.HEADER_BYTES])
        answer = Stream(sock, 5).receive(contract())
        assert answer is not None
        assert "out of turn" in frame.unpack_text(answer, contract(), frame.ERROR)


@pytest.mark.parametrize("host", ["a" * 300, "..", "ü" * 70])
def test_a_name_that_no_host_can_have(host: str, start: Start, tmp_path: Path) -> None:
    start()
    with pytest.raises(WireError, match="nobody answers"):
        Remote(f"{host}:80", contract(), timeout_s=5)
    with pytest.raises(RequestError, match="cannot listen"):
        serve(tmp_path, f"{host}:80", token="s")


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, 1e300, float("nan"), float("inf")])
def test_a_timeout_that_sockets_cannot_keep(timeout_s: float) -> None:
    with pytest.raises(RequestError, match="a timeout of"):
        Remote("127.0.0.1:9", contract(), timeout_s=timeout_s)


def test_a_slow_drip_is_cut_off(start: Start) -> None:
    hello = frame.pack_text("", contract(), frame.HELLO)
    address = start()
    begun = time.monotonic()
    with raw_peer(address) as sock, pytest.raises(OSError, match=r"."):  # noqa: PT012
        for byte in hello * 100:
            sock.sendall(bytes([byte]))
            time.sleep(0.1)
    assert time.monotonic() - begun < 4
    np.testing.assert_array_equal(ask(address), A + B)


def test_connections_are_bounded(start: Start) -> None:
    address = start(max_connections=1)
    full = r"the other side failed(.|\n)*too many connections"
    with Remote(address, contract(), timeout_s=5), pytest.raises(WireError, match=full):
        ask(address)
    for _ in range(50):
        try:
            np.testing.assert_array_equal(ask(address), A + B)
            return
        except WireError:
            time.sleep(0.05)
    pytest.fail("the slot was not given back")


@contextmanager
def bad_server(behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """A peer that answers the hello, reads a frame's first bytes, and then behaves badly."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def work() -> None:
            sock, _ = listener.accept()
            with sock:
                Stream(sock, 5).receive(contract())
                sock.sendall(frame.pack_text("", contract(), frame.HELLO))
                sock.recv(10)
                behave(sock)

        thread = Thread(target=work)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(10)


BAD: dict[str, tuple[Callable[[socket.socket], None], str]] = {
    "dies": (lambda sock: None, "closed the connection|connection broke"),
    "stalls": (lambda sock: time.sleep(1.5), "no whole frame arrived within 0.5 s"),
    "half a frame": (
        lambda sock: sock.sendall(frame.pack([A], contract().back, 0)[:40]),
        "within a frame|connection broke",
    ),
    "noise": (lambda sock: sock.sendall(b"HTTP/1.1 400 Bad Request" * 9), "not a splitc frame"),
}


@pytest.mark.parametrize(("behave", "message"), BAD.values(), ids=BAD)
def test_a_bad_server_is_a_clear_error_in_time(
    behave: Callable[[socket.socket], None], message: str
) -> None:
    with bad_server(behave) as address:
        begun = time.monotonic()
        with (
            pytest.raises(WireError, match=message),
            Remote(address, contract(), timeout_s=0.5) as remote,
        ):
            remote(frame.pack([A, B], contract(), 0))
        assert time.monotonic() - begun < 1.4


MODEL = """
<ir_version: 10, opset_import: ["": 21]>
g (float[4,8] x) => (float[4,8] y, float[4,8] early)
{ a = Relu(x)  early = Neg(a)  b = Exp(a)  y = Mul(b, a) }
"""


def python(*code: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, *code], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_two_processes_each_with_its_own_side(tmp_path: Path) -> None:
    """The head's process has no tail on its disk, the tail's no head."""
    onnx.save(onnx.parser.parse_model(MODEL), tmp_path / "model.onnx")
    made = splitc.compile(
        tmp_path / "model.onnx",
        head="raspberry-pi-4",
        tail="nvidia-a100",
        link="wifi",
        cut="a",
        passes="",
        output=tmp_path / "device",
    )
    assert made.ok
    shutil.copytree(tmp_path / "device", tmp_path / "server")
    shutil.rmtree(tmp_path / "device" / "tail")
    shutil.rmtree(tmp_path / "server" / "head")
    x = np.linspace(-1, 1, 32, dtype=np.float32).reshape(4, 8)
    np.savez(tmp_path / "x.npz", x=x)
    server = python("-c", SERVER, str(tmp_path / "server"))
    try:
        assert server.stdout
        address = server.stdout.readline().strip()
        client = python("-c", CLIENT, str(tmp_path), address)
        assert client.wait(60) == 0
    finally:
        server.terminate()
        server.wait(10)
    with np.load(tmp_path / "y.npz") as got:
        relu = np.maximum(x, 0)
        np.testing.assert_allclose(got["y"], np.exp(relu) * relu, rtol=1e-5)
        np.testing.assert_array_equal(got["early"], -relu)


SERVER = """
import sys
from splitc.records import Segment
from splitc.serve import serve
serve(sys.argv[1], on_ready=lambda host, port: print(f"{host}:{port}", flush=True))
"""
CLIENT = """
import sys
import numpy as np
from splitc.runtime import run
folder, address = sys.argv[1:]
with np.load(folder + "/x.npz") as x:
    np.savez(folder + "/y.npz", **run(folder + "/device", dict(x), connect=address))
"""
