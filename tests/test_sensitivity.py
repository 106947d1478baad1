"""`splitc sensitivity`: what it measures, and the command."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import splitc
from splitc.data import Dataset
from splitc.errors import ModelError, RequestError
from splitc.execute import evaluate
from splitc.quant import places, qdq, ranges
from splitc.quant.numbers import Scheme
from splitc.quant.share import int8_mac_share
from tests.networks import HEADER, model

# `coarse` has one weight of 1000 beside small ones: one scale for all loses the small ones
NET = """g (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y)
    <float[2,2,1,1] fine = {1, -0.5, 0.5, 1}, float[2,2,1,1] coarse = {1000, 0.3, 0.2, 0.1},
     float[2] scale = {0.001, 1}, float[2,1,1] back = {0.001, 1}>
    { a = Conv(x, fine)  b = Tanh(a)  c = Conv(b, coarse)  y = Mul(c, back) }"""


def archive(folder: Path, count: int = 40) -> Path:
    x = np.random.default_rng(0).standard_normal((count, 2, 4, 4)).astype(np.float32)
    np.savez(folder / "calib.npz", x=x)
    return folder / "calib.npz"


def test_the_worst_node_is_first_and_the_figures_are_right(tmp_path: Path) -> None:
    found = model(NET, tmp_path)
    result = splitc.sensitivity(found, data=archive(tmp_path), per_tensor=True)
    assert [cost.id for cost in result.nodes] == ["c", "a"]
    assert [cost.mac_share for cost in result.nodes] == [0.5, 0.5]
    assert not result.drawn
    assert (result.samples, result.source) == (32, "calib.npz")
    known = Dataset(dict(np.load(tmp_path / "calib.npz")))
    table = ranges.ranges(found, known, ["b"])
    changed = qdq.quantized(found, ["c"], table, Scheme(per_channel=False))
    feeds = {"x": ranges.some(known, 32).inputs["x"]}
    want, got = (evaluate(m, feeds)["y"].astype(np.float64) for m in (found, changed))
    ratio = float((want**2).sum() / ((want - got) ** 2).sum())
    assert result.nodes[0].snr_db == pytest.approx(10 * math.log10(ratio), abs=1e-6)
    saved = found.weight_bytes(["coarse"]) - changed.weight_bytes(["coarse_quantized"])
    assert result.nodes[0].bytes_saved < saved, "scales and zero points are stored too"
    assert result.nodes[0].bytes_saved == found.weight_bytes() - changed.weight_bytes()
    per_channel = splitc.sensitivity(found, data=archive(tmp_path))
    assert min(c.snr_db for c in per_channel.nodes) > result.nodes[0].snr_db + 5


def test_sides_of_a_cut_and_no_data(tmp_path: Path) -> None:
    result = splitc.sensitivity(model(NET, tmp_path), cut="b")
    assert result.sides == {"a": "head", "c": "tail"}
    assert result.drawn
    assert any("RANDOM INPUTS, NO DATA" in note for note in result.notes)
    assert {row["side"] for row in result.to_json()["nodes"]} == {"head", "tail"}


def test_errors(tmp_path: Path) -> None:
    found = model(NET, tmp_path)
    with pytest.raises(RequestError, match="method = 'min'"):
        splitc.sensitivity(found, method="min")
    with pytest.raises(RequestError, match="no tensor called 'zebra'"):
        splitc.sensitivity(found, cut="zebra")
    text = """g (float[1, 2] x) => (int64[1] y) <float[2, 2] w = {1, 2, 3, 4}>
        { m = MatMul(x, w)  y = ArgMax<axis = 1, keepdims = 0>(m) }"""
    assert [cost.id for cost in splitc.sensitivity(model(text, tmp_path)).nodes] == ["m"]
    text = "g (float[1, 2] x) => (int64[2] y) { y = Shape(x) }"
    with pytest.raises(ModelError, match="no output is made from floats"):
        splitc.sensitivity(model(text, tmp_path))
    text = "g (float[1, 2] x) => (float[1, 2] y) { y = Relu(x) }"
    assert splitc.sensitivity(model(text, tmp_path)).nodes == ()


def test_the_command(tmp_path: Path) -> None:
    source = tmp_path / "net.onnx"
    onnx.save(onnx.parser.parse_model(HEADER + NET), source)
    command = [sys.executable, "-m", "splitc", "sensitivity", str(source), "--cut", "b"]
    command += ["--data", str(archive(tmp_path)), "--progress", "plain"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert [set(row) for row in printed["nodes"]] == [
        {"id", "op", "snr_db", "mac_share", "bytes_saved", "side"}
    ] * 2
    assert "sensitivity: 0 of 2" in done.stderr
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "SNR dB" in shown.stdout
    assert "50.0%" in shown.stdout


@pytest.mark.shared
def test_kws(shared: Path, tmp_path: Path) -> None:
    """Every node with products of a real network is there, and together they make its MACs."""
    path = shared / "models" / "kws_dscnn_mlperf.onnx"
    loaded = splitc.load(path)
    name = loaded.inputs[0].name
    clips = np.load(shared / "data" / "kws_mfcc_2445.npz")["x"].astype(np.float32)[:64, None]
    np.savez(tmp_path / "clips.npz", **{name: clips})
    result = splitc.sensitivity(path, data=tmp_path / "clips.npz")
    assert {cost.id for cost in result.nodes} == {*places.candidates(loaded)}
    assert sum(cost.mac_share for cost in result.nodes) == pytest.approx(1, abs=1e-9)
    assert all(15 < cost.snr_db < 80 for cost in result.nodes)
    assert int8_mac_share(loaded) == 0


def test_the_worst_output_counts(tmp_path: Path) -> None:
    """`coarse` is lost at `y`; at `z` beside it nothing changes."""
    text = NET.replace("=> (float[N, 2, 4, 4] y)", "=> (float[N, 2, 4, 4] y, float[N, 2, 4, 4] z)")
    text = text.replace("y = Mul(c, back)", "y = Mul(c, back)  z = Neg(b)")
    data = archive(tmp_path)
    both = splitc.sensitivity(model(text, tmp_path), data=data, per_tensor=True)
    one = splitc.sensitivity(model(NET, tmp_path), data=data, per_tensor=True)
    assert both.nodes[0].id == one.nodes[0].id == "c"
    assert both.nodes[0].snr_db == pytest.approx(one.nodes[0].snr_db, abs=1e-9)
