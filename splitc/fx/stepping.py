"""A lifted module, step by step: what every ONNX tensor is in it, and where a step goes wrong."""

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
from splitc.model import Model

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
    values onnxruntime rounds alike near 0 and near 1, it is max|a−b|. `feeds`: inputs of `model`.
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

    def run_node(self, n: fx.Node) -> Any:
        made = super().run_node(n)
        name = str(n.meta.get("tensor"))
        if name not in self.oracle or not isinstance(made, torch.Tensor):
            return made
        got, want = as_array(made), self.oracle[name]
        error = relative_error(got, want)
        if n.target is torch.sigmoid and error < np.inf:
            error = float(np.max(np.abs(got - want), initial=0.0))
        self.worst = max(self.worst, error)
        if not error <= self.tolerance:
            self.wrong = self.wrong or name
        return to_torch(want)
