"""Prices by hand: roofline, wire, energy, memory, and the sums over a cut."""

import dataclasses
import itertools
import random

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from splitc import cost, scenario
from splitc.cost.memory import Memory
from splitc.cost.roofline import works
from splitc.cost.table import CostTable
from splitc.cost.wire import seconds_per_byte
from splitc.graph import Graph
from splitc.model import Model
from splitc.scenario import Device, Link, Scenario
from splitc.wire.frame import fixed_bytes, record_bytes

DEVICE = dataclasses.replace(
    scenario.device("raspberry-pi-4"),
    memory_bandwidth_gb_s=1.0,
    peak_gops={"float32": 10.0, "int8": 40.0},
    efficiency={"conv": 0.5, "gemm": 0.25, "elementwise": 0.1, "pool": 0.1, "other": 0.01},
    overhead_us=7.0,
    active_w=4.0,
    idle_w=1.0,
)
SERVER = dataclasses.replace(
    DEVICE, peak_gops={"float32": 100.0}, memory_bandwidth_gb_s=20.0, overhead_us=1.0, active_w=50.0
)
LINK = dataclasses.replace(
    scenario.link("wifi"),
    uplink_mbit_s=8.0,
    downlink_mbit_s=80.0,
    rtt_ms=2.0,
    packet_overhead_bytes=0,
    loss=0.0,
    alpha_mw_per_mbit_s=100.0,
    beta_mw=200.0,
)
NET = """(float[1,8,10,10] x) => (float[1,12] y)
  <float[8,8,3,3] w, float[200,12] v> {
    c = Conv<pads=[1,1,1,1]>(x, w)
    r = Relu(c)
    p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
    f = Flatten(p)
    y = MatMul(f, v) }"""


def parse(graph: str) -> Model:
    text = f'<ir_version: 8, opset_import: ["" : 18]> test {graph}'
    proto = onnx.parser.parse_model(text)
    for info in proto.graph.value_info:
        kind = info.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        zeros = np.zeros([d.dim_value for d in kind.shape.dim], dtype)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(zeros, info.name))
    del proto.graph.value_info[:]
    model = Model(ir.from_proto(proto))
    return dataclasses.replace(model, cuttable=frozenset(model.values))


def table(graph: str = NET, head: Device = DEVICE, link: Link = LINK) -> CostTable:
    return cost.table(parse(graph), Scenario(head=head, tail=SERVER, link=link))


def test_roofline_by_hand() -> None:
    """Conv+Relu is bound by its operations, MatMul by its bytes, Flatten by its dispatch."""
    made = table()
    assert made.groups == (("c", "r"), ("p",), ("f",), ("y",))
    conv = 2 * 800 * 72 / (10e9 * 0.5) + 7e-6
    moved = 4 * (800 + 8 * 8 * 9 + 800) / 1e9
    assert conv - 7e-6 > moved
    assert made.head_s["c"] + made.head_s["r"] == pytest.approx(conv, rel=1e-12)
    assert made.head_s["f"] == pytest.approx(7e-6, rel=1e-12)
    weights = 4 * (200 + 2400 + 12) / 1e9
    assert weights > 2 * 2400 / (10e9 * 0.25)
    assert made.head_s["y"] == pytest.approx(weights + 7e-6, rel=1e-12)
    assert made.tail_s["y"] == pytest.approx(weights / 20 + 1e-6, rel=1e-12)


def test_a_part_of_a_group_is_priced_alone() -> None:
    made = table()
    relu = max(800 / (10e9 * 0.1), 4 * 1600 / 1e9) + 7e-6
    assert made.head_part_s(["r"]) == pytest.approx(relu, rel=1e-12)
    broken = cost.price(made, {"c"})
    assert broken.addends["head_s"] == pytest.approx(made.head_part_s(["c"]), rel=1e-12)
    rest = made.tail_part_s(["r"]) + sum(made.tail_s[n] for n in ("p", "f", "y"))
    assert broken.addends["tail_s"] == pytest.approx(rest, rel=1e-12)


