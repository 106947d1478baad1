"""The two halves: each from its own side, and nothing but a frame between them."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from splitc import runtime
from splitc.contract import BoundaryTensor, Contract
from splitc.errors import BackendError, RequestError, VerifyError, WireError
from splitc.records import Manifest, Segment
from splitc.wire import frame
from tests.bundles import described, record

HEAD = """
<ir_version: 10, opset_import: ["": 21]>
head (float[N,3] x) => (float[N,3] a, int64[2] s)
{ a = Relu(x)  s = Shape(x) }
"""
TAIL = """
<ir_version: 10, opset_import: ["": 21]>
tail (float[N,3] a, float[N,3] m) => (float[N,3] y)
{ y = Mul(a, m) }
"""


def crosses(name: str, dtype: str, *shape: int | str) -> BoundaryTensor:
    return BoundaryTensor(name, dtype, shape, codec="zstd", max_bytes=4096)


X, M, A, S, Y = (
    ("x", "float32", "N", 3),
    ("m", "float32", "N", 3),
    ("a", "float32", "N", 3),
    ("s", "int64", 2),
    ("y", "float32", "N", 3),
)
CUTS: dict[str, dict[str, Any]] = {
    # `a` is read by the tail and is an output; `m` is an input that only the tail reads
    "inner": {"head": HEAD, "tail": TAIL, "boundary": (A, M), "late": (Y,)},
    "input": {"head": None, "tail": TAIL.replace(" a", " x").replace("(a,", "(x,")},
    "output": {"head": HEAD, "tail": None, "boundary": (), "late": ()},
}
CUTS["input"] |= {"boundary": (X, M), "late": (Y,)}
OUTPUTS = {"inner": (S, Y, A), "input": (Y,), "output": (S, A)}


def write(folder: Path, kind: str, pair: str = "ab" * 32) -> Manifest:
    """Write the halves of a bundle; return what its manifest says of them."""
    cut = CUTS[kind]
    segments = []
    for side in ("head", "tail"):
        path = f"{side}/model.onnx" if cut[side] else None
        needs, gives = (), ()  # type: tuple[str, ...], tuple[str, ...]
        if path:
            half = onnx.parser.parse_model(cut[side])
            needs = tuple(value.name for value in half.graph.input)
            gives = tuple(value.name for value in half.graph.output)
            (folder / side).mkdir(parents=True)
            (folder / path).write_bytes(half.SerializeToString())
        segments.append(Segment(name=side, tier=side, needs=needs, gives=gives, model=path))
    contract = Contract(
        tensors=tuple(crosses(*tensor) for tensor in cut["boundary"]),
        gives=tuple(crosses(*tensor) for tensor in cut["late"]),
        pair=pair,
    )
    outputs = [record(*tensor) for tensor in OUTPUTS[kind]]
    return described(segments, contract, [record(*X), record(*M)], outputs)


@pytest.fixture(params=["inner", "input", "output"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def bundle(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    read = write(tmp_path, kind)
    monkeypatch.setattr(runtime.manifest, "read", lambda folder: read)
    return tmp_path


def inputs(rows: int = 2) -> dict[str, NDArray[Any]]:
    x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3) - 2
    return {"x": x, "m": np.full((rows, 3), 3, np.float32)}


def expected(kind: str, given: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    a = np.maximum(given["x"], 0)
    y = (given["x"] if kind == "input" else a) * given["m"]
    every = {"y": y, "a": a, "s": np.array(given["x"].shape, np.int64)}
    return {name: every[name] for name, *_ in OUTPUTS[kind]}


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_run_gives_all_outputs_in_order(bundle: Path, kind: str, rows: int) -> None:
    got = runtime.run(bundle, inputs(rows))
    want = expected(kind, inputs(rows))
    assert list(got) == list(want)
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array)
        assert got[name].dtype == array.dtype


def test_each_side_works_alone(bundle: Path, kind: str, tmp_path: Path) -> None:
    head_only, tail_only = tmp_path / "h", tmp_path / "t"
    hidden = shutil.ignore_patterns("h", "t")
    shutil.copytree(bundle, head_only, ignore=shutil.ignore_patterns("tail", "h", "t"))
    shutil.copytree(bundle, tail_only, ignore=lambda d, n: {"head"} & set(n) | hidden(d, n))
    head, tail = runtime.open_head(head_only), runtime.open_tail(tail_only)
    packed = head(inputs())
    assert head.outputs.keys() | tail(packed).keys() == expected(kind, inputs()).keys()
    assert not head.outputs.keys() & tail(packed).keys()


@pytest.mark.parametrize("kind", ["inner"])
def test_an_absent_side_is_named(bundle: Path) -> None:
    shutil.rmtree(bundle / "tail")
    with pytest.raises(VerifyError, match="this bundle has no tail"):
        runtime.open_tail(bundle)


@pytest.mark.parametrize("kind", ["inner"])
def test_frames_are_numbered_and_carry_the_boundary_only(bundle: Path) -> None:
    head = runtime.open_head(bundle)
    packed = [head(inputs()), head(inputs(1))]
    for number, one in enumerate(packed):
        sequence, arrays = frame.unpack(one, head.contract)
        assert sequence == number
        assert len(arrays) == 2
    reply = runtime.open_tail(bundle).reply(packed[1])
    assert frame.unpack(reply, head.contract.back)[0] == 1
    assert head.outputs["s"].tolist() == [1, 3], "outputs are those of the latest call"


@pytest.mark.parametrize("kind", ["inner"])
def test_a_foreign_head_is_refused(bundle: Path, tmp_path: Path) -> None:
    other = runtime.Head(tmp_path / "other", write(tmp_path / "other", "inner", "cd" * 32))
    with pytest.raises(WireError, match="this frame comes from another bundle"):
        runtime.open_tail(bundle)(other(inputs()))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"m": None}, "input 'm' is missing"),
    "unknown": ({"mm": np.zeros(1)}, "no input is called 'mm'"),
    "type": ({"x": np.zeros((2, 3))}, "input 'x' is float64, expected float32"),
    "shape": ({"x": np.zeros((2, 4), np.float32)}, r"'x' has shape \[2, 4\], expected \['N', 3\]"),
    "rank": ({"x": np.zeros(3, np.float32)}, r"'x' has shape \[3\]"),
    "symbol": ({"m": np.zeros((4, 3), np.float32)}, r"'m' has shape \[4, 3\](.|\n)*N = 2"),
}


@pytest.mark.parametrize("kind", ["inner"])
@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_inputs_are_checked(bundle: Path, change: dict[str, Any], message: str) -> None:
    given = {k: v for k, v in {**inputs(), **change}.items() if v is not None}
    with pytest.raises(RequestError, match=message):
        runtime.run(bundle, given)


@pytest.mark.parametrize("kind", ["inner"])
def test_a_batch_beyond_the_contract_is_refused(bundle: Path) -> None:
    with pytest.raises(WireError, match="contract allows 4096"):
        runtime.run(bundle, inputs(1000))


@pytest.mark.parametrize("kind", ["inner"])
def test_a_broken_half_is_a_backend_error(bundle: Path) -> None:
    (bundle / "head" / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(BackendError, match="onnxruntime"):
        runtime.run(bundle, inputs())
