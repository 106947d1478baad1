"""One ONNX node as a rule sees it: its inputs, attributes, and the ways to answer."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch import fx, nn

from splitc.errors import ModelError
from splitc.fx.builder import Builder, Sizes, Weight
from splitc.fx.layouts import Layout
from splitc.model import identity


class Site:
    """A node and the builder that lifts it."""

    def __init__(self, builder: Builder, node: ir.Node) -> None:
        self.builder = builder
        self.node = node
        self.op = node.op_type
        self.opset = builder.opset

    @property
    def name(self) -> str:
        """The node's identity."""
        return identity(self.node)

    def has(self, index: int) -> bool:
        """Tell whether the node reads something at this place."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        return value is not None and bool(value.name)

    def input(self, index: int) -> str:
        """Return the name of an input."""
        value = self.node.inputs[index] if self.has(index) else None
        if value is None:
            raise ModelError(f"{self.op} {self.name!r} lacks its input {index}")
        return str(value.name)

    def x(self, index: int = 0) -> fx.Node:
        """Return an input as a tensor."""
        return self.builder.tensor(self.input(index))

    def all(self) -> list[fx.Node]:
        """Return all inputs as tensors."""
        return [self.x(index) for index in range(len(self.node.inputs))]

    def array(self, index: int) -> NDArray[Any] | None:
        """Return what an input is, if that is known now; None too where there is none."""
        return self.builder.array(self.input(index)) if self.has(index) else None

    def known(self, index: int) -> NDArray[Any]:
        """Return what an input is; refuses the node if that depends on the network's inputs."""
        found = self.array(index)
        if found is None:
            raise self.refuse(f"its input {self.input(index)!r} is not a constant")
        return found

    def number(self, index: int) -> float | int | None:
        """Return a constant input of one element; None if it is absent or not known."""
        found = self.array(index)
        return None if found is None or found.size != 1 else found.reshape(-1)[0].item()

    def ints(self, index: int, name: str = "") -> list[int] | None:
        """Return whole numbers from an input, or before its time from the attribute `name`."""
        if self.has(index):
            return [int(x) for x in self.known(index).reshape(-1)]
        given = self.attr(name) if name else None
        return None if given is None else [int(x) for x in given]

    def sizes(self, index: int) -> Sizes | None:
        """Return an input as whole numbers, each known now or a node; None if it is a tensor."""
        return self.builder.sizes(self.input(index))

    def operand(self, index: int) -> Any:
        """Return an input for arithmetic: a plain number where it is one, else a tensor."""
        found, made = self.array(index), self.sizes(index)
        others = [i for i in range(len(self.node.inputs)) if i != index and self.has(i)]
        if not others or any(self.array(i) is not None for i in others):
            return self.x(index)
        if found is not None and found.size == 1 and found.dtype.kind in "fiu":
            narrow = found.ndim == 0 or found.ndim <= max(self.rank(i) for i in others)
            return found.reshape(-1)[0].item() if narrow else self.x(index)
        return made.items[0] if made is not None and made.scalar else self.x(index)

    def rank(self, index: int = 0) -> int:
        """Return how many axes an input has."""
        return self.builder.rank(self.input(index))

    def shape(self, index: int = 0) -> tuple[int, ...] | None:
        """Return an input's sizes at batch 1, if known."""
        if (found := self.array(index)) is not None:
            return found.shape
        fact = self.builder.facts.get(self.input(index))
        return None if fact is None else fact.shape

    def wide(self, index: int) -> tuple[int, ...] | None:
        """Return an input's sizes at the wide batch, if inference tells them."""
        return self.builder.wide.get(self.input(index))

    def before_and_after(self) -> tuple[tuple[int, ...], tuple[int, ...], bool] | None:
        """Return the sizes of the first input and output at one batch; whether it is the wide one.

        None if they are unknown.
        """
        before, after = self.wide(0), self.builder.wide.get(self.name)
        if before is not None and after is not None:
            return before, after, True
        shape, fact = self.shape(0), self.builder.facts.get(self.name)
        return None if shape is None or fact is None else (shape, fact.shape, False)

    def axis(self, default: int = 0, index: int = 0) -> int:
        """Return the attribute `axis`, counted from the front."""
        axis = int(self.attr("axis", default))
        return axis + self.rank(index) if axis < 0 else axis

    def per_axis(self, values: Sequence[int], more: int = 0) -> tuple[int, ...]:
        """Return axes of the first input, which has `more` axes then, counted from the front."""
        return tuple(int(v) + self.rank() + more if v < 0 else int(v) for v in values)

    def attr(self, name: str, default: Any = None) -> Any:
        """Return an attribute's plain value."""
        found = self.node.attributes.get(name)
        return default if found is None else found.value

    def weight(self, index: int) -> Weight | None:
        """Return an input that is an initializer, perhaps behind Transposes; else None."""
        if not self.has(index):
            return None
        value: ir.Value | None = self.node.inputs[index]
        order: tuple[int, ...] = ()
        while value is not None and (node := value.producer()) is not None:
            if node.op_type == "Transpose" and value.name not in self.builder.constants:
                seen = node.inputs[0]
                rank = self.builder.rank(str(seen.name)) if seen is not None else 0
                given = node.attributes.get("perm")
                perm = tuple(reversed(range(rank))) if given is None else tuple(given.value)
                order = tuple(perm[i] for i in order) if order else perm
            elif node.op_type != "Identity" or value.name in self.builder.constants:
                break
            value = node.inputs[0]
        array = None if value is None else self.builder.array(str(value.name))
        if value is None or array is None or array.dtype.kind in "iubSUO":
            return None
        return Weight(str(value.name), array, () if order == tuple(range(len(order))) else order)

    def call(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """Add a call of a function."""
        return self.builder.call(target, *args, **kwargs)

    def layer(
        self,
        module: nn.Module,
        held: Sequence[tuple[Sequence[str], Weight | None, Layout]],
        *args: Any,
    ) -> fx.Node:
        """Add a module that holds weights: (its names for the parts, the weight, its layout).

        The module stands where the first weight's name puts it.
        """
        names, first, _ = held[0]
        assert first is not None
        path = self.builder.place(first.name, names[0])
        for parts, weight, layout in held:
            if weight is not None:
                self.builder.hold(path, module, parts, weight, layout)
        return self.builder.module(path, module, *args)

    def refuse(self, why: str) -> ModelError:
        """Return the error that says why this node cannot be lifted."""
        return ModelError(f"{self.op} cannot be lifted: {why}", where=f"node {self.name!r}")


def as_bool(value: Any) -> bool:
    """Return an integer attribute as a truth value."""
    return bool(int(np.asarray(value)))
