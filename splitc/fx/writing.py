"""Write what a lifted module has become back into the ONNX graph it came from."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import fx

from splitc.errors import ModelError, did_you_mean
from splitc.fx.checking import TOLERANCE, checked, samples, sizes
from splitc.fx.graphs import all_values, constant, shape_of, store
from splitc.fx.layouts import Slot, joined
from splitc.fx.retyping import typed
from splitc.fx.selections import select
from splitc.fx.widths import rewidth
from splitc.model import Model


def write_back(model: Model, module: fx.GraphModule, *, tolerance: float = TOLERANCE) -> Model:
    """Return `model` with the weights that a module lifted from it has now, under the same names.

    Widths may have changed: `group` and the constants of Reshape, Split, Expand and Slice follow,
    sizes are inferred anew. Tensors that did not change stay the same objects. The result is
    compared with the module on drawn inputs, max|a−b| / max|b| at most `tolerance`. Raises
    `ModelError` where they differ, naming the first tensor; for a module that was not lifted from
    such a model; and where copies of one initializer are no longer equal.
    """
    still = _still(module)
    made = replace(model.clone(), cuttable=model.cuttable)
    table = all_values(made.ir.graph)
    fresh = changed(model, still)
    wider = any(array.shape != shape_of(table[name]) for name, array in fresh.items())
    for name, array in fresh.items():
        store(table[name], array)
    if select(made, still) or wider:
        before = {name: fact.shape for name, fact in model.facts.items()}
        rewidth(made, still, before, sizes(model, still))
        made = typed(made, "the written graph is inconsistent")
    checked(made, still, tolerance=tolerance, given=samples(model))
    return made


def changed(model: Model, module: fx.GraphModule) -> dict[str, NDArray[Any]]:
    """Return initializer → new array, for those that the module holds otherwise than `model`.

    Raises `ModelError` for a module that is not one of `model`'s, or whose copies of one
    initializer differ.
    """
    slots, table = _slots(module), all_values(model.ir.graph)
    computed = module.meta["computed"]
    tensors = _tensors(module)
    made: dict[str, NDArray[Any]] = {}
    for name in dict.fromkeys(slot.initializer for slot in slots.values()):
        before = constant(table[name]) if name in table else None
        before = computed.get(name) if before is None and name in table else before
        if before is None:
            raise ModelError(
                f"the module holds a weight {name!r} that the model lacks",
                where=model.source,
                hint=did_you_mean(name, table),
            )
        held = {path: slot for path, slot in slots.items() if slot.initializer == name}
        after = joined(_agreed(held, tensors, name), tensors, before)
        if not same(before, after):
            made[name] = after
    return made


def same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Tell whether two arrays are the same, bit for bit."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def _slots(module: fx.GraphModule) -> Mapping[str, Slot]:
    if "parameters" not in module.meta:
        raise ModelError("this module was not lifted", hint="module = lift(model)")
    slots: Mapping[str, Slot] = module.meta["parameters"]
    return slots


def _tensors(module: fx.GraphModule) -> dict[str, torch.Tensor]:
    """Return every parameter and buffer by its name; `ModelError` for one that is gone."""
    found: dict[str, torch.Tensor] = dict(module.named_parameters(remove_duplicate=False))
    found |= dict(module.named_buffers(remove_duplicate=False))
    if gone := [path for path in _slots(module) if path not in found]:
        raise ModelError(
            f"the module no longer has {', '.join(map(repr, gone[:5]))}",
            hint="a layer that was replaced by others is spliced in: splice(model, …)",
        )
    return found


def _agreed(
    held: Mapping[str, Slot], tensors: Mapping[str, torch.Tensor], name: str
) -> dict[str, Slot]:
    """Return one path for each part of an initializer; those that share a part must be equal."""
    first: dict[int, str] = {}
    for path, slot in held.items():
        other = first.setdefault(slot.part, path)
        if not torch.equal(tensors[path], tensors[other]):
            raise ModelError(
                f"initializer {name!r} is shared, and its copies differ now",
                where=f"{other} and {path}",
                hint="change both alike, or give one node an initializer of its own first",
            )
    return {path: held[path] for path in first.values()}


def _still(module: fx.GraphModule) -> fx.GraphModule:
    """Return the module on the CPU in evaluation mode; a copy if it is not so."""
    devices = {tensor.device.type for tensor in (*module.parameters(), *module.buffers())}
    if devices <= {"cpu"} and not any(part.training for part in module.modules()):
        return module
    return copy.deepcopy(module).cpu().eval()
