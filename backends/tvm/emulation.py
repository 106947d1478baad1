"""Set up the emulation of another architecture.

``python -m splitc.backends.tvm.emulation [aarch64]`` puts into the environment's folder
``share/splitc/tvm/<architecture>`` what runs compiled heads there: TVM's two runtime libraries out
of its published wheels, the C library that the cross compiler brings, and the C++ runner, built.
Needs qemu-user and the cross compiler; on Debian, as root,
``apt-get install g++-aarch64-linux-gnu qemu-user-static``, which is not done here.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

from splitc.backends.tvm.session import COMPILERS, DEVICE, emulator, runtime_folder
from splitc.errors import BackendError

PLATFORMS = ("manylinux_2_24", "manylinux_2_27", "manylinux_2_28")
LIBRARIES = ("tvm/lib/libtvm_runtime.so", "tvm_ffi/lib/libtvm_ffi.so")


def set_up(arch: str) -> Path:
    """Fill the folder; return it. Raises `BackendError` saying what is missing."""
    if arch not in COMPILERS:
        raise BackendError(f"no emulation of {arch!r}", hint=f"there is: {', '.join(COMPILERS)}")
    compiler = shutil.which(COMPILERS[arch])
    if compiler is None or emulator(arch) is None:
        lacking = COMPILERS[arch] if compiler is None else f"qemu-{arch}"
        raise BackendError(
            f"{lacking} is not installed",
            hint=f"apt-get install g++-{arch}-linux-gnu qemu-user-static",
        )
    folder = runtime_folder(arch)
    folder.mkdir(parents=True, exist_ok=True)
    if not all((folder / Path(name).name).is_file() for name in LIBRARIES):
        _download(arch, folder)
    _link_libc(arch, folder)
    _build(compiler, folder)
    return folder


def _download(arch: str, folder: Path) -> None:
    """Take the runtime libraries out of the wheels of the installed versions."""
    with tempfile.TemporaryDirectory(prefix="splitc-") as name:
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", name]
        words += ["--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp"]
        words += [word for abi in ("cp311", "abi3", "none") for word in ("--abi", abi)]
        words += [word for p in PLATFORMS for word in ("--platform", f"{p}_{arch}")]
        words += [f"{package}=={version(package)}" for package in ("apache-tvm", "apache-tvm-ffi")]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise BackendError(
                f"cannot download TVM's {arch} runtime: {lines[-1] if lines else ''}"
            )
        for wheel in sorted(Path(name).glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                for member in set(LIBRARIES) & set(archive.namelist()):
                    (folder / Path(member).name).write_bytes(archive.read(member))


def _link_libc(arch: str, folder: Path) -> None:
    """Let qemu find the loader and the C library of the cross compiler under `folder`/lib."""
    source = Path(f"/usr/{arch}-linux-gnu/lib")
    if not source.is_dir():
        raise BackendError(f"no C library for {arch} in {source}")
    link = folder / "lib"
    if not link.exists():
        link.symlink_to(source)


def _build(compiler: str, folder: Path) -> None:
    build_runner(compiler, folder / "run", [folder])


def build_runner(compiler: str, target: Path, libraries: list[Path]) -> None:
    """Build the C++ runner with this compiler against TVM's libraries in these folders."""
    import tvm_ffi.libinfo

    words = [compiler, "-O2", "-std=c++17", str(DEVICE / "run.cc"), "-o", str(target)]
    for include in (
        tvm_ffi.libinfo.find_include_path(),
        tvm_ffi.libinfo.find_dlpack_include_path(),
    ):
        words += ["-I", str(include)]
    words += [word for path in libraries for word in ("-L", str(path), f"-Wl,-rpath,{path}")]
    words += ["-Wl,--no-as-needed", "-ltvm_runtime", "-ltvm_ffi"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BackendError(f"cannot build the runner: {done.stderr.strip()[-300:]}")


def main() -> int:
    """Set up the architecture named on the command line; exit 1 with the reason."""
    try:
        folder = set_up(sys.argv[1] if len(sys.argv) > 1 else "aarch64")
    except BackendError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stderr.write(f"{folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
