"""The backends `tensorrt` and `tensorrt-rtx`, with the real TensorRT-RTX and without any GPU."""

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import numpy_helper

import splitc
from splitc import backend
from splitc.backend import Artifact, Target
from splitc.backends.tensorrt import child, judge, recipe
from splitc.backends.tensorrt.child import RTX, Flavour, Order
from splitc.cuts import cuts
from splitc.errors import BackendError
from splitc.model import Model
from splitc.split import split

A100 = Target("a100", triple="x86_64-linux-gnu", compute_capability="8.0")
H100 = Target("h100", triple="x86_64-linux-gnu", compute_capability="9.0")
ORIN = Target("orin", triple="aarch64-linux-gnu", compute_capability="8.6")
HEADER = '<ir_version: 10, opset_import: ["": 21]>\n'
NET = """g (float[N,3,8,8] x) => (float[N,5] y) {
    a = Conv<pads = [1,1,1,1]>(x, w)  b = Relu(a)
    c = Conv<pads = [1,1,1,1], strides = [2,2]>(b, v)  d = Relu(c)
    p = GlobalAveragePool(d)  f = Flatten(p)  y = Gemm<transB = 1>(f, u, t)
}"""
SHAPES = {"w": (6, 3, 3, 3), "v": (8, 6, 3, 3), "u": (5, 8), "t": (5,)}


@pytest.fixture(scope="module")
def rtx() -> str:
    if missing := RTX.missing():
        pytest.skip(missing)
    return child.version(RTX)


def proto() -> onnx.ModelProto:
    """Return a small convolutional network with seeded weights."""
    made, rng = onnx.parser.parse_model(HEADER + NET), np.random.default_rng(0)
    for name, shape in SHAPES.items():
        drawn = rng.standard_normal(shape, np.float32) / 3
        made.graph.initializer.append(numpy_helper.from_array(drawn, name))
    return made


def network(folder: Path, *inputs: str) -> Model:
    onnx.save(proto(), folder / "net.onnx")
    return splitc.load(folder / "net.onnx", input=inputs)


def tail(folder: Path, *inputs: str) -> Model:
    """Return what follows the first Relu."""
    model = network(folder, *inputs)
    cut = next(row.cut for row in cuts(model).cuts if row.cut.tensors == ("b",))
    made = split(model, cut).tail
    assert made is not None
    return made


def read(artifact: Artifact) -> recipe.Recipe:
    return recipe.loads(artifact.files[recipe.NAME])


def test_the_recipe_holds_all_that_the_target_needs(tmp_path: Path) -> None:
    segment = tail(tmp_path, "x=1..4..8x3x8x8")
    artifact = backend.get("tensorrt").compile(segment, A100)
    made = read(artifact)
    segment.save(tmp_path / "model.onnx")
    assert made.model == {"model.onnx": _sha256(tmp_path / "model.onnx")}
    assert made.holds == recipe.Holds(compute_capability="8.0", first="10.12", below="12")
    assert made.profile == {"b": recipe.Range((1, 6, 8, 8), (4, 6, 8, 8), (8, 6, 8, 8))}
    assert made.precision == "fp32"
    assert made.selftest == recipe.SelfTest("tensorrt-fp32", ("b",), ("y",))
    assert artifact.format == "tensorrt-recipe"
    assert artifact.facts["compute_capability"] == "8.0"
    assert artifact.facts["runtime"] == "TensorRT 10.12 ≤ version < 12"


def _sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_batch_that_nobody_sized_is_one(tmp_path: Path) -> None:
    made = read(backend.get("tensorrt").compile(tail(tmp_path), A100))
    assert made.profile == {"b": recipe.Range(*[(1, 6, 8, 8)] * 3)}


