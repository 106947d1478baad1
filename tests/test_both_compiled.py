"""One bundle with machine code for both sides: a TVM head, a TensorRT tail."""

import filecmp
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import splitc
from splitc import manifest as manifests
from splitc.backend import Feeds, Session
from splitc.backends.tvm import Tvm

pytestmark = pytest.mark.skipif(find_spec("tvm") is None, reason="needs the extra splitc[tvm]")

TEXT = """<ir_version: 10, opset_import: ["": 20]>
net (float[batch, 3, 16, 16] x) => (float[batch, 10] y) <float[8, 3, 3, 3] w, float[10, 8] v> {
  c = Conv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (x, w)
  r = Relu(c)
  p = GlobalAveragePool(r)
  f = Flatten(p)
  y = Gemm <transB = 1> (f, v)
}"""
OPTIONS: dict[str, Any] = {
    "head": "laptop-cpu",
    "tail": "nvidia-t4",
    "link": "wifi",
    "cut": "r",
    "head_backend": "tvm",
    "tail_backend": "tensorrt",
}


def network() -> onnx.ModelProto:
    proto = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    for value in proto.graph.value_info:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        weight = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, value.name))
    return proto


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Compile the same network in two folders."""
    proto, made = network(), []
    for name in ("one", "two"):
        folder = tmp_path_factory.mktemp(name)
        onnx.save(proto, folder / "net.onnx")
        done = splitc.compile(folder / "net.onnx", output=folder / "bundle", **OPTIONS)
        assert done.ok, done.report
        made.append(folder / "bundle")
    return made


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_two_compiles_give_the_same_bytes(bundles: list[Path]) -> None:
    one, two = bundles
    assert files(one) == files(two)
    assert {"head/laptop-cpu/model.so", "tail/nvidia-t4/recipe.json"} <= files(one)
    assert filecmp.cmpfiles(one, two, files(one), shallow=False)[1:] == ([], [])


def test_each_artifact_is_described(bundles: list[Path]) -> None:
    read = manifests.read(bundles[0])
    head, tail = (read.segment(side).artifacts[0] for side in manifests.SIDES)
    assert (head.backend, tail.backend) == ("tvm", "tensorrt")
    assert {"compiler", "triple", "runtime", "code_bytes", "peak_bytes", "threads"} <= set(
        head.facts
    )
    assert head.facts["batch"] == "batch = 1"
    assert tail.facts["compute_capability"] == "7.5"


def test_verify_runs_the_head_and_says_why_not_the_tail(bundles: list[Path]) -> None:
    said: list[tuple[str, str]] = []
    report = splitc.verify(bundles[0], compiled=True, progress=lambda *line: said.append(line))
    checks = {check.name: check for check in report.checks}
    assert report.ok
    assert checks["head tvm r"].status == "pass"
    assert checks["head tvm r"].tolerance == 1e-4
    (other,) = [c for name, c in checks.items() if name.startswith("tail tensorrt")]
    assert other.status in ("not-run", "pass")
    assert other.detail or other.status == "pass"
    assert said[0][1].startswith("native code: head/laptop-cpu/")


def test_integers_that_stand_for_floats_may_be_a_step_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(network(), tmp_path / "net.onnx")
    options = {**OPTIONS, "tail_backend": "onnxruntime", "wire": "int8"}
    assert splitc.compile(tmp_path / "net.onnx", output=tmp_path / "bundle", **options).ok
    load = Tvm.load
    for off, status in ((0, "pass"), (1, "pass"), (9, "fail")):
        monkeypatch.setattr(Tvm, "load", lambda self, made, off=off: shifted(load(self, made), off))
        checks = {c.name: c for c in splitc.verify(tmp_path / "bundle", compiled=True).checks}
        check = checks["head tvm r_int8"]
        assert check.status == status
        assert check.worst_error == pytest.approx(off / 255)


def shifted(run: Session, steps: int) -> Session:
    """Return the same function, one value of it so many steps larger."""

    def wrong(feeds: Feeds) -> dict[str, NDArray[Any]]:
        made = run(feeds)
        one = np.unravel_index(made["r_int8"].argmin(), made["r_int8"].shape)
        made["r_int8"][one] += steps
        return made

    return wrong
