"""The README's terminal session, typed again; its links and its tables, held against the code."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from splitc.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + sorted(
    [*ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/README.md")]
)


def sessions() -> list[tuple[str, list[str]]]:
    """Return (command, lines it printed) of each command of the console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    parts = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE)]
    return [(p.split("\n", 1)[0], lines(p.split("\n", 1)[1])) for p in parts if p.strip()]


def lines(text: str) -> list[str]:
    """Return lines without rules, column widths, and what depends on library versions."""
    text = re.sub(r"pair [0-9a-f]+…", "pair …", text)
    text = re.sub(r"\d\.\de[-+]\d\d +1e", "0.0e+00 1e", text)
    return [
        " ".join(line.split()) for line in text.splitlines() if line.strip() and "──" not in line
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder that looks like the checkout, for what the commands write."""
    made = tmp_path_factory.mktemp("readme")
    (made / "examples").symlink_to(ROOT / "examples")
    return made


def test_there_is_a_session() -> None:
    assert [command.split()[1] for command, _ in sessions()] == ["plan", "compile"]


@pytest.mark.parametrize(("command", "expected"), sessions(), ids=lambda v: str(v)[:14])
def test_the_session_prints_what_it_shows(command: str, expected: list[str], folder: Path) -> None:
    program, *arguments = command.split()
    assert program == "splitc"
    done = subprocess.run(
        [sys.executable, "-m", "splitc", *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert lines(done.stdout) == expected, "run it, and paste anew what it prints"


def test_every_command_is_in_the_readme() -> None:
    table = README.partition("## Commands")[2]
    missing = [name for name in COMMANDS if f"`{name}" not in table]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    found = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8"))
    assert [link for link in found if not (page.parent / link).exists()] == []
