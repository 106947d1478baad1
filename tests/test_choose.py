"""Planning a model in a scenario: optimum, ranking, baselines, groups, refusals, memory."""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import pytest

import splitc
from splitc import cost
from splitc.cost.table import CostTable
from splitc.errors import PlanError, RequestError
from splitc.graph import Graph
from splitc.model import Model
from splitc.plan.choose import plan
from splitc.plan.entry import Entry, Plan
from splitc.scenario import Device, Link, Scenario, device, link

PI, A100, WIFI = device("raspberry-pi-4"), device("nvidia-a100"), link("wifi")
ADDENDS = ["head_s", "encode_s", "uplink_s", "rtt_s", "decode_s", "tail_s", "downlink_s"]
KEYS = {"kind", "tensors", "emittable", "wire_bytes", "return_bytes", "latency_s", "energy_j"}
KEYS |= {"head_weight_bytes", "head_peak_bytes", "tail_weight_bytes", "tail_peak_bytes", "addends"}
HEADER = '<ir_version: 10, opset_import: ["": 20]>\n'

CLASSIFIER = """net (float[batch, 3, 32, 32] image) => (float[batch, 10] logits)
{
  c1 = Conv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (image, w8x3x3x3)
  r1 = Relu(c1)
  c2 = Conv <kernel_shape = [3, 3], strides = [4, 4], pads = [1, 1, 1, 1]> (r1, w16x8x3x3)
  r2 = Relu(c2)
  p = GlobalAveragePool(r2)
  f = Flatten(p)
  logits = Gemm <transB = 1> (f, w10x16)
}"""
TWO_HEADS = """net (float[1, 64] x, float[1, 64] z) =>
    (float[1, 64] early, float[1, 4] late, float[1, 64] x)
{
  a = MatMul(x, w64x64)
  early = Tanh(a)
  b = Add(early, z)
  c = MatMul(b, w64x64)
  d = Sigmoid(c)
  e = Mul(c, d)
  late = MatMul(e, w64x4)
}"""
GROWING = """net (float[1, 3, 32, 32] image) => (float[1, 64, 16, 16] y)
{
  c = Conv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (image, w1x3x3x3)
  g = Add(c, w1x64x1x1)
  y = Conv <kernel_shape = [1, 1]> (g, w64x64x1x1)
}"""
TEXTS = {"classifier": CLASSIFIER, "two heads": TWO_HEADS, "growing": GROWING}


def proto(text: str) -> onnx.ModelProto:
    """Parse a model; a name like w8x3 is a seeded weight of that shape."""
    model = onnx.parser.parse_model(HEADER + text)
    read = {name for node in model.graph.node for name in node.input}
    for name in sorted(name for name in read if name[0] == "w" and name[1:2].isdigit()):
        shape = [int(size) for size in name[1:].split("x")]
        values = np.random.default_rng(len(name)).standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return model


def loaded(folder: Path, text: str) -> Model:
    onnx.save(proto(text), folder / "net.onnx")
    return splitc.load(folder / "net.onnx")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    return {name: loaded(tmp_path_factory.mktemp("net"), text) for name, text in TEXTS.items()}


def scenario(
    head: Device = PI, tail: Device = A100, wire: Link = WIFI, objective: str = "latency"
) -> Scenario:
    return Scenario.of(head=head, tail=tail, link=wire, objective=objective)


def slow(factor: float) -> Device:
    """A device on which each group takes `factor` × 10 µs longer than anything else."""
    return dataclasses.replace(PI, overhead_us=10.0 * factor)


FAST_LINK = dataclasses.replace(WIFI, uplink_mbit_s=1e4, downlink_mbit_s=1e4, rtt_ms=0.01)
SCENARIOS = {
    "wifi": scenario(),
    "fast link": scenario(wire=FAST_LINK),
    "slow device": scenario(head=slow(1e3), wire=FAST_LINK),
    "energy": scenario(objective="energy"),
    "energy, slow device": scenario(head=slow(1e3), wire=FAST_LINK, objective="energy"),
    "equal machines": scenario(tail=PI, wire=FAST_LINK),
    "lora": scenario(wire=link("lora")),
}


def closed_heads(graph: Graph) -> Iterator[frozenset[str]]:
    ids = [node.id for node in graph.nodes]
    for bits in itertools.product([False, True], repeat=len(ids)):
        head = frozenset(v for v, kept in zip(ids, bits, strict=True) if kept)
        if all(graph.producer.get(t, v) in head for v in head for t in graph.by_id[v].inputs):
            yield head


