"""`target = "latency"`: a share of the priced seconds, found through a share of the MACs."""

from pathlib import Path

import pytest

import splitc
from splitc import cost, pipeline, scenario
from splitc.errors import PassError
from splitc.macs import macs
from splitc.model import Model
from splitc.pruning.latency import macs_share

LINES = {
    "half is half": (lambda share: 1 - share, 0.5, 0.5),
    "a third stays whatever goes": (lambda share: 1 - share * 2 / 3, 0.5, 0.75),
}


@pytest.mark.parametrize(("seconds", "ratio", "share"), LINES.values(), ids=LINES)
def test_the_share_is_found_by_bisection(seconds, ratio: float, share: float) -> None:  # type: ignore[no-untyped-def]
    found = macs_share(ratio, seconds, 1.0, None)
    assert share <= found <= share + 0.02


def test_what_cannot_go_is_an_error() -> None:
    with pytest.raises(PassError, match=r"at most 1.* of the priced seconds can go, not 50%"):
        macs_share(0.5, lambda share: 1 - share / 5, 1.0, None)

    def stuck(share: float) -> float:
        raise PassError("a tenth of every group stays")

    with pytest.raises(PassError, match=r"at most 0\.0%") as raised:
        macs_share(0.5, stuck, 1.0, None)
    assert raised.value.where == "a tenth of every group stays"


def test_nodes_are_priced_alone_and_add_up(shared: Path) -> None:
    net = splitc.load(shared / "models/cifar10_resnet8_mlperf.onnx")
    device = scenario.device("raspberry-pi-4")
    whole = cost.alone(net, frozenset(net.graph.by_id), device)
    groups = cost.groups(net)
    parts = [cost.alone(net, frozenset(group), device) for group in groups]
    assert whole == pytest.approx(sum(parts))
    assert cost.alone(net, frozenset(), device) == 0.0


def priced(net: Model) -> float:
    return cost.alone(net, frozenset(net.graph.by_id), scenario.device("raspberry-pi-4"))


@pytest.mark.torch
@pytest.mark.shared
def test_a_quarter_of_the_seconds_goes(shared: Path) -> None:
    pytest.importorskip("torch_pruning")
    net = splitc.load(shared / "models/cifar10_resnet8_mlperf.onnx")
    text = 'simplify, prune{target = "latency", ratio = 0.25}'
    made = splitc.optimize(net, passes=text, device="raspberry-pi-4")
    simple = splitc.optimize(net, passes="simplify").model
    assert 0.70 <= priced(made.model) / priced(simple) <= 0.751
    assert sum(macs(made.model).values()) < sum(macs(simple).values())
    assert any("priced at 7" in note for note in made.notes)


REFUSED = {
    "no device to price by": ('prune{target = "latency"}', "needs a device", "--device"),
    "quantized first": ("quantize, prune", "this graph is quantized", "in front of 'quantize'"),
}


@pytest.mark.torch
@pytest.mark.parametrize(("passes", "message", "hint"), REFUSED.values(), ids=REFUSED)
def test_what_it_cannot_do_says_what_to_do(
    shared: Path, passes: str, message: str, hint: str
) -> None:
    pytest.importorskip("torch_pruning")
    net = splitc.load(shared / "models/kws_dscnn_mlperf.onnx")
    with pytest.raises(PassError, match=message) as raised:
        splitc.optimize(net, passes=passes)
    assert hint in raised.value.hint


def test_zeros_save_no_time() -> None:
    with pytest.raises(PassError, match="saves no time"):
        pipeline.parse('prune{target = "latency", kind = "weights"}')
