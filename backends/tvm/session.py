"""Compiled code at work: natively in this process, or under an emulator in another one."""

import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitc.backend import Artifact, Feeds, Session
from splitc.backends.tvm.machine import INSTRUCTIONS, architecture
from splitc.backends.tvm.toolchain import needed
from splitc.errors import BackendError

DEVICE = Path(__file__).parent / "device"
"""Sources of the runners, which go into the bundle too."""
FILES = ("model.so", "interface.txt")
COMPILERS = {"aarch64": "aarch64-linux-gnu-g++"}
"""Architecture that can be emulated → what builds the runner for it."""
TIMEOUT_S = 600.0


def runtime_folder(arch: str) -> Path:
    """Return where `python -m splitc.backends.tvm.emulation` puts what emulation needs."""
    return Path(sys.prefix) / "share" / "splitc" / "tvm" / arch


def emulator(arch: str) -> str | None:
    """Return qemu's program for this architecture, if it is installed."""
    name = {"armv7": "arm"}.get(arch, arch)
    return shutil.which(f"qemu-{name}-static") or shutil.which(f"qemu-{name}")


def here(arch: str) -> bool:
    """Tell whether this machine runs the architecture's code itself."""
    return sys.platform == "linux" and arch == architecture(platform.machine())


def why_not(artifact: Artifact) -> str | None:
    """Return None, or why this machine cannot run the artifact."""
    arch = architecture(artifact.target.triple or str(artifact.facts.get("triple", "")))
    if here(arch):
        return _missing_features(artifact)
    foreign = f"this machine is {platform.machine()}, the code is {arch}, and"
    if arch not in COMPILERS:
        return f"{foreign} there is no TVM runtime to emulate it with"
    if emulator(arch) is None:
        return f"{foreign} there is no qemu-{arch}"
    if not (runtime_folder(arch) / "run").is_file():
        return f"no TVM runtime for {arch} here: python -m splitc.backends.tvm.emulation {arch}"
    return None


def _missing_features(artifact: Artifact) -> str | None:
    """Compare the instruction sets that the code may use with those of this processor."""
    info = Path("/proc/cpuinfo")
    have = set(info.read_text("utf-8").split()) if info.is_file() else set()
    names = INSTRUCTIONS[architecture(platform.machine())]
    used = [part.lstrip("+") for part in str(artifact.facts.get("simd", "")).split()]
    lacking = [name for name in used if name in names and (names[name] or name) not in have]
    return f"this processor has no {lacking[0]}" if have and lacking else None


def open_session(artifact: Artifact) -> Session:
    """Make an artifact ready to run; `BackendError` says why this machine cannot."""
    if artifact.folder is None:
        raise BackendError(
            "a tvm artifact is loaded from its folder", hint="Artifact.at(model, folder)"
        )
    if (reason := why_not(artifact)) is not None:
        raise BackendError(f"cannot run here: {reason}", where=str(artifact.folder.name))
    arch = architecture(artifact.target.triple or str(artifact.facts.get("triple", "")))
    if here(arch):
        return _Native(artifact.folder, artifact.target.threads)
    return _Emulated(artifact.folder, arch)


class _Native:
    """The Python runner of the bundle, in this process."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._where = folder.name
        try:
            self._compiled = _runner().Compiled(folder, threads)
        except (OSError, RuntimeError, ValueError, AttributeError) as error:
            raise BackendError(f"cannot load: {_first(error)}", where=self._where) from error

    def __call__(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        try:
            made: dict[str, NDArray[Any]] = self._compiled(dict(feeds))
        except KeyError as error:
            raise BackendError(f"input {error.args[0]!r} is missing", where=self._where) from error
        except (RuntimeError, ValueError) as error:
            raise BackendError(_first(error), where=self._where) from error
        return made


def _runner() -> Any:
    """Load device/run.py, which belongs to the device and imports nothing of ours."""
    needed("tvm_ffi")
    path = DEVICE / "run.py"
    spec = spec_from_file_location("splitc_tvm_run", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Emulated:
    """The C++ runner under qemu; one process a call."""

    def __init__(self, folder: Path, arch: str) -> None:
        self._folder, self._arch = folder, arch
        lines = (folder / "interface.txt").read_text("utf-8").splitlines()
        self._tensors = [line.split(" ", 3) for line in lines]

    def __call__(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        with tempfile.TemporaryDirectory(prefix="splitc-") as name:
            given, made = Path(name) / "in", Path(name) / "out"
            given.mkdir()
            made.mkdir()
            self._write(feeds, given)
            run_emulated(self._arch, [str(self._folder), str(given), str(made)])
            return self._read(made)

    def _write(self, feeds: Feeds, folder: Path) -> None:
        inputs = [line for line in self._tensors if line[0] == "input"]
        for place, (_, dtype, shape, name) in enumerate(inputs):
            if name not in feeds:
                raise BackendError(f"input {name!r} is missing", where=self._folder.name)
            array = np.ascontiguousarray(feeds[name])
            have = "x".join(map(str, np.shape(feeds[name]))) or "-"
            if array.dtype.name != dtype or have != shape:
                raise BackendError(
                    f"input {name!r} is {array.dtype} {have}, expected {dtype} {shape}",
                    where=self._folder.name,
                )
            (folder / f"{place}.bin").write_bytes(array.tobytes())

    def _read(self, folder: Path) -> dict[str, NDArray[Any]]:
        found: dict[str, NDArray[Any]] = {}
        outputs = [line for line in self._tensors if line[0] == "output"]
        for place, (_, dtype, shape, name) in enumerate(outputs):
            sizes = [] if shape == "-" else [int(size) for size in shape.split("x")]
            data = (folder / f"{place}.bin").read_bytes()
            found[name] = np.frombuffer(data, dtype).reshape(sizes).copy()
        return found


def run_emulated(arch: str, arguments: list[str], options: Mapping[str, str] | None = None) -> str:
    """Run the C++ runner under qemu; return what it printed. `options`: qemu's own, with values."""
    folder = runtime_folder(arch)
    words = [str(emulator(arch)), "-L", str(folder)]
    words += [word for pair in (options or {}).items() for word in pair]
    words += ["-E", f"LD_LIBRARY_PATH={folder}", str(folder / "run"), *arguments, "1"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise BackendError(f"emulation took more than {TIMEOUT_S:.0f} s") from error
    if done.returncode:
        raise BackendError(f"emulated {arch}: {done.stderr.strip()[-300:] or done.returncode}")
    return done.stdout


def _first(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
