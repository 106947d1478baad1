"""One bundle with machine code for both sides: a TVM head, a TensorRT tail."""

import filecmp
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import splitc
from splitc import manifest as manifests

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


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Compile the same network in two folders."""
    proto = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    for value in proto.graph.value_info:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        weight = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, value.name))
    made = []
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
