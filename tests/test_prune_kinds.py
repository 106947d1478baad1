"""prune: heads, inner widths, blocks, single weights, one side of a cut; what groups are."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch", reason="needs splitc[torch]")
pytest.importorskip("torch_pruning", reason="needs splitc[torch]")

from torch import nn  # noqa: E402

import splitc  # noqa: E402
from splitc import pipeline  # noqa: E402
from splitc.comparison import relative_error  # noqa: E402
from splitc.cuts import Cut, resolve  # noqa: E402
from splitc.data import Dataset  # noqa: E402
from splitc.errors import PassError  # noqa: E402
from splitc.execute import evaluate  # noqa: E402
from splitc.fx import lift  # noqa: E402
from splitc.model import Model  # noqa: E402
from splitc.passes.prune import Prune  # noqa: E402
from splitc.pruning.blocks import blocks  # noqa: E402
from splitc.pruning.calibration import calibration  # noqa: E402
from splitc.pruning.groups import groups  # noqa: E402
from splitc.pruning.heads import with_heads  # noqa: E402
from splitc.pruning.repair import refit, repair  # noqa: E402
from splitc.scope import Boundary  # noqa: E402
from splitc.split import split  # noqa: E402
from splitc.train import Recipe  # noqa: E402
from tests import networks  # noqa: E402
from tests.test_prune import one_thread, share, weights  # noqa: E402, F401

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread")]
EXACT = 1e-5


@pytest.fixture(scope="module")
def resnet(shared: Path) -> Model:
    return splitc.load(shared / "models" / "cifar10_resnet8_mlperf.onnx")


def linears(model: Model) -> dict[str, tuple[int, ...]]:
    """Return matrices of the transformer's blocks -> their sizes."""
    table = model.ir.graph.initializers
    held = {n: v.const_value for n, v in table.items() if n.startswith("onnx::MatMul")}
    return {n: t.numpy().shape for n, t in held.items() if t is not None}


def test_heads(sentences: tuple[Model, Dataset]) -> None:
    model, data = sentences
    made = Prune(ratio=0.2, kind="heads", data=data).run(model)
    assert share(made, model) == pytest.approx(0.2, abs=0.03)
    before, after = linears(model), linears(made)
    assert before.keys() == after.keys()
    lost = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    assert lost
    for (rows, columns), (left, kept) in lost.values():
        assert (rows - left) % 24 == 0
        assert (columns - kept) % 72 == 0
        assert (rows == left) != (columns == kept)
    assert {4, *heads_of(made)} > {4}


def heads_of(model: Model) -> set[int]:
    """Return the sizes of the axis of heads."""
    scores = [n for n in model.ir.graph if n.op_type == "Softmax"]
    return {model.facts[str(n.outputs[0].name)].shape[1] for n in scores}


def test_a_head_that_nobody_reads_goes_without_a_trace(sentences: tuple[Model, Dataset]) -> None:
    model, data = sentences
    copy = model.clone()
    for name, (rows, columns) in linears(model).items():
        if (rows, columns) == (96, 96):
            table = copy.ir.graph.initializers[name]
            assert table.const_value is not None
            array = table.const_value.numpy().copy()
            array[24:48] = 0
            table.const_value = ir.tensor(array, name=name)
    made = Prune(ratio=0.0961, kind="heads", repair=False, data=data).run(copy)
    assert heads_of(made) == {3}
    feeds = next(data.feeds(model))
    want, got = evaluate(copy, feeds)["logits"], evaluate(made, feeds)["logits"]
    assert relative_error(got, want) <= EXACT


def test_inner_widths(sentences: tuple[Model, Dataset]) -> None:
    model, data = sentences
    made = Prune(ratio=0.25, kind="mlp", data=data.take(slice(8))).run(model)
    assert share(made, model) == pytest.approx(0.25, abs=0.01)
    before, after = linears(model), linears(made)
    assert all(384 in before[name] for name in before if before[name] != after[name])
    assert list(made.nodes) == list(model.nodes)


def test_blocks(sentences: tuple[Model, Dataset]) -> None:
    model, data = sentences
    found = blocks(model, frozenset(model.graph.by_id))
    assert len(found) == 8
    made = Prune(ratio=0.3, kind="blocks", data=data).run(model)
    gone = set(model.graph.by_id) - set(made.graph.by_id)
    assert share(made, model) == pytest.approx(0.3, abs=0.1)
    assert any(block.nodes <= gone for block in found)
    assert (made.inputs, made.outputs) == (model.inputs, model.outputs)


