"""Fixtures shared by all tests: the folder of real networks, where there is one."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def shared_folder() -> Path | None:
    """Return the folder with real networks and data, or None where this machine has none."""
    path = Path(os.environ.get("SPLITC_SHARED", ROOT.parent / "shared"))
    return path if (path / "models").is_dir() else None


@pytest.fixture(scope="session")
def shared() -> Path:
    if (path := shared_folder()) is None:
        pytest.skip("needs the folder 'shared' with real networks beside the project")
    return path