def objective_of(table: CostTable, head: frozenset[str]) -> float:
    price = cost.price(table, head)
    return price.latency_s if table.scenario.objective == "latency" else price.energy_j["device"]


@pytest.mark.parametrize("where", SCENARIOS)
@pytest.mark.parametrize("name", TEXTS)
def test_the_chosen_cut_is_the_cheapest_of_all(
    models: dict[str, Model], name: str, where: str
) -> None:
    """Against every closed head that goes through no group, priced one by one."""
    table = cost.table(models[name], SCENARIOS[where])
    whole = [
        head
        for head in closed_heads(table.graph)
        if all(head.issuperset(g) or head.isdisjoint(g) for g in table.groups)
    ]
    assert len(whole) > 2
    found = plan(models[name], SCENARIOS[where], top=0)
    best = min(objective_of(table, head) for head in whole)
    assert found.chosen.cost(found.objective) == pytest.approx(best, rel=1e-12)
    assert found.certificate.optimum == found.chosen.cost(found.objective)
    assert found.certificate.bound <= best * (1 + 1e-15)
    assert 0 <= found.certificate.gap <= 1e-12 * best


@pytest.mark.parametrize("where", SCENARIOS)
@pytest.mark.parametrize("name", TEXTS)
def test_every_entry_adds_up(models: dict[str, Model], name: str, where: str) -> None:
    found = plan(models[name], SCENARIOS[where], top=0)
    link_s = 8e-6 / SCENARIOS[where].link.uplink_mbit_s
    for entry in found.ranked:
        price = entry.price
        assert list(price.addends) == ADDENDS
        assert price.latency_s == pytest.approx(sum(price.addends.values()), rel=1e-12)
        assert price.addends["uplink_s"] >= price.wire_bytes * link_s
        energy = price.energy_j
        parts = energy["compute"] + energy["radio"] + energy["idle"]
        assert energy["device"] == pytest.approx(parts, rel=1e-12)
        assert set(energy) == {"compute", "radio", "idle", "device", "server"}
    costs = [entry.cost(found.objective) for entry in found.ranked]
    assert costs == sorted(costs)
    assert found.chosen in found.ranked
    heads = [(e.cut.head_nodes, e.codec) for e in found.ranked]
    assert len(set(heads)) == len(heads)


def test_the_json_has_the_keys_of_the_format(models: dict[str, Model]) -> None:
    found = plan(models["classifier"], scenario()).to_json()
    assert set(found) == {"objective", "chosen", "ranked", "certificate"}
    assert set(found["certificate"]) == {"method", "optimum", "bound", "gap"}
    assert set(found["chosen"]) - {"codec"} == KEYS | {"head_nodes"}
    for entry in found["ranked"]:
        assert set(entry) - {"codec", "breaks_group"} == KEYS
    codecs = sorted((e["kind"], e["codec"]) for e in found["ranked"] if "codec" in e)
    assert codecs == [("input", "f32"), ("input", "jpeg"), ("input", "u8"), ("output", "none")]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_two_ends(models: dict[str, Model]) -> None:
    """A graph output that is a graph input is nobody's work: it is never sent back."""
    found = plan(models["two heads"], scenario(), top=0)
    by_kind = {e.cut.kind: e for e in found.ranked}
    here, there = by_kind["output"].price, by_kind["input"].price
    assert (here.wire_bytes, here.return_bytes, by_kind["output"].cut.tensors) == (0, 0, ())
    assert here.latency_s == here.addends["head_s"]
    assert (here.tail_weight_bytes, here.tail_peak_bytes) == (0, 0)
    assert by_kind["input"].cut.tensors == ("x", "z")
    assert there.addends["head_s"] == 0.0
    assert there.return_bytes == cost.table(models["two heads"], scenario()).wire.frame_bytes + sum(
        cost.table(models["two heads"], scenario()).wire.back_bytes[o] for o in ("early", "late")
    )


def test_an_output_made_on_the_head_does_not_come_back(models: dict[str, Model]) -> None:
    wire = cost.table(models["two heads"], scenario()).wire
    found = plan(models["two heads"], scenario(), cut="early,z")
    assert found.head_nodes == ("a", "early")
    assert found.chosen.price.return_bytes == wire.frame_bytes + wire.back_bytes["late"]


def baselines(found: Plan) -> dict[str | None, Entry]:
    return {e.codec: e for e in found.ranked if not e.emittable}


