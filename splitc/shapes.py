"""Sizes: which are symbolic, what binds them, and every tensor's shape once they are bound.

A symbolic first dimension of an input is the batch, wherever else its symbol stands; it counts as
1 unless `--input` says otherwise. Any other symbolic size must come from `--input`. Shapes come
from ONNX's inference on a copy with fixed inputs; where inference leaves holes, from one run.
"""

import math
from collections.abc import Mapping, Sequence, Set

import onnx
import onnx_ir as ir

from splitc.errors import ModelError, RequestError, did_you_mean
from splitc.inference import bodies_of, inferred, light, types, violation
from splitc.inference import infer as infer
from splitc.model import Fact, InputSpec, Model, dtype_name, dtype_of

_LARGEST = 2**48
"""Bytes of one tensor; sums of thousands stay within 64 bits."""


def name_dims(model: ir.Model) -> None:
    """Give each unnamed size of a graph input a name: 'batch' in front, else '<input>_<axis>'.

    A size below 0 is unnamed: some exporters write -1 where they know none.
    """
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None and any(isinstance(d, int) and d < 0 for d in value.shape):
            value.shape = ir.Shape(None if isinstance(d, int) and d < 0 else d for d in value.shape)
    taken = {
        dim.value for v in model.graph.inputs for dim in v.shape or () if not isinstance(dim, int)
    }
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

    Sizes given as a range stay symbolic. Raises `RequestError` where a spec does not fit, or two
    specs give one symbol two sizes; `ModelError` for an input whose rank nobody gives.
    """
    inputs = {str(value.name): value for value in model.graph.inputs}
    given: dict[str, tuple[int, int, int]] = {}
    for name, spec in specs.items():
        if name not in inputs:
            raise RequestError(f"--input names {name!r}", hint=did_you_mean(name, inputs))
        _check_spec(inputs[name], spec)
        for sizes, dim in zip(spec.dims, inputs[name].shape or (), strict=True):
            if not isinstance(dim, int) and given.setdefault(str(dim.value), sizes) != sizes:
                raise RequestError(
                    f"--input {spec}: size {dim.value!r} is given twice, differently",
                    where=f"{name}: {shown(inputs[name])}",
                )
    bound = {symbol: best for symbol, (low, best, high) in given.items() if low == high}
    for value in inputs.values():
        _bind(value, bound)
    if bound:
        _forget_shapes(model.graph)
    return tuple(f"size {n!r} is fixed at {size} by --input" for n, size in bound.items())


def _bind(value: ir.Value, bound: Mapping[str, int]) -> None:
    if not isinstance(value.type, ir.TensorType):
        return
    if value.shape is None:
        raise ModelError(
            f"input {value.name!r} has no shape", hint=f"give it: --input {value.name}=1x…"
        )
    sizes = [d if isinstance(d, int) else bound.get(str(d.value), d) for d in value.shape]
    value.shape = ir.Shape(sizes)


def shown(value: ir.Value) -> str:
    """Return a value's sizes as text: [N, 3, 224, 224]."""
    dims = [str(d) if isinstance(d, int) else str(d.value or "?") for d in value.shape or ()]
    return f"[{', '.join(dims)}]"


def _check_spec(value: ir.Value, spec: InputSpec) -> None:
    have = value.shape
    if have is None:
        names = [f"{value.name}_{axis}" for axis in range(len(spec.dims))]
        value.shape = have = ir.Shape([ir.SymbolicDim(name) for name in names])
    fits = len(have) == len(spec.dims) and all(
        not isinstance(dim, int) or (low == dim == high)
        for dim, (low, _, high) in zip(have, spec.dims, strict=False)
    )
    if not fits:
        raise RequestError(f"--input {spec} does not fit", where=f"{value.name}: {shown(value)}")
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
    _check_open(model, batch | bound.keys())
    return dict.fromkeys(sorted(batch), 1) | bound