def test_half_and_eight_bit_have_their_own_peaks() -> None:
    graph = """(int8[1,64] x) => (int8[1,64] y) <int8[64,64] w, float s, int8 z> {
        u = DequantizeLinear(w, s, z)
        d = DequantizeLinear(x, s, z)
        m = MatMul(d, u)
        y = QuantizeLinear(m, s, z) }"""
    work = works(parse(graph))["m"]
    assert (work.family, work.dtype) == ("gemm/int8", "int8")
    assert set(work.reads) == {"d", "w"}
    half = "(float16[1,64] x) => (float16[1,64] y) <float16[64,64] w> { y = MatMul(x, w) }"
    assert works(parse(half))["y"].dtype == "float16"


VARIANTS = {
    "conv/1x1": "(float[1,8,9,9] x) => (float[1,8,9,9] y) <float[8,8,1,1] w> { y = Conv(x, w) }",
    "gemm/vector": "(float[1,64] x) => (float[1,64] y) <float[64,64] w> { y = MatMul(x, w) }",
    "gemm": "(float[2,64] x) => (float[2,64] y) <float[64,64] w> { y = MatMul(x, w) }",
    "gemm/stream": "(float[1,9999] x) => (float[1,300] y) <float[9999,300] w> { y = MatMul(x, w) }",
    "layout/view": "(float[2,64] x) => (float[1,128] y) { y = Flatten<axis=0>(x) }",
}


@pytest.mark.parametrize(("family", "graph"), VARIANTS.items())
def test_families_have_variants_that_fall_back(family: str, graph: str) -> None:
    assert works(parse(graph))["y"].family == family
    rows = {"other": (1.0, 1.0, 1.0), family.partition("/")[0]: (2e-9, 0.0, 3e-6)}
    made = table(graph, head=dataclasses.replace(DEVICE, predictor=rows))
    ops = 0 if family == "layout/view" else sum(w.ops for w in works(made.model).values())
    assert made.head_s["y"] == pytest.approx(2e-9 * ops + 3e-6)


def test_a_gather_reads_what_it_takes_not_its_table() -> None:
    graph = """(int64[4] x) => (float[4,16] y) <float[30000,16] w> { y = Gather(w, x) }"""
    fast = dataclasses.replace(DEVICE, overhead_us=0.0, efficiency={"other": 1.0})
    assert table(graph, head=fast).head_s["y"] == pytest.approx(4 * 64 / 1e9, rel=0.2)


def test_an_unknown_operator_is_flagged_and_never_free() -> None:
    graph = """(float[1,4,8,8] x, float[1,2,2,2] g) => (float[1,4,2,2] y) {
        y = GridSample(x, g) }"""
    made = table(graph)
    assert made.flagged == ("y",)
    assert made.head_s["y"] >= 4 * (256 + 8 + 16) / 1e9
    predictor = {"other": (1e-9, 1e-9, 1e-6), "conv": (1e-12, 1e-12, 1e-9)}
    fitted = table(graph, head=dataclasses.replace(DEVICE, predictor=predictor))
    assert fitted.head_s["y"] > 1e-6
    assert table().flagged == ()


def test_every_node_of_every_shipped_device_costs_something() -> None:
    for device in scenario.devices():
        made = table(head=device)
        assert all(seconds > 0 for seconds in made.head_s.values())


def test_estimates_say_what_they_are_and_how_far_off() -> None:
    assert table().estimates["head"] == "analytic roofline, right within a factor 3"
    fitted = dataclasses.replace(DEVICE, predictor={"other": (0.0, 0.0, 1e-6)}, error_band=1.4)
    made = table(head=fitted)
    assert made.estimates["head"] == "predictor fitted on this device, right within a factor 1.4"
    assert made.estimates["tail"].startswith("analytic roofline")


def test_a_call_is_paid_once_on_the_side_that_runs() -> None:
    rows = {"other": (0.0, 0.0, 1e-6), "call": (0.0, 0.0, 1e-3)}
    fitted = dataclasses.replace(DEVICE, predictor=rows)
    made = cost.table(parse(NET), Scenario(head=fitted, tail=fitted, link=LINK))
    groups = {(): (0, 4), ("c", "r"): (1, 3), ("c", "r", "p", "f", "y"): (4, 0)}
    for head, (here, there) in groups.items():
        addends = cost.price(made, set(head)).addends
        assert addends["head_s"] == pytest.approx(1e-6 * here + 1e-3 * (here > 0))
        assert addends["tail_s"] == pytest.approx(1e-6 * there + 1e-3 * (there > 0))
    assert cost.price(made, {"c"}).addends["head_s"] == pytest.approx(1e-3 + 1e-6)


