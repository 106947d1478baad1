"""`share-weights`: 16 bits and codebooks, widened in the graph."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from scipy.cluster.vq import kmeans2

import splitc
from splitc import pipeline
from splitc.errors import PassError
from splitc.execute import evaluate
from splitc.feeds import draw_inputs
from splitc.model import Model
from splitc.passes.share_weights import ShareWeights
from splitc.quant.codebook import codebook
from splitc.scope import Boundary
from tests.networks import HEADER

NET = (
    """g (float[N, 32] x) => (float[N, 32] y) { a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, v) }"""
)
CASES: dict[str, tuple[ShareWeights, list[str]]] = {
    "float16": (
        ShareWeights(),
        ["w = Cast(w_float16)", "v = Cast(v_float16)"],
    ),
    "bfloat16": (
        ShareWeights(format="bfloat16"),
        ["w = Cast(w_bfloat16)", "v = Cast(v_bfloat16)"],
    ),
    "codebook": (
        ShareWeights(clusters=256),
        [
            "w_index = Cast(w_places)",
            "w = Gather(w_codebook, w_index)",
            "v_index = Cast(v_places)",
            "v = Gather(v_codebook, v_index)",
        ],
    ),
}


def network(folder: Path, text: str = NET, **weights: Any) -> Model:
    rng = np.random.default_rng(0)
    made = onnx.parser.parse_model(HEADER + text)
    drawn = {n: rng.standard_normal((32, 32)).astype(np.float32) for n in ("w", "v")}
    for name, array in {**drawn, **weights}.items():
        made.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(made, folder / "net.onnx")
    return splitc.load(folder / "net.onnx")


def lines(found: Model) -> list[str]:
    read = {node: [str(v.name) for v in node.inputs if v] for node in found.ir.graph}
    return [f"{n.outputs[0].name} = {n.op_type}({', '.join(read[n])})" for n in read]


@pytest.mark.parametrize(("step", "added"), CASES.values(), ids=CASES)
def test_before_and_after(step: ShareWeights, added: list[str], tmp_path: Path) -> None:
    before = network(tmp_path)
    after = step.run(before)
    rest = ["a = MatMul(x, w)", "b = Relu(a)", "y = MatMul(b, v)"]
    assert sorted(lines(after)) == sorted([*added, *rest])
    assert lines(after)[-3:] == rest
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    assert after.weight_bytes() < before.weight_bytes() * (0.55 if step.clusters else 0.51)
    feeds = draw_inputs(before, 1)
    want, got = evaluate(before, feeds)["y"], evaluate(after, feeds)["y"]
    assert 0 < np.abs(got - want).max() < 0.02 * np.abs(want).max()
    assert step.run(after).fingerprint() == after.fingerprint()
    after.save(tmp_path / "small.onnx")
    assert splitc.load(tmp_path / "small.onnx").weight_bytes() == after.weight_bytes()
    assert f"{before.weight_bytes():,} → {after.weight_bytes():,} bytes" in after.notes[-1]


def test_the_reported_error_is_the_error(tmp_path: Path) -> None:
    before = network(tmp_path)
    after = ShareWeights(clusters=16).run(before)
    feeds = draw_inputs(before, 1)
    made = evaluate(after, feeds, ["w", "v"])
    old = {n: before.ir.graph.initializers[n].const_value.numpy() for n in "wv"}  # type: ignore[union-attr]
    noise = sum(np.sum((old[n] - made[n]) ** 2) for n in "wv")
    error = np.sqrt(noise / sum(np.sum(old[n] ** 2) for n in "wv"))
    assert f"error {error:.1e}" in after.notes[-1]
    assert len(np.unique(made["w"])) == 16


def test_what_must_not_be_shared(tmp_path: Path) -> None:
    """Weights beyond float16 (named), small ones, those that are not all of one side, outputs."""
    big = np.full((32, 32), 7e4, np.float32)
    after = ShareWeights().run(network(tmp_path, w=big))
    assert "w" in after.ir.graph.initializers
    assert "left as they were: w" in after.notes[-1]
    assert "v_float16" in after.ir.graph.initializers
    after = ShareWeights(format="bfloat16").run(network(tmp_path, w=big))
    assert "w_bfloat16" in after.ir.graph.initializers, "bfloat16 holds it"
    both = NET.replace("v)", "w)")
    step = ShareWeights(scope="head", boundary=Boundary(("b",)))
    assert "w" in step.run(network(tmp_path, both)).ir.graph.initializers
    found = step.run(network(tmp_path)).ir.graph.initializers
    assert {"w_float16", "v"} <= found.keys()
    assert not {"w", "v_float16"} & found.keys()


def test_in_a_body(tmp_path: Path) -> None:
    text = """g (float[1, 32] x, bool t) => (float[1, 32] y) {
        y = If(t) <then_branch = p () => (float[1, 32] m) { m = MatMul(x, w) },
                   else_branch = q () => (float[1, 32] n) { n = MatMul(x, v) }> }"""
    before = network(tmp_path, text)
    after = ShareWeights().run(before)
    for choice in (True, False):
        feeds = {**draw_inputs(before, 1), "t": np.array(choice)}
        want, got = evaluate(before, feeds)["y"], evaluate(after, feeds)["y"]
        np.testing.assert_allclose(got, want, atol=0.02)


def test_options() -> None:
    (step,) = pipeline.parse('share-weights{clusters = 64, scope = "tail"}')
    assert step == ShareWeights(clusters=64, scope="tail")
    for text, why in (("bits = 4", "bits = 4"), ("clusters = 300", "between 2 and 256")):
        with pytest.raises(PassError, match=why):
            pipeline.parse(f"share-weights{{{text}}}")
    with pytest.raises(PassError, match="did you mean 'float16'"):
        pipeline.parse('share-weights{format = "float"}')


def test_few_values_stay_exact() -> None:
    values = np.array([[3, -1], [0.5, 3]], np.float32)
    table, places = codebook(values, 16)
    np.testing.assert_array_equal(table[places], values)


SAMPLES = {
    "normal": np.random.default_rng(0).standard_normal(5000),
    "heavy tails": np.random.default_rng(0).standard_t(1.5, 5000),
    "repeated": np.repeat(np.random.default_rng(0).standard_normal(200), 25),
    "one far away": np.append(np.random.default_rng(0).standard_normal(5000) * 1e-3, 50.0),
}


@pytest.mark.parametrize("values", SAMPLES.values(), ids=SAMPLES)
@pytest.mark.parametrize("size", [16, 128])
def test_no_worse_than_another_k_means(values: Any, size: int) -> None:
    """scipy's, from its best start (k-means++), run until nothing moves."""
    table, places = codebook(values.astype(np.float32), size)
    assert len(table) <= size
    ours = float(np.sum((values - table[places]) ** 2))
    centres, near = kmeans2(values[:, None], size, iter=30, minit="++", seed=0, missing="warn")
    theirs = float(np.sum((values - centres[near, 0]) ** 2))
    assert ours <= 1.2 * theirs + 1e-9


@pytest.mark.shared
def test_mobilenet(shared: Path) -> None:
    before = splitc.load(shared / "models" / "imagenet_mobilenet_v1_0.25_224_fp32.onnx")
    after = ShareWeights(clusters=256).run(before)
    assert after.weight_bytes() < 0.3 * before.weight_bytes()
    feeds = draw_inputs(before, 2)
    want, got = evaluate(before, feeds)["logits"], evaluate(after, feeds)["logits"]
    assert np.sum((got - want) ** 2) < 0.1 * np.sum(want**2)


def test_each_value_of_the_table_is_the_mean_of_what_is_nearest_to_it() -> None:
    values = np.random.default_rng(0).standard_normal(3000).astype(np.float32)
    table, places = codebook(values, 8)
    means = [values[places == at].mean() for at in range(8)]
    np.testing.assert_allclose(table, means, atol=2e-3)
    nearest = np.abs(values[:, None] - table[None]).argmin(axis=1)
    assert np.array_equal(places, nearest)
