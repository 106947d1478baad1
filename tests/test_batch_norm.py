"""A BatchNorm stays apart for a pass that trains, and is fused after it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

import splitc
from splitc import pipeline
from splitc.model import Model
from splitc.passes.simplify import Simplify
from splitc.pipeline import resource
from splitc.request import Request
from splitc.stages import opened, steps_of
from tests.networks import model
from tests.registered import register

TEXT = """g (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y)
<float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[2] g = {1, 2}, float[2] b = {0, 1}, float[2] m = {0, 1},
 float[2] v = {1, 4}> { c = Conv(x, w)  n = BatchNormalization(c, g, b, m, v)  y = Relu(n) }"""

FACTORY = """
import torch

def make():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.BatchNorm2d(4), torch.nn.ReLU(),
        torch.nn.Conv2d(4, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten())
    return net, (torch.randn(1, 3, 8, 8),)
"""


@dataclass(frozen=True)
class Teach:
    """Count the BatchNorms that it sees; would train."""

    name: ClassVar[str] = "teach"
    exact: ClassVar[bool] = True
    scope: str = "both"
    recipe: Any = resource()

    def run(self, model: Model) -> Model:
        return model.with_notes(f"teach sees {norms(model)}")


def norms(model: Model) -> int:
    return sum(node.op_type == "BatchNormalization" for node in model.ir.graph)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, Teach)


def test_simplify_leaves_it_alone_if_told(tmp_path: Path) -> None:
    net = model(TEXT, tmp_path)
    assert norms(Simplify().run(net)) == 0
    kept = Simplify(fuse_batch_norm=False).run(net)
    assert (norms(kept), kept.notes) == (1, net.notes)


def test_equal_parameters_of_two_stay_two(tmp_path: Path) -> None:
    """They are merged for size elsewhere; here each is trained, or pruned, for itself."""
    two = TEXT.replace("y = Relu(n)", "d = Conv(n, w) y = BatchNormalization(d, h, b2, m, v)")
    two = two.replace("float[2] m", "float[2] h = {1, 2}, float[2] b2 = {0, 1}, float[2] m")
    kept = Simplify(fuse_batch_norm=False).run(model(two, tmp_path))
    read = [[v.name for v in n.inputs[1:] if v] for n in kept.ir.graph if n.op_type[0] == "B"]
    assert read == [["g", "b", "m", "v"], ["h", "b2", "m", "v"]]


PIPELINES = {
    "simplify, teach": "simplify{fuse_batch_norm = false}, teach, simplify",
    "teach": "teach, simplify",
    "teach, simplify, teach": "teach, simplify{fuse_batch_norm = false}, teach, simplify",
    "simplify, teach, simplify": "simplify{fuse_batch_norm = false}, teach, simplify",
    "simplify": "simplify",
}


@pytest.mark.parametrize(("typed", "runs"), PIPELINES.items())
def test_fused_after_training_not_before(tmp_path: Path, typed: str, runs: str) -> None:
    steps = steps_of(Request(passes=typed), model(TEXT, tmp_path))
    assert pipeline.text(steps) == runs


def test_without_a_batch_norm_the_pipeline_is_as_typed(tmp_path: Path) -> None:
    net = model("g (float[2] x) => (float[2] y) { y = Relu(x) }", tmp_path)
    steps = steps_of(Request(passes="simplify, teach"), net)
    assert pipeline.text(steps) == "simplify, teach"


@pytest.mark.torch
def test_a_factory_comes_in_with_it_where_a_pass_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    (tmp_path / "teachable.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    assert norms(opened("teachable:make")) == 0
    assert norms(opened("teachable:make", passes="teach")) == 2
    made = splitc.optimize("teachable:make", passes="simplify, teach")
    assert "teach sees 2" in made.notes
    ops = [node.op_type for node in made.model.ir.graph]
    assert [op for op in ops if op != "Reshape"] == ["Conv", "Relu", "Conv", "Relu"]


@pytest.mark.torch
def test_a_pass_of_one_side_sees_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a pass runs after the plan: the network is fused behind it, not before."""
    pytest.importorskip("torch")
    (tmp_path / "teachable.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    found = splitc.plan(
        "teachable:make",
        passes='teach{scope = "head"}',
        head="raspberry-pi-4",
        tail="nvidia-a100",
        link="wifi",
        cut="relu",
    )
    assert any("teach sees 2" in note for note in found.notes)
    assert found.chosen.title == "relu"