def test_a_winner_that_cannot_be_emitted_is_the_first_note(models: dict[str, Model]) -> None:
    where = scenario(head=slow(1e4))
    found = plan(models["classifier"], where)
    assert not found.ranked[0].emittable
    assert found.chosen.emittable
    assert found.notes[0].startswith("everything on the server, input as jpeg would win")
    with pytest.raises(PlanError, match="splitc cannot emit it") as caught:
        plan(models["classifier"], where, strict=True)
    assert caught.value.exit_code == 4
    assert plan(models["classifier"], scenario(), strict=True).chosen.emittable


def test_auto_never_breaks_a_group_but_the_ranking_shows_it(models: dict[str, Model]) -> None:
    """In GROWING the small tensor is inside the group Conv + Add."""
    where = scenario(head=PI, tail=A100, wire=dataclasses.replace(WIFI, uplink_mbit_s=2.0))
    where = dataclasses.replace(where, head=dataclasses.replace(PI, peak_gops={"float32": 0.02}))
    found = plan(models["growing"], where, top=0, input_codec="jpeg:1000000")
    first = next(e for e in found.ranked if e.emittable)
    assert first.cut.tensors == ("c",)
    assert first.breaks_group
    assert first.to_json()["breaks_group"] is True
    assert not found.chosen.breaks_group
    assert found.certificate.optimum == found.chosen.price.latency_s > first.price.latency_s
    named = plan(models["growing"], where, cut="c")
    assert named.chosen == first
    assert any("goes through a group" in note for note in named.notes)
    table = cost.table(models["growing"], where)
    parts = table.head_part_s(["c"]), table.tail_part_s(["g"])
    price = named.chosen.price.addends
    assert price["head_s"] == pytest.approx(parts[0], rel=1e-12)
    assert price["tail_s"] == pytest.approx(parts[1] + table.tail_s["y"], rel=1e-12)


def test_a_plan_is_replayed(models: dict[str, Model], tmp_path: Path) -> None:
    model = models["classifier"]
    first = plan(model, scenario(), cut="r1")
    assert first.head_nodes == ("c1", "r1")
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(first.to_json()))
    again = plan(model, scenario(), cut=f"@{file}")
    assert (again.chosen, again.head_nodes) == (first.chosen, first.head_nodes)
    with pytest.raises(RequestError, match="another model: no node 'c1'"):
        plan(models["two heads"], scenario(), cut=f"@{file}")


def test_a_named_cut_that_costs_more_says_so(models: dict[str, Model]) -> None:
    auto = plan(models["classifier"], scenario())
    assert auto.chosen.cut.kind == "output"
    found = plan(models["classifier"], scenario(), cut="r1")
    assert any("costs more than the best" in note for note in found.notes)
    assert found.certificate == auto.certificate
    assert found.chosen in found.ranked


@pytest.mark.parametrize("top", [1, 2, 3])
def test_top_keeps_the_best_and_the_chosen(models: dict[str, Model], top: int) -> None:
    every = plan(models["classifier"], scenario(), top=0).ranked
    assert plan(models["classifier"], scenario(), top=top).ranked == every[:top]
    worst = next(e for e in reversed(every) if e.emittable)
    cut = ",".join(worst.cut.tensors) or "@output"
    found = plan(models["classifier"], scenario(), top=top, cut=cut)
    assert found.ranked == (*every[: top - 1], worst)
    with pytest.raises(RequestError, match="below 0"):
        plan(models["classifier"], scenario(), top=-1)


def test_refused_nodes_move_to_the_other_side(models: dict[str, Model]) -> None:
    model = models["classifier"]
    assert plan(model, scenario()).chosen.cut.kind == "output"
    found = plan(model, scenario(), top=0, refusals={"head": {"p": "no such kernel"}})
    assert "p" not in found.head_nodes
    assert all("p" not in e.cut.head_nodes for e in found.ranked)
    assert any(
        note == "the head's backend cannot take 1 node: p: no such kernel" for note in found.notes
    )
    found = plan(model, scenario(slow(1e4)), top=0, refusals={"tail": {"c1": "no such kernel"}})
    assert set(found.head_nodes) >= {"c1", "r1"}
    assert all("c1" in e.cut.head_nodes for e in found.ranked)


def test_refusals_that_leave_nothing_exit_4(models: dict[str, Model]) -> None:
    refusals = {"head": {"c1": "no"}, "tail": {"p": "no"}}
    with pytest.raises(PlanError, match="'c1' can run on the tail only") as caught:
        plan(models["classifier"], scenario(), refusals=refusals)
    assert caught.value.exit_code == 4
    with pytest.raises(PlanError, match="the named cut cannot be made") as caught:
        plan(models["classifier"], scenario(), cut="r1", refusals={"head": {"c1": "no"}})
    assert caught.value.where == "head: c1: no"


