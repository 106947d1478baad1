"""The TVM backend: what it takes, what it refuses, that its code computes what onnxruntime does."""

import hashlib
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from scipy.special import erf

import splitc
from splitc import backend
from splitc.backend import Artifact, Target
from splitc.errors import BackendError
from splitc.execute import evaluate
from splitc.feeds import draw
from splitc.model import Model

pytestmark = pytest.mark.skipif(find_spec("tvm") is None, reason="needs the extra splitc[tvm]")
HEADER = '<ir_version: 10, opset_import: ["": 18, "com.acme": 1]>\n'
TOLERANCE = 1e-4
HERE = {
    "x86_64": Target("here", "x86_64-linux-gnu", "x86-64-v3", ("avx2", "fma"), threads=1),
    "aarch64": Target("here", "aarch64-linux-gnu", "generic", ("neon",), threads=1),
}.get(platform.machine(), Target("here"))
WIDE = Target("here", "x86_64-linux-gnu", "x86-64-v4", ("avx512f", "avx512vnni"), threads=1)
PI = Target("raspberry-pi-4", "aarch64-linux-gnu", "cortex-a72", ("neon",), threads=1)


def text(body: str, weights: dict[str, tuple[int, ...]] | None = None, opset: int = 18) -> Model:
    """Parse a graph; `weights` get seeded values and stand in its text as if they were given."""
    proto = onnx.parser.parse_model(HEADER.replace("18", str(opset)) + body)
    rng = np.random.default_rng(0)
    for name, shape in (weights or {}).items():
        fan = max(1, int(np.prod(shape[1:])))
        array = (rng.standard_normal(shape) / np.sqrt(fan)).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return Model(onnx_ir.from_proto(proto))


def feeds_of(model: Model, seed: int = 0) -> dict[str, NDArray[Any]]:
    return dict(draw(model, {t.name: model.facts[t.name] for t in model.inputs}, seed=seed))


def placed(artifact: Artifact, folder: Path) -> Artifact:
    for name, data in artifact.files.items():
        (folder / name).write_bytes(data)
    return artifact.at(b"", folder)


def compare(model: Model, target: Target, folder: Path) -> Artifact:
    """Compile, run, and hold every output against onnxruntime's; return the artifact."""
    tvm = backend.get("tvm")
    assert tvm.supports(model, target) == {}
    artifact = placed(tvm.compile(model, target), folder)
    if (reason := tvm.runs_here(artifact)) is not None:
        pytest.skip(reason)
    run = tvm.load(artifact)
    for seed in (0, 1):
        feeds = feeds_of(model, seed)
        want, got = evaluate(model, feeds), run(feeds)
        assert list(got) == list(want)
        for name in want:
            assert got[name].dtype == want[name].dtype
            assert got[name].shape == want[name].shape
            scale = np.abs(want[name]).max() or 1.0
            assert np.abs(got[name] - want[name]).max() <= TOLERANCE * scale, name
    return artifact