def _check_open(model: Model, known: Set[str]) -> None:
    """Raise `ModelError` that names every size which only the user can know."""
    missing: dict[str, str] = {}
    for tensor in model.inputs:
        for axis, dim in enumerate(tensor.shape):
            if isinstance(dim, str) and dim not in known:
                missing.setdefault(dim, f"{dim!r} (axis {axis} of input {tensor.name!r})")
    if not missing:
        return
    asked = [t for t in model.inputs if missing.keys() & set(t.shape)]
    texts = [
        f"--input {t.name}={'x'.join('1' if d in known else str(d) for d in t.shape)}"
        for t in asked
    ]
    raise ModelError(
        f"sizes are open: {', '.join(missing.values())}",
        where="; ".join(f"{t.name}: [{', '.join(map(str, t.shape))}]" for t in asked),
        hint=f"give {' '.join(texts)} with numbers for {', '.join(missing)}",
    )


def facts(model: Model) -> dict[str, Fact]:
    """Return name → `Fact` for graph inputs, initializers and node outputs of the main graph."""
    bound = bindings(model)
    proto = _proto_at(model, bound)
    made, _ = inferred(proto)
    seen = types((made or proto).graph)
    found: dict[str, Fact] = {}
    holes: list[str] = []
    for name, value in model.values.items():
        kind = seen.get(name)
        if not isinstance(value.type, ir.TensorType | None) or _is_other(kind):
            continue  # a sequence, map or optional
        fact = _constant(value) or _typed(kind) or _mask(value, model.ir, found)
        if fact is None:
            holes.append(name)
        else:
            found[name] = fact
    return found | (_measured(_at_sizes(model, bound), holes, found) if holes else {})


def body_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Return the sizes of the tensors inside If, Loop and Scan bodies that inference can tell."""
    made, _ = inferred(_proto_at(model, bindings(model)))
    waiting = [] if made is None else list(made.graph.node)
    found: dict[str, tuple[int, ...]] = {}
    while waiting:
        for body in bodies_of(waiting.pop()):
            waiting += body.node
            seen = ((name, _typed(kind)) for name, kind in types(body).items())
            found |= {name: fact.shape for name, fact in seen if fact is not None}
    return found


def sizes_at(model: Model, bound: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Return tensor → sizes with these symbols bound, as far as ONNX's inference tells them."""
    proto = _proto_at(model, bound)
    made, _ = inferred(proto)
    seen = ((name, _typed(kind)) for name, kind in types((made or proto).graph).items())
    return {name: fact.shape for name, fact in seen if fact is not None}


def _proto_at(model: Model, bound: Mapping[str, int]) -> onnx.ModelProto:
    """Serialise the structure with concrete inputs; what it says of other tensors is left out."""
    proto = light(model.ir)
    del proto.graph.value_info[:]
    for value in proto.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in bound:
                dim.dim_value = bound[dim.dim_param]
    for value in proto.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    return proto


def _is_other(kind: onnx.TypeProto | None) -> bool:
    """Tell whether an inferred type is none of a tensor."""
    return kind is not None and kind.WhichOneof("value") not in (None, "tensor_type")


def _constant(value: ir.Value) -> Fact | None:
    tensor = value.const_value
    if tensor is None or value.producer() is not None:
        return None
    return make_fact(tensor.dtype, tuple(int(d) for d in tensor.shape if isinstance(d, int)))


def _typed(kind: onnx.TypeProto | None) -> Fact | None:
    """Return the fact of an inferred type whose sizes are all numbers."""
    if kind is None or not kind.tensor_type.HasField("shape") or not kind.tensor_type.elem_type:
        return None
    dims = kind.tensor_type.shape.dim
    if not all(dim.HasField("dim_value") for dim in dims):
        return None
    dtype = ir.DataType(kind.tensor_type.elem_type)
    return make_fact(dtype, tuple(dim.dim_value for dim in dims))


def _at_sizes(model: Model, bound: Mapping[str, int]) -> Model:
    """Return a clone whose inputs have the given sizes and whose other tensors have none."""
    fixed = model.clone()
    for value in fixed.ir.graph.inputs:
        if value.shape is not None and isinstance(value.type, ir.TensorType):
            sizes = [d if isinstance(d, int) else bound[str(d.value)] for d in value.shape]
            value.shape = ir.Shape(sizes)
    _forget_shapes(fixed.ir.graph)
    return fixed


