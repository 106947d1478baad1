"""Writing a lifted module back: weights, statistics, widths, and what depends on widths."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import splitc
from splitc import pipeline
from splitc.comparison import relative_error
from splitc.errors import ModelError
from splitc.execute import evaluate
from splitc.feeds import draw_inputs
from splitc.model import Model
from tests.test_fx import shortcut, weighted

torch = pytest.importorskip("torch")

from torch import fx, nn  # noqa: E402

from splitc.fx import lift, write_back  # noqa: E402
from splitc.fx.layouts import Gates, Permuted, Vector  # noqa: E402

NET = """g (float[N,3,8,8] x) => (float[N,5] y) {
    a = Conv<pads=[1,1,1,1]>(x, c1)
    n = BatchNormalization(a, scale, shift, mean, var)
    r = Relu(n)
    d = Conv<pads=[1,1,1,1], group=6>(r, c2)
    s, t = Split<axis=1>(d, parts)
    e = Concat<axis=1>(t, s)
    p = GlobalAveragePool(e)
    f = Reshape(p, flat)
    g = MatMul(f, w)
    y = Add(g, b) }"""


def net(folder: Path) -> Model:
    return weighted(
        NET,
        folder,
        c1=(6, 3, 3, 3),
        scale=(6,),
        shift=(6,),
        mean=(6,),
        var=np.ones(6, np.float32),
        c2=(6, 1, 3, 3),
        parts=np.array([2, 4]),
        flat=np.array([-1, 6]),
        w=(6, 5),
        b=(5,),
    )


def arrays(model: Model) -> dict[str, Any]:
    table = model.ir.graph.initializers
    return {name: v.const_value.numpy() for name, v in table.items() if v.const_value is not None}


def layer(module: fx.GraphModule, weight: str) -> Any:
    """Return the layer whose weight is this initializer."""
    slots = module.meta["parameters"]
    path = next(p for p, slot in slots.items() if slot.initializer == weight)
    return module.get_submodule(path.rpartition(".")[0])


def keep(module: fx.GraphModule, weight: str, axis: int, places: list[int]) -> None:
    """Keep only these places along an axis of torch's weight, and of the bias for axis 0."""
    part = layer(module, weight)
    with torch.no_grad():
        part.weight = nn.Parameter(part.weight.index_select(axis, torch.tensor(places)))
        if axis == 0 and part.bias is not None:
            part.bias = nn.Parameter(part.bias[places])


def test_an_untouched_module_gives_the_same_model(tmp_path: Path) -> None:
    model = net(tmp_path)
    assert write_back(model, lift(model)).fingerprint() == model.fingerprint()


