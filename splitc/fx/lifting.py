"""Lift an ONNX graph, or a region of it, into a torch.fx module made of ordinary nn modules."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import onnx_ir as ir
from torch import fx, nn

from splitc.errors import ModelError
from splitc.fx import patterns, sizes
from splitc.fx.builder import Builder, Made, Sizes, is_weight
from splitc.fx.checking import TOLERANCE, checked
from splitc.fx.folding import folded
from splitc.fx.region import Region, region
from splitc.fx.rules import RULES
from splitc.fx.site import Site
from splitc.fx.wide import wide_shapes
from splitc.model import Fact, Model, bodies, identity
from splitc.shapes import body_shapes


def lift(
    model: Model,
    *,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    check: bool = True,
    tolerance: float = TOLERANCE,
) -> fx.GraphModule:
    """Return the graph, or the region from `inputs` to `outputs`, as a torch module.

    It is called with the inputs in order and returns the output, or a tuple of them. It is in
    evaluation mode; a symbolic batch stays one. `module.meta`: `parameters` (qualified name → the
    initializer and how it lies in it), `inputs`, `outputs`, `comparison` with onnxruntime. An fx
    node knows its ONNX node: `node.meta["onnx"]`; where it has the value of an ONNX tensor,
    `node.meta["tensor"]`.

    `check`: compare with onnxruntime on drawn inputs, max|a−b| / max|b| at most `tolerance`
    (more only where rounding alone makes it so: see `checking.agree`).
    Raises `ModelError` for operators that the lift does not know, all of them, and for a module
    that computes something else, naming the first tensor that does.
    """
    part = region(model, inputs, outputs)
    _known(part.nodes)
    module = _lifted(_builder(model, part.nodes), part)
    if check:
        module.meta["comparison"] = checked(model, module, tolerance=tolerance)
    return module


def _lifted(builder: Builder, part: Region) -> fx.GraphModule:
    """Lift a region, or a body, with a builder of its own."""
    _constants(builder, part.nodes)
    for name in part.inputs:
        builder.env[name] = node = builder.graph.placeholder(_identifier(name))
        node.meta["tensor"] = name
    _grow(builder, part.nodes, part.outputs)
    return _finished(builder, part)


def _body(outer: Builder, body: ir.Graph, captured: Sequence[str]) -> fx.GraphModule:
    """Lift a body of an If as a module that is called with what the bodies capture."""
    inner = replace(
        outer,
        root=nn.Module(),
        graph=fx.Graph(),
        env={},
        constants=dict(outer.constants),
        weights=dict(outer.weights),
        slots={},
        selections={},
        here=(),
    )
    _initializers(inner, body)
    outputs = tuple(str(value.name) for value in body.outputs)
    return _lifted(inner, Region(tuple(captured), outputs, tuple(body)))


def _inlined(builder: Builder, body: ir.Graph) -> None:
    """Lift a body as part of the graph around it."""
    _initializers(builder, body)
    _constants(builder, body)
    _grow(builder, tuple(body), [str(value.name) for value in body.outputs])


def _builder(model: Model, nodes: Iterable[ir.Node]) -> Builder:
    facts = dict(model.facts)
    if any(True for node in nodes for _ in bodies(node)):
        inside = body_shapes(model).items()
        facts = {name: Fact("", shape, 0) for name, shape in inside} | facts
    builder = Builder(
        facts,
        model.ir.opset_imports.get("", 1),
        wide=wide_shapes(model),
        lift_body=_body,
        inline=_inlined,
    )
    _initializers(builder, model.ir.graph)
    return builder


def _initializers(builder: Builder, graph: ir.Graph) -> None:
    for name, value in graph.initializers.items():
        if value.const_value is not None:
            array = value.const_value.numpy()
            (builder.weights if is_weight(array) else builder.constants)[name] = array


def _constants(builder: Builder, nodes: Iterable[ir.Node]) -> None:
    """Compute the nodes whose inputs are constants, and no weights, now."""
    for node in nodes:
        for name, array in (
            folded(node, builder.constants, builder.weights, builder.opset) or {}
        ).items():
            own = node.op_type == "Constant"
            (builder.weights if own and is_weight(array) else builder.constants)[name] = array
            if not own:
                builder.computed[name] = array


def _known(nodes: Iterable[ir.Node]) -> None:
    """Raise `ModelError` that names every node whose operator has no rule."""
    unknown = [
        f"{node.domain + '.' if node.domain else ''}{node.op_type} ({identity(node)!r})"
        for node in _everywhere(nodes)
        if (node.op_type not in RULES and node.op_type != "Constant")
        or node.domain not in ("", "ai.onnx")
    ]
    if unknown:
        raise ModelError(
            f"the lift does not know {', '.join(unknown)}",
            hint="lift a region without them: lift(model, inputs=[…], outputs=[…])",
        )


def _everywhere(nodes: Iterable[ir.Node]) -> Iterator[ir.Node]:
    """Yield the nodes, and those inside their bodies."""
    for node in nodes:
        yield node
        for body in bodies(node):
            yield from _everywhere(body)


def _grow(builder: Builder, nodes: Sequence[ir.Node], ends: Sequence[str]) -> None:
    """Lift node after node."""
    live = [node for node in nodes if builder.array(identity(node)) is None]
    groups = patterns.found(builder, live, ends)
    inside = {node for pattern in groups.values() for node in pattern.before}
    for node in live:
        if node in inside:
            continue
        site = Site(builder, node)
        pattern = groups.get(node)
        builder.here = patterns.names(pattern) if pattern else (site.name,)
        made = pattern.rule(site) if pattern else sizes.lifted(site) or RULES[node.op_type](site)
        _keep(builder, node, made)


def _keep(builder: Builder, node: ir.Node, made: Made) -> None:
    """Remember what a node's outputs became."""
    several = [made] if isinstance(made, fx.Node | Sizes) else list(made)
    for out, one in zip(node.outputs, several, strict=False):
        if one is None or not out.name:
            continue
        builder.env[out.name] = one
        if isinstance(one, fx.Node):
            one.meta.setdefault("tensor", out.name)
            one._rename(_identifier(out.name))


def _finished(builder: Builder, part: Region) -> fx.GraphModule:
    """Close the graph; drop what nobody reads; give the module what it must know."""
    ends = [builder.tensor(name) for name in part.outputs]
    builder.graph.output(ends[0] if len(ends) == 1 else tuple(ends))
    grown = fx.GraphModule(builder.root, builder.graph)
    grown.graph.eliminate_dead_code()
    grown.graph.lint()
    module = fx.GraphModule(grown, grown.graph, "Lifted")  # takes only what the graph refers to
    held = {*dict(module.named_parameters(remove_duplicate=False)), *dict(module.named_buffers())}
    module.meta |= {
        "inputs": part.inputs,
        "outputs": part.outputs,
        "parameters": {name: slot for name, slot in builder.slots.items() if name in held},
        "selections": dict(builder.selections),
        "computed": {
            slot.initializer: builder.computed[slot.initializer]
            for slot in builder.slots.values()
            if slot.initializer in builder.computed
        },
    }
    return module.eval()


def _identifier(name: str) -> str:
    text = "".join(c if c.isalnum() else "_" for c in name)
    return text if text[:1].isalpha() else f"v_{text}"
