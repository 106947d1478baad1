"""`splitc compile` end to end: what it writes, when it refuses, the same bytes each time."""

import filecmp
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import splitc
from splitc import manifest as manifests
from splitc.cli import main
from splitc.runtime import run
from tests.compiling import CHAIN, SCENARIO, compiled, statuses, write

P = {"kind", "tensors", "emittable", "wire_bytes", "return_bytes", "latency_s", "energy_j"} | {
    f"{side}_{what}_bytes" for side in ("head", "tail") for what in ("weight", "peak")
}
ADDENDS = {"head_s", "encode_s", "uplink_s", "rtt_s", "decode_s", "tail_s", "downlink_s"}
PAIR = """net (float[2,3] x, int64[2] i, float[2,3] m) => (float[2,3] y, float[2,3] e, int64[2] s)
<float[5,3] t> { g = Gather(t, i)  h = Add(g, x)  e = Sigmoid(h)  k = Mul(h, m)  y = Softplus(k)
  s = Shape(x) }"""
BRANCH = """net (float[1,3] x, float[1,3] z) => (float[1,3] y)
{ o = Sigmoid(x)  m = ReduceSum <keepdims = 0> (z)  zero = Constant <value = float {0.0}> ()
  c = Greater(m, zero)
  b = If (c) <then_branch = t () => (float[1,3] p) { p = Neg(o) },
              else_branch = f () => (float[1,3] q) { q = Exp(o) }>
  y = Mul(b, o) }"""


NARROW = """net (float[N,4] x) => (float[N,4] y)
{ a = Relu(x)  b = Cast<to = 16>(a)  c = Cast<to = 1>(b)  y = Tanh(c) }"""
STRING = """net (float[N,4] x) => (float[N,4] y, string[N,4] s)
{ a = Relu(x)  s = Cast<to = 8>(a)  y = Tanh(a) }"""
MIDDLE = """net (float[N,4] x) => (float[N,4] y)
{ a = Relu(x)  s = Cast<to = 8>(a)  b = Cast<to = 1>(s)  y = Tanh(b) }"""


def feeds(batch: int, seed: int = 1) -> dict[str, Any]:
    return {"x": np.random.default_rng(seed).standard_normal((batch, 8)).astype("f")}


