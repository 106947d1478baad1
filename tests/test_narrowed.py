"""A tensor that is quantized and nothing else crosses as integers, under its float's name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import splitc
from splitc import manifest
from splitc.cuts import cuts, resolve
from splitc.errors import RequestError
from splitc.model import Model
from tests.networks import model

# a: read by one QuantizeLinear alone; b: by a QuantizeLinear and by a float operator
TEXT = """g (float[N, 64] x) => (float[N, 64] y)
<float s = {0.05}, int8 z = {3}> {
    a = Relu(x)  q = QuantizeLinear(a, s, z)  d = DequantizeLinear(q, s, z)
    b = Sin(d)   p = QuantizeLinear(b, s, z)  e = DequantizeLinear(p, s, z)
    y = Add(e, b)
}"""
SCENARIO: dict[str, Any] = {"head": "raspberry-pi-4", "tail": "nvidia-a100", "link": "wifi"}


@pytest.fixture
def net(tmp_path: Path) -> Model:
    return model(TEXT, tmp_path)


def test_only_a_float_that_nobody_else_reads_is_narrowed(net: Model) -> None:
    assert net.graph.narrowed == {"a": "q"}
    assert net.graph.widened == {"q": "a"}, "p crosses under its own name: b may cross too"
    unknown = replace(net, cuttable=net.cuttable - {"p"})
    assert unknown.graph.widened == {"q": "a", "p": "b"}


def test_half_a_float_is_narrow_too(tmp_path: Path) -> None:
    text = """g (float[4] x) => (float[4] y) {
        a = Relu(x)  h = Cast<to = 10>(a)  f = Cast<to = 1>(h)  y = Exp(f) }"""
    loaded = model(text, tmp_path)
    assert loaded.graph.narrowed == {}, "a Cast of the loaded graph has a name that the user knows"
    assert replace(loaded, cuttable=frozenset("a")).graph.narrowed == {"a": "h"}


def test_cut_at_the_float_cuts_behind_its_quantizer(net: Model) -> None:
    cut = resolve(net.graph, "a")
    assert (cut.tensors, cut.head_nodes) == (("q",), frozenset(("a", "q")))
    assert resolve(net.graph, "q") == cut
    assert resolve(net.graph, "b").tensors == ("b",)


def test_the_list_names_the_float_and_the_type_that_crosses(net: Model) -> None:
    rows = {row.tensors: row.to_json() for row in cuts(net).cuts if row.cut.kind == "inner"}
    assert rows[("a",)]["wire_dtype"] == "int8"
    assert rows[("a",)]["bytes"] == 64
    assert "wire_dtype" not in rows[("b",)]
    assert ("q",) not in rows


def test_an_error_speaks_of_the_float(net: Model) -> None:
    with pytest.raises(RequestError, match="cutting at a, d") as raised:
        resolve(net.graph, ["a", "d"])
    assert "q" not in raised.value.where


def test_the_contract_carries_scale_and_zero_point(net: Model, tmp_path: Path) -> None:
    made = splitc.compile(net, output=tmp_path / "out", cut="a", passes="", **SCENARIO)
    assert made.ok
    entry = made.plan.chosen.to_json()
    assert (entry["tensors"], entry["wire_dtype"]) == (["a"], "int8")
    read = manifest.read(tmp_path / "out")
    (tensor,) = read.contract.tensors
    assert (tensor.name, tensor.dtype, tensor.zero_point) == ("q", "int8", 3)
    assert tensor.scale == pytest.approx(0.05)
    assert tensor.max_bytes == 64


def test_a_plan_replays(net: Model, tmp_path: Path) -> None:
    import json

    first = splitc.plan(net, cut="a", passes="", **SCENARIO)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(first.to_json()))
    again = splitc.plan(net, cut=f"@{path}", passes="", **SCENARIO)
    assert again.chosen.cut == first.chosen.cut
