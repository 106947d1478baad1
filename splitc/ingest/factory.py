"""Run a Python factory `pkg.mod:make` and export the module that it returns.

    def make():
        return MyNet(), (torch.randn(1, 3, 224, 224),)      # or a dict of keyword arguments

This executes the factory's code with the user's rights: it is for one's own networks, never for
somebody else's. Modules are looked for in the current directory first.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

import onnx_ir as ir

from splitc.errors import ModelError, did_you_mean
from splitc.ingest.torch_export import failures, reason, require_torch, to_onnx
from splitc.quiet import quiet

_SHAPE = "a factory returns (torch.nn.Module, tuple or dict of example inputs)"


def read(text: str) -> tuple[ir.Model, tuple[str, ...]]:
    """Call the factory named by ``pkg.mod:attribute``; return its graph and lines for the user.

    The module is switched to inference mode. The first dimension that the example tensors share
    becomes the symbolic batch where the export can keep it; else sizes are the example's, and a
    line says so. Raises `ModelError` naming what went wrong, at which step.
    """
    module_name, _, attribute = text.partition(":")
    if not module_name or not all(
        part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))
    ):
        raise ModelError(
            f"cannot read {text!r}", hint="name a factory as pkg.mod:make, or a file that exists"
        )
    require_torch(text)
    with _importable(), redirect_stdout(sys.stderr):
        factory = _factory(module_name, attribute, text)
        module, args, kwargs = _made(factory, text)
        return _exported(module.eval(), args, kwargs, text)


@contextmanager
def _importable() -> Iterator[None]:
    """Put the current directory first on `sys.path` meanwhile."""
    before = list(sys.path)
    sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


def _factory(module_name: str, attribute: str, where: str) -> Callable[[], object]:
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = str(error.name)
        ours = module_name == missing or module_name.startswith(f"{missing}.")
        hint = (
            "run splitc in the folder that holds it, or install it"
            if ours
            else f"install {missing!r}"
        )
        raise ModelError(f"no module called {missing!r}", where=where, hint=hint) from error
    except (Exception, SystemExit) as error:  # somebody's module may raise anything
        raise ModelError(
            f"importing {module_name!r} fails: {reason(error)}", where=where
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [name for name in vars(found) if not name.startswith("_")]
            raise ModelError(
                f"no {part!r} in {module_name!r}", where=where, hint=did_you_mean(part, names)
            )
        found = getattr(found, part)
    if not callable(found):
        raise ModelError(
            f"{attribute!r} is of type {type(found).__name__}, not a function",
            where=where,
            hint=_SHAPE,
        )
    return found  # type: ignore[no-any-return]


def _made(factory: Callable[[], object], where: str) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Call the factory and check what it returns: (module, args, kwargs)."""
    import torch

    try:
        made = factory()
    except (Exception, SystemExit) as error:  # somebody's function, too
        raise ModelError(f"the factory fails: {reason(error)}", where=where, hint=_SHAPE) from error
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
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], where: str
) -> tuple[ir.Model, tuple[str, ...]]:
    """Export with a symbolic batch if that works, else with the example's sizes."""
    import torch
    from torch.utils import _pytree as pytree

    example = (args, kwargs)
    tensors = [v for v in pytree.tree_leaves(example) if isinstance(v, torch.Tensor) and v.ndim]
    if not tensors:
        return to_onnx(_program(module, example, None, where), where), ()
    size = int(tensors[0].shape[0])
    batched = pytree.tree_map(lambda v: _is_batched(v, size), example)
    twice = pytree.tree_map(
        lambda v: torch.cat([v, v]) if size == 1 and _is_batched(v, size) else v, example
    )
    try:
        program = _program(module, twice, batched, where)
        return to_onnx(program, where), ()
    except ModelError as error:
        note = (
            f"the batch is fixed at {size}, as in the factory's example inputs: the export cannot "
            f"keep it symbolic ({error.args[0][:200]})"
        )
    return to_onnx(_program(module, example, None, where), where), (note,)


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
