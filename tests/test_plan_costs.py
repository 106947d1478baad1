"""Planning from somebody else's prices: names, numbers, the formula, and the light reader."""

import itertools
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx.parser
import pytest

import splitc
from splitc.cuts import listed, resolve
from splitc.errors import RequestError
from splitc.graph import Graph
from splitc.plan.reader import read
from tests.unpriced import CHAIN, NAMES

RATE = "20Mbit/s/50Mbit/s"
UP, DOWN = 20e6, 50e6
ADDENDS = ["head_s", "encode_s", "uplink_s", "rtt_s", "decode_s", "tail_s", "downlink_s"]
KEYS = {"kind", "tensors", "emittable", "wire_bytes", "return_bytes", "latency_s", "energy_j"}
KEYS |= {"head_weight_bytes", "head_peak_bytes", "tail_weight_bytes", "tail_peak_bytes", "addends"}

CHAIN_COSTS: dict[str, dict[str, Any]] = {
    "head_s": {"a": 0.1, "b": 5.0, "y": 5.0},
    "tail_s": {"a": 1.0, "b": 0.5, "y": 0.25},
    "bytes": {"x": 4_000_000, "a": 100_000, "b": 1_000_000, "y": 250_000},
}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def with_prices(graph: Graph, rng: random.Random) -> dict[str, dict[str, float]]:
    """Random prices with exactly the names that the format asks for."""
    ids = [node.id for node in graph.nodes]
    used = {t for node in graph.nodes for t in node.inputs} | set(graph.outputs) | set(graph.inputs)
    return {
        "head_s": {v: rng.uniform(0, 1) for v in ids},
        "tail_s": {v: rng.uniform(0, rng.choice([0.1, 1])) for v in ids},
        "bytes": {t: rng.randint(0, 3_000_000) for t in graph.tensors if t in used},
    }


def test_the_formula_of_the_issue(tmp_path: Path) -> None:
    path = written(tmp_path, CHAIN)
    found = splitc.plan(path, costs=CHAIN_COSTS, rate=RATE, rtt="5ms").to_json()
    assert found["chosen"]["head_nodes"] == ["a"]
    assert found["chosen"]["tensors"] == ["a"]
    assert found["chosen"]["kind"] == "inner"
    want = 0.1 + 0.75 + 8 / UP * 100_000 + 8 / DOWN * 250_000 + 0.005
    assert found["chosen"]["latency_s"] == pytest.approx(want, rel=1e-12)
    assert found["chosen"]["wire_bytes"] == 100_000
    assert found["chosen"]["return_bytes"] == 250_000
    assert found["certificate"]["optimum"] == found["chosen"]["latency_s"]
    assert 0 <= found["certificate"]["gap"] <= 1e-12
    by_kind = {entry["kind"]: entry for entry in found["ranked"]}
    everything_here = by_kind["output"]
    assert everything_here["tensors"] == []
    assert everything_here["wire_bytes"] == everything_here["return_bytes"] == 0
    assert everything_here["latency_s"] == pytest.approx(10.1)
    assert everything_here["addends"]["rtt_s"] == 0
    assert by_kind["input"]["tensors"] == ["x"]
    assert by_kind["input"]["latency_s"] == pytest.approx(1.75 + 1.6 + 0.04 + 0.005)


def test_every_entry_has_the_keys_of_the_format(tmp_path: Path) -> None:
    found = splitc.plan(written(tmp_path, CHAIN), costs=CHAIN_COSTS, rate="1Mbit/s").to_json()
    assert set(found) == {"objective", "chosen", "ranked", "certificate"}
    assert set(found["certificate"]) == {"method", "optimum", "bound", "gap"}
    assert len(found["ranked"]) == 4
    assert set(found["chosen"]) - {"codec"} == KEYS | {"head_nodes"}
    for entry in found["ranked"]:
        assert set(entry) - {"codec"} == KEYS
        assert list(entry["addends"]) == ADDENDS
        assert entry["energy_j"] == {}
        assert entry["emittable"]
        assert math.isclose(sum(entry["addends"].values()), entry["latency_s"], rel_tol=1e-12)
    assert [e["latency_s"] for e in found["ranked"]] == sorted(
        e["latency_s"] for e in found["ranked"]
    )
    one = next(e for e in found["ranked"] if e["tensors"] == ["a"])
    assert (one["head_weight_bytes"], one["tail_weight_bytes"]) == (8, 8)
    assert (one["head_peak_bytes"], one["tail_peak_bytes"]) == (4_100_000, 1_250_000)


def test_one_rate_is_for_both_directions(tmp_path: Path) -> None:
    path = written(tmp_path, CHAIN)
    one, two = (
        splitc.plan(path, costs=CHAIN_COSTS, rate=rate, cut="@input").chosen.price.addends
        for rate in ("8Mbit/s", "8Mbit/s/8Mbit/s")
    )
    assert one == two
    assert (one["uplink_s"], one["downlink_s"], one["rtt_s"]) == (4.0, 0.25, 0.0)