def test_the_wire_by_hand() -> None:
    made = table()
    price = cost.price(made, {"c", "r", "p"})
    up = fixed_bytes() + record_bytes(4) + 800
    down = fixed_bytes() + record_bytes(2) + 48
    assert (price.wire_bytes, price.return_bytes) == (up, down)
    assert price.addends["uplink_s"] == pytest.approx(up * 1e-6)
    assert price.addends["downlink_s"] == pytest.approx(down * 1e-7)
    assert price.addends["rtt_s"] == 2e-3
    assert price.addends["encode_s"] == pytest.approx(800 / 0.5e9)
    assert price.addends["decode_s"] == pytest.approx(800 / 10e9)
    assert price.latency_s == pytest.approx(sum(price.addends.values()))


def test_a_group_without_any_price_is_shared_out_too() -> None:
    free = dataclasses.replace(DEVICE, predictor={"other": (0.0, 0.0, 0.0)})
    assert set(table(head=free).head_s.values()) == {0.0}


def test_an_empty_tail_pays_for_the_head_alone() -> None:
    price = cost.price(table(), {"c", "r", "p", "f", "y"})
    assert (price.wire_bytes, price.return_bytes) == (0, 0)
    assert price.latency_s == price.addends["head_s"] > 0
    assert price.tail_weight_bytes == price.tail_peak_bytes == 0


AIR = {
    "plain": ({}, 1.0),
    "half of the packets are lost": ({"loss": 0.5}, 2.0),
    "a hundredth of the time": ({"duty_cycle": 0.01}, 100.0),
    "headers": ({"packet_payload_bytes": 100, "packet_overhead_bytes": 25}, 1.25),
    "all": (
        {"loss": 0.2, "duty_cycle": 0.5, "packet_payload_bytes": 50, "packet_overhead_bytes": 50},
        5.0,
    ),
}


@pytest.mark.parametrize(("change", "factor"), AIR.values(), ids=AIR)
def test_losses_pauses_and_headers_multiply_air_time(
    change: dict[str, float], factor: float
) -> None:
    link = dataclasses.replace(LINK, **change)  # type: ignore[arg-type]
    assert seconds_per_byte(link, 8.0) == pytest.approx(1e-6 * factor)
    plain, priced = table(), table(link=link)
    names = {"c", "r"}
    ratio = (
        cost.price(priced, names).addends["uplink_s"] / cost.price(plain, names).addends["uplink_s"]
    )
    assert ratio == pytest.approx(factor)


def test_energy_by_hand() -> None:
    made = table()
    price = cost.price(made, {"c", "r"})
    a = price.addends
    joules = price.energy_j
    assert joules["compute"] == pytest.approx(4.0 * (a["head_s"] + a["encode_s"]))
    assert joules["radio"] == pytest.approx(1.0 * a["uplink_s"] + 0.2 * a["downlink_s"])
    waiting = a["rtt_s"] + a["decode_s"] + a["tail_s"] + a["downlink_s"]
    assert joules["idle"] == pytest.approx(1.0 * waiting)
    assert joules["device"] == pytest.approx(joules["compute"] + joules["radio"] + joules["idle"])
    assert joules["server"] == pytest.approx(50.0 * (a["tail_s"] + a["decode_s"]))


