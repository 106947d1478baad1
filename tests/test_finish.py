"""`splitc finish`, as far as it goes without a GPU.

The builder is the real TensorRT-RTX, told which GPU to build for; what stands in is the GPU
itself: who it says it is (`Machine`), and running the engine, which onnxruntime does here on the
portable form. `tests/test_tensorrt.py` holds the check that needs a real one (marker `gpu`).
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import splitc
from splitc import backend, manifest
from splitc.backend import Artifact, Session
from splitc.backends.tensorrt import child, cuda
from splitc.backends.tensorrt.backend import TensorRT
from splitc.backends.tensorrt.child import RTX, Flavour, Order
from splitc.cli import main
from splitc.errors import BackendError, VerifyError
from splitc.records import FileRecord, Manifest

HEADER = '<ir_version: 10, opset_import: ["": 21]>\n'
NET = """g (float[N,3,8,8] x) => (float[N,6,8,8] y) {
    a = Conv<pads = [1,1,1,1]>(x, w)  b = Relu(a)
    c = Conv<pads = [1,1,1,1]>(b, v)  y = Relu(c) }"""
OPTIONS: dict[str, Any] = {
    "head": "raspberry-pi-4",
    "tail": "nvidia-a100",
    "link": "ethernet",
    "cut": "b",
    "passes": "",
}


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made, rng = onnx.parser.parse_model(HEADER + NET), np.random.default_rng(0)
    for name, shape in {"w": (6, 3, 3, 3), "v": (6, 6, 3, 3)}.items():
        drawn = rng.standard_normal(shape, np.float32) / 3
        made.graph.initializer.append(numpy_helper.from_array(drawn, name))
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    onnx.save(made, path)
    return path


@pytest.fixture(scope="module")
def compiled(net: Path) -> Path:
    path = net.parent / "bundle"
    assert splitc.compile(net, output=path, tail_backend="tensorrt", **OPTIONS).ok
    return path


@pytest.fixture
def bundle(compiled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(compiled, tmp_path / "bundle"))


@dataclass(frozen=True)
class Pretended:
    """A machine that says it has this GPU."""

    found: cuda.Gpu | str = field(
        default_factory=lambda: cuda.Gpu("NVIDIA A100", "8.0", "13.0", 80 * 10**9)
    )

    def gpu(self) -> cuda.Gpu | str:
        return self.found

    def building_for(self, capability: str) -> str:
        return capability.replace(".", "")


def as_if(_: Flavour) -> str:
    """Say what version TensorRT would be; the builder is TensorRT-RTX 1.7."""
    return "11.4.0.106"


@dataclass(frozen=True)
class Site(TensorRT):
    """TensorRT on a pretended machine; `spoilt` changes what its engines compute."""

    flavour: Flavour = RTX
    machine: cuda.Machine = field(default_factory=Pretended)
    version: Callable[[Flavour], str] = as_if
    spoilt: bool = False

    def load(self, artifact: Artifact) -> Session:
        assert self.runs_here(artifact) is None
        run = backend.get("onnxruntime").load(artifact)
        return lambda feeds: {k: v + np.float32(self.spoilt) for k, v in run(feeds).items()}


Install = Callable[[Site], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return what puts a site in the place of the backend `tensorrt`."""
    if missing := RTX.missing():
        pytest.skip(missing)
    real = backend.get

    def put(site: Site) -> None:
        monkeypatch.setattr(backend, "get", lambda name: site if name == "tensorrt" else real(name))

    return put


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_compile_records_the_recipe_and_what_was_not_run(bundle: Path) -> None:
    read = manifest.read(bundle)
    (record,) = read.segment("tail").artifacts
    assert (record.backend, record.format) == ("tensorrt", "tensorrt-recipe")
    assert record.files == ("tail/nvidia-a100/recipe.json",)
    checks = {check.name: check for check in read.checks}
    assert checks["tail tensorrt"].status == "not-run"
    assert checks["tail tensorrt"].detail


def test_finish_builds_proves_and_writes(bundle: Path, install: Install) -> None:
    before = contents(bundle)
    install(Site())
    done = splitc.finish(bundle)
    assert done.ok
    (check,) = done.checks
    assert (check.name, check.status, check.tolerance) == ("tail tensorrt y", "pass", 1e-3)
    after = contents(bundle)
    assert after.keys() - before.keys() == {"finished.json", "tail/nvidia-a100/engine.plan"}
    assert {name: after[name] for name in before} == before
    told = json.loads(after["finished.json"])
    facts = told["built"]["tail/nvidia-a100/engine.plan"]
    assert facts["compiler_version"] == "11.4.0.106"
    assert (facts["gpu"], facts["compute_capability"]) == ("NVIDIA A100", "8.0")
    assert told["manifest"] == manifest.read(bundle).digest
    assert told["checks"][0]["status"] == "pass"
    assert splitc.verify(bundle).ok


def test_the_tail_is_finished_without_the_head(bundle: Path, install: Install) -> None:
    shutil.rmtree(bundle / "head")
    install(Site())
    done = splitc.finish(bundle)
    assert (done.ok, list(done.built)) == (True, ["tail/nvidia-a100/engine.plan"])
    assert splitc.verify(bundle, side="tail").ok


