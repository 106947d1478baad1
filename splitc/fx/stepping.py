"""A lifted module, step by step: what every ONNX tensor is in it, and where a step goes wrong."""

import copy
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from splitc.comparison import relative_error
from splitc.execute import evaluate
from splitc.fx.layouts import to_numpy, to_torch
from splitc.fx.recurrent import Recurrent
from splitc.fx.rules.control import Branch
from splitc.model import Model

LARGEST = 1e-2
"""However badly float32 rounds in a network, an error beyond this is none of rounding."""
_ROUNDINGS = 8
_LONG = (Branch, Recurrent)
"""Steps of many steps, in which rounding may grow."""
_AT_A_TIME = 96 * 2**20
Arrays = Mapping[str, NDArray[Any]]


def as_array(value: Any) -> NDArray[Any]:
    """Return a tensor, or a number, as an array; bfloat16 as float32."""
    tensor = value if isinstance(value, torch.Tensor) else torch.tensor(value)
    plain = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return to_numpy(plain, np.dtype(str(plain.dtype).removeprefix("torch.")))


class Recorder(fx.Interpreter):
    """Runs a module and keeps the sizes that each ONNX tensor has in it."""

    def record(self, inputs: Sequence[NDArray[Any]]) -> dict[str, tuple[int, ...]]:
        """Return tensor → its sizes, for the given inputs."""
        self.seen: dict[str, tuple[int, ...]] = {}
        with torch.no_grad():
            self.run(*map(to_torch, inputs))
        return self.seen

    def run_node(self, n: fx.Node) -> Any:
        """Run one node."""
        made = super().run_node(n)
        if "tensor" in n.meta and isinstance(made, torch.Tensor):
            self.seen[n.meta["tensor"]] = tuple(made.shape)
        return made


@dataclass(frozen=True)
class Steps:
    """The worst error of a single step, and the first tensor whose step is wrong ('' if none)."""

    worst: float
    wrong: str = ""


def steps(model: Model, module: fx.GraphModule, feeds: Arrays, tolerance: float) -> Steps:
    """Give every node of the module what onnxruntime has for its inputs, and compare its output.

    So no step sees the rounding of another. An error is max|a−b| / max|b|; of a Sigmoid, whose
    values onnxruntime rounds alike near 0 and near 1, it is max|a−b|. A recurrent layer and an If
    are many steps: they may be further off where they are as far from themselves in float64.
    `feeds`: inputs of `model`.
    """
    names = [str(n.meta["tensor"]) for n in module.graph.nodes if "tensor" in n.meta]
    oracle = _Oracle(model, feeds, [name for name in names if name in model.facts])
    stepper = _Stepper(module, oracle, tolerance)
    passed = [to_torch(oracle[name]) for name in module.meta["inputs"]]
    with torch.no_grad():
        stepper.run(*passed)
    return Steps(stepper.worst, stepper.wrong)


class _Oracle:
    """Onnxruntime's tensors by name, so many bytes at a time; asked for in order."""

    def __init__(self, model: Model, feeds: Arrays, names: Sequence[str]) -> None:
        self.model, self.feeds = model, feeds
        self.chunks = {name: chunk for chunk in self._divided(names) for name in chunk}
        self.held: dict[str, NDArray[Any]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.feeds or name in self.chunks

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name in self.feeds:
            return self.feeds[name]
        if name not in self.held:
            self.held = evaluate(self.model, self.feeds, self.chunks[name], optimize=False)
        return self.held[name]

    def _divided(self, names: Sequence[str]) -> Iterator[list[str]]:
        chunk: list[str] = []
        total = 0
        for name in names:
            if name in self.feeds:
                continue
            size = self.model.facts[name].nbytes
            if chunk and total + size > _AT_A_TIME:
                yield chunk
                chunk, total = [], 0
            chunk.append(name)
            total += size
        yield chunk


class _Stepper(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, oracle: _Oracle, tolerance: float) -> None:
        super().__init__(module)
        self.oracle, self.tolerance = oracle, tolerance
        self.worst, self.wrong = 0.0, ""
        self.exact: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        made = super().run_node(n)
        if n.op == "call_module" and type(self.fetch_attr(str(n.target))) in _LONG:
            self.exact[n] = self._in_double(n)
        name = str(n.meta.get("tensor"))
        if name not in self.oracle or not isinstance(made, torch.Tensor):
            return made
        got, want = as_array(made), self.oracle[name]
        error = relative_error(got, want)
        if n.target is torch.sigmoid and error < np.inf:
            error = float(np.max(np.abs(got - want), initial=0.0))
        self.worst = max(self.worst, error)
        if not error <= max(self.tolerance, min(_ROUNDINGS * self._noise(n, got), LARGEST)):
            self.wrong = self.wrong or name
        return to_torch(want)

    def _in_double(self, n: fx.Node) -> Any:
        args, _ = self.fetch_args_kwargs_from_env(n)
        wide = [
            a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args
        ]
        module = self.fetch_attr(str(n.target))
        assert isinstance(module, torch.nn.Module)
        return in_double(module)(*wide)

    def _noise(self, n: fx.Node, got: NDArray[Any]) -> float:
        """Return how far a step of many steps is from itself in float64; 0 for a single one."""
        source = n.args[0] if n.target is operator.getitem else n
        if not isinstance(source, fx.Node) or source not in self.exact:
            return 0.0
        exact = self.exact[source] if source is n else self.exact[source][n.args[1]]
        want = as_array(exact)
        return relative_error(got.astype(want.dtype), want)


def in_double(module: torch.nn.Module) -> torch.nn.Module:
    """Return a copy in float64, casts to float32 inside it included."""
    made = copy.deepcopy(module).double()
    for part in made.modules():
        if isinstance(part, fx.GraphModule):
            for node in part.graph.nodes:
                node.args = fx.node.map_aggregate(node.args, _wider)
                node.kwargs = fx.node.map_aggregate(node.kwargs, _wider)
            part.recompile()
    return made


def _wider(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
