"""Lifting: real networks, names, regions, open batches, gradients, refusals."""

import copy
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import splitc
from splitc.comparison import relative_error
from splitc.errors import ModelError
from splitc.execute import evaluate
from splitc.feeds import draw
from splitc.model import Fact, Model
from tests.networks import HEADER, model

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from splitc.fx import lift  # noqa: E402
from splitc.fx.checking import run  # noqa: E402
from splitc.fx.rules import RULES  # noqa: E402
from splitc.fx.site import Site  # noqa: E402
from splitc.fx.stepping import in_double  # noqa: E402

TOLERANCE = 1e-5
REAL = {
    "ad_autoencoder_mlperf": (),
    "cifar10_resnet20_jpegft": (),
    "kws_dscnn_mlperf": (),
    "mnist_cnn": (),
    "silero_vad_16k_op15": ("input=1x512",),
    "sst2_tiny_transformer": (),
}


def real(shared: Path, name: str) -> Model:
    return splitc.load(shared / "models" / f"{name}.onnx", input=REAL.get(name, ()))


def weighted(text: str, folder: Path, **weights: Any) -> Model:
    """Load a network from text, with weights drawn for the given shapes or as given."""
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(HEADER + text)
    for name, given in weights.items():
        array = (
            (rng.standard_normal(given) * 0.5).astype(np.float32)
            if isinstance(given, tuple)
            else given
        )
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name.replace("__", ".")))
    path = folder / "net.onnx"
    onnx.save(proto, path)
    return splitc.load(path)


def at_batch(network: Model, batch: int) -> dict[str, Any]:
    facts = {}
    for tensor in network.inputs:
        fact = network.facts[tensor.name]
        sizes = zip(tensor.shape, fact.shape, strict=True)
        shape = tuple(batch if isinstance(dim, str) else size for dim, size in sizes)
        facts[tensor.name] = Fact(fact.dtype, shape, fact.nbytes)
    return draw(network, facts, 3, network.facts)


@pytest.mark.parametrize("name", REAL)
def test_a_real_network_is_what_onnxruntime_runs(name: str, shared: Path) -> None:
    seen = lift(real(shared, name)).meta["comparison"]
    assert seen.step_error <= TOLERANCE
    assert seen.worst_error <= (1e-4 if seen.step_error else TOLERANCE)
    assert seen.constant == ()


