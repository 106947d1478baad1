"""Fold constants, drop what does nothing, fuse BatchNorm and bias into their neighbours.

    c = Conv(x, w)
    y = BatchNormalization(c, ...)      becomes      y = Conv(x, w', b')

onnxsim does the work; where it fails, onnxscript's optimizer; where that fails too, the graph
stays as it is, and which of the three it was is written in the model's notes. A tensor name that
survives means the same value as before: a fusion that leaves `c` carrying the value of `y` is
renamed back to `y`.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from splitc.errors import ModelError
from splitc.ingest.onnx_file import read
from splitc.model import Model
from splitc.names import honest
from splitc.parking import parked
from splitc.shapes import bindings, infer

_LIMIT = 2**31 - 2**27


@dataclass(frozen=True)
class Simplify:
    """Fold constants and fuse, keeping meaning and names.

    `fuse_batch_norm`: into the convolution before it; passes that train need it apart.
    """

    name: ClassVar[str] = "simplify"
    exact: ClassVar[bool] = True

    fuse_batch_norm: bool = True

    def run(self, model: Model) -> Model:
        """Return the simplified model; its notes say what did it, if not onnxsim.

        Raises `ModelError` for sizes that `--input` must give: nothing could be checked then.
        """
        bindings(model)
        reasons: list[str] = []
        for label, tool in (("onnxsim", _onnxsim), ("onnxscript", _onnxscript)):
            try:
                made = _finished(model, tool(model, self.fuse_batch_norm))
            except (ModelError, RuntimeError, ValueError, OSError, MemoryError) as error:
                reasons.append(f"{label}: {str(error).strip().splitlines()[0][:120]}")
                continue
            return made.with_notes(*(f"simplify: {r}; {label} did it" for r in reasons))
        return model.with_notes(f"simplify: the graph stays as it was ({'; '.join(reasons)})")


def _finished(model: Model, made: Model) -> Model:
    """Type the result, keep names honest, and refuse it if its outputs differ.

    What the tool wrote about itself (what it removed, kilobytes of it) is not the model's.
    """
    ClearMetadataAndDocStringPass()(made.ir)
    made.ir.metadata_props.clear()
    made.ir.metadata_props.update(model.ir.metadata_props)
    _own_zero_points(made.ir.graph)
    infer(made.ir)
    made.check()
    if difference := honest(model, made):
        raise ModelError(f"the simplified graph computes something else: {difference}")
    return made


def _own_zero_points(graph: ir.Graph) -> None:
    """Undo what merging equal constants did to quantized weights that now share a zero point.

    onnxruntime 1.31 cannot open such a graph on x86 with exact 8-bit products: it turns weights to
    uint8, each with its zero point, and fails where one is turned twice.
    """
    zeros = {node: zero for node in graph if (zero := _zero_point_of_weights(node)) is not None}
    shared = {zero for zero in zeros.values() if len(zero.uses()) > 1}
    for node, zero in zeros.items():
        if zero in shared:
            own = ir.Value(
                name=f"{node.outputs[0].name}/zero_point",
                type=zero.type,
                shape=zero.shape,
                const_value=zero.const_value,
            )
            graph.register_initializer(own)
            node.replace_input_with(2, own)
    for zero in shared:
        if not zero.uses():
            del graph.initializers[str(zero.name)]


def _zero_point_of_weights(node: ir.Node) -> ir.Value | None:
    if node.op_type != "DequantizeLinear" or len(node.inputs) < 3:
        return None
    weights, _, zero = node.inputs
    constant = weights is not None and weights.is_initializer()
    return zero if constant and zero is not None and zero.is_initializer() else None


def _onnxsim(model: Model, fuse: bool) -> Model:
    if model.weight_bytes() > _LIMIT:
        raise ModelError("weights above 2 GiB are left to the backend's own optimizer")
    with _hidden("torch"):
        import onnxsim
    with tempfile.TemporaryDirectory(prefix="splitc-") as folder:
        source, target = Path(folder) / "in.onnx", Path(folder) / "out.onnx"
        model.save(source)
        with _silence():
            onnxsim.simplify(str(source), check_n=0, skip_fuse_bn=not fuse, output_path=str(target))
        made = replace(model, ir=_held(target))
    if not fuse:
        _own_parameters(model.ir.graph, made.ir.graph)
    return parked(made)


def _own_parameters(before: ir.Graph, after: ir.Graph) -> None:
    """Undo what merging equal constants did to BatchNorms: each is trained for itself."""
    norms = {n.outputs[0].name: n for n in before if n.op_type == "BatchNormalization"}
    for node in after:
        old = norms.get(node.outputs[0].name)
        for place, value in enumerate(old.inputs if old else ()):
            if value is not None and value.is_initializer():
                node.replace_input_with(place, _same(value, after))


def _same(value: ir.Value, graph: ir.Graph) -> ir.Value:
    """Return the initializer of this name in `graph`; put it back where it is missing."""
    if value.name not in graph.initializers:
        own = ir.Value(
            name=value.name, type=value.type, shape=value.shape, const_value=value.const_value
        )
        graph.register_initializer(own)
    return graph.initializers[str(value.name)]


def _held(path: Path) -> ir.Model:
    """Read a model whose folder is about to go: weights beside it come into memory."""
    result = read(path, _LIMIT * 4)
    for value in result.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.tensor(value.const_value.numpy().copy(), name=value.name)
    return result


def _onnxscript(model: Model, fuse: bool) -> Model:
    if not fuse and any(node.op_type == "BatchNormalization" for node in model.ir.graph):
        raise ModelError("it fuses every BatchNorm")
    if model.weight_bytes() > _LIMIT:
        raise ModelError("weights above 2 GiB")
    from onnxscript import optimizer

    copy = model.clone()
    optimizer.optimize_ir(copy.ir)
    return copy


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Import what follows as if `name` were not installed, unless it is loaded already.

    onnxsim imports torch where it can: seconds and 200 MB that simplifying never uses.
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def _silence() -> Iterator[None]:
    """Keep native code from printing: stdout and stderr go nowhere meanwhile."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, number)
                os.close(copy)