def test_trained_weights_and_statistics_go_into_their_initializers(tmp_path: Path) -> None:
    model = net(tmp_path)
    module = lift(model)
    before = model.fingerprint()
    for p in layer(module, "c2").parameters():
        p.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 0.1)
    module.train()
    module(torch.randn(4, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    written = write_back(model, module)
    assert module.training, "the caller's module is left as it was"
    assert model.fingerprint() == before, "the caller's model too"
    old, new = arrays(model), arrays(written)
    changed = {name for name in old if not np.array_equal(old[name], new[name])}
    assert changed == {*old} - {"c2", "parts", "flat"}
    kept = written.ir.graph.initializers["c2"].const_value
    assert kept is model.ir.graph.initializers["c2"].const_value
    module.eval()
    feeds = draw_inputs(model, 5)
    want = module(torch.from_numpy(feeds["x"])).detach().numpy()
    assert relative_error(evaluate(written, feeds)["y"], want) <= 1e-5


def test_widths_and_what_depends_on_them_shrink(tmp_path: Path) -> None:
    model = net(tmp_path)
    module = lift(model)
    left = [0, 1, 3, 4]
    norm = layer(module, "scale")
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = getattr(norm, name).detach()[left]
        setattr(norm, name, nn.Parameter(value) if name in ("weight", "bias") else value)
    norm.num_features = 4
    keep(module, "c1", 0, left)
    keep(module, "c2", 0, left)
    layer(module, "c2").groups = 4
    keep(module, "w", 1, [0, 1, 2, 3])
    parts = next(n for n in module.graph.nodes if n.target is torch.split)
    parts.args = (parts.args[0], [1, 3], 1)
    module.recompile()
    written = write_back(model, module)
    new = arrays(written)
    assert written.nodes["d"].attributes.get_int("group") == 4
    assert new["s_sizes"].tolist() == [1, 3]
    assert new["f_sizes"].tolist() == [-1, 4]
    assert "parts" not in new
    assert "flat" not in new
    assert (new["c1"].shape, new["w"].shape, new["var"].shape) == ((4, 3, 3, 3), (4, 5), (4,))
    assert written.facts["d"].shape == (1, 4, 8, 8)
    assert written.inputs == model.inputs
    assert written.outputs == model.outputs


def test_a_graph_that_does_not_follow_is_found(tmp_path: Path) -> None:
    model = net(tmp_path)
    module = lift(model)
    relu = next(n for n in module.graph.nodes if n.meta.get("tensor") == "r")
    relu.target = nn.functional.elu
    module.recompile()
    with pytest.raises(ModelError, match="output 'y' is off by") as caught:
        write_back(model, module)
    assert "the first tensor that differs is 'r', made by Relu" in caught.value.where


def test_shared_weights_stay_shared_and_equal(tmp_path: Path) -> None:
    model = weighted(
        "g (float[N,4] x) => (float[N,4] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, w) }",
        tmp_path,
        w=(4, 4),
    )
    module = lift(model)
    one, two = (m for m in module.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        one.weight.mul_(2)
    assert np.array_equal(arrays(write_back(model, module))["w"], 2 * arrays(model)["w"])
    two.weight = nn.Parameter(two.weight.detach() + 1)
    with pytest.raises(ModelError, match="initializer 'w' is shared, and its copies differ"):
        write_back(model, module)


def test_modules_that_do_not_belong_are_refused(tmp_path: Path) -> None:
    model = net(tmp_path)
    module = lift(model)
    (tmp_path / "other").mkdir()
    other = weighted(
        "g (float[N,4] x) => (float[N,4] y) { y = MatMul(x, v) }", tmp_path / "other", v=(4, 4)
    )
    with pytest.raises(ModelError, match="holds a weight 'c1' that the model lacks"):
        write_back(other, module)
    with pytest.raises(ModelError, match="was not lifted"):
        write_back(model, fx.symbolic_trace(nn.Linear(3, 3)))
    replaced = copy.deepcopy(module)
    target = next(n.target for n in replaced.graph.nodes if n.meta.get("onnx") == "y")
    replaced.set_submodule(target, nn.Sequential(nn.Linear(6, 2), nn.Linear(2, 5)))
    with pytest.raises(ModelError, match="no longer has") as caught:
        write_back(model, replaced)
    assert "splice" in caught.value.hint


@pytest.mark.parametrize("simplified", [False, True], ids=["as exported", "simplified"])
def test_heads_leave_a_transformer(shared: Path, simplified: bool) -> None:
    """Two of four heads: Reshape's constants, computed sizes, and biases follow."""
    model = splitc.load(shared / "models" / "sst2_tiny_transformer.onnx")
    if simplified:
        model = pipeline.get("simplify")().run(model)
    module = lift(model)
    for part in module.modules():
        if isinstance(part, nn.Linear) and part.out_features == 288:
            rows = part.weight.detach().reshape(3, 4, 24, 96)[:, [0, 2]]
            part.weight = nn.Parameter(rows.reshape(144, 96))
            part.bias = nn.Parameter(part.bias.detach().reshape(3, 4, 24)[:, [0, 2]].reshape(-1))
        elif isinstance(part, nn.Linear) and part.in_features == part.out_features == 96:
            columns = part.weight.detach().reshape(96, 4, 24)[:, [0, 2]]
            part.weight = nn.Parameter(columns.reshape(96, 48))
    written = write_back(model, module)
    gone = 4 * (144 * 97 + 96 * 48) * 4
    assert gone - 600 <= model.weight_bytes() - written.weight_bytes() <= gone
    assert lift(written).meta["comparison"].worst_error <= 1e-5


def test_torch_pruning_shrinks_a_residual_network(shared: Path) -> None:
    pruning = pytest.importorskip("torch_pruning")
    from splitc.macs import macs

    model = splitc.load(shared / "models" / "cifar10_resnet20_jpegft.onnx")
    module = lift(model)
    last = [m for m in module.modules() if isinstance(m, nn.Linear)]
    pruner = pruning.pruner.MagnitudePruner(
        module,
        (torch.randn(2, 3, 32, 32),),
        importance=pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=0.3,
        ignored_layers=last,
    )
    pruner.step()
    written = write_back(model, module)
    assert written.weight_bytes() < 0.55 * model.weight_bytes()
    assert sum(macs(written).values()) < 0.6 * sum(macs(model).values())
    assert written.nodes["layer2_0_pad"].op_type == "Conv"


def test_a_shortcut_is_written_as_what_it_is(tmp_path: Path) -> None:
    model = shortcut("Relu(p)", tmp_path)
    module = lift(model)
    assert write_back(model, module).fingerprint() == model.fingerprint()
    path = next(iter(module.meta["selections"]))
    conv: Any = module.get_submodule(path)
    moved = torch.roll(conv.weight.detach(), 1, 0)
    conv.weight = nn.Parameter(moved, requires_grad=False)
    assert arrays(write_back(model, module))["p_pads"].tolist() == [0, 3, 0, 0, 0, 1, 0, 0]
    conv.weight = nn.Parameter(moved.flip(0), requires_grad=False)
    written = write_back(model, module)
    assert [node.op_type for node in written.ir.graph] == ["Conv", "Relu"]
    assert [node.id for node in written.graph.nodes] == ["p", "y"]


LAYOUTS = [
    (Permuted(), (3, 4)),
    (Permuted((1, 0)), (3, 4)),
    (Permuted((2, 0, 1)), (2, 3, 4)),
    (Vector(4, 1), (1, 5, 1, 1)),
    (Gates((0, 2, 3, 1), 2), (2, 12, 5)),
    (Gates((1, 0, 2), 1, halves=2), (1, 18)),
]


@pytest.mark.parametrize(("layout", "shape"), LAYOUTS, ids=str)
def test_a_layout_there_and_back_is_the_same(layout: Any, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    assert np.array_equal(layout.join(layout.parts(array)), array)


def test_a_recurrent_layer_is_written_back(tmp_path: Path) -> None:
    model = weighted(
        """g (float[5,2,4] x) => (float[5,2,2,3] y)
        { y, h, c = LSTM<direction = "bidirectional", hidden_size = 3>(x, w, r, b) }""",
        tmp_path,
        w=(2, 12, 4),
        r=(2, 12, 3),
        b=(2, 24),
    )
    module = lift(model)
    with torch.no_grad():
        for index, p in enumerate(module.parameters()):
            p.add_(0.1 * index)
    written = write_back(model, module)
    assert all(
        not np.array_equal(a, b)
        for a, b in zip(arrays(model).values(), arrays(written).values(), strict=True)
    )


def test_a_weight_that_nodes_compute_becomes_an_initializer(tmp_path: Path) -> None:
    model = weighted(
        """g (float[N,4] x) => (float[N,3] y)
        { w = ConstantOfShape<value = float[1] {0.5}>(s)
          v = Constant<value_floats = [1.0, 2.0, 3.0]>()
          a = MatMul(x, w) y = Add(a, v) }""",
        tmp_path,
        s=np.array([4, 3]),
    )
    module = lift(model)
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(2)
    written = write_back(model, module)
    assert {name: a.max() for name, a in arrays(written).items()} == {"w": 1.0}
    assert [node.op_type for node in written.ir.graph] == ["Constant", "MatMul", "Add"]
    feeds = draw_inputs(model)
    assert relative_error(evaluate(written, feeds)["y"], 2 * evaluate(model, feeds)["y"]) <= 1e-6


def test_a_bias_that_torch_leaves_out_stays_out(tmp_path: Path) -> None:
    """Unfolded, torch's exporter writes a convolution without bias with zeros of its width."""
    model = weighted(
        """g (float[N,3,6,6] x) => (float[N,4,6,6] y) {
        s = Shape<end=1>(w) o = Constant<value_float = 0.0>() z = CastLike(o, x) b = Expand(z, s)
        a = Conv(x, w, b) r = Relu(a) y = Conv(r, v) }""",
        tmp_path,
        w=(6, 3, 1, 1),
        v=(4, 6, 1, 1),
    )
    module = lift(model)
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    assert [m.bias for m in convolutions] == [None, None]
    keep(module, "w", 0, [1, 3, 4])
    keep(module, "v", 1, [1, 3, 4])
    written = write_back(model, module)
    assert written.facts["b"].shape == (3,)
    assert {name: a.shape for name, a in arrays(written).items()} == {
        "w": (3, 3, 1, 1),
        "v": (4, 3, 1, 1),
    }


def test_a_region_is_written_back_and_the_rest_is_untouched(shared: Path) -> None:
    model = splitc.load(shared / "models" / "cifar10_resnet20_jpegft.onnx")
    module = lift(model, outputs=["layer2_0_out"])
    with torch.no_grad():
        for p in (p for p in module.parameters() if p.requires_grad):
            p.mul_(0.9)
    written = write_back(model, module)
    head = {slot.initializer for slot in module.meta["parameters"].values()}
    old, new = model.ir.graph.initializers, written.ir.graph.initializers
    for name in old:
        same = new[name].const_value is old[name].const_value
        assert same == (name not in head), name


def test_a_recurrent_layer_narrows(tmp_path: Path) -> None:
    model = weighted(
        """g (float[5,2,4] x) => (float[5,1,2,H] y)
        { y, h, c = LSTM<hidden_size = 3>(x, w, r, b) }""",
        tmp_path,
        w=(1, 12, 4),
        r=(1, 12, 3),
        b=(1, 24),
    )
    module = lift(model)
    core: Any = next(m for m in module.modules() if isinstance(m, nn.LSTM))
    rows = [3 * gate + unit for gate in range(4) for unit in (0, 2)]
    for name, value in dict(core.named_parameters()).items():
        narrow = value.detach()[rows]
        setattr(
            core,
            name,
            nn.Parameter(narrow[:, [0, 2]] if "hh_l0" in name and value.ndim == 2 else narrow),
        )
    core.hidden_size = 2
    written = write_back(model, module)
    assert written.nodes["y"].attributes.get_int("hidden_size") == 2
    assert {name: a.shape for name, a in arrays(written).items()} == {
        "w": (1, 8, 4),
        "r": (1, 8, 2),
        "b": (1, 16),
    }
