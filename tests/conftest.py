"""Fixtures shared by all tests: the folder of real networks, where there is one."""

import os
from pathlib import Path

import numpy as np
import pytest

import splitc
from splitc.data import Dataset
from splitc.model import Model

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


@pytest.fixture(scope="session")
def kws(shared: Path) -> tuple[Model, Dataset]:
    """The keyword spotter and 189 of its clips."""
    model = splitc.load(shared / "models" / "kws_dscnn_mlperf.onnx")
    clips = np.load(shared / "data" / "kws_mfcc_2445.npz")
    some = slice(None, 2445, 13)  # they are sorted by label
    x, labels = clips["x"][some, None].astype(np.float32), clips["y"][some].astype(np.int64)
    return model, Dataset({model.graph.inputs[0]: x}, labels, "kws")


@pytest.fixture(scope="session")
def sentences(shared: Path) -> tuple[Model, Dataset]:
    """The small transformer and 32 sentences."""
    model = splitc.load(shared / "models" / "sst2_tiny_transformer.onnx")
    archive = np.load(shared / "data" / "sst2_ids.npz")
    ids, labels = archive["dev_x"][:32].astype(np.int64), archive["dev_y"][:32].astype(np.int64)
    return model, Dataset({"ids": ids}, labels, "sst2")
