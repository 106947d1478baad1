"""Splicing a torch module into a graph: names, bytes, opsets, and what is refused."""

from pathlib import Path

import onnx_ir as ir
import pytest

from splitc.comparison import relative_error
from splitc.errors import ModelError
from splitc.execute import evaluate
from splitc.feeds import draw_inputs
from splitc.model import Model
from tests.networks import model
from tests.test_fx import weighted

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from splitc.fx import lift, splice, write_back  # noqa: E402

CHAIN = """g (float[N,4,6,6] x) => (float[N,4,6,6] y) {
    a = Conv(x, w) b = Relu(a) c = Conv(b, v) d = Add(c, b) y = Tanh(d) }"""
WEIGHTS = {"w": (4, 4, 1, 1), "v": (4, 4, 1, 1)}
pytestmark = pytest.mark.filterwarnings("ignore")


def chain(folder: Path) -> Model:
    return weighted(CHAIN, folder, **WEIGHTS)


def bottleneck() -> nn.Module:
    torch.manual_seed(0)
    down, up = nn.Conv2d(4, 1, 3, 2, 1), nn.ConvTranspose2d(1, 4, 2, 2)
    return nn.Sequential(down, nn.BatchNorm2d(1), nn.ReLU(), up).eval()


def test_a_region_gives_way_to_a_module(tmp_path: Path) -> None:
    before = chain(tmp_path)
    part = bottleneck()
    made = splice(before, ["b"], ["d"], part, prefix="neck/")
    names = [node.id for node in made.graph.nodes]
    assert names[:2] == ["a", "b"]
    assert names[-2:] == ["d", "y"]
    assert all(name.startswith("neck/") for name in names[2:-2])
    assert [n for n in made.ir.graph.initializers if not n.startswith("neck/")] == ["w"]
    assert (made.inputs, made.outputs) == (before.inputs, before.outputs)
    assert made.ir.opset_imports == before.ir.opset_imports
    feeds = draw_inputs(before)
    b = torch.from_numpy(evaluate(before, feeds, ["b"])["b"])
    want = torch.tanh(part(b)).detach().numpy()
    assert relative_error(evaluate(made, feeds)["y"], want) <= 1e-5
    again = splice(before, ["b"], ["d"], part, prefix="neck/")
    one, two = (ir.to_proto(m.ir).SerializeToString(deterministic=True) for m in (made, again))
    assert one == two
    assert str(Path.cwd()).encode() not in one
    module = lift(made)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.01)
    assert write_back(made, module).fingerprint() != made.fingerprint()


class Two(nn.Module):
    """Returns its input, and its input doubled."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, 2 * x


def test_a_region_may_have_several_ends(tmp_path: Path) -> None:
    before = model(
        """g (float[N,4] x) => (float[N,4] y) {
        k = Constant<value_float = 2.0>() a = Exp(x) b = Neg(a) c = Mul(b, k) d = Add(b, k)
        e = Add(c, d) y = Tanh(e) }""",
        tmp_path,
    )
    made = splice(before, ["b"], ["c", "d"], Two(), prefix="p/")
    feeds = draw_inputs(before)
    b = evaluate(before, feeds, ["b"])["b"]
    assert relative_error(evaluate(made, feeds, ["e"])["e"], 3 * b) <= 1e-5
    assert {node.id for node in made.graph.nodes if not node.id.startswith("p/")} == {*"abcdey"}
    assert "k" not in made.values


def test_an_old_model_is_raised_where_the_new_part_needs_it(tmp_path: Path) -> None:
    import onnx

    text = '<ir_version: 8, opset_import: ["": 13]>\n'
    path = tmp_path / "old.onnx"
    chain_text = "g (float[N,4] x) => (float[N,4] y) { a = Exp(x) b = Neg(a) y = Tanh(b) }"
    onnx.save(onnx.parser.parse_model(text + chain_text), path)
    import splitc

    before = splitc.load(path)
    plain = splice(before, ["a"], ["b"], nn.Sequential(nn.Linear(4, 4), nn.ReLU()), prefix="p/")
    assert (plain.ir.opset_imports[""], plain.notes) == (13, ())
    raised = splice(before, ["a"], ["b"], nn.LayerNorm(4), prefix="p/")
    assert raised.ir.opset_imports[""] > 13
    assert "was raised" in raised.notes[0]


def test_what_is_no_region_is_refused(tmp_path: Path) -> None:
    before = chain(tmp_path)
    same = nn.Identity()
    with pytest.raises(ModelError, match="b inside the region is read outside"):
        splice(before, ["x"], ["c"], same, prefix="p/")
    with pytest.raises(ModelError, match="there is no node to replace"):
        splice(before, ["b"], ["b"], same, prefix="p/")
    with pytest.raises(ModelError, match="also reads x"):
        splice(before, ["c"], ["d"], same, prefix="p/")
    around = model(
        "g (float[N,4] x) => (float[N,4] y) { a = Exp(x) b = Neg(a) y = Add(a, b) }", tmp_path
    )
    with pytest.raises(ModelError, match="reads b, which is made from its own outputs"):
        splice(around, ["x", "b"], ["a", "y"], Two(), prefix="p/")


def test_a_module_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    before = chain(tmp_path)
    with pytest.raises(ModelError, match="torch cannot export the module"):
        splice(before, ["b"], ["d"], nn.Conv2d(3, 4, 1), prefix="p/")
    with pytest.raises(ModelError, match="returns 2 tensors, not 1"):
        splice(before, ["b"], ["d"], Two(), prefix="p/")
    taken = model(
        'g (float[N,4] x) => (float[N,4] y) { "p/neg" = Neg(x) y = Exp("p/neg") }', tmp_path
    )

    class Negative(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (-x).exp()

    with pytest.raises(ModelError, match="already has a tensor 'p/neg'") as caught:
        splice(taken, ["p/neg"], ["y"], Negative(), prefix="p/")
    assert caught.value.hint == "give another prefix"
