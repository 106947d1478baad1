"""onnxruntime on the CPU: everywhere, both sides, the default, and the oracle for all others.

It runs the portable form itself, so its artifact holds no files.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort

from splitc import narrow
from splitc.backend import Artifact, Feeds, Refusals, Session, Target
from splitc.errors import BackendError

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnx.defs import OpSchema

    from splitc.model import Model

PROVIDER = "CPUExecutionProvider"

_FAILURES = (
    ort.Fail,
    ort.InvalidArgument,
    ort.InvalidGraph,
    ort.InvalidProtobuf,
    ort.NoSuchFile,
    ort.NotImplemented,
    ort.RuntimeException,
    ort.EPFail,
    RuntimeError,
    ValueError,
)


GRAPH_OPTIMIZATION = "graph_optimization"
"""The fact of an artifact that says "none" where it is to be run node by node, as written."""


class OnnxRuntime:
    """Runs the portable ONNX form on the CPU, with graph optimisation on unless told."""

    name: ClassVar[str] = "onnxruntime"

    def supports(self, segment: "Model", target: Target) -> Refusals:
        """Refuse nodes whose operator, version or types have neither a CPU kernel nor a body."""
        del target
        local = {(key[0], key[1]) for key in segment.ir.functions}
        refusals: dict[str, str] = {}
        for node in segment.ir.graph:
            reasons = (_refusal(inner, segment.ir, local) for inner in _with_bodies(node))
            if why := next((reason for reason in reasons if reason), None):
                refusals[_identity(node)] = why
        return refusals

    def compile(self, segment: "Model", target: Target) -> Artifact:
        """Return an artifact without files: the portable form is what runs."""
        if refusals := self.supports(segment, target):
            node, why = next(iter(refusals.items()))
            raise BackendError(
                f"onnxruntime cannot take {len(refusals)} of the nodes: {why}",
                where=f"node {node!r}",
            )
        return Artifact(backend=self.name, format="onnx", target=target)

    def runs_here(self, artifact: Artifact) -> str | None:
        """Return None: the portable form runs on every machine."""
        del artifact
        return None

    def load(self, artifact: Artifact) -> Session:
        """Open a session on the portable form; a path also finds external data beside it."""
        if artifact.model is None:
            raise BackendError("an onnxruntime artifact is loaded from its portable form")
        optimize = artifact.facts.get(GRAPH_OPTIMIZATION) != "none"
        return OrtSession(artifact.model, artifact.target.threads, optimize)


class OrtSession:
    """A session on one ONNX file or its bytes: feeds → outputs by name."""

    def __init__(self, model: Path | bytes, threads: int = 0, optimize: bool = True) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if narrow.saturates():
            options.add_session_config_entry(*narrow.EXACT_INT8)
        if not optimize:
            off = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.graph_optimization_level = off
        source = str(model) if isinstance(model, Path) else model
        self._where = model.name if isinstance(model, Path) else "model in memory"
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=[PROVIDER])
        except _FAILURES as reason:
            raise BackendError(f"onnxruntime: {_first(reason)}", where=self._where) from reason
        self._inputs = {i.name for i in self._session.get_inputs()}
        self._outputs = [o.name for o in self._session.get_outputs()]

    def __call__(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Run on all of the inputs; arrays of the caller are not changed."""
        if not self._outputs:
            return {}
        if lacking := sorted(self._inputs - feeds.keys()):
            raise BackendError(f"onnxruntime: no input {lacking[0]!r} was given", where=self._where)
        try:
            made = narrow.run(self._session, self._outputs, feeds)
        except _FAILURES as reason:
            raise BackendError(f"onnxruntime: {_first(reason)}", where=self._where) from reason
        return dict(zip(self._outputs, made, strict=True))


class _Kernel(NamedTuple):
    first: int
    last: int
    types: Mapping[str, frozenset[str]]