def expected(model: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what onnx's own reference evaluator says."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(model))
    return dict(zip(evaluator.output_names, evaluator.run(None, dict(given)), strict=True))


def test_the_json_that_other_tools_rely_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = write(tmp_path, CHAIN), tmp_path / "b"
    found = compiled(capsys, model, "--cut", "r", "-o", out)
    assert list(found) == ["ok", "bundle", "plan", "checks"]
    assert (found["ok"], found["bundle"]) == (True, str(out))
    assert set(found["plan"]) >= P
    assert "head_nodes" not in found["plan"]
    assert set(found["plan"]["addends"]) == ADDENDS
    assert sum(found["plan"]["addends"].values()) == pytest.approx(found["plan"]["latency_s"])
    keys = {"name", "status", "worst_error", "tolerance", "detail"}
    assert all(set(check) == keys for check in found["checks"])
    assert set(statuses(found).values()) == {"pass"}
    assert main(["verify", str(out), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert list(again) == list(found)
    assert again["plan"] == found["plan"], "as the manifest keeps it"
    read = manifests.read(out)
    assert {check.name: check.status for check in read.checks} == statuses(found)
    assert read.head_nodes == ("h", "r")


ENDS = {"@input": ("head", "tail", ["x"]), "@output": ("tail", "head", [])}


@pytest.mark.parametrize(("end", "facts"), ENDS.items(), ids=list(ENDS))
def test_an_empty_side_is_null_and_has_no_file(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    end: str,
    facts: tuple[str, str, list[str]],
) -> None:
    empty, full, crossing = facts
    model, out = write(tmp_path, CHAIN), tmp_path / "b"
    found = compiled(capsys, model, "--cut", end, "-o", out)
    plain = json.loads((out / "manifest.json").read_text())
    models = {segment["name"]: segment["model"] for segment in plain["segments"]}
    assert models == {empty: None, full: f"{full}/model.onnx"}
    assert sorted(p.name for p in out.iterdir()) == sorted(["manifest.json", "selftest", full])
    assert found["plan"]["tensors"] == crossing
    assert (found["plan"]["wire_bytes"] == 0) == (end == "@output")
    given = feeds(1)
    np.testing.assert_allclose(run(out, given)["y"], expected(model, given)["y"], rtol=1e-5)


@pytest.mark.parametrize("cut", ["auto", "h", "m,h", "x,g,m", "@input", "@output"])
def test_several_inputs_and_outputs_some_made_by_the_head(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cut: str
) -> None:
    model, out = write(tmp_path, PAIR), tmp_path / "b"
    if cut == "h":  # m crosses too
        error = compiled(capsys, model, "--cut", cut, "-o", out, code=1)
        assert "m" in error["hint"]
        assert not out.exists()
        return
    found = compiled(capsys, model, "--cut", cut, "-o", out, "--wire", "zstd")
    assert statuses(found)["model output s"] == "not-run", "equal for all inputs"
    rng = np.random.default_rng(3)
    given = {n: rng.standard_normal((2, 3)).astype("f") for n in "xm"} | {"i": np.array([4, 0])}
    made, want = run(out, given), expected(model, given)
    assert list(made) == ["y", "e", "s"]
    for name in made:
        np.testing.assert_allclose(made[name], want[name], rtol=1e-5)
    head = splitc.open_head(out)
    head(given)
    late = {tensor.name for tensor in head.contract.gives}
    assert set(head.outputs) == {"y", "e", "s"} - late


@pytest.mark.parametrize("cut", ["z,o", "b,o"])
def test_bodies_stay_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str], cut: str) -> None:
    model, out = write(tmp_path, BRANCH), tmp_path / "b"
    compiled(capsys, model, "--cut", cut, "-o", out)
    for sign in (1, -1):
        given = {"x": np.ones((1, 3), "f"), "z": np.full((1, 3), sign, "f")}
        np.testing.assert_allclose(run(out, given)["y"], expected(model, given)["y"], rtol=1e-5)


def test_a_dynamic_batch_stays_symbolic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = write(tmp_path, CHAIN), tmp_path / "b"
    compiled(capsys, model, "--cut", "r", "-o", out, "--input", "x=1..2..8x8")
    contract = manifests.read(out).contract
    assert [tensor.shape for tensor in contract.tensors] == [("N", 4)]
    assert [tensor.max_bytes for tensor in contract.tensors] == [8 * 4 * 4]
    for batch in (1, 5, 8):
        given = feeds(batch)
        np.testing.assert_allclose(run(out, given)["y"], expected(model, given)["y"], rtol=1e-5)
    np.savez(tmp_path / "x.npz", **feeds(9))
    command = ("run", str(out), "--input", str(tmp_path / "x.npz"), "-o", str(tmp_path / "y.npz"))
    assert main(command) == 1
    assert "--input NAME=MIN..BEST..MAX" in capsys.readouterr().err
    assert not (tmp_path / "y.npz").exists()


def test_a_model_of_constants_proves_nothing_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "net (float[1,3] x) => (float[1,3] y) { z = Mul(x, x)  n = Neg(z)  y = Relu(n) }"
    model = write(tmp_path, text)
    assert main(["compile", str(model), *SCENARIO, "-o", str(tmp_path / "b"), "--cut", "z"]) == 0
    assert "no output proves anything" in capsys.readouterr().err
    checks = {c.name: c for c in manifests.read(tmp_path / "b").checks}
    assert (checks["output y"].status, checks["boundary z"].status) == ("not-run", "pass")


def test_an_output_that_reads_no_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = """net (float[1,3] x) => (float[1,3] y, float[2] c)
    { k = Constant <value = float[2] {1.5, 2.5}> ()  c = Neg(k)  y = Tanh(x) }"""
    model = write(tmp_path, text)
    for passes in ("", "simplify"):
        for cut in ("@input", "@output"):
            out = tmp_path / f"{passes}{cut}"
            compiled(capsys, model, "--cut", cut, "-o", out, "--passes", passes)
            assert run(out, {"x": np.ones((1, 3), "f")})["c"].tolist() == [-1.5, -2.5]


def test_a_folder_that_is_no_bundle_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    error = compiled(capsys, "no-such-model.onnx", "-o", tmp_path / "mine", code=1)
    assert "is not a bundle" in error["error"]
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_plan_is_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out, plan = write(tmp_path, PAIR), tmp_path / "b", tmp_path / "plan.json"
    cut = ("--cut", "x,g,m", "--passes", "")
    assert main(["plan", str(model), *SCENARIO, *cut, "--json"]) == 0
    plan.write_text(capsys.readouterr().out)
    compiled(capsys, model, "--cut", f"@{plan}", "--passes", "", "-o", out)
    chosen = json.loads(plan.read_text())["chosen"]
    read = manifests.read(out)
    assert sorted(chosen["head_nodes"]) == list(read.head_nodes) == ["g"]
    assert read.request["cut"] == "@plan.json", "no path of this machine"


FOLDED = """net (float[2,8] x) => (float[2,8] y) {
    r = Relu(x)  s = Shape(r)  o = ConstantOfShape(s)  t = Identity(r)  y = Add(t, o) }"""


@pytest.mark.parametrize("cut", ["r,s", "r,o", "r,t", "r"])
def test_what_the_passes_make_constant_crosses_for_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cut: str
) -> None:
    """Every cut that `cuts` lists on the loaded graph can be asked of the simplified one."""
    model = write(tmp_path, FOLDED)
    assert set(cut.split(",")) in [set(row.cut.tensors) for row in splitc.cuts(model).cuts]
    found = compiled(capsys, model, "--cut", cut, "-o", tmp_path / "b")
    assert len(crosses := found["plan"]["tensors"]) == 1
    assert crosses[0] in {"r", "t"} & set(cut.split(","))
    head = splitc.open_head(tmp_path / "b")
    tail = splitc.open_tail(tmp_path / "b")
    x = np.linspace(-1, 1, 16, dtype="f").reshape(2, 8)
    assert np.array_equal(tail(head({"x": x}))["y"], np.maximum(x, 0))