def head_costs(graph: Graph, costs: Any, rtt: float) -> Iterator[tuple[frozenset[str], float]]:
    """Every legal head with its latency, by the words of the format."""
    ids = [node.id for node in graph.nodes]
    for bits in itertools.product([False, True], repeat=len(ids)):
        head = {v for v, kept in zip(ids, bits, strict=True) if kept}
        inside = {t for v in head for t in graph.by_id[v].outputs} | set(graph.inputs)
        if not all(t in inside for v in head for t in graph.by_id[v].inputs):
            continue
        tail = [graph.by_id[v] for v in ids if v not in head]
        made = {t for node in tail for t in node.outputs}
        sent = {t for node in tail for t in node.inputs} - made
        yield (
            frozenset(head),
            sum(costs["head_s"][v] for v in head)
            + sum(costs["tail_s"][node.id] for node in tail)
            + 8 / UP * sum(costs["bytes"][t] for t in sent)
            + 8 / DOWN * sum(costs["bytes"][t] for t in set(graph.outputs) & made)
            + (rtt if tail else 0.0),
        )


def random_model(rng: random.Random, size: int) -> onnx.ModelProto:
    """Operators that nobody knows, with several outputs, some of them unread or unnamed."""
    inputs = [f"in{i}" for i in range(rng.randint(1, 3))]
    tensors, nodes = list(inputs), []
    for at in range(size):
        names = tensors[-5:]
        made = [f"t{at}.{i}" for i in range(rng.choice([1, 1, 2, 3]))]
        if len(made) > 1 and rng.random() < 0.3:
            made[0] = ""
        if rng.random() < 0.06:
            nodes.append(onnx.helper.make_node("RandomNormal", [], made[-1:], shape=[2]))
            tensors += made[-1:]
            continue
        read = [
            *rng.sample(names, min(len(names), rng.randint(1, 3))),
            *rng.choice([[], ["w"], [""]]),
        ]
        nodes.append(onnx.helper.make_node("Op", read, made, domain="acme"))
        tensors += [name for name in made if name]
    ends = dict.fromkeys([*rng.sample(tensors, min(2, len(tensors))), tensors[-1]])
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info(n, 1, None) for n in inputs],
        [onnx.helper.make_tensor_value_info(n, 1, None) for n in ends],
        [onnx.helper.make_tensor("w", 1, [2], [1.0, 2.0])],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("acme", 1)])