def _forget_shapes(graph: ir.Graph) -> None:
    """Drop inferred sizes; graph outputs keep their rank, which ONNX's checker asks for."""
    ends = set(graph.outputs)
    for node in graph:
        for out in node.outputs:
            keep = out in ends and out.shape is not None
            out.shape = (
                ir.Shape([None] * len(out.shape)) if keep and out.shape is not None else None
            )


def _mask(value: ir.Value, model: ir.Model, found: Mapping[str, Fact]) -> Fact | None:
    """Describe Dropout's mask, which ONNX's inference leaves open before opset 12."""
    node = value.producer()
    if node is None or node.op_type != "Dropout" or node.inputs[0] is None:
        return None
    data = found.get(str(node.inputs[0].name))
    dtype = "bool" if model.opset_imports.get("", 1) >= 10 else data and data.dtype
    return None if data is None else make_fact(dtype_of(str(dtype)), data.shape)


def make_fact(dtype: ir.DataType, shape: tuple[int, ...]) -> Fact:
    """Build a fact; strings count as 8 bytes an element, sub-byte types are packed."""
    item = 8.0 if dtype == ir.DataType.STRING else dtype.itemsize
    if (size := math.ceil(math.prod(shape) * item)) > _LARGEST:
        raise ModelError(f"a tensor of sizes {list(shape)} has more than {_LARGEST:,} bytes")
    return Fact(dtype_name(dtype), shape, size)


def _measured(fixed: Model, holes: Sequence[str], known: Mapping[str, Fact]) -> dict[str, Fact]:
    """Run the network once on drawn inputs to see the shapes that inference cannot tell.

    `fixed`: a model at concrete sizes. Tensors that are sequences or absent have no fact.
    """
    from splitc.execute import evaluate
    from splitc.feeds import draw

    wanted: dict[str, Fact] = {}
    for value in fixed.ir.graph.inputs:
        fact = known.get(str(value.name))
        if fact is None:
            raise ModelError(
                f"the shape of {holes[0]!r} needs a run, and input {value.name!r} cannot be drawn"
            )
        wanted[str(value.name)] = fact
    feeds = draw(fixed, wanted, seed=0, known=known)
    seen = evaluate(fixed, feeds, holes, optimize=False)
    result: dict[str, Fact] = {}
    for name, array in seen.items():
        if array is not None and hasattr(array, "dtype"):
            dtype = fixed.values[name].dtype or ir.DataType.from_numpy(array.dtype)
            result[name] = make_fact(dtype, tuple(array.shape))
    return result


def open_outputs(model: Model) -> bool:
    """Give a rank and type to graph outputs that neither the file nor inference gives one.

    They come from one run at batch 1: ONNX's checker asks for them. Returns whether any did.
    """
    holes = [
        str(value.name)
        for value in model.ir.graph.outputs
        if value.type is None or (isinstance(value.type, ir.TensorType) and value.shape is None)
    ]
    if not holes:
        return False
    bound = bindings(model)
    seen = types(_proto_at(model, bound).graph)
    known = {name: fact for name, kind in seen.items() if (fact := _typed(kind)) is not None}
    for name, fact in _measured(_at_sizes(model, bound), holes, known).items():
        value = next(v for v in model.ir.graph.outputs if v.name == name)
        value.type = ir.TensorType(dtype_of(fact.dtype))
        value.shape = ir.Shape([None] * len(fact.shape))
    return True


def loosely_inferred(model: Model, problem: str) -> None:
    """Deal with a graph that strict inference refuses: drop the file's own sizes and try again.

    Raises `ModelError` where onnxruntime cannot open the graph either.
    """
    from splitc.execute import session

    _forget_shapes(model.ir.graph)
    if infer(model.ir):
        try:
            session(model, optimize=False)
        except ModelError as error:
            raise ModelError(
                f"the graph is inconsistent: {problem}", where=model.source, hint=str(error.args[0])
            ) from error


def check(model: Model) -> None:
    """Raise `ModelError` unless ONNX's checker accepts the model."""
    check_proto(light(model.ir), model.source)


def check_proto(proto: onnx.ModelProto, source: str) -> None:
    """Raise `ModelError` unless ONNX's checker accepts the serialised model."""
    if problem := violation(proto):
        raise ModelError(f"not a valid ONNX model: {problem}", where=source)