def test_a_list_of_constants_is_no_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["plan", str(write(tmp_path, FOLDED)), *SCENARIO, "--cut", "o"]
    assert main(asked) == 1
    assert "nothing crosses at o" in capsys.readouterr().err


def test_data_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = write(tmp_path, CHAIN), tmp_path / "b"
    compiled(capsys, model, "--cut", "r", "-o", out)
    np.savez(tmp_path / "d.npz", **feeds(3))
    command = ["verify", str(out), "--model", str(model), "--data", str(tmp_path / "d.npz")]
    assert main(command) == 0
    other = write(tmp_path, CHAIN.replace("Tanh", "Sigmoid"), "other.onnx")
    capsys.readouterr()
    assert main([*command[:3], str(other), *command[4:], "--json"]) == 3
    failed = [c for c in json.loads(capsys.readouterr().out)["checks"] if c["status"] == "fail"]
    assert [check["name"] for check in failed] == ["model output y"]
    assert "first diverging tensor: 'y'" in failed[0]["detail"]


IMAGE = "net (float[1,3,64,64] x) => (float[1,3,64,64] y) { y = Relu(x) }"


def test_the_first_line_says_when_something_else_would_win(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, codec = write(tmp_path, IMAGE), ("--input-codec", "jpeg:10", "--rate", "1Mbit/s/9Gbit/s")
    options = ("--cut", "@input", "--rtt", "0ms", *codec)
    command = ["compile", str(model), *SCENARIO, *options]
    assert main([*command, "-o", str(tmp_path / "b")]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    wins = json.loads((tmp_path / "b/manifest.json").read_text())["plan"]["kind"] == "input"
    assert wins
    assert main(["plan", str(model), *SCENARIO, *options, "--json"]) == 0
    ranked = json.loads(capsys.readouterr().out)["ranked"]
    assert ("cannot emit" in first) == (not ranked[0]["emittable"])
    if not ranked[0]["emittable"]:
        assert main([*command, "--strict", "-o", str(tmp_path / "c")]) == 4
        assert not (tmp_path / "c").exists()


def same(one: Path, other: Path) -> bool:
    """Tell whether two folders hold the same files with the same bytes."""
    files = [sorted(p.relative_to(f) for p in f.rglob("*") if p.is_file()) for f in (one, other)]
    return files[0] == files[1] and all(
        filecmp.cmp(one / name, other / name, shallow=False) for name in files[0]
    )


def test_same_input_same_bytes_in_any_folder_and_process(tmp_path: Path) -> None:
    outs = []
    for index, seed in enumerate(("0", "4711")):
        folder = tmp_path / ("elsewhere" * (index + 1))
        folder.mkdir(parents=True)
        model = write(folder, PAIR)
        temporary = folder / "tmp"
        temporary.mkdir()
        outs.append(folder / "out")
        env = {**os.environ, "PYTHONHASHSEED": seed, "TMPDIR": str(temporary)}
        where = folder if index else tmp_path
        command = [sys.executable, "-m", "splitc", "compile", str(model), *SCENARIO]
        done = subprocess.run(
            [*command, "--cut", "m,h", "-o", str(folder / "out")],
            env={**env, "PYTHONPATH": str(Path(splitc.__file__).parent.parent)},
            cwd=where,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert not list(temporary.glob("splitc*")), "nothing is left behind"
    assert same(*outs)
    text = (outs[0] / "manifest.json").read_text()
    assert str(tmp_path) not in text
    (outs[1] / "manifest.json").write_text(text + "\n")
    assert not same(*outs), "the comparison can fail"


@pytest.mark.shared
@pytest.mark.parametrize("cut", ["auto", "@input", "@output"])
def test_a_network_with_state_and_branches(
    tmp_path: Path, shared: Path, capsys: pytest.CaptureFixture[str], cut: str
) -> None:
    model = shared / "models" / "silero_vad_16k_op15.onnx"
    found = compiled(capsys, model, "--input", "input=1x512", "--cut", cut, "-o", tmp_path / "b")
    assert statuses(found)["model output output"] == "pass"
    assert found["ok"]


def test_a_bfloat16_crosses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, NARROW)
    found = compiled(capsys, path, "--cut", "b", "-o", tmp_path / "b")
    assert found["plan"]["tensors"] == ["b"]
    assert set(statuses(found).values()) == {"pass"}


def test_text_cannot_cross(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, MIDDLE)
    assert [list(row.cut.tensors) for row in splitc.cuts(path).cuts] == [["x"], ["a"], ["b"], []]
    found = compiled(capsys, path, "--cut", "s", "-o", tmp_path / "b", code=4)
    assert "cannot cross" in found["where"]
    found = compiled(capsys, write(tmp_path, STRING), "-o", tmp_path / "b", code=1)
    assert found["error"] == "output 's' is string, which a bundle cannot hold"
    assert not (tmp_path / "b").exists()


def test_a_boundary_whose_size_depends_on_the_data(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["": 20]>
    net (float[8] x) => (int64[2, n] y, float z) <int64[1] axis = {0}> {
      r = Relu(x)
      u = Unsqueeze(r, axis)
      places = NonZero(u)
      c = Cast <to = 1> (places)
      y = Cast <to = 7> (c)
      z = ReduceSum <keepdims = 0> (c)
    }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "net.onnx")
    options: dict[str, Any] = {"head": "raspberry-pi-4", "tail": "nvidia-a100", "link": "wifi"}
    made = splitc.compile(tmp_path / "net.onnx", cut="c", output=tmp_path / "bundle", **options)
    assert made.ok
    head, tail = splitc.open_head(tmp_path / "bundle"), splitc.open_tail(tmp_path / "bundle")
    for positive in range(9):
        x = np.array([1] * positive + [-1] * (8 - positive), np.float32)
        assert tail(head({"x": x}))["y"].shape == (2, positive)
