"""The two halves at work: `open_head` on the device, `open_tail` on the server, `run` for both.

Each half is opened from its own side of the bundle, and they are the only way through `run`,
`verify` and `serve`. What goes from one to the other is a frame (`splitc.wire.frame`).
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from splitc import backend
from splitc import manifest as manifest
from splitc.backend import Artifact, Session, Target
from splitc.contract import Contract
from splitc.errors import RequestError, VerifyError, WireError, did_you_mean
from splitc.records import Manifest, Segment
from splitc.wire import frame

Values = Mapping[str, NDArray[Any]]


class Head:
    """The device's half: the model's inputs → one frame.

    `outputs`: the graph outputs that the head made in the latest call.
    """

    def __init__(
        self, folder: Path, read: Manifest, threads: int = 0, optimize: bool = True
    ) -> None:
        self.manifest = read
        self.outputs: dict[str, NDArray[Any]] = {}
        self._side = _Side(folder, _segment(read, "head"), threads, optimize)
        self._sequence = 0

    @property
    def contract(self) -> Contract:
        """What crosses."""
        return self.manifest.contract

    def __call__(self, inputs: Values) -> bytes:
        """Run the head; return the frame for the tail, numbered from 0.

        `inputs`: one array for each input of the whole model, by name. Raises `RequestError`
        naming the input that is missing, unknown, or of another type or shape.
        """
        feeds = check_inputs(inputs, self.manifest.inputs)
        made = {**feeds, **self._side(feeds)}
        later = {tensor.name for tensor in self.contract.gives}
        self.outputs = {
            tensor.name: made[tensor.name]
            for tensor in self.manifest.outputs
            if tensor.name not in later
        }
        boundary = [made[tensor.name] for tensor in self.contract.tensors]
        packed = frame.pack(boundary, self.contract, self._sequence)
        self._sequence += 1
        return packed


class Tail:
    """The server's half: one frame → the graph outputs that the tail makes."""

    def __init__(
        self, folder: Path, read: Manifest, threads: int = 0, optimize: bool = True
    ) -> None:
        self.manifest = read
        self._side = _Side(folder, _segment(read, "tail"), threads, optimize)

    @property
    def contract(self) -> Contract:
        """What crosses."""
        return self.manifest.contract

    def __call__(self, packed: bytes) -> dict[str, NDArray[Any]]:
        """Unpack one frame and run the tail; raises `WireError` for any frame but its head's."""
        return self._outputs(packed)[1]

    def reply(self, packed: bytes) -> bytes:
        """Do the same, and pack the outputs into the answering frame, numbered as the frame."""
        sequence, outputs = self._outputs(packed)
        back = self.contract.back
        return frame.pack([outputs[tensor.name] for tensor in back.tensors], back, sequence)

    def _outputs(self, packed: bytes) -> tuple[int, dict[str, NDArray[Any]]]:
        sequence, arrays = frame.unpack(packed, self.contract)
        names = (tensor.name for tensor in self.contract.tensors)
        made = self._side(dict(zip(names, arrays, strict=True)))
        return sequence, {tensor.name: made[tensor.name] for tensor in self.contract.gives}


def open_head(folder: str | Path, *, threads: int = 0, optimize: bool = True) -> Head:
    """Open the head of a bundle; the other side's folder may be absent.

    `threads`: for its operators, 0 = all cores. `optimize`: let onnxruntime fuse operators.
    Raises `VerifyError` for a damaged bundle.
    """
    return Head(Path(folder), _fitting(manifest.read(Path(folder))), threads, optimize)


def open_tail(folder: str | Path, *, threads: int = 0, optimize: bool = True) -> Tail:
    """Open the tail of a bundle; the other side's folder may be absent. See `open_head`."""
    return Tail(Path(folder), _fitting(manifest.read(Path(folder))), threads, optimize)


def run(
    bundle: str | Path,
    inputs: Values,
    *,
    connect: str | None = None,
    token: str | None = None,
    timeout_s: float = 30.0,
) -> dict[str, NDArray[Any]]:
    """Return all outputs of the model, in its order, for one set of inputs.

    With `connect` ("HOST:PORT") the tail is there, behind `splitc serve`, and only the head's side
    of the bundle is used; an answer that is not there within `timeout_s` is a `WireError`.
    """
    head = open_head(bundle)
    packed = head(inputs)
    outputs = dict(head.outputs)
    if head.contract.gives:
        if connect is None:
            outputs |= open_tail(bundle)(packed)
        else:
            outputs |= _ask(packed, head.contract, connect, token, timeout_s)
    return {tensor.name: outputs[tensor.name] for tensor in head.manifest.outputs}


