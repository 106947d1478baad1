"""What `compile` verifies before it writes: careless and lossy passes, backends that are wrong."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from splitc import manifest as manifests
from splitc.cli import main
from tests.compiling import CHAIN, SCENARIO, compiled, write

# Packages that are installed for real: a folder on the path with its own entry points.

PLUGIN = '''
from dataclasses import dataclass
import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from splitc.backend import Artifact

def scaled(model, name, factor):
    after = model.clone()
    value = after.ir.graph.initializers[name]
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(factor), name=name)
    return after

@dataclass(frozen=True)
class Careless:
    """Claims to be exact."""
    weight: str = "a"
    factor: float = 1.001
    name = "careless"
    exact = True
    def run(self, model):
        return scaled(model, self.weight, self.factor)

@dataclass(frozen=True)
class Lossy(Careless):
    name = "lossy"
    exact = False

class Chip:
    """Simulates a chip by onnx's reference evaluator; `wrong` ones add 1 %."""
    name, wrong, here = "chip", 1.0, None
    def supports(self, segment, target):
        return {}
    def compile(self, segment, target):
        files = {"program": ir.to_proto(segment.ir).SerializeToString(deterministic=True)}
        return Artifact(backend=self.name, format="chip", target=target, files=files)
    def runs_here(self, artifact):
        return self.here
    def load(self, artifact):
        import onnx
        chip = ReferenceEvaluator(onnx.load_from_string((artifact.folder / "program").read_bytes()))
        def session(feeds):
            made = chip.run(None, dict(feeds))
            return {n: o * np.float32(self.wrong) for n, o in zip(chip.output_names, made)}
        return session

class Wrong(Chip):
    name, wrong = "wrong", 1.01

class Away(Chip):
    name, here = "away", "the chip is not on this machine"
'''
POINTS = """[splitc.passes]
careless = compile_plugin:Careless
lossy = compile_plugin:Lossy
[splitc.backends]
chip = compile_plugin:Chip
wrong = compile_plugin:Wrong
away = compile_plugin:Away
"""


@pytest.fixture
def plugin(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    site = tmp_path_factory.mktemp("site")
    (site / "compile_plugin.py").write_text(PLUGIN)
    info = site / "compile_plugin-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: compile-plugin\nVersion: 1\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    yield
    sys.modules.pop("compile_plugin", None)


@pytest.mark.usefixtures("plugin")
def test_when_a_check_fails_no_bundle_is_left_and_the_previous_one_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    model = write(tmp_path, CHAIN)
    careless = ("--passes", "careless", "--cut", "r")
    found = compiled(capsys, model, *careless, "-o", folder / "b", code=3)
    assert not found["ok"]
    assert not list(folder.iterdir()), "neither a bundle nor what it was made of"
    failed = [check for check in found["checks"] if check["status"] == "fail"]
    assert [check["name"] for check in failed] == ["model boundary r", "model output y"]
    assert all("first diverging tensor: 'h'" in check["detail"] for check in failed)
    assert failed[0]["worst_error"] == pytest.approx(1e-3, rel=0.05)

    compiled(capsys, model, "--cut", "r", "-o", folder / "b")
    before = manifests.read(folder / "b").digest
    compiled(capsys, model, *careless, "-o", folder / "b", code=3)
    assert manifests.read(folder / "b").digest == before
    assert [path.name for path in folder.iterdir()] == ["b"]

    late = ("--passes", "careless{weight = 'b'}", "--cut", "r")
    assert main(["compile", str(model), *SCENARIO, *late, "-o", str(folder / "c")]) == 3
    said = capsys.readouterr()
    assert "first diverging tensor: 'z'" in said.err, "within the tail"
    assert "no bundle was written" in said.out


@pytest.mark.usefixtures("plugin")
def test_a_lossy_pass_is_measured_against_the_original_and_proven_against_its_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = write(tmp_path, CHAIN), tmp_path / "b"
    found = compiled(capsys, model, "--passes", "lossy", "--cut", "r", "-o", out)
    checks = {check["name"]: check for check in found["checks"]}
    assert checks["output y"]["status"] == "pass", "the halves compute the optimized model"
    assert checks["model output y"]["status"] == "not-run"
    assert 1e-5 < checks["model output y"]["worst_error"] < 1e-2
    assert "lossy" in checks["model output y"]["detail"]
    assert not manifests.read(out).passes.exact
    assert main(["verify", str(out), "--model", str(model)]) == 0


BACKENDS = {"chip": (0, "pass"), "wrong": (3, "fail"), "away": (0, "not-run")}


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(("name", "outcome"), BACKENDS.items(), ids=list(BACKENDS))
def test_what_a_backend_made_is_run_before_it_is_shipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, outcome: tuple[int, str]
) -> None:
    model, out = write(tmp_path, CHAIN), tmp_path / "b"
    code, status = outcome
    options = ("--head-backend", name, "--cut", "r", "-o", out)
    found = compiled(capsys, model, *options, code=code)
    checks = {check["name"]: check for check in found["checks"]}
    label = f"head {name}" if status == "not-run" else f"head {name} r"
    assert checks[label]["status"] == status
    assert out.exists() == (code == 0)
    if status == "not-run":
        assert checks[label]["detail"] == "the chip is not on this machine"
    if code == 0:
        artifact = manifests.read(out).segment("head").artifacts[0]
        assert artifact.files == ("head/raspberry-pi-4/program",)
        assert (out / artifact.files[0]).is_file()
