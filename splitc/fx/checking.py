"""Compare a lifted module with onnxruntime, and find where it begins to differ."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from splitc.comparison import relative_error
from splitc.errors import ModelError
from splitc.execute import evaluate
from splitc.feeds import draw
from splitc.fx import functions
from splitc.fx.layouts import to_numpy, to_torch
from splitc.fx.wide import batches
from splitc.model import Fact, Model

TOLERANCE = 1e-5
"""Largest max|a−b| / max|b| of a lifted output against onnxruntime's."""
LARGEST = 1e-2
"""However badly float32 rounds in a network, an error beyond this is none of rounding."""
_ROUNDINGS = 3
_BATCHES = (1, 3)
_AT_A_TIME = 96 * 2**20
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Comparison:
    """How far a module is from onnxruntime, and from itself in float64 where that was asked.

    `constant`: outputs that were the same for all inputs, which proves nothing about them.
    """

    worst_error: float
    rounding: float = 0.0
    constant: tuple[str, ...] = ()


def checked(
    model: Model,
    module: fx.GraphModule,
    *,
    tolerance: float,
    given: Iterable[Arrays] | None = None,
) -> Comparison:
    """Compare a lifted module with `model`, on `given` or on inputs drawn for it; see `agree`."""
    names = module.meta["inputs"], module.meta["outputs"]
    return agree(model, module, *names, given or samples(model), tolerance=tolerance)


def agree(
    model: Model,
    module: nn.Module,
    inputs: Sequence[str],
    outputs: Sequence[str],
    given: Iterable[Arrays],
    *,
    tolerance: float,
) -> Comparison:
    """Compare a module with the tensors `outputs` of `model` in onnxruntime.

    The module gets what the tensors `inputs` are there. `given`: inputs of the model. Where
    float32 itself cannot tell — the module is further than the tolerance from itself in float64 —
    three times that distance is allowed, up to `LARGEST`. Raises `ModelError` naming the first
    tensor that differs.
    """
    worst = rounding = 0.0
    seen: dict[str, list[NDArray[Any]]] = {name: [] for name in outputs}
    for feeds in given:
        values = _values(model, feeds, (*inputs, *outputs))
        passed = [values[name] for name in inputs]
        got = run(module, passed, outputs)
        for name in outputs:
            seen[name].append(values[name])
        errors = {name: relative_error(got[name], values[name]) for name in outputs}
        worst = max(worst, *errors.values())
        if all(error <= tolerance for error in errors.values()):
            continue
        noise = _noise(module, passed, got)
        rounding = max(rounding, *noise.values())
        for name, error in errors.items():
            if not error <= allowed(tolerance, noise[name]):
                raise _diverged(model, module, feeds, passed, name, error, tolerance)
    return Comparison(worst, rounding, tuple(name for name in outputs if _constant(seen[name])))


def _constant(arrays: Sequence[NDArray[Any]]) -> bool:
    """Tell whether an output is the same for all samples, as far as they have the same sizes."""
    first = arrays[0].reshape(-1)
    others = [array.reshape(-1) for array in arrays[1:]]
    return all(np.array_equal(a[: first.size], first[: a.size], equal_nan=True) for a in others)