def test_a_block_leaves_its_shortcut(tmp_path: Path) -> None:
    text = """net (float[N,2,2,2] x) => (float[N,2,2,2] z)
        <float[2,2,1,1] w = {0, 0, 0, 0}, float[2,2,1,1] v = {1, 2, 3, 4}>
        { c = Conv(x, w) f = Relu(c) y = Add(f, x) r = Relu(y)
          d = Conv(r, v) s = Add(r, d) z = Tanh(s) }"""
    after = """net (float[N,2,2,2] x) => (float[N,2,2,2] z) <float[2,2,1,1] v = {1, 2, 3, 4}>
        { r = Relu(x) d = Conv(r, v) s = Add(r, d) z = Tanh(s) }"""
    made = Prune(ratio=0.5, kind="blocks").run(networks.model(text, tmp_path))
    assert made.text(full=True) == networks.model(after, tmp_path).text(full=True)


def test_no_blocks_no_heads(kws: tuple[Model, Dataset]) -> None:
    for kind, message in (("blocks", "residual blocks"), ("heads", "no heads"), ("mlp", "no mlp")):
        with pytest.raises(PassError, match=message):
            Prune(ratio=0.3, kind=kind).run(kws[0])


def test_blocks_are_ranked_by_what_they_add(resnet: Model) -> None:
    with pytest.raises(PassError, match="what they add"):
        Prune(ratio=0.3, kind="blocks", importance="magnitude").run(resnet)
    first = blocks(resnet, frozenset(resnet.graph.by_id))
    assert [block.total for block in first] == ["t5_add"]
    for importance in ("energy", "taylor"):
        made = Prune(ratio=0.35, kind="blocks", importance=importance).run(resnet)
        assert set(resnet.nodes) - set(made.nodes) == {"t2_conv", "t3_relu", "t4_conv", "t5_add"}


@pytest.mark.parametrize("importance", ["energy", "magnitude", "taylor"])
@pytest.mark.parametrize("globally", [True, False])
def test_single_weights(
    importance: str,
    globally: bool,
    kws: tuple[Model, Dataset],
) -> None:
    model, data = kws
    step = Prune(
        ratio=0.6, kind="weights", importance=importance, globally=globally, data=data.take([0, 1])
    )
    made = step.run(model)
    shares = zeros(made)
    total = sum(size for size, _ in shares.values())
    assert sum(gone for _, gone in shares.values()) / total == pytest.approx(0.6, abs=0.01)
    each = [gone / size for size, gone in shares.values()]
    assert (max(each) - min(each) < 0.03) is (not globally)
    assert share(made, model) == 0
    assert any("neither time nor memory" in note for note in made.notes)


def zeros(model: Model) -> dict[str, tuple[int, int]]:
    """Return matrices -> (elements, zeros among them)."""
    held = {n: v.const_value for n, v in model.ir.graph.initializers.items()}
    arrays = {n: t.numpy() for n, t in held.items() if t is not None and len(t.shape) > 1}
    return {n: (a.size, int((a == 0).sum())) for n, a in arrays.items()}


def test_two_of_four(kws: tuple[Model, Dataset]) -> None:
    model, data = kws
    recipe = Recipe(optimizer="adam", learning_rate=1e-3, epochs=1, batch=32)
    made = Prune(ratio=0.5, kind="2:4", data=data.take(slice(64)), recipe=recipe).run(model)
    halves = 0
    for name, value in made.ir.graph.initializers.items():
        tensor, old = value.const_value, model.ir.graph.initializers[name].const_value
        if tensor is None or old is None or len(tensor.shape) != 4:
            continue
        array = tensor.numpy()
        if array.shape[1] % 4:
            continue
        fours = np.moveaxis(array, 1, -1).reshape(-1, 4)
        assert ((fours != 0).sum(1) == 2).all()
        assert not np.array_equal(array, np.where(array, old.numpy(), 0)), "it was trained"
        halves += 1
    assert halves >= 4


@pytest.mark.parametrize("scope", ["head", "tail"])
def test_one_side_leaves_the_other_as_it_is(scope: str, resnet: Model) -> None:
    cut = resolve(resnet.graph, "t6_relu")
    before = sides(resnet, cut)
    step = Prune(ratio=0.4, scope=scope, boundary=Boundary(("t6_relu",)))
    made = pipeline.run([step], resnet, pin=["t6_relu"])
    after = sides(made, resolve(made.graph, "t6_relu"))
    other = {"head": "tail", "tail": "head"}[scope]
    assert after[other].fingerprint() == before[other].fingerprint()
    assert share(after[scope], before[scope]) == pytest.approx(0.4, abs=0.02)
    assert made.facts["t6_relu"] == resnet.facts["t6_relu"]