IMAGE = """g (float[N,6,9,9] x) => (float[N,K] y, float[N,C,H,W] p) {
    a = Conv<pads = [1,1,1,1]>(x, w1, b1)
    low = Constant<value = float {0.0}>()
    high = Constant<value = float {6.0}>()
    b = Clip(a, low, high)
    c = Conv<group = 16, pads = [1,1,1,1], strides = [2,2]>(b, w2)
    d = Relu(c)
    e = Conv(d, w3, b3)
    f = Sigmoid(e)
    s = Mul(e, f)
    p = MaxPool<kernel_shape = [2,2]>(s)
    q = GlobalAveragePool(s)
    r = Flatten(q)
    y = Gemm(r, w4, b4)
}"""
IMAGE_WEIGHTS: dict[str, tuple[int, ...]] = {
    "w1": (16, 6, 3, 3),
    "b1": (16,),
    "w2": (16, 1, 3, 3),
    "w3": (24, 16, 1, 1),
    "b3": (24,),
    "w4": (24, 10),
    "b4": (10,),
}
SHUFFLE = """g (float[1,12,8,8] x) => (float[1,24,8,8] y) {
    a = Conv<group = 3>(x, w1)
    s = Constant<value = int64[5] {1, 3, 8, 8, 8}>()
    b = Reshape(a, s)
    c = Transpose<perm = [0,2,1,3,4]>(b)
    t = Constant<value = int64[4] {1, 24, 8, 8}>()
    d = Reshape(c, t)
    e = Conv<group = 4, pads = [1,1,1,1]>(d, w2)
    f = Relu(e)
    y = Sum(f, d, f)
}"""
SEQUENCE = """g (float[1,9,16] x) => (float[1,12,5] y) {
    a = Conv<pads = [1,1], strides = [2]>(x, w1, b1)
    b = Tanh(a)
    c = Conv<group = 2, dilations = [2]>(b, w2)
    h = Pad<mode = "constant">(c, k)
    y = Softmax<axis = 1>(h)
}"""
ATTENTION = """g (float[1,7,16] x) => (float[1,7,16] y) {
    n = LayerNormalization<axis = -1>(x, s, b)
    q = MatMul(n, wq)
    k = MatMul(n, wk)
    t = Transpose<perm = [0,2,1]>(k)
    a = MatMul(q, t)
    p = Softmax<axis = -1>(a)
    v = MatMul(p, n)
    e = Erf(v)
    f = MatMul(e, wv)
    z = Exp(f)
    y = Add(z, x)
}"""
TURNED = """g (float[1,3,8,8] x)
    => (float[1,8,8,8] y, float[1,8,1,1] m, float[1,8] n, float[1,8,7,8] t) {
    a = Conv<pads = [1,1,1,1]>(x, w1)
    b = AveragePool<kernel_shape = [2,2], strides = [2,2]>(a)
    scales = Constant<value = float[4] {1.0, 1.0, 2.0, 2.0}>()
    c = Resize<mode = "nearest">(b, , scales)
    d = Concat<axis = 1>(c, a)
    from = Constant<value = int64[2] {2, 1}>()
    to = Constant<value = int64[2] {10, 8}>()
    axes = Constant<value = int64[2] {1, 2}>()
    e = Slice(d, from, to, axes)
    pads = Constant<value = int64[8] {0, 0, 1, 0, 0, 0, 0, 0}>()
    p = Pad<mode = "constant">(e, pads)
    f = HardSwish(p)
    y = Mul(f, factor)
    hw = Constant<value = int64[2] {2, 3}>()
    m = ReduceMax<keepdims = 1>(e, hw)
    n = ReduceMean<keepdims = 0>(e, hw)
    u = Transpose<perm = [0,2,3,1]>(e)
    t = Transpose<perm = [0,3,1,2]>(u)
}"""
PADS = {"k": np.array([0, 0, 0, 0, 0, 1], np.int64)}

NETWORKS: dict[str, Model] = {
    "image, symbolic batch": text(IMAGE, IMAGE_WEIGHTS),
    "groups and a channel shuffle": text(SHUFFLE, {"w1": (24, 4, 1, 1), "w2": (24, 6, 3, 3)}),
    "images turned around": text(TURNED, {"w1": (8, 3, 3, 3), "factor": (8, 1, 1)}),
    "attention": text(
        ATTENTION,
        {"s": (16,), "b": (16,), "wq": (16, 16), "wk": (16, 16), "wv": (16, 16)},
    ),
    "outputs that are inputs or constants": text(
        "g (float[2,3] x) => (float[2,3] y, float[2,3] z) { y = Identity(x)  z = Neg(x) }"
    ),
    "integers": text(
        "g (int64[4] i, float[9,5] t) => (float[4,5] y) { y = Gather<axis = 0>(t, i) }"
    ),
}


def sequence() -> Model:
    model = text(SEQUENCE, {"w1": (12, 9, 3), "b1": (12,), "w2": (12, 6, 3)})
    proto = onnx_ir.to_proto(model.ir)
    proto.graph.initializer.append(numpy_helper.from_array(PADS["k"], "k"))
    return Model(onnx_ir.from_proto(proto))


NETWORKS["convolutions along one axis"] = sequence()


@pytest.mark.parametrize("model", NETWORKS.values(), ids=NETWORKS)
def test_native_code_computes_what_onnxruntime_does(model: Model, tmp_path: Path) -> None:
    artifact = compare(model, HERE, tmp_path)
    assert set(artifact.files) == {"model.so", "interface.txt", "run.py", "run.cc"}