def test_only_rounding_may_excuse_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sine of large numbers: float32 cannot tell it, but every step of it."""
    network = weighted(
        """g (float[N,64] x) => (float[N,9] z) {
        a = MatMul(x, w) b = Tanh(a) c = Mul(b, large) z = Sin(c) }""",
        tmp_path,
        w=(64, 9),
        large=np.array([3000], np.float32),
    )
    seen = lift(network).meta["comparison"]
    assert seen.worst_error > TOLERANCE >= seen.step_error > 0
    monkeypatch.setitem(RULES, "Tanh", lambda site: site.call(_nearly_tanh, site.x(0)))
    with pytest.raises(ModelError, match="output 'z' is off by") as caught:
        lift(network)
    assert "'b', made by Tanh" in caught.value.where


def _nearly_tanh(x: Any) -> Any:
    return torch.tanh(x) * (1 + 1.5e-5)


@pytest.mark.parametrize("name", ["kws_dscnn_mlperf", "sst2_tiny_transformer"])
def test_an_open_batch_stays_open(name: str, shared: Path) -> None:
    network = real(shared, name)
    module = lift(network, check=False)
    for batch in (1, 3, 7):
        feeds = at_batch(network, batch)
        want = evaluate(network, feeds)
        got = run(module, list(feeds.values()), list(want))
        for output, array in want.items():
            assert array.shape[0] == batch
            assert relative_error(got[output], array) <= TOLERANCE


@pytest.mark.parametrize("name", ["cifar10_resnet20_jpegft", "sst2_tiny_transformer"])
def test_every_weight_has_a_gradient_that_is_right(name: str, shared: Path) -> None:
    network = real(shared, name)
    module = in_double(lift(network, check=False))
    inputs = [torch.from_numpy(a) for a in at_batch(network, 2).values()]
    inputs = [a.double() if a.is_floating_point() else a for a in inputs]
    weights = [p for p in module.parameters() if p.requires_grad]
    loss = module(*inputs).square().sum()
    gradients = torch.autograd.grad(loss, weights)
    assert all(float(g.abs().max()) > 0 for g in gradients)
    generator = torch.Generator().manual_seed(0)
    step, ahead = 1e-6, 0.0
    along = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in weights]
    slope = sum(float((g * a).sum()) for g, a in zip(gradients, along, strict=True))
    with torch.no_grad():
        for sign in (1, -2):
            for p, a in zip(weights, along, strict=True):
                p.add_(a, alpha=sign * step)
            ahead += (1 if sign == 1 else -1) * float(module(*inputs).square().sum())
    assert ahead / (2 * step) == pytest.approx(slope, rel=1e-5)


def test_parameters_bear_the_names_of_initializers(tmp_path: Path) -> None:
    network = weighted(
        """g (float[N,3,6,6] x) => (float[N,4,6,6] y) {
        a = Conv<pads=[1,1,1,1]>(x, "net.0.conv.weight", "net.0.conv.bias")
        b = BatchNormalization(a, "net.1.weight", "net.1.bias", "net.1.mean", "net.1.var")
        c = Mul(b, "net.scale")
        d = Conv(c, class, type)
        y = Mul(d, "net.0.conv") }""",
        tmp_path,
        **{
            "net__0__conv__weight": (4, 3, 3, 3),
            "net__0__conv__bias": (4,),
            "net__1__weight": (4,),
            "net__1__bias": (4,),
            "net__1__mean": (4,),
            "net__1__var": np.ones(4, np.float32),
            "net__scale": (4, 1, 1),
            "class": (4, 4, 1, 1),
            "type": (4,),
            "net__0__conv": (4, 1, 1),
        },
    )
    module = lift(network)
    named = {path: slot.initializer for path, slot in module.meta["parameters"].items()}
    for name in ("net.0.conv.weight", "net.0.conv.bias", "net.1.weight", "net.1.bias", "net.scale"):
        assert named[name] == name
    assert named["net.1.running_var"] == "net.1.var"
    assert named["class_.weight"] == "class"
    assert named["class_.bias"] == "type"
    assert named["net.0.conv_2"] == "net.0.conv"
    assert {*named} == {*module.state_dict()} - {"net.1.num_batches_tracked"}


def test_a_node_knows_where_it_comes_from(tmp_path: Path) -> None:
    network = weighted(
        """g (float[N,6] x) => (float[N,3] y)
        { a = MatMul(x, w) b = Add(a, c) y = Relu(b) }""",
        tmp_path,
        w=(6, 3),
        c=(3,),
    )
    module = lift(network)
    layer, relu = (n for n in module.graph.nodes if n.op.startswith("call"))
    assert isinstance(module.get_submodule(layer.target), nn.Linear)
    assert (layer.meta["onnx"], layer.meta["onnx_nodes"]) == ("b", ("a", "b"))
    assert relu.meta["onnx"] == relu.meta["tensor"] == "y"
    twin = copy.deepcopy(module)
    assert twin.meta["parameters"] == module.meta["parameters"]
    assert [n.meta for n in twin.graph.nodes] == [n.meta for n in module.graph.nodes]


def test_a_shared_weight_is_one_parameter(tmp_path: Path) -> None:
    network = weighted(
        """g (int64[N,4] x) => (float[N,4,9] y) {
        a = Gather(table, x) b = MatMul(a, w) c = MatMul(b, w)
        t = Transpose<perm=[1,0]>(table) y = MatMul(c, t) }""",
        tmp_path,
        table=(9, 5),
        w=(5, 5),
    )
    module = lift(network)
    assert {tuple(p.shape) for p in module.parameters()} == {(9, 5), (5, 5)}
    assert len(list(module.parameters())) == 2
    assert all(
        float(p.grad.abs().sum()) > 0 for p in _backward(module, torch.tensor([[1, 2, 3, 4]]))
    )


def test_a_weight_in_two_forms_is_still_one(tmp_path: Path) -> None:
    network = weighted(
        """g (float[N,5] x) => (float[N,5] y)
        { a = MatMul(x, w) y = Gemm<transB=1>(a, w, v) }""",
        tmp_path,
        w=(5, 5),
        v=(5,),
    )
    module = lift(network)
    assert len(list(module.parameters())) == 2


def _backward(module: nn.Module, *inputs: Any) -> list[Any]:
    module(*inputs).square().sum().backward()
    return list(module.parameters())


def test_masks_and_numbers_are_not_trained(tmp_path: Path) -> None:
    mask = np.array([0, -1e9, 0, -np.inf], np.float32)
    network = weighted(
        """g (float[N,4] x) => (float[N,4] y)
        { a = Add(x, mask) b = Mul(a, half) s = Softmax(b) y = Mul(s, w) }""",
        tmp_path,
        mask=mask,
        half=np.array([0.5], np.float32),
        w=(4,),
    )
    assert [name for name, _ in lift(network).named_parameters()] == ["w"]


ODD = """g (float[N,2,2] x) => (float[N] z) {
    a = Relu(x) d = Det(a) e = Det(x) b = Add(d, e) c = Exp(b) z = Tanh(c) }"""


def test_unknown_operators_are_all_named_and_a_region_goes_around_them(tmp_path: Path) -> None:
    network = model(ODD, tmp_path)
    with pytest.raises(ModelError, match=r"does not know Det \('d'\), Det \('e'\)") as caught:
        lift(network)
    assert "lift a region" in caught.value.hint
    region = lift(network, inputs=["b"], outputs=["z"])
    assert [n.meta["tensor"] for n in region.graph.nodes if "tensor" in n.meta] == ["b", "c", "z"]
    several = lift(network, inputs=["b"], outputs=["z", "c"])
    assert [tuple(t.shape) for t in several(torch.ones(5))] == [(5,), (5,)]


def test_a_region_that_does_not_close_is_refused(tmp_path: Path) -> None:
    network = model(ODD, tmp_path)
    with pytest.raises(ModelError, match="also reads x") as caught:
        lift(network, inputs=["d"], outputs=["z"])
    assert caught.value.hint == "inputs = ['d', 'x']"
    with pytest.raises(ModelError, match="no tensor called 'bb'"):
        lift(network, inputs=["bb"], outputs=["z"])


def test_a_wrong_rule_is_found_and_its_tensor_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = model(
        "g (float[N,8] x) => (float[N,8] z) { a = Exp(x) b = Relu(x) c = Tanh(b) z = Add(a, c) }",
        tmp_path,
    )
    monkeypatch.setitem(RULES, "Relu", lambda site: site.call(nn.functional.leaky_relu, site.x(0)))
    with pytest.raises(ModelError, match="output 'z' is off by") as caught:
        lift(network)
    assert "the first tensor that differs is 'b', made by Relu" in caught.value.where


def test_a_baked_batch_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = model("g (float[N,8] x) => (float[N,8] z) { a = Exp(x) z = Neg(a) }", tmp_path)

    def first_of_the_batch(site: Site) -> Any:
        return site.call(torch.exp, site.call(torch.narrow, site.x(0), 0, 0, 1))

    monkeypatch.setitem(RULES, "Exp", first_of_the_batch)
    with pytest.raises(ModelError, match="is off by inf"):
        lift(network)


SHORTCUT = """g (float[N,4,8,8] x) => (float[N,8,4,4] y) {{
    s = Slice(x, starts, ends, axes, steps) p = Pad(s, pads) y = {} }}"""


def shortcut(end: str, folder: Path) -> Model:
    """Return the shortcut of a residual network; where `end` reads q, its Slice is read twice."""
    folder.mkdir(exist_ok=True)
    text = SHORTCUT.format(end).replace(
        "y =", "q = Concat<axis=1>(s, s) y =" if "q" in end else "y ="
    )
    far = 2**31 - 1
    numbers = {"starts": [0, 0], "ends": [far, far], "axes": [2, 3], "steps": [2, 2]}
    numbers["pads"] = [0, 2, 0, 0, 0, 2, 0, 0]
    arrays = {name: np.array(value, np.int64) for name, value in numbers.items()}
    return weighted(text, folder, **arrays)


def test_a_padded_shortcut_is_a_frozen_convolution(tmp_path: Path) -> None:
    module = lift(shortcut("Relu(p)", tmp_path))
    (layer,) = (m for m in module.modules() if isinstance(m, nn.Conv2d))
    assert (layer.in_channels, layer.out_channels, layer.stride) == (4, 8, (2, 2))
    assert not layer.weight.requires_grad
    apart = lift(shortcut("Add(p, q)", tmp_path / "twice"))
    assert not [m for m in apart.modules() if isinstance(m, nn.Conv2d)]


def test_a_condition_is_decided_at_each_call(tmp_path: Path) -> None:
    network = weighted(
        """g (float[N,3] x) => (float[N,3] y) {
        s = ReduceSum<keepdims=0>(x) c = Greater(s, zero)
        a = If(c) <then_branch = t () => (float[N,3] p) {p = Mul(x, w)},
                   else_branch = e () => (float[N,3] q) {r = Exp(x) q = Mul(r, v)}>
        y = If(yes) <then_branch = t2 () => (float[N,3] p2) {p2 = Neg(a)},
                     else_branch = e2 () => (float[N,3] q2) {q2 = Exp(a)}> }""",
        tmp_path,
        zero=np.float32(0),
        yes=np.array(True),
        w=(3,),
        v=(3,),
    )
    module = lift(network)
    for sign in (1.0, -1.0):
        x = np.full((2, 3), sign, np.float32)
        want = evaluate(network, {"x": x})["y"]
        assert relative_error(run(module, [x], ["y"])["y"], want) <= TOLERANCE
    assert {slot.initializer for slot in module.meta["parameters"].values()} == {"w", "v"}


@pytest.mark.parametrize("name", ["gpt2"])
def test_a_torch_network_comes_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As exported without folding: every parameter of torch's module is one of the lifted.

    One network: an export takes seconds. benchmarks/lift.py has the others.
    """
    from splitc.ingest import load

    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    import _sequence_networks  # type: ignore[import-not-found]

    network = load(f"_sequence_networks:{name}", fold=False)
    module = lift(network)
    original, _ = getattr(_sequence_networks, name)()
    count = sum(p.numel() for p in original.parameters())
    assert sum(p.numel() for p in module.parameters()) == count
    feeds = at_batch(network, 7)
    want = evaluate(network, feeds)
    got = run(module, list(feeds.values()), list(want))
    assert all(relative_error(got[k], want[k]) <= TOLERANCE for k in want)


def test_half_floats_are_compared_as_such(tmp_path: Path) -> None:
    half = np.random.default_rng(0).standard_normal((64, 9)).astype(np.float16)
    network = weighted(
        "g (float16[N,64] x) => (float16[N,9] y) { a = MatMul(x, w) y = Tanh(a) }", tmp_path, w=half
    )
    module = lift(network)
    assert {p.dtype for p in module.parameters()} == {torch.float16}
    assert module.meta["comparison"].worst_error <= 1e-2


@pytest.mark.parametrize("name", ["sst2_tiny_transformer", "cifar10_resnet20_jpegft"])
def test_a_module_that_moved_makes_nothing_elsewhere(name: str, shared: Path) -> None:
    """Torch's device `meta` refuses to meet a tensor of the CPU, as a GPU would."""
    network = real(shared, name)
    module = lift(network, check=False).to("meta")
    feeds = [torch.from_numpy(array).to("meta") for array in at_batch(network, 3).values()]
    assert module(*feeds).shape[0] == 3


def test_without_torch_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "splitc.fx")
    with pytest.raises(ModelError, match="needs torch") as caught:
        importlib.import_module("splitc.fx")
    assert caught.value.hint == "pip install 'splitc[torch]'"
