"""If: both bodies are lifted; which one runs is decided at each call."""

import operator
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from torch import fx, nn

from splitc.errors import ModelError
from splitc.fx.builder import Sizes
from splitc.fx.site import Site
from splitc.model import captures


class Branch(nn.Module):
    """Two modules, one of which runs. Both are called with the same tensors."""

    def __init__(self, then: nn.Module, otherwise: nn.Module) -> None:
        super().__init__()
        self.then = then
        self.otherwise = otherwise

    def forward(self, condition: Any, *captured: Any) -> Any:
        """Run `then` if the condition, one truth value, holds, else `otherwise`."""
        return self.then(*captured) if bool(condition) else self.otherwise(*captured)


def branch(site: Site) -> fx.Node | Sequence[fx.Node | Sizes | None]:
    """If; one whose condition is a constant is the body that it chooses."""
    condition = _condition(site)
    if isinstance(condition, int):
        return _inlined(site, bool(condition))
    builder = site.builder
    captured = [name for name in captures(site.node) if builder.array(name) is None]
    arms: dict[str, fx.GraphModule] = {}
    for name in ("then_branch", "else_branch"):
        arms[name] = builder.lift_body(builder, _body(site, name), captured)
    path = builder.place(site.name)
    module = Branch(arms["then_branch"], arms["else_branch"])
    for arm, under in (("then_branch", "then"), ("else_branch", "otherwise")):
        held = arms[arm].meta["parameters"]
        builder.slots |= {f"{path}.{under}.{name}": slot for name, slot in held.items()}
    made = builder.module(path, module, condition, *map(builder.tensor, captured))
    count = len(site.node.outputs)
    return [made] if count == 1 else [site.call(operator.getitem, made, i) for i in range(count)]


def _condition(site: Site) -> Any:
    """Return a truth value known now, or a node."""
    known, sizes = site.array(0), site.sizes(0)
    if known is not None:
        return int(known.reshape(-1)[0])
    return site.x(0) if sizes is None else sizes.items[0]


def _inlined(site: Site, condition: bool) -> list[fx.Node | Sizes | None]:
    """Lift the body that a constant condition chooses as if it stood in the graph."""
    body = _body(site, "then_branch" if condition else "else_branch")
    site.builder.inline(site.builder, body)
    made: list[fx.Node | Sizes | None] = []
    for value in body.outputs:
        name = str(value.name)
        made.append(site.builder.env.get(name) or site.builder.tensor(name))
    return made


def _body(site: Site, name: str) -> ir.Graph:
    if name not in site.node.attributes:
        raise ModelError(f"If {site.name!r} has no {name}")
    return site.node.attributes[name].as_graph()


RULES = {"If": branch}