@pytest.mark.parametrize(
    "name", ["image, symbolic batch", "groups and a channel shuffle", "attention"]
)
def test_arm_code_under_emulation_computes_it_too(name: str, tmp_path: Path) -> None:
    artifact = compare(NETWORKS[name], PI, tmp_path)
    assert (tmp_path / "model.so").read_bytes()[18:20] == b"\xb7\x00"  # ELF machine: AArch64
    assert artifact.facts["triple"] == "aarch64-linux-gnu"


@pytest.mark.parametrize(
    "name", ["image, symbolic batch", "groups and a channel shuffle", "attention"]
)
def test_code_for_avx512_computes_it_too(name: str, tmp_path: Path) -> None:
    """Skipped by `compare` where this processor has no AVX-512."""
    artifact = compare(NETWORKS[name], WIDE, tmp_path)
    assert {"avx512f", "avx512vl", "avx512vnni"} <= set(str(artifact.facts["simd"]).split())


@pytest.mark.parametrize("name", ["image, symbolic batch", "attention"])
def test_code_for_armv7_is_compiled_and_linked_and_nothing_runs_it(
    name: str, tmp_path: Path
) -> None:
    target = Target("old-pi", "armv7l-linux-gnueabihf", "cortex-a7", ("neon",), threads=1)
    artifact = placed(backend.get("tvm").compile(NETWORKS[name], target), tmp_path)
    assert elf_header(tmp_path / "model.so") == (40, 0x5000400)  # ARM; EABI 5, floats in registers
    assert "built from TVM's source" in str(artifact.facts["runtime"])
    if platform.machine() != "armv7l":
        assert "the code is armv7" in str(backend.get("tvm").runs_here(artifact))


def elf_header(library: Path) -> tuple[int, int]:
    """Return (machine, flags) of a 32-bit library."""
    header = library.read_bytes()[:52]
    assert header[:5] == b"\x7fELF\x01"
    return int.from_bytes(header[18:20], "little"), int.from_bytes(header[36:40], "little")


def test_the_facts_say_what_was_frozen_and_what_is_slow(tmp_path: Path) -> None:
    artifact = compare(NETWORKS["image, symbolic batch"], HERE, tmp_path)
    facts = artifact.facts
    assert facts["batch"] == "N = 1"
    assert str(facts["compiler"]).startswith("apache-tvm 0.27")
    assert int(facts["code_bytes"]) == len(artifact.files["model.so"])
    assert int(facts["scratch_bytes"]) > 0
    assert "max_pool2d" in str(facts["generic_kernels"])  # pooling has no family of its own
    assert "conv2d" not in str(facts["generic_kernels"])
    lines = artifact.files["interface.txt"].decode().splitlines()
    assert lines[:2] == ["input float32 1x6x9x9 x", "output float32 1x10 y"]


QUANTIZE = "s = Constant<value = float {0.1}>()  z = Constant<value = int8 {0}>()"
KINDS = {
    "floats": ("g (float[4] x) => (float[4] y) { y = Exp(x) }", "tvm-fp32"),
    "half floats": ("g (float16[4] x) => (float16[4] y) { y = Relu(x) }", "fp16"),
    "integers for the wire": (
        f"g (float[4] x) => (int8[4] y) {{ {QUANTIZE}  a = Exp(x)  y = QuantizeLinear(a, s, z) }}",
        "fp16",
    ),
    "integers inside": (
        f"""g (float[4] x) => (float[4] y) {{ {QUANTIZE}
        a = QuantizeLinear(x, s, z)  b = DequantizeLinear(a, s, z)  y = Exp(b) }}""",
        "int8",
    ),
}


@pytest.mark.parametrize(("body", "kind"), KINDS.values(), ids=KINDS)
def test_the_tolerance_goes_with_the_coarsest_rounding(body: str, kind: str) -> None:
    assert backend.get("tvm").compile(text(body, opset=21), HERE).facts["selftest"] == kind


def test_weights_in_another_file_are_read(tmp_path: Path) -> None:
    model = NETWORKS["attention"]
    onnx_ir.save(model.ir, tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=0)
    (tmp_path / "code").mkdir()
    compare(splitc.load(tmp_path / "m.onnx"), HERE, tmp_path / "code")


def test_an_index_out_of_range_reads_the_nearest_element(tmp_path: Path) -> None:
    artifact = compare(NETWORKS["integers"], HERE, tmp_path)
    table = np.arange(45, dtype=np.float32).reshape(9, 5)
    feeds = {"i": np.array([8, 10**9, -9, -(10**9)]), "t": table}
    got = backend.get("tvm").load(artifact)(feeds)["y"]
    np.testing.assert_array_equal(got, table[[8, 8, 0, 0]])


