"""What turns a segment into something a machine can run, and runs it.

A backend answers two questions about a segment: which of its nodes can you not take, and why; and
what bytes do you emit. `BUILT_IN` names splitc's own; a package adds one through the entry-point
group ``splitc.backends``. Nothing is imported until a backend is asked for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, cast, runtime_checkable

from numpy.typing import NDArray

from splitc import plugins
from splitc.errors import BackendError, SplitcError

if TYPE_CHECKING:
    from splitc.model import Model
    from splitc.scenario import Device

GROUP = "splitc.backends"
BUILT_IN = {
    "onnxruntime": "splitc.backends.onnxruntime:OnnxRuntime",
    "tensorrt": "splitc.backends.tensorrt.backend:TensorRT",
    "tensorrt-rtx": "splitc.backends.tensorrt.rtx:TensorRTRTX",
    "tvm": "splitc.backends.tvm:Tvm",
}
INSTALL = {
    "tensorrt-rtx": "pip install 'splitc[tensorrt-rtx]'",
    "tvm": "pip install 'splitc[tvm]'",
}
"""Built-in backend → the command that installs what it needs beyond the core."""

Feeds = Mapping[str, NDArray[Any]]
"""Tensor name → array, as the segment's interface names them."""

Refusals = Mapping[str, str]
"""Node identity → why the backend cannot take it; empty when it takes the whole segment."""

Session = Callable[[Feeds], dict[str, NDArray[Any]]]
"""All of a segment's inputs → all of its outputs."""


@dataclass(frozen=True, slots=True)
class Target:
    """The machine a segment is compiled for.

    `triple`, `cpu`, `features`: as LLVM spells them. `compute_capability`: of its GPU, "8.0".
    `memory_bytes`: what is there, 0 = unknown. `threads`: to run with, 0 = let the backend choose.
    """

    name: str
    triple: str = ""
    cpu: str = ""
    features: tuple[str, ...] = ()
    compute_capability: str = ""
    memory_bytes: int = 0
    threads: int = 0

    @classmethod
    def of(cls, device: "Device") -> Self:
        """Return what a backend needs to know of a device profile."""
        return cls(
            name=device.name,
            triple=device.triple,
            cpu=device.cpu,
            features=tuple(device.features),
            compute_capability=str(device.compute_capability or ""),
            memory_bytes=int(device.memory_bytes),
        )


@dataclass(frozen=True)
class Artifact:
    """What a backend made of a segment: bytes, format, target, and where they lie once written.

    `files`: relative name → bytes, to be written under ``<side>/<target>/``; empty when the
    backend runs the portable form, which every bundle holds anyway. `facts`: what the manifest
    records beside them, such as compiler and version, triple or capability, runtime needed,
    threads, peak memory; the same for the same segment. `notes`: lines that the user must see,
    such as what was compiled without a schedule of its own. `folder` and `model` are None until the
    artifact has a place: the folder with `files`, and the portable form (its path, or its bytes).
    """

    backend: str
    format: str
    target: Target
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    facts: Mapping[str, str | int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    folder: Path | None = None
    model: Path | bytes | None = field(default=None, repr=False)

    def at(self, model: Path | bytes, folder: Path | None = None) -> "Artifact":
        """Return this artifact as it lies: the portable `model`, and the `folder` of its files."""
        return replace(self, model=model, folder=folder)


class Backend(Protocol):
    """One way to run a segment. Made without arguments; holds no state.

    A class attribute `rules` names the form of quantized graphs that it takes, if it takes but
    one: a `quantize` whose work it gets is told.
    """

    name: ClassVar[str]

    def supports(self, segment: "Model", target: Target) -> Refusals:
        """Say which nodes it cannot take, and why; feeds the planner and `explain`."""
        ...

    def compile(self, segment: "Model", target: Target) -> Artifact:
        """Make the artifact: same segment, same bytes. Raises `BackendError` naming a node."""
        ...

    def runs_here(self, artifact: Artifact) -> str | None:
        """Return None, or why this machine cannot run the artifact."""
        ...

    def load(self, artifact: Artifact) -> Session:
        """Make an artifact that has a place (`Artifact.at`) ready to run."""
        ...


@runtime_checkable
class Finisher(Protocol):
    """A backend whose artifact is a recipe: the target builds the rest (`splitc finish`)."""

    def ready(self, artifact: Artifact) -> Mapping[str, str | int]:
        """Return what would build it here, for which GPU; `BackendError` where it does not fit."""
        ...

    def finish(self, artifact: Artifact) -> Mapping[str, bytes]:
        """Build on this machine: file name → bytes, to lie beside the artifact's own files."""
        ...


@runtime_checkable
class Examiner(Protocol):
    """A backend that can ask its real compiler before anything is planned (`splitc check`)."""

    def examine(self, segment: "Model", target: Target) -> tuple[Refusals, tuple[str, ...]]:
        """Return what `supports` and the compiler refuse, and lines saying who was asked."""
        ...


@dataclass(frozen=True, slots=True)
class Available:
    """One line of `splitc backends`."""

    name: str
    available: bool
    reason: str = ""
    hint: str = ""


def get(name: str) -> Backend:
    """Return the backend called `name`; `BackendError` if unknown or something it needs is not."""
    install = INSTALL.get(name, "")
    made = plugins.load(GROUP, name, BUILT_IN, error=BackendError, install=install)
    return cast("Callable[[], Backend]", made)()


def available() -> list[Available]:
    """Return every backend, built-in and added, with the reason why one cannot be used here."""
    found = []
    for name in plugins.lookup(GROUP, BUILT_IN, error=BackendError):
        try:
            get(name)
        except SplitcError as reason:
            found.append(Available(name, False, str(reason.args[0]), reason.hint))
        else:
            found.append(Available(name, True))
    return found
