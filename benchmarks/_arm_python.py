"""An aarch64 Python with onnxruntime, as a folder that qemu-user takes for the root (`-L`).

Debian's packages through apt with lists of its own (the machine's are left alone) and wheels
through pip. Nothing is installed, and root is not needed. 160 MB on disk.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

PACKAGES = (
    *("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1"),
    *("libffi8", "libbz2-1.0", "liblzma5"),
)
PYTHON = ("python{}-minimal", "libpython{}-minimal", "libpython{}-stdlib")
PLATFORMS = (
    "manylinux2014",
    "manylinux_2_17",
    "manylinux_2_24",
    "manylinux_2_27",
    "manylinux_2_28",
)
CPUINFO = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""
"""A Cortex-A72. Under emulation the host's file shows through, and onnxruntime dies of it."""


class MissingError(Exception):
    """What this machine lacks, as a sentence."""


def root() -> Path:
    """Return the folder, filled if it is not yet; raises `MissingError`."""
    folder = Path(sys.prefix) / "share" / "splitc" / "aarch64-python"
    stamp = f"onnxruntime {version('onnxruntime')}, numpy {version('numpy')}\n"
    done = folder / "complete.txt"
    if not done.is_file() or done.read_text("utf-8") != stamp:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        number = _system(folder)
        _wheels(folder / "site", number)
        done.write_text(stamp, "utf-8")
    return folder


def python(folder: Path) -> Path:
    """Return the interpreter in the folder."""
    return next((folder / "usr/bin").glob("python3.*[0-9]"))


def environment(folder: Path) -> dict[str, str]:
    """Return the variables that it needs; a fixed hash seed makes two starts alike."""
    return {
        "PYTHONHOME": str(folder / "usr"),
        "PYTHONPATH": str(folder / "site"),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _system(folder: Path) -> str:
    """Unpack Debian's packages; return the version of its Python, such as "3.11"."""
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise MissingError(f"{tool} is not installed: the aarch64 Python comes from Debian")
    with tempfile.TemporaryDirectory(prefix="splitc-") as name:
        place = Path(name)
        place.chmod(0o755)  # apt downloads as a user of its own
        (place / "lists/partial").mkdir(parents=True)
        options = ["-q=2", "-oAPT::Architecture=arm64", "-oAPT::Architectures=arm64"]
        options += [f"-oDir::State::Lists={place}/lists", "-oDir::State::status=/dev/null"]
        options += ["-oDir::Cache::pkgcache=", "-oDir::Cache::srcpkgcache="]
        options += ["-oAPT::Sandbox::User=root"]
        _run(["apt-get", *options, "update"], "read Debian's lists for arm64")
        said = _run(["apt-cache", *options, "show", "python3"], "find Debian's Python for arm64")
        lines = [line.split()[1] for line in said.splitlines() if line.startswith("Version:")]
        if not lines:
            raise MissingError("no Python for arm64 among the package sources of this machine")
        number = ".".join(lines[0].split(".")[:2])
        wanted = [*PACKAGES, *(package.format(number) for package in PYTHON)]
        _run(["apt-get", *options, "download", *wanted], "download an aarch64 Python", place)
        for package in sorted(place.glob("*.deb")):
            _run(["dpkg-deb", "-x", str(package), str(folder)], f"unpack {package.name}")
    if not (folder / "lib").exists():  # where packages hold usr/lib alone
        (folder / "lib").symlink_to("usr/lib")
    (folder / "proc").mkdir()
    (folder / "proc/cpuinfo").write_text(CPUINFO, "utf-8")
    return number


def _wheels(folder: Path, number: str) -> None:
    """Unpack onnxruntime for aarch64, and what it needs, in the versions installed here."""
    with tempfile.TemporaryDirectory(prefix="splitc-") as name:
        words = [sys.executable, "-m", "pip", "download", "--quiet", "-d", name]
        words += ["--disable-pip-version-check", "--only-binary=:all:"]
        words += ["--implementation", "cp", "--python-version", number]
        words += [f"--abi={abi}" for abi in (f"cp{number.replace('.', '')}", "abi3", "none")]
        words += [f"--platform={platform}_aarch64" for platform in PLATFORMS]
        words += [f"{package}=={version(package)}" for package in ("onnxruntime", "numpy")]
        _run(words, "download onnxruntime for aarch64")
        for wheel in sorted(Path(name).glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)


def _run(words: list[str], purpose: str, folder: Path | None = None) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise MissingError(f"cannot {purpose}: {lines[-1][:200] if lines else done.returncode}")
    return done.stdout
