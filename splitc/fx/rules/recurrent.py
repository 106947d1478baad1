"""LSTM, GRU and RNN as torch's layers."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import fx, nn

from splitc.fx.builder import Weight
from splitc.fx.layouts import Gates
from splitc.fx.recurrent import Recurrent, run_recurrent
from splitc.fx.site import Site

_KINDS: dict[str, tuple[Callable[..., Any], tuple[int, ...], tuple[str, ...]]] = {
    "LSTM": (nn.LSTM, (0, 2, 3, 1), ("Sigmoid", "Tanh", "Tanh")),  # iofc → ifco
    "GRU": (nn.GRU, (1, 0, 2), ("Sigmoid", "Tanh")),  # zrh → rzn
    "RNN": (nn.RNN, (0,), ("Tanh",)),
}


def recurrent(site: Site) -> Sequence[fx.Node]:
    """Any of the three; their outputs as ONNX has them."""
    kind, order, _ = _KINDS[site.op]
    _check(site)
    inputs, states, biases = site.weight(1), site.weight(2), site.weight(3)
    direction = str(site.attr("direction", "forward"))
    given = [site.x(i) if site.has(i) else None for i in (5, 6)][: 2 if site.op == "LSTM" else 1]
    if inputs is None or states is None or (site.has(3) and biases is None):
        tensors = [site.x(i) if site.has(i) else None for i in (1, 2, 3)]
        arguments = (site.op, order, direction, site.x(0), *tensors, *given)
        return _outputs(site, site.call(run_recurrent, *arguments))
    count = inputs.array.shape[0]
    core: Any = kind(
        inputs.array.shape[2],
        states.array.shape[2],
        bias=biases is not None,
        bidirectional=direction == "bidirectional",
        device="meta",
    )
    made = Recurrent(core, reverse=direction == "reverse")
    path = site.builder.place(site.name)
    ends = ("", "_reverse")[:count]
    for names, weight in ((["weight_ih_l0"], inputs), (["weight_hh_l0"], states)):
        _hold(site, path, core, [n + e for e in ends for n in names], weight, Gates(order, count))
    if biases is not None:
        names = [f"{n}{e}" for e in ends for n in ("bias_ih_l0", "bias_hh_l0")]
        _hold(site, path, core, names, biases, Gates(order, count, 2))
    core._init_flat_weights()
    return _outputs(site, site.builder.module(path, made, site.x(0), *given))


def _outputs(site: Site, call: fx.Node) -> list[fx.Node]:
    return [site.call(operator.getitem, call, index) for index in range(len(site.node.outputs))]


def _hold(
    site: Site, path: str, core: nn.Module, names: list[str], weight: Weight, layout: Gates
) -> None:
    if weight.order or not site.builder.owns(weight, layout):
        raise site.refuse(f"its weight {weight.name!r} is used elsewhere in another form")
    site.builder.hold(f"{path}.core", core, names, weight, layout)


def _check(site: Site) -> None:
    """Refuse what torch's layers do not do."""
    default = _KINDS[site.op][2]
    chosen = [str(a) for a in site.attr("activations", default)]
    directions = 2 if str(site.attr("direction", "forward")) == "bidirectional" else 1
    if chosen != list(default) * (len(chosen) // len(default)) or len(chosen) > directions * 3:
        raise site.refuse(f"its activations are {', '.join(chosen)}")
    for name in ("clip", "layout", "input_forget"):
        if site.attr(name, 0):
            raise site.refuse(f"it has {name}")
    if site.has(7) and np.any(site.known(7)):
        raise site.refuse("it has peepholes")
    if site.has(4) and not _whole(site):
        raise site.refuse("it has sequence lengths")
    if site.op == "GRU" and not site.attr("linear_before_reset", 0):
        raise site.refuse("linear_before_reset is 0: torch's GRU resets after the product")


def _whole(site: Site) -> bool:
    """Tell whether the sequence lengths are the whole length."""
    lengths, shape = site.array(4), site.shape(0)
    return lengths is not None and shape is not None and bool(np.all(lengths == shape[0]))


RULES = {"GRU": recurrent, "LSTM": recurrent, "RNN": recurrent}