def _ask(
    packed: bytes, contract: Contract, address: str, token: str | None, timeout_s: float
) -> dict[str, NDArray[Any]]:
    """Send the frame to the tail at `address`, and unpack what it answers."""
    from splitc.wire.stream import Remote

    with Remote(address, contract, token=token, timeout_s=timeout_s) as remote:
        sequence, arrays = frame.unpack(remote(packed), contract.back)
    if sequence != (sent := frame.read_header(packed, contract).sequence):
        raise WireError(f"the answer is to frame {sequence}, not to frame {sent}")
    names = (tensor.name for tensor in contract.gives)
    return dict(zip(names, arrays, strict=True))


class _Side:
    """One segment's portable form; its session is opened when first needed."""

    def __init__(self, folder: Path, segment: Segment, threads: int, optimize: bool) -> None:
        self._segment = segment
        self._threads = threads
        self._facts = {} if optimize else {"graph_optimization": "none"}
        self._model = folder / segment.model if segment.model is not None else None
        if self._model is not None and not self._model.is_file():
            raise VerifyError(
                f"this bundle has no {segment.name}",
                where=str(segment.model),
                hint=f"the side {segment.name!r} was deleted here; open the other one",
            )

    def __call__(self, feeds: Values) -> dict[str, NDArray[Any]]:
        """Run the segment on what it needs of `feeds`; nothing when it is empty."""
        made = self._session(feeds) if self._model is not None else {}
        if lacking := sorted({*self._segment.gives} - made.keys()):
            raise VerifyError(f"the {self._segment.name} does not make {lacking[0]!r}")
        return made

    @cached_property
    def _session(self) -> Session:
        assert self._model is not None, "an empty side has no session"
        target = Target(self._segment.name, threads=self._threads)
        artifact = Artifact("onnxruntime", format="onnx", target=target, facts=self._facts)
        return backend.get(artifact.backend).load(artifact.at(self._model))


def misfit(read: Manifest) -> str:
    """Say what is wrong between the halves' interfaces and the contract; '' if they fit."""
    head, tail = (read.segment(name) for name in manifest.SIDES)
    inputs = {tensor.name for tensor in read.inputs}
    crossing = {tensor.name for tensor in read.contract.tensors}
    late = {tensor.name for tensor in read.contract.gives}
    outputs = {tensor.name for tensor in read.outputs}
    lacking = {
        "the head needs": set(head.needs) - inputs,
        "nobody makes": crossing - inputs - set(head.gives),
        "the tail needs": set(tail.needs) - crossing,
        "the tail does not make": late - set(tail.gives) - crossing,
        "the tail gives, which is no output,": late - outputs,
        "no side gives": outputs - late - set(head.gives) - inputs,
    }
    return "; ".join(f"{what} {sorted(names)[0]!r}" for what, names in lacking.items() if names)


def _fitting(read: Manifest) -> Manifest:
    if wrong := misfit(read):
        raise VerifyError(f"the halves do not fit the contract: {wrong}", where=manifest.NAME)
    return read


def _segment(read: Manifest, name: str) -> Segment:
    return next(segment for segment in read.segments if segment.name == name)


class Named(Protocol):
    """A tensor of an interface."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def dtype(self) -> str: ...  # noqa: D102
    @property
    def shape(self) -> Sequence[int | str | None]: ...  # noqa: D102


def check_inputs(given: Values, expected: Sequence[Named]) -> dict[str, NDArray[Any]]:
    """Return the arrays in order of `expected`; raises `RequestError` naming what is wrong.

    Symbolic dimensions of one name must be equal in all inputs; None takes any size.
    """
    names = [tensor.name for tensor in expected]
    if unknown := sorted(given.keys() - set(names)):
        raise RequestError(
            f"no input is called {unknown[0]!r}", hint=did_you_mean(unknown[0], names)
        )
    if missing := [name for name in names if name not in given]:
        raise RequestError(f"input {missing[0]!r} is missing", hint=f"inputs: {', '.join(names)}")
    sizes: dict[str, int] = {}
    return {
        tensor.name: _check_input(np.asarray(given[tensor.name]), tensor, sizes)
        for tensor in expected
    }


def _check_input(array: NDArray[Any], tensor: Named, sizes: dict[str, int]) -> NDArray[Any]:
    if array.dtype.name != tensor.dtype:
        raise RequestError(
            f"input {tensor.name!r} is {array.dtype.name}, expected {tensor.dtype}",
            hint=f".astype({tensor.dtype!r})",
        )
    fits = array.ndim == len(tensor.shape)
    for size, want in zip(array.shape, tensor.shape, strict=False):
        if want is not None:
            fits &= size == (sizes.setdefault(want, size) if isinstance(want, str) else want)
    if not fits:
        raise RequestError(
            f"input {tensor.name!r} has shape {list(array.shape)}, expected {list(tensor.shape)}",
            where=", ".join(f"{name} = {size}" for name, size in sizes.items()),
        )
    return array