@pytest.mark.parametrize("target", [A100, H100], ids=["sm_80", "sm_90"])
def test_rtx_judges_the_segment_and_says_how_far_that_goes(
    rtx: str, tmp_path: Path, target: Target
) -> None:
    evidence = read(backend.get("tensorrt").compile(tail(tmp_path), target)).evidence
    assert evidence.verdict == "builds"
    assert evidence.by == f"TensorRT-RTX {rtx}"
    lacking = "built for 8.9: TensorRT-RTX has no 9.0"
    assert evidence.compute_capability == ("8.9" if target is H100 else "8.0")
    assert (lacking in evidence.limits) == (target is H100)


def test_without_rtx_the_verdict_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ghost = Flavour("TensorRT-RTX", ("no_such_module",), "pip install it")
    monkeypatch.setattr(judge, "RTX", ghost)
    artifact = backend.get("tensorrt").compile(tail(tmp_path), A100)
    evidence = read(artifact).evidence
    assert evidence.verdict == "not-run"
    assert evidence.why == "TensorRT-RTX is not installed: pip install it"
    assert artifact.facts["evidence"] == f"not-run: {evidence.why}"
    assert artifact.notes == (f"tensorrt: asked the table of known refusals only: {evidence.why}",)


def test_what_only_rtx_lacks_is_evidence_and_no_error(rtx: str) -> None:
    some = Model(
        onnx_ir.from_onnx_text(
            HEADER + "g (float[2,4] x) => (int64[2,N] y) { a = Relu(x)  y = NonZero(a) }"
        )
    )
    evidence = read(backend.get("tensorrt").compile(some, A100)).evidence
    assert evidence.verdict == "refused"
    assert list(evidence.refused) == ["y"]
    with pytest.raises(BackendError, match=r"NonZero(.|\n)*node 'y'"):
        backend.get("tensorrt-rtx").compile(some, A100)
    del rtx


def test_what_the_parser_alone_refuses_is_an_error(rtx: str) -> None:
    text = HEADER + "g (int8[2] x, int8 m) => (int8[2] y) { y = Clip(x, m) }"
    some = Model(onnx_ir.from_onnx_text(text))
    assert backend.get("tensorrt").supports(some, A100) == {}
    with pytest.raises(BackendError, match=rf"parser \(TensorRT-RTX {rtx}\)(.|\n)*node 'y'"):
        backend.get("tensorrt").compile(some, A100)


def test_a_device_without_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"no compute_capability(.|\n)*target 'laptop'"):
        backend.get("tensorrt").compile(tail(tmp_path), Target("laptop"))


NEAREST = {"8.0": "8.0", "8.7": "8.6", "9.0": "8.9", "10.0": "8.9", "12.1": "12.1", "5.3": "7.5"}


@pytest.mark.parametrize(("wanted", "near"), NEAREST.items(), ids=NEAREST)
def test_a_capability_that_rtx_lacks_is_judged_by_a_lower_one(wanted: str, near: str) -> None:
    assert judge.nearest(wanted) == near


def test_what_the_table_refuses_is_an_error_that_names_the_node() -> None:
    some = Model(onnx_ir.from_onnx_text(HEADER + "g (float[2,2] x) => (float y) { y = Det(x) }"))
    with pytest.raises(BackendError, match=r"Det: the parser(.|\n)*node 'y'"):
        backend.get("tensorrt").compile(some, A100)