@pytest.mark.parametrize("seed", range(120))
def test_equals_brute_force_and_ranks_what_cuts_lists(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    onnx.save(random_model(rng, rng.randint(1, 9)), tmp_path / "m.onnx")
    graph = read(tmp_path / "m.onnx").graph
    costs = with_prices(graph, rng)
    (tmp_path / "c.json").write_text(json.dumps(costs))
    plan = splitc.plan(tmp_path / "m.onnx", costs=tmp_path / "c.json", rate=RATE, rtt="0.1s", top=0)
    every = dict(head_costs(graph, costs, 0.1))
    assert plan.chosen.price.latency_s == pytest.approx(min(every.values()), rel=1e-12)
    assert plan.certificate.optimum == plan.chosen.price.latency_s
    assert plan.certificate.bound <= min(every.values()) * (1 + 1e-15)
    assert plan.certificate.gap <= 1e-12
    for entry in plan.ranked:
        assert entry.price.latency_s == pytest.approx(every[entry.cut.head_nodes], rel=1e-12)
        assert entry.price.wire_bytes == sum(costs["bytes"][t] for t in entry.cut.tensors)
        if entry is not plan.chosen:
            named = ",".join(entry.cut.tensors) or "@output"
            named = "@input" if entry.cut.kind == "input" else named
            assert resolve(graph, named).head_nodes == entry.cut.head_nodes
    heads = {entry.cut.head_nodes for entry in plan.ranked}
    assert heads == {cut.head_nodes for cut in listed(graph)} | {plan.chosen.cut.head_nodes}
    assert len(heads) == len(plan.ranked)
    few = splitc.plan(tmp_path / "m.onnx", costs=costs, rate=RATE, rtt="0.1s", top=2)
    assert few.ranked == plan.ranked[:2]


@pytest.mark.parametrize("seed", range(12))
def test_the_ranking_is_the_head_of_the_whole_ranking(seed: int, tmp_path: Path) -> None:
    """A chain whose nodes end in graph outputs here and there, which are dear to bring back."""
    rng = random.Random(seed)
    ends = ["t39", *(f"t{at}" for at in range(39) if rng.random() < 0.4)]
    nodes = [
        onnx.helper.make_node("Neg", [f"t{at - 1}" if at else "x"], [f"t{at}"]) for at in range(40)
    ]
    given, made = (
        [onnx.helper.make_tensor_value_info(t, 1, [1]) for t in names] for names in (["x"], ends)
    )
    graph = onnx.helper.make_graph(nodes, "g", given, made)
    onnx.save(onnx.helper.make_model(graph), tmp_path / "m.onnx")
    costs = with_prices(read(tmp_path / "m.onnx").graph, rng)
    whole = splitc.plan(tmp_path / "m.onnx", costs=costs, rate="20Mbit/s/1Mbit/s", top=0)
    assert len(whole.ranked) == 41
    few = splitc.plan(tmp_path / "m.onnx", costs=costs, rate="20Mbit/s/1Mbit/s", top=7)
    assert few.ranked == whole.ranked[:7]


NAMES_COSTS: dict[str, dict[str, Any]] = {
    "head_s": {"a": 1, "y": 2, "mask": 3},
    "tail_s": {"a": 0.5, "y": 0.25, "mask": 0.125},
    "bytes": {"x": 16, "idle": 16, "c": 1, "a": 16, "y": 16, "mask": 16},
}


def test_which_names_are_listed(tmp_path: Path) -> None:
    """Constants are in no table; `a` is captured by both branches; `unread` never travels."""
    path = written(tmp_path, NAMES)
    plan = splitc.plan(path, costs=NAMES_COSTS, rate="1Mbit/s", cut="a,c")
    assert plan.head_nodes == ("a",)
    assert plan.chosen.price.wire_bytes == 17
    assert plan.chosen.price.return_bytes == 32
    assert splitc.plan(
        path, costs=NAMES_COSTS, rate="1Mbit/s", cut="@input"
    ).chosen.cut.tensors == (
        "x",
        "c",
    )


FAULTS: dict[str, tuple[str, str, Any, str]] = {
    "missing node": ("head_s", "y", None, "head_s misses: y"),
    "missing on the server": ("tail_s", "mask", None, "tail_s misses: mask"),
    "missing input that nobody reads": ("bytes", "idle", None, "bytes misses: idle"),
    "missing captured tensor": ("bytes", "a", None, "bytes misses: a"),
    "missing output": ("bytes", "mask", None, "bytes misses: mask"),
    "unknown node": ("head_s", "nobody", 1.0, "head_s has the unknown: nobody"),
    "unknown tensor": ("bytes", "nobody", 1, "bytes has the unknown: nobody"),
    "a constant node": ("head_s", "k", 1.0, "head_s has the unknown: k"),
    "a constant output": ("bytes", "fixed", 1, "bytes has the unknown: fixed"),
    "an initializer": ("bytes", "w", 16, "bytes has the unknown: w"),
    "a node of a body": ("head_s", "s", 1.0, "head_s has the unknown: s"),
    "nan": ("head_s", "a", math.nan, "head_s: a: nan"),
    "infinite": ("tail_s", "a", math.inf, "tail_s: a: inf"),
    "negative": ("bytes", "a", -1, "bytes: a: -1"),
    "a bool": ("head_s", "a", True, "head_s: a: True"),
    "text": ("tail_s", "a", "1", "tail_s: a: '1'"),
    "null": ("tail_s", "a", [], r"tail_s: a: \[\]"),
    "too large for a float": ("bytes", "a", 10**400, "bytes: a: 1000"),
}


@pytest.mark.parametrize(("table", "name", "value", "says"), FAULTS.values(), ids=FAULTS)
def test_faults_are_listed_by_name(
    tmp_path: Path, table: str, name: str, value: Any, says: str
) -> None:
    costs = {key: dict(entries) for key, entries in NAMES_COSTS.items()}
    if value is None:
        del costs[table][name]
    else:
        costs[table][name] = value
    with pytest.raises(RequestError, match=says) as caught:
        splitc.plan(written(tmp_path, NAMES), costs=costs, rate="1Mbit/s")
    assert caught.value.exit_code == 1


def test_every_missing_and_unknown_name_is_listed(tmp_path: Path) -> None:
    costs = {"head_s": {"zz": 1.0}, "tail_s": NAMES_COSTS["tail_s"], "bytes": {"x": 1, "qq": 1}}
    with pytest.raises(RequestError) as caught:
        splitc.plan(written(tmp_path, NAMES), costs=costs, rate="1Mbit/s")
    assert caught.value.where.splitlines() == [
        "head_s misses: a, y, mask",
        "head_s has the unknown: zz",
        "bytes misses: idle, c, a, y, mask",
        "bytes has the unknown: qq",
    ]


FORMS: dict[str, Any] = {
    "no table": {"head_s": {}, "tail_s": {}},
    "another table": {**NAMES_COSTS, "joules": {}},
    "a list": {**NAMES_COSTS, "bytes": ["x"]},
}


@pytest.mark.parametrize("costs", FORMS.values(), ids=FORMS)
def test_another_form_is_refused(tmp_path: Path, costs: Any) -> None:
    with pytest.raises(RequestError, match="another form"):
        splitc.plan(written(tmp_path, NAMES), costs=costs, rate="1Mbit/s")


@pytest.mark.parametrize(
    "text", ["{", "[]", "", "\x00", "[" * 99_999, f'{{"bytes": {"9" * 5000}}}']
)
def test_a_file_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(RequestError, match="costs"):
        splitc.plan(written(tmp_path, NAMES), costs=tmp_path / "c.json", rate="1Mbit/s")


def test_profiles_and_prices_exclude_each_other(tmp_path: Path) -> None:
    path = written(tmp_path, CHAIN)
    with pytest.raises(RequestError, match="--costs plans without --link, --objective"):
        splitc.plan(path, costs=CHAIN_COSTS, rate=RATE, link="wifi", objective="energy")
    with pytest.raises(RequestError, match="needs the rate"):
        splitc.plan(path, costs=CHAIN_COSTS)


def test_random_draws_may_be_left_out(tmp_path: Path) -> None:
    """They are no constants, but depend on no graph input."""
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[2] x) => (float[2] y) {
      r = RandomNormal<shape = [2]>()
      s = Neg(r)
      y = Add(x, s)
    }"""
    path = written(tmp_path, text)
    short = {"head_s": {"y": 1.0}, "tail_s": {"y": 3.0}, "bytes": {"x": 8, "y": 8}}
    full = {
        "head_s": {"r": 1.0, "s": 1.0, "y": 1.0},
        "tail_s": {"r": 0.0, "s": 0.0, "y": 0.0},
        "bytes": {"x": 8, "r": 8, "s": 8, "y": 8},
    }
    assert splitc.plan(path, costs=short, rate=RATE).chosen.price.latency_s == 1.0
    assert splitc.plan(path, costs=full, rate="1Gbit/s").chosen.cut.kind == "input"


def test_a_graph_of_constants_has_nothing_to_price(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[2] x) => (float[2] y, float[2] x) <float[2] w = {1.0, 2.0}> { y = Neg(w) }"""
    costs: dict[str, Any] = {"head_s": {}, "tail_s": {}, "bytes": {"x": 8}}
    found = splitc.plan(written(tmp_path, text), costs=costs, rate=RATE, rtt="1s")
    assert (found.chosen.price.latency_s, found.head_nodes, len(found.ranked)) == (0.0, (), 1)