def sides(model: Model, cut: Cut) -> dict[str, Model]:
    """Return both halves, as a bundle would hold them."""
    made = split(model, cut)
    assert made.head is not None
    assert made.tail is not None
    return {"head": made.head, "tail": made.tail}


def test_a_side_needs_a_cut(resnet: Model) -> None:
    with pytest.raises(PassError, match="needs a cut"):
        Prune(ratio=0.4, scope="head").run(resnet)


GROUPS = {
    "a convolution in groups of two stays": (
        """net (float[N,2,2,2] x) => (float[N,1,2,2] y)
        <float[4,2,1,1] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[4,2,1,1] g = {1, 2, 3, 4, 5, 6, 7, 8},
         float[1,4,1,1] v = {1, 2, 3, 4}>
        { c = Conv(x, w) e = Conv<group = 2>(c, g) y = Conv(e, v) }""",
        [],
    ),
    "an output stays": (
        """net (float[N,2,2,2] x) => (float[N,4,2,2] c, float[N,1,2,2] y)
        <float[4,2,1,1] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[1,4,1,1] v = {1, 2, 3, 4}>
        { c = Conv(x, w) y = Conv(c, v) }""",
        [],
    ),
    "what is added to an input stays": (
        """net (float[N,2,2,2] x) => (float[N,1,2,2] y)
        <float[2,2,1,1] w = {1, 2, 3, 4}, float[1,2,1,1] v = {1, 2}>
        { c = Conv(x, w) s = Add(c, x) y = Conv(s, v) }""",
        [],
    ),
    "a weight that two nodes read stays": (
        """net (float[N,2,2,2] x) => (float[N,2,2,2] y)
        <float[2,2,1,1] w = {1, 2, 3, 4}>
        { c = Conv(x, w) r = Relu(c) y = Conv(r, w) }""",
        [],
    ),
    "what a Softmax over channels reads stays": (
        """net (float[N,2,2,2] x) => (float[N,1,2,2] y)
        <float[4,2,1,1] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[1,4,1,1] v = {1, 2, 3, 4}>
        { c = Conv(x, w) s = Softmax<axis = 1>(c) y = Conv(s, v) }""",
        [],
    ),
    "both that are joined, each alone": (
        """net (float[N,2,2,2] x) => (float[N,1,2,2] y)
        <float[2,2,1,1] w = {1, 2, 3, 4}, float[3,2,1,1] u = {1, 2, 3, 4, 5, 6},
         float[1,5,1,1] v = {1, 2, 3, 4, 5}>
        { a = Conv(x, w) b = Conv(x, u) j = Concat<axis = 1>(a, b) y = Conv(j, v) }""",
        [("w", 2), ("u", 3)],
    ),
    "with a bias that is added later": (
        """net (float[N,2,2,2] x) => (float[N,1,2,2] y)
        <float[3,2,1,1] w = {1, 2, 3, 4, 5, 6}, float[3,1,1] b = {1, 2, 3},
         float[1,3,1,1] v = {1, 2, 3}>
        { c = Conv(x, w) s = Add(c, b) r = Relu(s) y = Conv(r, v) }""",
        [("w", 3)],
    ),
}