def need(entry: Entry) -> tuple[int, int]:
    price = entry.price
    return (
        price.head_weight_bytes + price.head_peak_bytes,
        price.tail_weight_bytes + price.tail_peak_bytes,
    )


@pytest.mark.parametrize("objective", ["latency", "energy"])
def test_a_head_that_does_not_fit_is_infeasible(models: dict[str, Model], objective: str) -> None:
    model = models["classifier"]
    free = plan(model, scenario(objective=objective), top=0)
    assert free.chosen.cut.kind == "output"
    small = dataclasses.replace(PI, memory_bytes=need(free.chosen)[0] - 1)
    where = scenario(head=small, objective=objective)
    found = plan(model, where, top=0)
    table = cost.table(model, where)
    fits = [
        objective_of(table, head)
        for head in closed_heads(table.graph)
        if all(head.issuperset(g) or head.isdisjoint(g) for g in table.groups)
        and table.memory.weights(head) + table.memory.peak(head) <= small.memory_bytes
    ]
    assert found.certificate.optimum == pytest.approx(min(fits), rel=1e-9)
    assert "mixed-integer" in found.certificate.method
    assert 0 <= found.certificate.gap <= 1e-8 * found.certificate.optimum
    assert found.chosen.cost(objective) == found.certificate.optimum
    assert all(need(entry)[0] <= small.memory_bytes for entry in found.ranked)
    with pytest.raises(PlanError, match="does not fit the memory") as caught:
        plan(model, where, cut="@output")
    assert f"has {small.memory_bytes:,}" in caught.value.where


def test_no_memory_anywhere_exits_4(models: dict[str, Model]) -> None:
    here, there = (dataclasses.replace(machine, memory_bytes=1000) for machine in (PI, A100))
    with pytest.raises(
        PlanError, match="no cut fits the device's and the server's memory"
    ) as caught:
        plan(models["classifier"], scenario(here, there))
    assert caught.value.exit_code == 4
    assert "the device holds 1,000 bytes" in caught.value.where


def test_a_server_that_is_too_small_for_everything_gets_less(models: dict[str, Model]) -> None:
    """No baseline that the server could not hold competes, whatever form the input has."""
    where = scenario(head=slow(1e4))
    all_there = plan(models["classifier"], where)
    assert all_there.chosen.cut.kind == "input"
    small = dataclasses.replace(A100, memory_bytes=need(all_there.chosen)[1] - 1)
    found = plan(models["classifier"], scenario(head=slow(1e4), tail=small), top=0)
    assert found.chosen.cut.kind == "inner"
    assert all(need(entry)[1] <= small.memory_bytes for entry in found.ranked)
    assert baselines(found) == {}


def test_a_graph_of_constants_has_nothing_to_place(tmp_path: Path) -> None:
    model = loaded(tmp_path, "g (float[2] x) => (float[2] y, float[2] x) { y = Neg(w2) }")
    found = plan(model, scenario())
    assert found.head_nodes == ()
    assert found.chosen.price.latency_s == 0
    assert (found.certificate.optimum, found.certificate.gap) == (0, 0)
    assert len(found.ranked) == 1


def test_what_is_no_tensor_never_crosses(tmp_path: Path) -> None:
    model = loaded(
        tmp_path,
        """g (float[2] x, float[2] z) => (float[4] y) {
          s = SequenceConstruct(x, z)
          y = ConcatFromSequence <axis = 0> (s)
        }""",
    )
    for where in SCENARIOS.values():
        found = plan(model, where, top=0)
        assert {e.cut.tensors for e in found.ranked} == {("x", "z"), ()}
    with pytest.raises(PlanError, match="'s' is no plain tensor"):
        plan(model, scenario(), cut="s")


def test_the_api_plans_a_file(tmp_path: Path) -> None:
    onnx.save(proto(CLASSIFIER), tmp_path / "net.onnx")
    options: dict[str, Any] = {"head": PI, "tail": "nvidia-a100", "link": "wifi", "passes": ""}
    found = splitc.plan(
        tmp_path / "net.onnx", **options, rate="1Gbit/s/2Gbit/s", rtt="1ms", cut="r1"
    )
    addends = found.chosen.price.addends
    packets = 1 + WIFI.packet_overhead_bytes / WIFI.packet_payload_bytes
    assert addends["uplink_s"] == pytest.approx(found.chosen.price.wire_bytes * 8e-9 * packets)
    assert addends["downlink_s"] == pytest.approx(found.chosen.price.return_bytes * 4e-9 * packets)
    assert addends["rtt_s"] == pytest.approx(0.001)
    assert not math.isclose(addends["head_s"], 0.0)
