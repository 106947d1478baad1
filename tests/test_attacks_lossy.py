"""What a stranger tries on lossy passes, narrow wires and gates: each of these once went wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import splitc
from splitc import cost, manifest, pipeline, search
from splitc.cli import main
from splitc.cuts import cuts, resolve
from splitc.data import Dataset
from splitc.errors import PassError, RequestError, WireError
from splitc.passes import narrow_boundary
from splitc.pipeline import Resources
from splitc.recording import recording
from splitc.request import Request
from splitc.scope import Boundary
from splitc.stages import quiet
from splitc.verify import kind
from splitc.wire.form import FLOATS, form
from tests.networks import model

SCENARIO: dict[str, Any] = {"head": "raspberry-pi-4", "tail": "nvidia-a100", "link": "wifi"}
CHAIN = "g (float[N, 8] x) => (float[N, 8] y) { a = Relu(x)  b = Sigmoid(a)  y = Tanh(b) }"
DEAD = """g (float[N, 8] x) => (float[N, 8] y) {
    a = Relu(x)  d = Neg(x)  e = Exp(d)  b = Sigmoid(a)  f = Abs(b)  y = Tanh(b)  h = Neg(y) }"""
TWICE = """g (float[N, 8] x) => (float[N, 8] y)
<float s = {0.1}, int8 zp = {0}> {
    a = Relu(x)  q = QuantizeLinear(a, s, zp)  d = DequantizeLinear(q, s, zp)
    n = Neg(a)   e = Exp(d)  y = Add(n, e) }"""


def archive(folder: Path, count: int = 16, **more: Any) -> str:
    path = folder / "data.npz"
    x = np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)
    np.savez(path, x=x, **more)
    return str(path)


def failed(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, Any]]:
    """Run a command that fails, and read the one JSON object of its stdout."""
    code = main([*argv, "--json"])
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    return code, told


def test_nodes_that_nobody_needs_stay_on_the_head(tmp_path: Path) -> None:
    net = model(DEAD, tmp_path)
    assert Boundary(("b",)).head(net) == {"a", "b", "d", "e", "f"}
    assert Boundary((), ("y",)).head(net) == {*net.graph.by_id}
    assert Boundary(("x",)).head(net) == frozenset()


@pytest.mark.parametrize(
    ("cut", "kind", "sent"), [("b", "inner", ["b"]), ("@output", "output", [])]
)
def test_nodes_that_nobody_needs_send_nothing(
    tmp_path: Path, cut: str, kind: str, sent: list[str]
) -> None:
    found = splitc.plan(model(DEAD, tmp_path), cut=cut, wire="int8", passes="", **SCENARIO)
    assert (found.chosen.cut.kind, list(found.chosen.tensors)) == (kind, sent)


def test_a_list_of_cuts_speaks_of_names_that_cut_there(tmp_path: Path) -> None:
    net = model(TWICE, tmp_path)
    for row in cuts(net).cuts:
        if row.cut.kind == "inner":
            assert resolve(net.graph, list(row.tensors)) == row.cut
    with pytest.raises(RequestError, match="cutting at q also") as raised:
        resolve(net.graph, "q")
    assert resolve(net.graph, raised.value.hint.removeprefix("--cut ")).tensors == ("a", "q")


@pytest.mark.parametrize("wire", ["int8", "fp16"])
def test_a_plan_with_a_narrow_wire_replays(tmp_path: Path, wire: str) -> None:
    net, options = model(CHAIN, tmp_path), {**SCENARIO, "wire": wire, "passes": ""}
    first = splitc.plan(net, cut="b", **options)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(first.to_json()))
    assert first.to_json()["chosen"]["head_nodes"] == ["a", "b"]
    assert splitc.plan(net, cut=f"@{path}", **options).to_json() == first.to_json()
    made = splitc.optimize(net, passes="narrow-boundary", cut=f"@{path}")
    assert any(node.narrows for node in made.model.graph.nodes)


def test_a_lossy_pass_that_changed_nothing_is_verified_like_an_exact_one(tmp_path: Path) -> None:
    net = model(CHAIN, tmp_path)
    made = splitc.compile(net, output=tmp_path / "out", cut="@input", wire="int8", **SCENARIO)
    assert made.ok
    assert manifest.read(tmp_path / "out").passes.exact
    report = splitc.verify(tmp_path / "out", model=net)
    checks = {check.name: check.status for check in report.checks}
    assert checks["model output y"] == "pass"
    assert any("nothing of what crosses is narrowed: x" in note for note in made.plan.notes)


@pytest.mark.parametrize("limit", ["inf", "nan", "-1"])
def test_a_gate_is_a_number(tmp_path: Path, capsys: Any, limit: str) -> None:
    model(CHAIN, tmp_path)
    source, out = str(tmp_path / "net.onnx"), str(tmp_path / "out.onnx")
    options = ["--passes", "fp16", "--data", archive(tmp_path), "--max-drop", limit]
    code, told = failed(capsys, "optimize", source, "-o", out, *options)
    assert code == 1
    assert "--max-drop" in told["error"]


@pytest.mark.parametrize("option", ["--data", "--eval", "--train", "--cut", "--metric"])
def test_an_empty_option_is_not_left_out(tmp_path: Path, capsys: Any, option: str) -> None:
    model(CHAIN, tmp_path)
    source, out = str(tmp_path / "net.onnx"), str(tmp_path / "out.onnx")
    options = ["--passes", "fp16", "--data", archive(tmp_path), option, ""]
    assert failed(capsys, "optimize", source, "-o", out, *options)[0] == 1


@pytest.mark.parametrize(
    "argv",
    [
        ("optimize",),
        ("optimise", "net.onnx"),
        ("plan", "net.onnx", "--max-drop", "text"),
        ("compile", "net.onnx", "--unknown"),
    ],
)
def test_usage_errors_are_json_too(capsys: Any, argv: tuple[str, ...]) -> None:
    code, told = failed(capsys, *argv)
    assert code == 2
    assert told["error"]


def test_a_double_crosses_an_int8_wire_as_it_is_and_is_priced_so(tmp_path: Path) -> None:
    text = "g (double[N, 8] x) => (double[N, 8] y) { a = Relu(x)  b = Abs(a)  y = Neg(b) }"
    net = model(text, tmp_path)
    prices = {
        wire: cost.table(net, Request(wire=wire, **SCENARIO).scenario()).wire.bytes["a"]
        for wire in ("raw", "int8", "fp16")
    }
    assert prices["int8"] == prices["raw"] == prices["fp16"] + 6 * 8


def test_what_is_narrowed_is_what_is_priced() -> None:
    assert narrow_boundary.TAKES == FLOATS


@pytest.mark.parametrize(("text", "hint"), [("INT8", "int8"), ("fp32", "fp16"), ("int", "int8")])
def test_an_unknown_wire_hints_at_narrow_ones(text: str, hint: str) -> None:
    with pytest.raises(WireError) as raised:
        form(text)
    assert hint in raised.value.hint


def test_search_leaves_a_pass_alone_whose_size_is_given(tmp_path: Path) -> None:
    text = "g (float[N, 8] x) => (float[N, 8] y) <float[8, 8] w> { y = MatMul(x, w) }"
    net = model(text.replace("w>", "w = {" + ",".join(["1"] * 64) + "}>"), tmp_path)
    data = Dataset({"x": np.ones((8, 8), np.float32)})
    given = Resources(evaluation=data, max_drop=5.0)
    with pytest.raises(RequestError, match="nothing to choose"):
        search.search(pipeline.parse("low-rank{energy = 0.9}"), net, given)


def test_a_plan_of_the_simplified_network_cuts_the_loaded_one(tmp_path: Path) -> None:
    text = """g (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y)
    <float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[2] s = {1, 2}, float[2] b = {0, 1},
     float[2] m = {0, 1}, float[2] v = {1, 2}> {
        c = Conv(x, w)  n = BatchNormalization(c, s, b, m, v)  r = Relu(n)  y = Neg(r) }"""
    net, path = model(text, tmp_path), tmp_path / "plan.json"
    path.write_text(json.dumps(splitc.plan(net, cut="r", **SCENARIO).to_json()))
    made = splitc.optimize(net, passes="narrow-boundary", cut=f"@{path}")
    assert [n.outputs[0] for n in made.model.graph.nodes if n.narrows] == ["r_int8"]


def test_a_finished_run_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    place = tmp_path / "out.onnx.checkpoint"
    place.mkdir()
    (place / "precious").write_text("mine")
    (recipe := tmp_path / "recipe.toml").write_text("")
    request = Request(train=str(recipe))
    with recording(request, tmp_path / "out.onnx", False, quiet) as recorder:
        recorder.save({"step": 1})
    assert [path.name for path in place.iterdir()] == ["precious"]
    (place / "precious").unlink()
    with recording(request, tmp_path / "out.onnx", False, quiet) as recorder:
        recorder.save({"step": 1})
    assert not place.exists()


def test_a_recipe_that_nobody_uses_is_mentioned(tmp_path: Path) -> None:
    (recipe := tmp_path / "recipe.toml").write_text("")
    net = model(CHAIN, tmp_path)
    for passes in ("simplify", "fp16"):
        made = splitc.optimize(net, passes=passes, train=recipe)
        assert "no pass here trains: --train is of no use" in made.notes


def test_a_gate_on_labels_is_not_judged_without_them(tmp_path: Path) -> None:
    net, out = model(CHAIN, tmp_path), tmp_path / "out"
    labelled = archive(tmp_path, label=np.arange(16) % 8)
    options = {**SCENARIO, "wire": "int8", "cut": "b", "data": labelled, "max_drop": 50.0}
    assert splitc.compile(net, output=out, **options).ok
    checks = {c.name: c for c in splitc.verify(out, model=net, data=labelled).checks}
    assert checks["accuracy gate"].status == "pass"
    checks = {c.name: c for c in splitc.verify(out, model=net, data=archive(tmp_path)).checks}
    assert checks["accuracy gate"].status == "not-run"
    assert "no labels" in checks["accuracy gate"].detail


DEEP = """g (float[N, 8] x) => (float[N, 8] y)
<float[8, 8] w = {%s}, float[8, 8] v = {%s}, float[8, 8] u = {%s}> {
    a = MatMul(x, w)  b = Relu(a)  c = MatMul(b, v)  d = Sigmoid(c)  e = MatMul(d, u)  y = Tanh(e)
}"""


def deep(folder: Path) -> Any:
    weights = np.random.default_rng(3).normal(size=(3, 64)).round(3).tolist()
    return model(DEEP % tuple(",".join(map(str, row)) for row in weights), folder)


def test_an_int8_head_and_a_half_float_tail_are_held_to_half_floats(tmp_path: Path) -> None:
    net, out = deep(tmp_path), tmp_path / "out"
    passes = 'quantize{scope = "head"}, fp16{scope = "tail"}'
    made = splitc.compile(
        net, output=out, cut="b", passes=passes, data=archive(tmp_path), **SCENARIO
    )
    assert made.ok
    assert manifest.read(out).selftest.kind == "int8-fp16"
    tolerances = {check.name: check.tolerance for check in made.report.checks}
    assert (tolerances["output y"], tolerances["fused output y"]) == (1e-2, 1e-1)


def test_a_network_of_int8_and_half_floats_is_recorded_node_by_node(
    tmp_path: Path, shared: Path
) -> None:
    net = splitc.load(shared / "models/cifar10_resnet8_mlperf.onnx")
    x = np.random.default_rng(0).uniform(0, 255, (8, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "data.npz", input=x)
    passes = 'quantize{scope = "head"}, fp16{scope = "tail"}, narrow-boundary'
    options = {**SCENARIO, "passes": passes, "data": str(tmp_path / "data.npz")}
    made = splitc.compile(net, output=tmp_path / "out", cut="t6_relu", **options)
    assert made.ok, [check for check in made.report.checks if check.status == "fail"]


def test_weights_stored_in_half_floats_are_no_half_float_network(tmp_path: Path) -> None:
    small = splitc.optimize(deep(tmp_path), passes="share-weights").model
    assert kind(small) == "onnxruntime-fp32"
    assert kind(splitc.optimize(small, passes="fp16").model) == "fp16"


def test_an_int8_wire_in_front_of_a_half_float_tail_carries_int8(tmp_path: Path) -> None:
    net, out = deep(tmp_path), tmp_path / "out"
    options = {**SCENARIO, "passes": 'fp16{scope = "tail"}', "data": archive(tmp_path)}
    made = splitc.compile(net, output=out, cut="b", wire="int8", **options)
    assert made.ok
    (tensor,) = manifest.read(out).contract.tensors
    assert (tensor.dtype, made.plan.chosen.tensors) == ("int8", ("b",))


def test_a_candidate_whose_drop_is_no_number_is_json(tmp_path: Path) -> None:
    trial = search.Trial(pipeline.parse("fp16"), float("nan"), False, 1.0)
    assert json.loads(json.dumps(trial.to_json(), allow_nan=False))["drop"] is None


@pytest.mark.parametrize("more", [{"passes": "fp16"}, {"data": "x.npz"}, {"max_drop": 1.0}])
def test_given_costs_leave_no_room_for_passes(tmp_path: Path, more: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="--costs plans without"):
        splitc.plan(model(CHAIN, tmp_path), costs={}, rate="1Mbit/s", **more)


@pytest.mark.parametrize(
    "text",
    ['simplify{fuse_batch_norm = "no"}', "quantize{scope = 3}", "share-weights{bits = true}"],
)
def test_an_option_of_another_kind_is_refused(text: str) -> None:
    with pytest.raises(PassError, match="is not"):
        pipeline.parse(text)


@pytest.mark.parametrize("wire", ["raw", "int8", "fp16"])
@pytest.mark.parametrize("cut", ["a", "b", "d"])
def test_a_half_float_network_is_cut_where_the_user_says(
    tmp_path: Path, cut: str, wire: str
) -> None:
    net, out = deep(tmp_path), tmp_path / "out"
    options = {**SCENARIO, "passes": "fp16", "data": archive(tmp_path)}
    made = splitc.compile(net, output=out, cut=cut, wire=wire, **options)
    assert made.ok
    assert made.plan.chosen.tensors == (cut,)
    (tensor,) = manifest.read(out).contract.tensors
    assert (tensor.name, tensor.dtype) == (cut, "float16")