def test_fractions_of_bytes_stay_what_they_are(tmp_path: Path) -> None:
    costs = {**CHAIN_COSTS, "bytes": {**CHAIN_COSTS["bytes"], "a": 0.5}}
    found = splitc.plan(written(tmp_path, CHAIN), costs=costs, rate=RATE).to_json()["chosen"]
    assert found["wire_bytes"] == 0.5
    assert isinstance(found["return_bytes"], int)


def test_a_named_cut_and_its_replay(tmp_path: Path) -> None:
    path = written(tmp_path, CHAIN)
    plan = splitc.plan(path, costs=CHAIN_COSTS, rate=RATE, cut="b", top=1)
    assert plan.head_nodes == ("a", "b")
    assert plan.ranked == (plan.chosen,)
    assert plan.notes == ("the named cut costs more than the best: a",)
    assert plan.certificate.optimum < plan.chosen.price.latency_s
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(plan.to_json()))
    again = splitc.plan(path, costs=CHAIN_COSTS, rate=RATE, cut=f"@{file}")
    assert again.chosen == plan.chosen
    assert [
        e.cut.tensors for e in splitc.plan(path, costs=CHAIN_COSTS, rate=RATE, top=2).ranked
    ] == [
        ("a",),
        ("x",),
    ]


def test_a_loaded_model_gives_the_same_plan(tmp_path: Path) -> None:
    text = NAMES.replace("acme.Two(x, k)", "Split<axis = 0>(x, n)").replace(', "acme" : 1', "")
    text = text.replace("<float[4] w", "<int64[2] n = {2, 2}, float[4] w").replace(
        "float[4] mask", "float[2] mask"
    )
    text = text.replace("Add(a, w)", "Identity(a)").replace("Sub(a, k)", "Neg(a)")
    text = text.replace("(float[4] p)", "(float[2] p)").replace("(float[4] q)", "(float[2] q)")
    path = written(tmp_path, text.replace("float[4] y", "float[2] y"))
    by_path = splitc.plan(path, costs=NAMES_COSTS, rate=RATE)
    by_model = splitc.plan(splitc.load(path), costs=NAMES_COSTS, rate=RATE)
    assert by_model == by_path