def _values(model: Model, feeds: Arrays, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    wanted = list(dict.fromkeys(name for name in names if name not in feeds))
    return {**feeds, **(evaluate(model, feeds, wanted, optimize=False) if wanted else {})}


def allowed(tolerance: float, noise: float) -> float:
    """Return the error that is right where rounding alone makes `noise`."""
    return max(tolerance, min(_ROUNDINGS * noise, LARGEST))


def _noise(module: nn.Module, passed: Sequence[NDArray[Any]], got: Arrays) -> dict[str, float]:
    """Return output → how far float32 is from float64 there, in some forms of the same module."""
    wide = [v.astype(np.float64) if v.dtype == np.float32 else v for v in passed]
    try:
        exact = run(in_double(module), wide, list(got))
    except (RuntimeError, TypeError):
        return dict.fromkeys(got, 0.0)
    forms = [got, *(run(form, passed, list(got)) for form in _coarse(module))]
    return {name: max(_distance(form[name], exact[name]) for form in forms) for name in got}


def _distance(got: NDArray[Any], exact: NDArray[Any]) -> float:
    if got.shape != exact.shape or got.dtype.kind != "f":
        return 0.0
    return relative_error(got.astype(exact.dtype), exact)


def _coarse(module: nn.Module) -> Iterator[nn.Module]:
    """Yield copies whose Sigmoid is only as good as onnxruntime's; none if there is no Sigmoid."""
    for phase in (0.0, 1 / 3, 2 / 3):
        made, found = copy.deepcopy(module), False
        for part in _graph_modules(made):
            for node in part.graph.nodes:
                if node.target is torch.sigmoid:
                    node.target, node.args, found = (
                        functions.coarse_sigmoid,
                        (*node.args, phase),
                        True,
                    )
            part.recompile()
        if found:
            yield made


def _graph_modules(module: nn.Module) -> Iterator[fx.GraphModule]:
    yield from (part for part in module.modules() if isinstance(part, fx.GraphModule))


def in_double(module: nn.Module) -> nn.Module:
    """Return a copy in float64, casts to float32 inside it included."""
    made = copy.deepcopy(module).double()
    for part in _graph_modules(made):
        for node in part.graph.nodes:
            node.args = fx.node.map_aggregate(node.args, _wider)
            node.kwargs = fx.node.map_aggregate(node.kwargs, _wider)
        part.recompile()
    return made


def _wider(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def samples(model: Model) -> Iterator[dict[str, NDArray[Any]]]:
    """Draw inputs at batch 1 and, if the batch is symbolic and the graph takes 3, at 3."""
    sizes = _BATCHES if batches(model) else (1, 1)
    for seed, batch in enumerate(sizes):
        facts = {name: _at(model, name, batch) for name in model.graph.inputs}
        feeds = draw(model, facts, seed, model.facts)
        if batch > 1 and not _takes(model, feeds):
            feeds = draw(model, {n: model.facts[n] for n in facts}, seed, model.facts)
        yield feeds


def _takes(model: Model, feeds: Arrays) -> bool:
    """Tell whether the graph takes such inputs: some bake a batch of 1 in."""
    try:
        evaluate(model, feeds, optimize=False)
    except ModelError:
        return False
    return True


def _at(model: Model, name: str, batch: int) -> Fact:
    fact, open_ = model.facts[name], batches(model)
    dims = next(t.shape for t in model.inputs if t.name == name)
    shape = tuple(batch if d in open_ else n for d, n in zip(dims, fact.shape, strict=True))
    return Fact(fact.dtype, shape, fact.nbytes)


def run(
    module: nn.Module, passed: Sequence[NDArray[Any]], outputs: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """Call a module on arrays; return output → array."""
    with torch.no_grad():
        made = module(*map(to_torch, passed))
    several = made if isinstance(made, tuple | list) else (made,)
    return dict(zip(outputs, map(_array, several), strict=True))


def _array(value: Any) -> NDArray[Any]:
    tensor = value if isinstance(value, torch.Tensor) else torch.tensor(value)
    plain = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return to_numpy(plain, np.dtype(str(plain.dtype).removeprefix("torch.")))


def _diverged(
    model: Model,
    module: nn.Module,
    feeds: Arrays,
    passed: Sequence[NDArray[Any]],
    output: str,
    error: float,
    tolerance: float,
) -> ModelError:
    first, off = first_divergence(model, module, feeds, passed, tolerance) or (output, error)
    op_type = node.op_type if (node := model.values[first].producer()) is not None else "input"
    return ModelError(
        f"the torch module computes something else: output {output!r} is off by {error:.1e} "
        f"(at most {tolerance:.0e})",
        where=f"the first tensor that differs is {first!r}, made by {op_type} (by {off:.1e})",
    )


def first_divergence(
    model: Model,
    module: nn.Module,
    feeds: Arrays,
    passed: Sequence[NDArray[Any]],
    tolerance: float,
) -> tuple[str, float] | None:
    """Return the first tensor whose value in a lifted module is another, and how far.

    None if there is none, or the module is not a lifted one.
    """
    if not isinstance(module, fx.GraphModule):
        return None
    seen = _Recorder(module).record([to_torch(array) for array in passed])
    names = [name for name in seen if name in model.values and name not in model.graph.inputs]
    for chunk in _chunks(names, seen):
        want = evaluate(model, feeds, chunk, optimize=False)
        for name in chunk:
            if not (error := relative_error(seen[name], want[name])) <= tolerance:
                return name, error
    return None


def recorded(model: Model, module: fx.GraphModule) -> dict[str, NDArray[Any]]:
    """Return what every ONNX tensor is in the module, on one sample drawn for `model`."""
    feeds = next(samples(model))
    values = _values(model, feeds, module.meta["inputs"])
    return _Recorder(module).record([to_torch(values[name]) for name in module.meta["inputs"]])


def _chunks(names: Sequence[str], sizes: Arrays) -> Iterable[list[str]]:
    chunk: list[str] = []
    total = 0
    for name in names:
        if chunk and total + sizes[name].nbytes > _AT_A_TIME:
            yield chunk
            chunk, total = [], 0
        chunk.append(name)
        total += sizes[name].nbytes
    if chunk:
        yield chunk


class _Recorder(fx.Interpreter):
    """Runs a module and keeps what each ONNX tensor is."""

    def record(self, inputs: Sequence[torch.Tensor]) -> dict[str, NDArray[Any]]:
        self.seen: dict[str, NDArray[Any]] = {}
        with torch.no_grad():
            self.run(*inputs)
        return self.seen

    def run_node(self, n: fx.Node) -> Any:
        made = super().run_node(n)
        if "tensor" in n.meta and isinstance(made, torch.Tensor):
            self.seen[n.meta["tensor"]] = _array(made)
        return made