def test_an_engine_is_the_same_in_any_folder(
    rtx: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for name in ("one", "another-and-longer"):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        monkeypatch.setenv("SOMETHING_ELSE", name * 40)
        segment = tail(folder, "x=1..4..8x3x8x8")
        made.append(backend.get("tensorrt-rtx").compile(segment, A100))
    assert made[0].facts == made[1].facts
    if not made[0].facts["reproducible"]:
        pytest.skip("this system does not let a process fix its addresses")
    assert made[0].files == made[1].files
    assert made[0].facts["compiler_version"] == rtx


@pytest.mark.shared
def test_an_engine_of_a_real_network_is_the_same_in_any_folder(
    rtx: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hold the network to it that gave four engines in six builds before addresses were fixed."""
    del rtx
    path = shared / "models" / "cifar10_resnet20_jpegft.onnx"
    model = splitc.load(path, input=["input=1..4..8x3x32x32"])
    made = []
    for name in ("a", "bbbbbbbbbbbbbbbbbbbb", "ccccccccccccccccccccccccccccccccccccccccccccccc"):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / name))
        (tmp_path / name).mkdir()
        made.append(child.build(model, Order(recipe.profile(model), "80")))
    if not made[0].reproducible:
        pytest.skip("this system does not let a process fix its addresses")
    assert made[0].engine is not None
    assert len({outcome.engine for outcome in made}) == 1


def test_an_engine_says_what_it_is(rtx: str, tmp_path: Path) -> None:
    artifact = backend.get("tensorrt-rtx").compile(tail(tmp_path, "x=1..4..8x3x8x8"), A100)
    assert artifact.files["engine.rtx"].startswith(b"vtrt")
    assert artifact.facts["profile"] == "b=1..4..8x6x8x8"
    assert artifact.facts["runtime"] == f"TensorRT-RTX {rtx}, NVIDIA driver"
    assert int(artifact.facts["activation_memory_bytes"]) > 0


def test_rtx_refuses_gpus_and_systems_it_does_not_build_for(rtx: str, tmp_path: Path) -> None:
    segment, maker = tail(tmp_path), backend.get("tensorrt-rtx")
    for target, why in ((H100, "capability 9.0"), (ORIN, "not for aarch64"), (Target("any"), "")):
        refused = maker.supports(segment, target)
        assert set(refused) == (set(segment.nodes) if why else set())
        assert all(why in reason for reason in refused.values())
        with pytest.raises(BackendError, match=why or "names no compute_capability"):
            maker.compile(segment, target)
    del rtx


def test_no_driver_is_a_reason_and_not_a_crash(rtx: str, tmp_path: Path) -> None:
    del rtx
    segment = tail(tmp_path)
    for name in ("tensorrt", "tensorrt-rtx"):
        maker = backend.get(name)
        artifact = maker.compile(segment, A100)
        why = maker.runs_here(artifact)
        if why is None:
            pytest.skip("this machine has a GPU")
        assert "NVIDIA" in why or "not installed" in why or "capability" in why
        with pytest.raises(BackendError):
            maker.load(artifact.at(tmp_path / "model.onnx", tmp_path))


def test_a_missing_extra_is_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(__import__("sys").modules, "splitc.backends.tensorrt.rtx", raising=False)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        child, "find_spec", lambda name: None if name.startswith("tensorrt") else real(name)
    )
    line = next(line for line in backend.available() if line.name == "tensorrt-rtx")
    assert not line.available
    assert line.reason.endswith("TensorRT-RTX is not installed")
    assert line.hint == "pip install 'splitc[tensorrt-rtx]'"


def half() -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    made: onnx.ModelProto = convert_float_to_float16(proto(), keep_io_types=False)
    return made


class Samples:
    """Calibration data for onnxruntime's quantizer."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        self._left: Iterator[dict[str, Any]] = iter(
            [{"x": rng.standard_normal((1, 3, 8, 8), np.float32)} for _ in range(4)]
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._left, None)


SYMMETRIC = {"QuantizeBias": False, "ActivationSymmetric": True, "WeightSymmetric": True}


def quantized(folder: Path, options: Mapping[str, bool]) -> Path:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    onnx.save(proto(), folder / "float.onnx")
    quantize_static(
        folder / "float.onnx",
        folder / "int8.onnx",
        Samples(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        extra_options=dict(options),
    )
    return folder / "int8.onnx"


def test_fp16_builds(rtx: str, tmp_path: Path) -> None:
    del rtx
    onnx.save(half(), tmp_path / "half.onnx")
    model = splitc.load(tmp_path / "half.onnx")
    artifact = backend.get("tensorrt").compile(model, A100)
    made = read(artifact)
    assert (made.precision, made.selftest.kind) == ("fp16", "fp16")
    assert made.evidence.verdict == "builds"
    assert backend.get("tensorrt-rtx").compile(model, A100).facts["precision"] == "fp16"


def test_symmetric_int8_builds(rtx: str, tmp_path: Path) -> None:
    del rtx
    model = splitc.load(quantized(tmp_path, SYMMETRIC))
    made = read(backend.get("tensorrt").compile(model, A100))
    assert (made.precision, made.evidence.verdict) == ("int8", "builds")


def test_onnxruntimes_default_int8_is_refused_by_node(tmp_path: Path) -> None:
    model = splitc.load(quantized(tmp_path, {}))
    refused = backend.get("tensorrt").supports(model, A100)
    biases = {n for n, why in refused.items() if "int32" in why}
    assert biases
    assert all(model.nodes[name].op_type == "DequantizeLinear" for name in biases)


def test_weights_beside_the_model_are_found(
    rtx: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del rtx
    segment = tail(tmp_path)
    plain = backend.get("tensorrt-rtx").compile(segment, A100).files
    monkeypatch.setattr("splitc.model.EXTERNAL_ABOVE", 0)
    segment.save(tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx.data").exists()
    made = read(backend.get("tensorrt").compile(segment, A100))
    assert list(made.model) == ["model.onnx", "model.onnx.data"]
    assert made.evidence.verdict == "builds"
    order = Order(recipe.profile(segment), "80")
    placed = child.build(tmp_path / "model.onnx", order).engine
    assert placed is not None
    assert len(placed) == len(plain["engine.rtx"])


def test_a_dynamic_input_without_range_says_so(rtx: str, tmp_path: Path) -> None:
    del rtx
    outcome = child.build(tail(tmp_path), Order(profile={}, capability="80"))
    assert outcome.engine is None
    assert outcome.died == "input 'b' has dynamic sizes and no range"


@pytest.mark.gpu
def test_an_engine_on_the_gpu_equals_onnxruntime(tmp_path: Path) -> None:
    """Build for the GPU that is here with the TensorRT that is here, and run it."""
    from splitc.backends.tensorrt.cuda import Driver

    gpu = Driver().gpu()
    if isinstance(gpu, str):
        pytest.skip(gpu)
    segment = tail(tmp_path, "x=1..4..8x3x8x8")
    target = Target("here", compute_capability=gpu.compute_capability)
    oracle = backend.get("onnxruntime")
    segment.save(tmp_path / "model.onnx")
    expected = oracle.load(oracle.compile(segment, target).at(tmp_path / "model.onnx"))
    ran = 0
    for name in ("tensorrt", "tensorrt-rtx"):
        line = next(line for line in backend.available() if line.name == name)
        if not line.available or backend.get(name).supports(segment, target):
            continue
        maker = backend.get(name)
        artifact = maker.compile(segment, target)
        for file, data in artifact.files.items():
            (tmp_path / file).write_bytes(data)
        placed = artifact.at(tmp_path / "model.onnx", tmp_path)
        if isinstance(maker, backend.Finisher):
            for file, data in maker.finish(placed).items():
                (tmp_path / file).write_bytes(data)
        assert maker.runs_here(placed) is None
        session = maker.load(placed)
        for batch in (1, 4, 8):
            x = np.random.default_rng(batch).standard_normal((batch, 6, 8, 8), np.float32)
            got, want = session({"b": x})["y"], expected({"b": x})["y"]
            assert np.abs(got - want).max() <= 1e-3 * np.abs(want).max()
        with pytest.raises(BackendError, match="outside the engine's profile"):
            session({"b": np.zeros((9, 6, 8, 8), np.float32)})
        ran += 1
    assert ran, "neither TensorRT nor TensorRT-RTX can be used on this GPU"
