"""Sizes: which are symbolic, what binds them, and every tensor's shape once they are bound.

A symbolic first dimension of an input is the batch, wherever else its symbol stands; it counts as
1 unless `--input` says otherwise. Any other symbolic size must come from `--input`. Shapes come
from ONNX's inference on a copy with fixed inputs; where inference leaves holes, from one run.
"""

import math
from collections.abc import Mapping

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import CheckerPass, ShapeInferencePass

from splitc.errors import ModelError, RequestError, did_you_mean
from splitc.model import Fact, InputSpec, Model, dtype_name, dtype_of


def name_dims(model: ir.Model) -> None:
    """Give each unnamed size of a graph input a name: 'batch' in front, else '<input>_<axis>'."""
    taken = {dim.value for v in model.graph.inputs for dim in v.shape or () if not isinstance(dim, int)}
    for value in model.graph.inputs:
        if value.shape is None:
            continue
        batch = "batch" if "batch" not in taken else f"{value.name}_0"
        names = [batch if axis == 0 else f"{value.name}_{axis}" for axis in range(len(value.shape))]
        value.shape = ir.Shape(
            ir.SymbolicDim(name) if not isinstance(dim, int) and dim.value is None else dim
            for dim, name in zip(value.shape, names, strict=True)
        )


def apply_specs(model: ir.Model, specs: Mapping[str, InputSpec]) -> tuple[str, ...]:
    """Write single sizes of `--input` into the graph inputs; return a loud line for each.

    Sizes given as a range stay symbolic. Raises `RequestError` where a spec does not fit.
    """
    inputs = {str(value.name): value for value in model.graph.inputs}
    bound: dict[str, int] = {}
    for name, spec in specs.items():
        if name not in inputs:
            raise RequestError(f"--input names {name!r}", hint=did_you_mean(name, inputs))
        _check_spec(inputs[name], spec)
        for (low, best, high), dim in zip(spec.dims, inputs[name].shape or (), strict=True):
            if low == high and not isinstance(dim, int) and dim.value:
                bound[dim.value] = best
    for value in inputs.values():
        sizes = [d if isinstance(d, int) else bound.get(str(d.value), d) for d in value.shape or ()]
        value.shape = None if value.shape is None else ir.Shape(sizes)
    if bound:
        _forget_shapes(model.graph)
    return tuple(f"size {n!r} is fixed at {size} by --input" for n, size in bound.items())


def _check_spec(value: ir.Value, spec: InputSpec) -> None:
    have = value.shape
    if have is None:
        value.shape = have = ir.Shape([ir.SymbolicDim(f"{value.name}_{i}") for i in range(len(spec.dims))])
    fits = len(have) == len(spec.dims) and all(
        not isinstance(dim, int) or (low == dim == high)
        for dim, (low, _, high) in zip(have, spec.dims, strict=False)
    )
    if not fits:
        raise RequestError(f"--input {spec} does not fit", where=f"{value.name}: {list(have)}")
    if spec.dtype and dtype_of(spec.dtype) != value.dtype:
        raise RequestError(f"--input {spec}: {value.name!r} is {dtype_name(value.dtype)}")


def bindings(model: Model) -> dict[str, int]:
    """Return symbol → size: from `--input`, 1 for batches. `ModelError` names what is missing."""
    bound: dict[str, int] = {}
    batch: set[str] = set()
    for tensor in model.inputs:
        batch |= {d for d in tensor.shape[:1] if isinstance(d, str)}
        if tensor.name in model.specs:
            sizes = zip(tensor.shape, model.specs[tensor.name].dims, strict=True)
            bound |= {dim: best for dim, (_, best, _) in sizes if isinstance(dim, str)}
    for tensor in model.inputs:
        for axis, dim in enumerate(tensor.shape):
            if isinstance(dim, str) and dim not in batch and dim not in bound:
                shape = "x".join("1" if d in batch else str(d) for d in tensor.shape)
                raise ModelError(
                    f"input {tensor.name!r} has the open size {dim!r} (axis {axis})",
                    where=f"{tensor.name}: {list(tensor.shape)}",
                    hint=f"give it: --input {tensor.name}={shape} with a number for {dim!r}",
                )
    return dict.fromkeys(sorted(batch), 1) | bound


