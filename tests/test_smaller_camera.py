"""The commands of examples/02_smaller_camera, run as its README prints them."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from splitc import manifest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "examples/02_smaller_camera/README.md").read_text("utf-8")
COMMANDS = re.search(r"```sh\n(.*?)```", README, re.DOTALL)[1].strip().splitlines()  # type: ignore[index]
PROGRAMS = {
    "python": [sys.executable],
    "splitc": [sys.executable, "-m", "splitc"],
    "cp": ["cp"],
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Run all commands in a folder that looks like the checkout; return it and their output."""
    folder = tmp_path_factory.mktemp("camera")
    (folder / "examples").symlink_to(ROOT / "examples")
    printed = []
    for line in COMMANDS:
        program, *arguments = shlex.split(line, comments=True)
        made = subprocess.run(
            [*PROGRAMS[program], *arguments],
            cwd=folder,
            env={**os.environ, "COLUMNS": "160"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, f"{line}\n{made.stderr}"
        printed.append(made.stdout)
    return folder, printed


def test_no_digit_of_the_evaluation_was_seen(done: tuple[Path, list[str]]) -> None:
    folder, _ = done
    frames = [np.load(folder / "work" / name)["frame"] for name in ("calib.npz", "eval.npz")]
    assert [len(part) for part in frames] == [24, 56]
    assert not {one.tobytes() for one in frames[0]} & {one.tobytes() for one in frames[1]}


def test_the_plan_moves_to_the_narrow_stem(done: tuple[Path, list[str]]) -> None:
    folder, printed = done
    assert printed[2].startswith("cut: stem as int8\n  9.61 ms = ")
    read = manifest.read(folder / "work/narrow")
    (tensor,) = read.contract.tensors
    assert (tensor.name, tensor.dtype) == ("stem_int8", "int8")
    assert tensor.scale is not None
    gate = read.passes.gate
    assert gate is not None
    assert gate.ok
    assert gate.before == pytest.approx(89.7, abs=0.05)
    assert gate.after is not None
    assert gate.after == pytest.approx(89.9, abs=0.7)


def test_int8_is_smaller_and_within_the_gate(done: tuple[Path, list[str]]) -> None:
    _, printed = done
    assert re.search(r"int8 mac share +0.0% +100.0%", printed[3])
    assert re.search(r"file bytes .* 0\.[23]\d x", printed[3])
    assert printed[3].rstrip().endswith("wrote work/int8.onnx")


def test_sensitivity_lists_every_convolution(done: tuple[Path, list[str]]) -> None:
    rows = json.loads(done[1][4])["nodes"]
    noise = [row["snr_db"] for row in rows]
    assert len(rows) == 22
    assert noise == sorted(noise)
