"""Run a Python factory `pkg.mod:make` and export the module that it returns.

    def make():
        return MyNet(), (torch.randn(1, 3, 224, 224),)      # or a dict of keyword arguments

This executes the factory's code with the user's rights: it is for one's own networks, never for
somebody else's. Modules are looked for in the current directory first.
"""

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir

from splitc.errors import ModelError
from splitc.importing import call, check_spelling, function, importable, reason
from splitc.ingest.torch_export import failures, require_torch, to_onnx
from splitc.quiet import quiet

_SHAPE = "a factory returns (torch.nn.Module, tuple or dict of example inputs)"
_SPELLING = "name a factory as pkg.mod:make, or a file that exists"


def read(text: str, fold: bool = True) -> tuple[ir.Model, tuple[str, ...]]:
    """Call the factory named by ``pkg.mod:attribute``; return its graph and lines for the user.

    The module is switched to inference mode. The first dimension that the example tensors share
    becomes the symbolic batch where the export can keep it; else sizes are the example's, and a
    line says so. `fold`: as in `to_onnx`. Raises `ModelError` naming what went wrong, at which
    step.
    """
    check_spelling(text, _SPELLING, ModelError)
    require_torch(text)
    with importable():
        factory = function(text, shape=_SHAPE, spelling=_SPELLING, error=ModelError)
        module, args, kwargs = _made(factory, text)
        return _exported(module.eval(), (args, kwargs), text, fold)


def _made(factory: Callable[[], object], where: str) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Call the factory and check what it returns: (module, args, kwargs)."""
    import torch

    made = call(factory, what="the factory", where=where, hint=_SHAPE, error=ModelError)
    if not isinstance(made, tuple) or len(made) != 2:
        raise ModelError(f"the factory returns a value {_kind(made)}", where=where, hint=_SHAPE)
    module, inputs = made
    if not isinstance(module, torch.nn.Module):
        raise ModelError(f"the factory's first value is {_kind(module)}", where=where, hint=_SHAPE)
    if isinstance(inputs, torch.Tensor):
        return module, (inputs,), {}
    if isinstance(inputs, Mapping):
        return module, (), dict(inputs)
    if isinstance(inputs, (tuple, list)):
        return module, tuple(inputs), {}
    raise ModelError(f"the factory's second value is {_kind(inputs)}", where=where, hint=_SHAPE)


def _kind(value: object) -> str:
    many = f" of {len(value)}" if isinstance(value, tuple) else ""
    return f"of type {type(value).__name__}{many}"


def _exported(
    module: Any, example: tuple[tuple[Any, ...], dict[str, Any]], where: str, fold: bool
) -> tuple[ir.Model, tuple[str, ...]]:
    """Export with a symbolic batch if that works, else with the example's sizes."""
    import torch
    from torch.utils import _pytree as pytree

    tensors = [v for v in pytree.tree_leaves(example) if isinstance(v, torch.Tensor) and v.ndim]
    if not tensors:
        return to_onnx(_program(module, example, None, where), where, fold), ()
    size = int(tensors[0].shape[0])
    batched = pytree.tree_map(lambda v: _is_batched(v, size), example)
    twice = pytree.tree_map(
        lambda v: torch.cat([v, v]) if size == 1 and _is_batched(v, size) else v, example
    )
    try:
        program = _program(module, twice, batched, where)
        return to_onnx(program, where, fold), ()
    except ModelError as error:
        note = (
            f"the batch is fixed at {size}, as in the factory's example inputs: the export cannot "
            f"keep it symbolic ({error.args[0][:200]})"
        )
    return to_onnx(_program(module, example, None, where), where, fold), (note,)


def _is_batched(value: object, size: int) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == size


def _program(module: Any, example: Any, batched: Any, where: str) -> Any:
    """Run `torch.export.export`; `batched`: which leaves have the batch as first dimension."""
    import torch
    from torch.utils import _pytree as pytree

    args, kwargs = example
    shapes = None
    if batched is not None:
        batch = torch.export.Dim("batch", min=1)
        marks = pytree.tree_map(lambda is_batched: {0: batch} if is_batched else None, batched)
        shapes = _by_argument(module, args, marks)
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
    except failures() as error:
        raise ModelError(f"torch cannot export the module: {reason(error)}", where=where) from error


def _by_argument(module: Any, args: tuple[Any, ...], marks: Any) -> dict[str, Any]:
    """Name the marks of positional and keyword arguments as `forward` does."""
    import inspect

    positional, keyword = marks
    parameters = inspect.signature(module.forward).parameters
    named: dict[str, Any] = {}
    rest = list(positional)
    for name, parameter in parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL and rest:
            named[name], rest = tuple(rest), []
        elif parameter.kind is not parameter.VAR_KEYWORD and rest and name not in keyword:
            named[name] = rest.pop(0)
    return {**named, **keyword}