@cache
def _kernels() -> Mapping[tuple[str, str], tuple[_Kernel, ...]]:
    """Return (domain, operator) → the CPU kernels of the installed onnxruntime."""
    found: dict[tuple[str, str], list[_Kernel]] = {}
    for definition in ort.get_all_opkernel_def():
        if definition.provider == PROVIDER:
            first, last = definition.version_range
            types = {key: frozenset(kinds) for key, kinds in definition.type_constraints.items()}
            key = (definition.domain, definition.op_name)
            found.setdefault(key, []).append(_Kernel(first, last, types))
    return {key: tuple(kernels) for key, kernels in found.items()}


def _refusal(node: "ir.Node", model: "ir.Model", local: set[tuple[str, str]]) -> str | None:
    """Return why onnxruntime has no way to run the node, or None."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    if (domain, node.op_type) in local:
        return None
    opset = model.opset_imports.get(domain, 1)
    schema = _schema(node.op_type, domain, opset)
    if schema is not None and _has_body(schema):
        return None
    name = f"{domain}.{node.op_type}" if domain else node.op_type
    kernels = _kernels().get((domain, node.op_type), ())
    since = schema.since_version if schema is not None else opset
    fitting = [kernel for kernel in kernels if kernel.first <= since <= kernel.last]
    if not fitting:
        return f"no CPU kernel for operator {name!r} in opset {opset}"
    if schema is None or any(_takes(kernel, node, schema) for kernel in fitting):
        return None
    kinds = ", ".join(kind for _, kind in _typed_inputs(node, schema))
    return f"no CPU kernel for operator {name!r} on {kinds}"


def _takes(kernel: _Kernel, node: "ir.Node", schema: "OpSchema") -> bool:
    """Say whether the kernel takes the input types; onnxruntime casts float16 to float itself."""
    for formal, kind in _typed_inputs(node, schema):
        allowed = kernel.types.get(formal, frozenset((kind,)))
        if kind not in allowed and not (kind == "tensor(float16)" and "tensor(float)" in allowed):
            return False
    return True


def _typed_inputs(node: "ir.Node", schema: "OpSchema") -> Iterator[tuple[str, str]]:
    """Yield (type variable, onnxruntime's type name) of each tensor input whose type is known."""
    import onnx_ir as ir  # see `_schema`

    if not schema.inputs:
        return
    for place, value in enumerate(node.inputs):
        formal = schema.inputs[min(place, len(schema.inputs) - 1)]
        if value is not None and value.dtype is not None and isinstance(value.type, ir.TensorType):
            kind = value.dtype.name
            yield formal.type_str, f"tensor({_ORT_NAMES.get(kind, kind.lower())})"


_ORT_NAMES = {"FLOAT": "float", "DOUBLE": "double"}  # all others: in lower case


@cache
def _schema(op: str, domain: str, opset: int) -> "OpSchema | None":
    from onnx import defs  # running a half does not need it, and a device may be slow to import it

    try:
        return defs.get_schema(op, opset, domain)
    except defs.SchemaError:
        return None


def _has_body(schema: "OpSchema") -> bool:
    """Say whether onnxruntime can replace the operator: by its definition, or by its value."""
    body: bool = schema.has_function or schema.has_context_dependent_function  # type: ignore[attr-defined]
    return body or schema.name == "Constant"


def _with_bodies(node: "ir.Node") -> Iterator["ir.Node"]:
    """Yield the node and the nodes of its If/Loop/Scan bodies, however deep."""
    yield node
    for attribute in node.attributes.values():
        graphs: list[ir.Graph] = []
        if attribute.type.name == "GRAPH":
            graphs = [attribute.as_graph()]
        elif attribute.type.name == "GRAPHS":
            graphs = list(attribute.as_graphs())
        for graph in graphs:
            for inner in graph:
                yield from _with_bodies(inner)


def _identity(node: "ir.Node") -> str:
    return next((out.name for out in node.outputs if out.name), node.name or node.op_type)


def _first(reason: Exception) -> str:
    """Return onnxruntime's own words without its codes, on one line."""
    text = str(reason).strip() or type(reason).__name__
    return text.rpartition(" : ")[2].splitlines()[0]