def facts(model: Model) -> dict[str, Fact]:
    """Return name → `Fact` for graph inputs, initializers and node outputs of the main graph."""
    bound = bindings(model)
    fixed = model.clone()
    for value in fixed.ir.graph.inputs:
        if value.shape is None:
            raise ModelError(
                f"input {value.name!r} has no shape", hint=f"give it: --input {value.name}=1x…"
            )
        sizes = [d if isinstance(d, int) else bound[str(d.value)] for d in value.shape]
        value.shape = ir.Shape(sizes)
    _forget_shapes(fixed.ir.graph)
    infer(fixed.ir)
    found: dict[str, Fact] = {}
    holes: list[str] = []
    for name, value in fixed.values.items():
        if value.type is not None and not isinstance(value.type, ir.TensorType):
            continue
        if (fact := _fact(value)) is None:
            holes.append(name)
        else:
            found[name] = fact
    return found | (_measured(model, fixed, holes) if holes else {})


def _forget_shapes(graph: ir.Graph) -> None:
    """Drop inferred sizes; graph outputs keep their rank, which ONNX's checker asks for."""
    ends = set(graph.outputs)
    for node in graph:
        for out in node.outputs:
            keep = out in ends and out.shape is not None
            out.shape = ir.Shape([None] * len(out.shape)) if keep and out.shape is not None else None


def _fact(value: ir.Value) -> Fact | None:
    tensor = value.const_value
    if tensor is not None and value.producer() is None:
        return make_fact(tensor.dtype, tuple(int(d) for d in tensor.shape if isinstance(d, int)))
    if value.dtype is None or value.shape is None:
        return None
    sizes = tuple(dim for dim in value.shape if isinstance(dim, int))
    return make_fact(value.dtype, sizes) if len(sizes) == len(value.shape) else None


def make_fact(dtype: ir.DataType, shape: tuple[int, ...]) -> Fact:
    """Build a fact; strings count as 8 bytes an element, sub-byte types are packed."""
    item = 8.0 if dtype == ir.DataType.STRING else dtype.itemsize
    return Fact(dtype_name(dtype), shape, math.ceil(math.prod(shape) * item))


def _measured(model: Model, fixed: Model, holes: list[str]) -> dict[str, Fact]:
    """Run the network once on drawn inputs to see the shapes that inference cannot tell."""
    from splitc.execute import evaluate
    from splitc.feeds import draw

    known = {name: fact for v in fixed.ir.graph.inputs if (fact := _fact(v)) for name in [str(v.name)]}
    seen = evaluate(fixed, draw(fixed, known, seed=0), holes, optimize=False)
    result: dict[str, Fact] = {}
    for name, array in seen.items():
        if array is not None and hasattr(array, "dtype"):
            dtype = fixed.values[name].dtype or ir.DataType.from_numpy(array.dtype)
            result[name] = make_fact(dtype, tuple(array.shape))
    return result


def infer(model: ir.Model) -> None:
    """Run ONNX's shape inference in place (weights set aside, constants propagated)."""
    try:
        ShapeInferencePass(data_prop=True)(model)
    except (ValueError, RuntimeError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"shape inference fails: {error}") from error


def check(model: Model) -> None:
    """Raise `ModelError` unless ONNX's checker accepts the model."""
    try:
        CheckerPass()(model.ir)
    except (onnx.checker.ValidationError, ValueError, RuntimeError, UnicodeDecodeError) as error:
        cause = error.__cause__ or error
        text = str(cause).strip().split("\n\n")[0]
        raise ModelError(f"not a valid ONNX model: {text[:600]}", where=model.source) from error
