"""What ships: the wheel and the sdist hold just what git holds, and the wheel works on its own."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COLLECTIONS = ("passes", "backends", "profiles")


def tracked(*folders: str) -> set[str]:
    """Return the files that git holds (or would hold) below `folders`, links left out."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *folders]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("needs a git checkout to compare with")
    names = done.stdout.splitlines()
    return {n for n in names if (ROOT / n).is_file() and not (ROOT / n).is_symlink()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


def test_the_wheel_holds_what_git_holds(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        shipped = {n for n in archive.namelist() if ".dist-info/" not in n}
    ours = tracked("splitc") | {f"splitc/{name}" for name in tracked(*COLLECTIONS)}
    assert shipped == ours
    assert "splitc/py.typed" in shipped
    assert "splitc/profiles/devices/raspberry-pi-4.toml" in shipped


def test_the_sdist_builds_the_same_wheel(built: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    source = next(tmp_path.iterdir())
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--wheel",
        "-o",
        str(tmp_path / "w"),
    ]
    subprocess.run([*command, str(source)], cwd=tmp_path, capture_output=True, check=True)
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(next((tmp_path / "w").iterdir())) as two:
        assert sorted(one.namelist()) == sorted(two.namelist())
        assert all(one.read(n) == two.read(n) for n in one.namelist() if "RECORD" not in n)


def test_the_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import splitc, splitc.passes.simplify, splitc.backends.onnxruntime;"
        "from splitc import scenario;"
        "assert len(scenario.devices()) > 9 and len(scenario.links()) > 9;"
        "print(splitc.__file__)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(tmp_path / "splitc" / "__init__.py")


@pytest.mark.parametrize("name", COLLECTIONS)
def test_a_checkout_has_the_links(name: str) -> None:
    link = ROOT / "splitc" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"
