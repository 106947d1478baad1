"""Objects → shared library, for this or another architecture.

Debian's cross compiler links where it is installed; otherwise the linker of the package `ziglang`
does, which needs no root: it is LLVM's lld, run without any libc. What a library then asks for
(`memset`, `expf`) the loading process has already, so it names no glibc version at all.
"""

import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from splitc.backends.tvm.machine import Machine, architecture
from splitc.errors import BackendError

_GNU = {
    "aarch64": "aarch64-linux-gnu-gcc",
    "x86_64": "x86_64-linux-gnu-gcc",
    "armv7": "arm-linux-gnueabihf-gcc",
}
_LLD = {"aarch64": "aarch64linux", "x86_64": "elf_x86_64", "armv7": "armelf_linux_eabi"}
_FLAGS = ("-shared", "--build-id=none", "-s", "-z", "noexecstack")


@dataclass(frozen=True)
class Linker:
    """`name`: as the manifest records it, with its version; `command`: its first words."""

    name: str
    command: tuple[str, ...]

    def __call__(self, target: Path, objects: Sequence[Path]) -> None:
        """Link; raises `BackendError` with the linker's last line."""
        words = [*self.command, "-o", str(target), *map(str, objects)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
            raise BackendError(f"{self.name} cannot link: {lines[-1][:300]}", where=target.name)


def linker(machine: Machine) -> Linker:
    """Return the linker for this target; `BackendError` says what to install."""
    found = gnu(machine) or lld(machine)
    if found is None:
        package = "gcc-" + _GNU[machine.architecture].removesuffix("-gcc").replace("_", "-")
        raise BackendError(
            f"no linker for {machine.triple}",
            where=f"neither {_GNU[machine.architecture]} nor the package ziglang is installed",
            hint=f"pip install ziglang   (no root needed), or apt-get install {package}",
        )
    return found


def gnu(machine: Machine) -> Linker | None:
    """Return the GNU compiler driver for the target, if there is one."""
    name = _GNU[machine.architecture]
    path = shutil.which(name)
    if path is None and machine.architecture == architecture(platform.machine()):
        path = shutil.which("gcc")
    if path is None:
        return None
    said = subprocess.run([path, "-dumpfullversion"], capture_output=True, text=True, check=False)
    words = (path, "-shared", "-nostdlib", *(f"-Wl,{flag}" for flag in ("--build-id=none", "-s")))
    return Linker(f"gcc {said.stdout.strip()}", words)


def lld(machine: Machine) -> Linker | None:
    """Return LLVM's linker out of the package `ziglang`, if that is installed."""
    if find_spec("ziglang") is None:
        return None
    from importlib.metadata import version

    words = (sys.executable, "-m", "ziglang", "ld.lld", "-m", _LLD[machine.architecture], *_FLAGS)
    return Linker(f"ziglang {version('ziglang')} ld.lld", words)