def test_the_server_needs_no_compiler_of_the_head(
    net: Path, tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec("tvm") is None:
        pytest.skip("needs the extra splitc[tvm]")
    options = {**OPTIONS, "head_backend": "tvm", "tail_backend": "tensorrt"}
    assert splitc.compile(net, output=tmp_path / "bundle", **options).ok
    install(Site())
    monkeypatch.setattr("splitc.backends.tvm.find_spec", lambda _: None)
    done = splitc.finish(tmp_path / "bundle")
    assert list(done.built) == ["tail/nvidia-a100/engine.plan"]
    assert done.notes == ("head: left as it is: backend 'tvm' needs apache-tvm",)
    shutil.rmtree(tmp_path / "bundle/tail")
    with pytest.raises(BackendError, match="backend 'tvm' needs apache-tvm"):
        splitc.finish(tmp_path / "bundle")


def test_a_malformed_finished_json_is_damage(bundle: Path, install: Install) -> None:
    install(Site())
    (bundle / "finished.json").write_text('{"files": {}, "built": []}')
    with pytest.raises(VerifyError, match=r"finished\.json is malformed"):
        splitc.finish(bundle)


def test_finishing_again_builds_nothing(
    bundle: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(Site())
    splitc.finish(bundle)
    first = contents(bundle)

    def build(*_: object) -> child.Outcome:
        raise AssertionError("the engine was built again")

    monkeypatch.setattr(child, "build", build)
    assert splitc.finish(bundle).ok
    assert contents(bundle) == first
    other = replace(Site(), version=lambda _: "11.3.0.99")
    install(other)
    with pytest.raises(AssertionError, match="built again"):
        splitc.finish(bundle)


def test_a_failed_selftest_writes_nothing(
    bundle: Path, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(bundle)
    install(Site(spoilt=True))
    assert main(["finish", str(bundle), "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["built"]) == (False, {})
    assert told["checks"][0]["status"] == "fail"
    assert contents(bundle) == before


REFUSED = {
    "another GPU": (
        Site(machine=Pretended(cuda.Gpu("NVIDIA H100", "9.0", "13.0", 1))),
        "capability 9.0, the tail was planned for 8.0",
    ),
    "no GPU": (Site(machine=Pretended("no NVIDIA driver")), "no NVIDIA driver"),
    "too old": (Site(version=lambda _: "10.9.0.34"), "TensorRT 10.9.0.34 is not in 10.12"),
    "too new": (Site(version=lambda _: "12.1"), "TensorRT 12.1 is not in 10.12"),
}


@pytest.mark.parametrize(("site", "why"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(
    site: Site, why: str, bundle: Path, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(bundle)
    install(site)
    assert main(["finish", str(bundle)]) == 1
    assert why in capsys.readouterr().err
    assert contents(bundle) == before


def test_a_recipe_for_another_model_is_refused(bundle: Path, install: Install) -> None:
    install(Site())
    read = manifest.read(bundle)
    recipe = bundle / "tail" / "nvidia-a100" / "recipe.json"
    digest = json.loads(recipe.read_text())["model"]["model.onnx"]
    recipe.write_text(recipe.read_text().replace(digest, "0" * 64))
    with pytest.raises(VerifyError, match="wrong digest"):
        splitc.finish(bundle)
    resealed(bundle, read, "tail/nvidia-a100/recipe.json")
    with pytest.raises(BackendError, match="not the one that the recipe is for"):
        splitc.finish(bundle)


def resealed(bundle: Path, read: Manifest, path: str) -> None:
    """Write the manifest of somebody who changed a file and signed for it."""
    import msgspec

    file = bundle / path
    record = FileRecord(sha256=manifest.file_digest(file), bytes=file.stat().st_size)
    changed = msgspec.structs.replace(read, files={**read.files, path: record})
    (bundle / manifest.NAME).write_bytes(manifest.dumps(changed))


def test_a_changed_engine_is_damage(bundle: Path, install: Install) -> None:
    install(Site())
    splitc.finish(bundle)
    engine = bundle / "tail" / "nvidia-a100" / "engine.plan"
    engine.write_bytes(b"x" + engine.read_bytes()[1:])
    with pytest.raises(VerifyError, match="wrong digest"):
        splitc.finish(bundle)


def test_here_there_is_no_gpu(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not isinstance(cuda.Driver().gpu(), str):
        pytest.skip("this machine has a GPU")
    assert main(["finish", str(bundle)]) == 1
    assert "no engine can be built here: no NVIDIA driver" in capsys.readouterr().err


def test_nothing_to_build(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if missing := RTX.missing():
        pytest.skip(missing)
    splitc.compile(net, output=tmp_path / "rtx", tail_backend="tensorrt-rtx", **OPTIONS)
    before = contents(tmp_path / "rtx")
    assert main(["finish", str(tmp_path / "rtx"), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["built"] == {}
    assert "tensorrt-rtx-engine is complete, nothing to build" in said.err
    assert contents(tmp_path / "rtx") == before


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_two_compiles_give_the_same_bytes(name: str, net: Path, tmp_path: Path) -> None:
    if missing := RTX.missing():
        pytest.skip(missing)
    inputs = ("x=1..2..4x3x8x8",)
    if name == "tensorrt-rtx" and not child.build(net, Order(capability="80")).reproducible:
        pytest.skip("this system does not let a process fix its addresses")
    for folder in ("one", "some-other-place"):
        where = tmp_path / folder / "bundle"
        where.parent.mkdir()
        assert splitc.compile(net, output=where, tail_backend=name, input=inputs, **OPTIONS).ok
    one, other = contents(tmp_path / "one"), contents(tmp_path / "some-other-place")
    assert one == other
    assert any(path.endswith(("recipe.json", "engine.rtx")) for path in one)
