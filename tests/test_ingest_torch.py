"""Archives and factories: what comes in through torch."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splitc.errors import ModelError
from splitc.execute import evaluate
from splitc.feeds import draw_inputs
from splitc.ingest import load

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(4, 5)
        self.table = nn.Embedding(7, 5)
        self.fixed = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])

    def forward(self, image, ids):
        hidden = self.drop(torch.relu(self.norm(self.conv(image)))).mean((2, 3))
        return self.last(hidden) + self.table(ids).sum(1) * self.fixed

def make():
    return Net(), (torch.randn(1, 3, 8, 8), torch.zeros(1, 4, dtype=torch.int64))

def by_name():
    return Net(), {"ids": torch.zeros(2, 4, dtype=torch.int64), "image": torch.randn(2, 3, 8, 8)}

class Three(nn.Module):
    def forward(self, x):
        if x.shape[0] != 3:
            raise ValueError("three rows only")
        return x * 2

def three():
    return Three(), torch.randn(3, 4)

class Impossible(nn.Module):
    def forward(self, x):
        return torch.from_numpy(x.numpy() + 1)

def impossible():
    return Impossible(), (torch.randn(2, 2),)

def number():
    return 3

def no_module():
    return "net", (torch.randn(1),)

def no_inputs():
    return Net(), 7

def fails():
    raise KeyError("weights.bin")

constant = 5
"""


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nets")
    (folder / "splitc_test_nets.py").write_text(NETS)
    return folder


@pytest.fixture(scope="module")
def archive(nets: Path) -> Path:
    """An archive of Net, its batch symbolic, written by torch itself."""
    sys.path.insert(0, str(nets))
    try:
        import splitc_test_nets as module  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(nets))
    batch = torch.export.Dim("batch")
    net, inputs = module.by_name()
    program = torch.export.export(
        net.eval(), (), inputs, dynamic_shapes={name: {0: batch} for name in inputs}
    )
    torch.export.save(program, nets / "net.pt2")
    return nets / "net.pt2"


def torch_says(feeds: dict[str, Any]) -> Any:
    """Run Net itself on the feeds."""
    net = sys.modules["splitc_test_nets"].Net().eval()
    with torch.no_grad():
        return net(**{name: torch.from_numpy(array) for name, array in feeds.items()}).numpy()


def test_an_archive_and_a_factory_are_the_network(
    archive: Path, nets: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(nets)
    for source in (archive, "splitc_test_nets:make"):
        model = load(source)
        assert {t.name: t.shape for t in model.inputs} == {
            "image": ("batch", 3, 8, 8),
            "ids": ("batch", 4),
        }
        assert model.notes == ()
        assert model.facts.keys() == model.values.keys()
        feeds = draw_inputs(model)
        assert feeds["ids"].max() > 1
        for times in (1, 3):
            batch = {name: np.concatenate([array] * times) for name, array in feeds.items()}
            (got,) = evaluate(model, batch).values()
            np.testing.assert_allclose(got, torch_says(batch), rtol=1e-4, atol=1e-5)
    assert capfd.readouterr().out == ""


def test_a_batch_that_cannot_vary_is_fixed_with_a_note(
    nets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(nets)
    model = load("splitc_test_nets:three")
    assert model.inputs[0].shape == (3, 4)
    assert len(model.notes) == 1
    assert "the batch is fixed at 3" in model.notes[0]


def test_the_same_bytes_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    for name in ("one", "another/deeper"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "splitc_moving_nets.py").write_text(NETS)
        monkeypatch.chdir(folder)
        monkeypatch.delitem(sys.modules, "splitc_moving_nets", raising=False)
        load("splitc_moving_nets:by_name").save(folder / "out.onnx")
        assert sys.modules.pop("splitc_moving_nets").__file__ == str(
            folder / "splitc_moving_nets.py"
        )
        written.append((folder / "out.onnx").read_bytes())
    assert written[0] == written[1]
    assert str(tmp_path).encode() not in written[0]
    assert b"forward" not in written[0]


FACTORIES: dict[str, tuple[str, str]] = {
    "no module": ("no_such_module_here:make", "no module called 'no_such_module_here'"),
    "no attribute": ("splitc_test_nets:mak", "did you mean 'make'?"),
    "no function": ("splitc_test_nets:constant", "of type int, not a function"),
    "a number": ("splitc_test_nets:number", "a factory returns (torch.nn.Module"),
    "no network": ("splitc_test_nets:no_module", "first value is of type str"),
    "no inputs": ("splitc_test_nets:no_inputs", "second value is of type int"),
    "it fails": ("splitc_test_nets:fails", "KeyError: 'weights.bin'"),
    "no export": ("splitc_test_nets:impossible", "torch cannot export the module: "),
    "a broken module": ("splitc_broken_nets:make", "importing 'splitc_broken_nets' fails"),
    "it leaves": ("splitc_leaving:make", "importing 'splitc_leaving' fails"),
    "what it imports": ("splitc_importing:make", "install 'no_such_library'"),
    "no name": ("splitc_test_nets:", "name a factory as pkg.mod:make"),
}


@pytest.mark.parametrize(("text", "reason"), FACTORIES.values(), ids=FACTORIES)
def test_a_factory_that_does_not_work(
    nets: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    (nets / "splitc_broken_nets.py").write_text("1 / 0")
    (nets / "splitc_leaving.py").write_text("raise SystemExit(0)")
    (nets / "splitc_importing.py").write_text("import no_such_library")
    monkeypatch.chdir(nets)
    before = list(sys.path)
    with pytest.raises(ModelError) as caught:
        load(text)
    assert reason in str(caught.value)
    assert text in str(caught.value)
    assert len(str(caught.value).splitlines()) < 12
    assert sys.path == before


def test_a_factory_that_prints_leaves_stdout_alone(
    nets: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (nets / "splitc_chatty.py").write_text(
        "print('loading')\ndef make():\n    print('making')\n    return 1, 2\n"
    )
    monkeypatch.chdir(nets)
    with pytest.raises(ModelError):
        load("splitc_chatty:make")
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err == "loading\nmaking\n"


def test_without_torch_the_hint_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("splitc.ingest.torch_export.find_spec", lambda name: None)
    for source in ("pkg.mod:make", tmp_path / "net.pt2"):
        with pytest.raises(ModelError, match=r"pip install 'splitc\[torch\]'"):
            load(source)