def test_wrong_feeds_are_errors(tmp_path: Path) -> None:
    artifact = compare(NETWORKS["integers"], HERE, tmp_path)
    run = backend.get("tvm").load(artifact)
    good = feeds_of(NETWORKS["integers"])
    with pytest.raises(BackendError, match="'t' is missing"):
        run({"i": good["i"]})
    with pytest.raises(BackendError, match="'i'"):
        run({**good, "i": good["i"].astype(np.int32)})
    with pytest.raises(BackendError, match="'t'"):
        run({**good, "t": good["t"][:2]})
    with pytest.raises(BackendError, match="from its folder"):
        backend.get("tvm").load(Artifact("tvm", "tvm-vm", HERE))


_DIGESTS = """
import sys, hashlib, onnx_ir
from splitc import backend
from splitc.backend import Target
from splitc.model import Model
model = Model(onnx_ir.load(sys.argv[1]))
target = Target("raspberry-pi-4", "aarch64-linux-gnu", "cortex-a72", ("neon",))
made = backend.get("tvm").compile(model, target)
print({name: hashlib.sha256(data).hexdigest() for name, data in made.files.items()})
print(dict(made.facts))
"""


def test_same_segment_same_bytes(tmp_path: Path) -> None:
    model = NETWORKS["image, symbolic batch"]
    model.save(tmp_path / "model.onnx")
    said = []
    for seed, place in (("1", tmp_path / "a"), ("2", tmp_path / "b" / "deeper")):
        place.mkdir(parents=True)
        words = [sys.executable, "-c", _DIGESTS, str(tmp_path / "model.onnx")]
        environment = {"PYTHONHASHSEED": seed, "TMPDIR": str(place), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            words, cwd=place, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert said[0] == said[1]
    assert hashlib.sha256(b"").hexdigest() not in said[0]


@pytest.mark.parametrize(
    "name", ["silero_vad_16k_op15", "sst2_tiny_transformer", "cifar10_resnet8_mlperf"]
)
@pytest.mark.shared
def test_real_networks(name: str, shared: Path, tmp_path: Path) -> None:
    inputs = ("input=1x512",) if "silero" in name else ()
    compare(splitc.load(shared / "models" / f"{name}.onnx", input=inputs), HERE, tmp_path)


def test_what_a_mask_hides_is_zero_and_not_subnormal(tmp_path: Path) -> None:
    body = (
        "g (float[4,8] x) => (float[4,8] y, float[4,8] z) { y = Softmax<axis = -1>(x)  z = Exp(x) }"
    )
    artifact = placed(backend.get("tvm").compile(text(body), HERE), tmp_path)
    x = np.linspace(-2, 2, 32, dtype=np.float32).reshape(4, 8)
    x[:, ::2] = np.array([[-1e4], [-1e38], [-np.inf], [-100.0]], np.float32)
    got = backend.get("tvm").load(artifact)({"x": x})
    assert (got["y"][:, ::2] == 0).all()
    assert (got["z"][:, ::2] == 0).all()
    np.testing.assert_allclose(got["y"], evaluate(text(body), {"x": x})["y"], rtol=0, atol=1e-6)


ACCURATE = {"Sigmoid": 1e-6, "Tanh": 1e-6, "Exp": 5e-7, "Erf": 1e-6}


@pytest.mark.parametrize(("operator", "bound"), ACCURATE.items(), ids=ACCURATE)
def test_functions_are_as_accurate_as_they_say(operator: str, bound: float, tmp_path: Path) -> None:
    """Against 64-bit arithmetic, relative to the value or to 1, whichever is larger."""
    functions: dict[str, Callable[[Any], Any]] = {
        "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "Tanh": np.tanh,
        "Exp": np.exp,
        "Erf": erf,
    }
    model = text(f"g (float[8,500] x) => (float[8,500] y) {{ y = {operator}(x) }}")
    run = backend.get("tvm").load(placed(backend.get("tvm").compile(model, HERE), tmp_path))
    x = np.linspace(-20, 20, 4000, dtype=np.float32).reshape(8, 500)
    want = functions[operator](x.astype(np.float64))
    error = np.abs(run({"x": x})["y"] - want) / np.maximum(np.abs(want), 1)
    assert error.max() < bound