def branching(rng: random.Random, size: int) -> Model:
    """A network of 4-byte-element tensors of odd sizes, with fan-out and several outputs."""
    sizes = {"x": rng.randint(1, 9)}
    lines = []
    for at in range(size):
        name = f"t{at}"
        read = rng.sample(list(sizes), rng.randint(1, min(3, len(sizes))))
        sizes[name] = sum(sizes[r] for r in read)
        if sizes[name] > 60:
            read = [min(sizes, key=lambda r: sizes[r])]
            sizes[name] = sizes[read[0]]
        lines.append(f"{name} = Concat<axis=0>({', '.join(read)})")
    ends = rng.sample([f"t{at}" for at in range(size)], min(size, 2))
    if f"t{size - 1}" not in ends:
        ends.append(f"t{size - 1}")
    outputs = ", ".join(f"float[{sizes[name]}] {name}" for name in ends)
    body = "\n".join(lines)
    return parse(f"(float[{sizes['x']}] x) => ({outputs}) {{ {body} }}")


def plain_peak(graph: Graph, sizes: dict[str, int], nodes: set[str]) -> int:
    """Count at every moment what somebody still needs, one tensor at a time."""
    order = [n for n in graph.nodes if n.id in nodes]
    here = {t for n in order for t in n.outputs}
    entering = {t for n in order for t in n.inputs} - here
    worst = sum(sizes[t] for t in entering)
    for place, node in enumerate(order):
        made = {t for n in order[: place + 1] for t in n.outputs}
        later = {t for n in order[place:] for t in n.inputs}
        leaves = {t for t in made if t in graph.outputs or set(graph.readers[t]) - nodes}
        held = (made & later) | leaves | set(node.outputs) | (entering & later)
        worst = max(worst, sum(sizes[t] for t in held))
    return worst


@pytest.mark.parametrize("seed", range(12))
def test_memory_peak_against_brute_force(seed: int) -> None:
    model = branching(random.Random(seed), 7)
    graph, memory = model.graph, Memory(model)
    sizes = {t: model.facts[t].nbytes for t in graph.tensors}
    ids = [node.id for node in graph.nodes]
    for bits in itertools.product((False, True), repeat=len(ids)):
        side = {name for name, kept in zip(ids, bits, strict=True) if kept}
        assert memory.peak(side) == plain_peak(graph, sizes, side)


def test_a_quantised_weight_counts_as_it_is_stored() -> None:
    text = """<ir_version: 10, opset_import: ["": 21]> g (float[1,4] x) => (float[1,4] y)
        <int8[4,4] w = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}, float s = {0.5}, int8 z = {0}>
        { f = DequantizeLinear(w, s, z)  y = MatMul(x, f) }"""
    model = Model(ir.from_proto(onnx.parser.parse_model(text)))
    assert Memory(model).weights({"y"}) == 16 + 4 + 1


def test_weights_are_held_once_and_through_constants() -> None:
    graph = """(float[4,8] x) => (float[4,8] y) <float[8,8] w, float[8,8] v> {
        k = Neg(w)
        a = MatMul(x, w)
        b = MatMul(a, w)
        y = MatMul(b, k) }"""
    memory = Memory(parse(graph))
    assert memory.weights({"a"}) == memory.weights({"a", "b"}) == 256
    assert memory.weights({"y"}) == memory.weights({"a", "y"}) == 512
    assert memory.weights(set()) == 0


@pytest.mark.parametrize("seed", range(6))
def test_the_price_of_a_cut_against_plain_sums(seed: int) -> None:
    rng = random.Random(seed)
    model = branching(rng, 9)
    made = cost.table(model, Scenario(head=DEVICE, tail=SERVER, link=LINK))
    graph = model.graph
    for end in range(len(graph.nodes) + 1):
        head = {node.id for node in graph.nodes[:end]}
        tail = [node for node in graph.nodes if node.id not in head]
        price = cost.price(made, head)
        assert price.addends["head_s"] == pytest.approx(sum(made.head_s[n] for n in head))
        assert price.addends["tail_s"] == pytest.approx(sum(made.tail_s[n.id] for n in tail))
        crossing = graph.boundary(head) if tail else ()
        frame = fixed_bytes() if tail else 0
        sent = [model.facts[t].nbytes + record_bytes(1) for t in crossing]
        assert price.wire_bytes == frame + sum(sent)
        answers = [o for o in graph.outputs if graph.producer[o] not in head]
        sent = [model.facts[o].nbytes + record_bytes(1) for o in answers]
        assert price.return_bytes == frame + sum(sent)
