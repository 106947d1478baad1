"""Compare a lifted module with onnxruntime, and find where it begins to differ."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import fx, nn

from splitc.comparison import relative_error
from splitc.errors import ModelError
from splitc.execute import evaluate
from splitc.feeds import draw
from splitc.fx.layouts import to_torch
from splitc.fx.stepping import LARGEST, Recorder, as_array, in_double, steps
from splitc.fx.wide import batches
from splitc.model import Fact, Model

TOLERANCE = 1e-5
"""Largest max|a−b| / max|b| of a lifted output against onnxruntime's."""
HALF = 1e-2
"""The same where the graph computes with half floats."""
_BATCHES = (1, 3)
_ROUNDINGS = 8
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Comparison:
    """How far a module is from onnxruntime.

    `step_error`: the worst of a single step that is given onnxruntime's own tensors, looked at
    where `worst_error` is above the tolerance; else 0. `constant`: outputs that were the same for
    all inputs, which proves nothing about them.
    """

    worst_error: float
    step_error: float = 0.0
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

    The module gets what the tensors `inputs` are there. `given`: inputs of the model. Networks
    exist whose rounding alone grows beyond any tolerance. So an output that is further off, but
    not beyond `LARGEST`, still passes where every single step of the module, given onnxruntime's
    own tensors, is within the tolerance; for a module that was not lifted, where it is as far from
    itself in float64. Raises `ModelError` naming the first tensor that differs.
    """
    worst, worst_step, tolerance = 0.0, 0.0, _limit(model, tolerance)
    seen: dict[str, list[NDArray[Any]]] = {name: [] for name in outputs}
    for feeds in given:
        values = _values(model, feeds, (*inputs, *outputs))
        got = run(module, [values[name] for name in inputs], outputs)
        errors = {name: relative_error(got[name], values[name]) for name in outputs}
        for name in outputs:
            seen[name].append(values[name])
        worst = max(worst, *errors.values())
        if all(error <= tolerance for error in errors.values()):
            continue
        if _is_of(model, module):
            worst_step = max(worst_step, _by_steps(model, module, feeds, errors, tolerance))
        else:
            _by_rounding(module, [values[name] for name in inputs], got, errors, tolerance)
    return Comparison(worst, worst_step, tuple(n for n in outputs if _constant(seen[n])))


def _limit(model: Model, tolerance: float) -> float:
    """Return the tolerance, or what half floats need where weights are such."""
    tensors = (v.const_value for v in model.ir.graph.initializers.values())
    halves = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    half = any(tensor is not None and tensor.dtype in halves for tensor in tensors)
    return max(tolerance, HALF) if half else tolerance


def _is_of(model: Model, module: nn.Module) -> bool:
    """Tell whether a module was lifted from this graph, tensor by tensor."""
    made = module.graph.nodes if isinstance(module, fx.GraphModule) else ()
    names = [node.meta["tensor"] for node in made if "tensor" in node.meta]
    return bool(names) and all(name in model.values for name in names)


def _by_steps(
    model: Model, module: nn.Module, feeds: Arrays, errors: Mapping[str, float], tolerance: float
) -> float:
    assert isinstance(module, fx.GraphModule)
    seen = steps(model, module, feeds, tolerance)
    if not seen.wrong and max(errors.values()) <= LARGEST:
        return seen.worst
    where = "rounding alone makes it so: no single step is wrong"
    if seen.wrong:
        node = model.values[seen.wrong].producer()
        maker = "an input" if node is None else f"made by {node.op_type}"
        where = f"the first tensor that differs is {seen.wrong!r}, {maker}"
    raise _off(errors, tolerance, where)


def _off(errors: Mapping[str, float], tolerance: float, where: str) -> ModelError:
    name = max(errors, key=lambda key: errors[key])
    return ModelError(
        f"the torch module computes something else: output {name!r} is off by {errors[name]:.1e} "
        f"(at most {tolerance:.0e})",
        where=where,
        hint="if this is rounding, allow it: tolerance = …",
    )


def _by_rounding(
    module: nn.Module,
    passed: Sequence[NDArray[Any]],
    got: Arrays,
    errors: Mapping[str, float],
    tolerance: float,
) -> None:
    """Raise `ModelError` unless float32 itself is as far from float64 in this module."""
    wide = [v.astype(np.float64) if v.dtype == np.float32 else v for v in passed]
    try:
        exact = run(in_double(module), wide, list(got))
    except (RuntimeError, TypeError):
        exact = dict(got)
    for name, error in errors.items():
        noise = relative_error(got[name].astype(exact[name].dtype), exact[name])
        if not error <= max(tolerance, min(_ROUNDINGS * noise, LARGEST)):
            raise _off({name: error}, tolerance, f"tensor {name!r}")


def _values(model: Model, feeds: Arrays, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    wanted = list(dict.fromkeys(name for name in names if name not in feeds))
    return {**feeds, **(evaluate(model, feeds, wanted, optimize=False) if wanted else {})}


def _constant(arrays: Sequence[NDArray[Any]]) -> bool:
    """Tell whether an output is the same for all samples, as far as they have the same sizes."""
    first = arrays[0].reshape(-1)
    others = [array.reshape(-1) for array in arrays[1:]]
    return all(np.array_equal(a[: first.size], first[: a.size], equal_nan=True) for a in others)


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
    return dict(zip(outputs, map(as_array, several), strict=True))


def sizes(model: Model, module: fx.GraphModule) -> dict[str, tuple[int, ...]]:
    """Return the sizes of every ONNX tensor in the module, on one sample drawn for `model`."""
    values = _values(model, next(samples(model)), module.meta["inputs"])
    return Recorder(module).record([values[name] for name in module.meta["inputs"]])