@pytest.mark.parametrize(("text", "expected"), GROUPS.values(), ids=GROUPS)
def test_groups(text: str, expected: list[tuple[str, int]], tmp_path: Path) -> None:
    module = lift(networks.model(text, tmp_path))
    x = torch.randn(2, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    found = groups(module, (x,))
    assert [(group.name, group.width) for group in found] == expected


def test_joined_channels_go_from_the_right_places(tmp_path: Path) -> None:
    text, _ = GROUPS["both that are joined, each alone"]
    model = networks.model(text.replace("v = {1, 2, 3, 4, 5}", "v = {0, 2, 3, 0, 5}"), tmp_path)
    made = Prune(ratio=0.4).run(model)
    assert weights(made)["v"] == [[[[2]], [[3]], [[5]]]]
    assert weights(made)["u"] == [[[[1]], [[2]]], [[[5]], [[6]]]]
    x = {"x": np.random.default_rng(0).standard_normal((2, 2, 2, 2)).astype(np.float32)}
    assert relative_error(evaluate(made, x)["y"], evaluate(model, x)["y"]) <= EXACT


def test_a_layer_is_refitted_to_what_it_computed() -> None:
    random = torch.Generator().manual_seed(0)
    for layer, shape in (
        (nn.Linear(6, 3), (200, 6)),
        (nn.Conv2d(4, 3, 3, 2, 1), (20, 4, 9, 8)),
        (nn.Conv1d(4, 3, 3, dilation=2), (30, 4, 12)),
    ):
        x = torch.randn(*shape, generator=random)
        with torch.no_grad():
            wanted = layer(x)
            layer.weight.mul_(0.5)
            layer.get_parameter("bias").add_(1.0)
            refit(layer, [x[:7], x[7:]], [wanted[:7], wanted[7:]], ridge=1e-9)
            assert float((layer(x) - wanted).abs().max()) <= 1e-3


def test_a_copied_channel_is_taken_over_in_full(tmp_path: Path) -> None:
    text = """net (float[N,2,2,2] x) => (float[N,1,2,2] y)
        <float[4,2,1,1] w = {1, 2, 2, -1, 1, 2, 2, -1}, float[1,4,1,1] v = {1, 1.5, 3, 4}>
        { c = Conv(x, w) r = Relu(c) y = Conv(r, v) }"""
    model = networks.model(text, tmp_path)
    x = np.random.default_rng(0).standard_normal((64, 2, 2, 2)).astype(np.float32)
    made = Prune(ratio=0.5, data=Dataset({"x": x})).run(model)
    feeds = {"x": x[:8]}
    plain = Prune(ratio=0.5, data=Dataset({"x": x}), repair=False).run(model)
    want = evaluate(model, feeds)["y"]
    assert relative_error(evaluate(made, feeds)["y"], want) <= 0.01
    assert relative_error(evaluate(plain, feeds)["y"], want) > 0.1


def test_a_shortcut_takes_errors_back(resnet: Model) -> None:
    module = lift(resnet)
    samples = calibration(resnet, module, None)
    worse = lift(resnet)
    with torch.no_grad():
        worse.get_parameter("w16.weight").mul_(1.1)
    repair(worse, module, samples.batches, {"w18"}, {})
    with torch.no_grad():
        (batch,) = samples.batches[0]
        want, got = module(batch), worse(batch)
        plain = lift(resnet)
        plain.get_parameter("w16.weight").mul_(1.1)
        assert float((got - want).norm()) < 0.07 * float((plain(batch) - want).norm())


def test_sizes_of_heads_are_written_down(tmp_path: Path) -> None:
    text = """net (float[N,3,8] x) => (float[N,3,4,2] y)
        <int64[1] three = {3}, int64[1] four = {4}, int64[1] rest = {-1}, int64[1] at = {0}>
        { s = Shape(x) n = Gather(s, at) t = Concat<axis = 0>(n, three, four, rest)
          y = Reshape<allowzero = 1>(x, t) }"""
    before = networks.model(text, tmp_path)
    after = with_heads(before)
    assert weights(after) == {"y_sizes": [0, 3, 4, 2]}
    assert "allowzero" not in after.nodes["y"].attributes
    x = {"x": np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32)}
    assert np.array_equal(evaluate(after, x)["y"], evaluate(before, x)["y"])


def test_layers_behind_a_missing_block_take_over(shared: Path) -> None:
    model = splitc.load(shared / "models" / "cifar10_resnet20_jpegft.onnx")
    x = np.random.default_rng(0).standard_normal((48, 3, 32, 32)).astype(np.float32)
    data = Dataset({model.graph.inputs[0]: x})
    plain = Prune(ratio=0.2, kind="blocks", repair=False, data=data).run(model)
    refitted = Prune(ratio=0.2, kind="blocks", data=data).run(model)
    assert list(plain.nodes) == list(refitted.nodes)
    feeds = {model.graph.inputs[0]: x}
    want, bad, better = (
        evaluate(one, feeds)[model.graph.outputs[0]] for one in (model, plain, refitted)
    )
    assert np.linalg.norm(better - want) < 0.5 * np.linalg.norm(bad - want)


def test_norms_stay_where_layers_are_refitted(tmp_path: Path) -> None:
    text = """net (float[N,4,3,3] x) => (float[N,1,3,3] y)
        <float[4,4,1,1] w = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1},
         float[4,4,1,1] u = {1, 2, 0, 0, 0, 1, 2, 0, 0, 0, 1, 2, 2, 0, 0, 1},
         float[4] g = {1, 2, 3, 4}, float[4] z = {0, 0, 0, 0}, float[4] one = {1, 1, 1, 1},
         float[1,4,1,1] v = {1, 0.1, 1, 1}>
        { c = Conv(x, w) r = Relu(c) d = Conv(r, u) n = BatchNormalization(d, g, z, z, one)
          s = Add(c, n) y = Conv(s, v) }"""
    model = networks.model(text, tmp_path)
    x = np.random.default_rng(0).standard_normal((16, 4, 3, 3)).astype(np.float32)
    made = Prune(ratio=0.4, data=Dataset({"x": x})).run(model)
    assert made.facts["n"].shape[1] < 4
    assert len(weights(made)["g"]) == made.facts["n"].shape[1]
