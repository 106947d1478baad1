"""Start the builder in a process of its own and say what became of it, even if it crashed."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from splitc.backends.tensorrt.recipe import Build, Range
from splitc.errors import BackendError

if TYPE_CHECKING:
    from splitc.model import Model

TIMEOUT_S = 1800.0
_ENVIRONMENT = ("PYTHONPATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "SYSTEMROOT")
"""What a child that is to be reproducible gets of the environment: no more, because what lies in
its memory before the build moves addresses, and an engine of TensorRT-RTX depends on their order.
For the same reason it never asks for its folder (`-P`), and names in its order are relative."""


@dataclass(frozen=True)
class Flavour:
    """A builder that may be installed: its Python modules, the first that is there counts.

    `reproducible`: the same segment can give the same engine, if the child is held to it.
    """

    name: str
    modules: tuple[str, ...]
    install: str
    reproducible: bool = False

    def module(self) -> str:
        """Return the module to import; `BackendError` with the command that installs it."""
        for name in self.modules:
            if find_spec(name) is not None:
                return name
        raise BackendError(f"{self.name} is not installed", hint=self.install)

    def missing(self) -> str:
        """Return '' or why it cannot be used."""
        here = any(find_spec(name) is not None for name in self.modules)
        return "" if here else f"{self.name} is not installed: {self.install}"


TENSORRT = Flavour("TensorRT", ("tensorrt", "tensorrt_bindings"), "pip install 'splitc[tensorrt]'")
RTX = Flavour(
    "TensorRT-RTX",
    ("tensorrt_rtx", "tensorrt_rtx_bindings"),
    "pip install 'splitc[tensorrt-rtx]'",
    reproducible=True,
)


@dataclass(frozen=True)
class Order:
    """What to build. `capability`: "80" to build for that GPU (TensorRT-RTX only), or ''."""

    profile: Mapping[str, Range] = field(default_factory=dict)
    capability: str = ""
    build: Build = field(default_factory=Build)


@dataclass(frozen=True)
class Refusal:
    """What the parser said of one node: its index in the graph that holds it, and why."""

    index: int
    name: str
    operator: str
    why: str


@dataclass(frozen=True)
class Outcome:
    """How far the builder came: `stage` is import, start, parse, build or done.

    `died`: how the process ended, where it did not end by itself; `node`: what it parsed last.
    `memory`: bytes of "activation" and "weights", from the builder's log. `reproducible`: addresses
    were not randomised, so that TensorRT-RTX gives the same engine again.
    """

    stage: str = "import"
    version: str = ""
    engine: bytes | None = field(default=None, repr=False)
    refusals: tuple[Refusal, ...] = ()
    messages: tuple[str, ...] = ()
    node: str = ""
    died: str = ""
    memory: Mapping[str, int] = field(default_factory=dict)
    reproducible: bool = False


def build(model: "Model | Path", order: Order, flavour: Flavour = RTX) -> Outcome:
    """Build a segment, or the ONNX file of one, and wait for it."""
    with tempfile.TemporaryDirectory(prefix="splitc-trt-") as place:
        folder = Path(place)
        if isinstance(model, Path):
            for file in model.parent.glob(f"{model.name}*"):
                (folder / file.name).symlink_to(file.resolve())
        else:
            model.save(folder / "model.onnx")
        name = model.name if isinstance(model, Path) else "model.onnx"
        return _run(folder, name, order, flavour)


@cache
def version(flavour: Flavour) -> str:
    """Return the installed version, as the module itself says it; '' where it cannot be loaded."""
    with tempfile.TemporaryDirectory(prefix="splitc-trt-") as name:
        return _run(Path(name), None, Order(), flavour).version


def _run(folder: Path, model: str | None, order: Order, flavour: Flavour) -> Outcome:
    engine, report = folder / "engine", folder / "report.json"
    (folder / "order.json").write_text(
        json.dumps(
            {
                "module": flavour.module(),
                "reproducible": flavour.reproducible,
                "model": model,
                "engine": engine.name,
                "capability": order.capability,
                "profile": msgspec.to_builtins(order.profile),
                **msgspec.to_builtins(order.build),
            }
        )
    )
    report.write_text("{}")
    command = [sys.executable, "-P", "-m", "splitc.backends.tensorrt.builder"]
    died = _wait([*command, "order.json", report.name], folder, _environment(flavour))
    told = json.loads(report.read_text() or "{}")
    return _outcome(told, died, engine.read_bytes() if engine.exists() else None)


def _environment(flavour: Flavour) -> dict[str, str]:
    if not flavour.reproducible:
        return dict(os.environ)
    kept = {key: os.environ[key] for key in _ENVIRONMENT if key in os.environ}
    return {**kept, "PYTHONHASHSEED": "0"}


def _wait(command: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    """Run the child; return '' or how it died."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"took longer than {TIMEOUT_S:.0f} s"
    if done.returncode < 0:
        return f"crashed with {signal.Signals(-done.returncode).name}"
    if done.returncode > 0:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return ""


def _outcome(told: Mapping[str, Any], died: str, engine: bytes | None) -> Outcome:
    return Outcome(
        stage=told.get("stage", "import"),
        version=told.get("version", ""),
        engine=engine if told.get("stage") == "done" else None,
        refusals=tuple(Refusal(**refusal) for refusal in told.get("refusals", ())),
        messages=tuple(told.get("messages", ())),
        node=told.get("node", ""),
        died=died,
        memory=told.get("memory", {}),
        reproducible=told.get("fixed_addresses", False),
    )
