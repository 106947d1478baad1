"""What a lift grows: the torch.fx graph, the modules under it, and what each ONNX tensor became.

An ONNX tensor is one of: an array known now (`constants`), a weight (an initializer that will be
a parameter), whole numbers known one by one (`Sizes`, from Shape), or an fx node.
"""

import keyword
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import fx, nn

from splitc.errors import ModelError
from splitc.fx import functions
from splitc.fx.layouts import Layout, Permuted, Slot, Vector, to_torch
from splitc.model import Fact

_MASK = -1e4
"""A table that holds a number as low as this, or an infinity, is a mask: not to be trained."""


@dataclass(frozen=True)
class Sizes:
    """Whole numbers (or truth values), each known now or an fx node; a scalar or a vector."""

    items: tuple[int | fx.Node, ...]
    scalar: bool = False


@dataclass(frozen=True)
class Weight:
    """An initializer as a node reads it, behind Transposes: axis i is its axis `order[i]`."""

    name: str
    array: NDArray[Any]
    order: tuple[int, ...] = ()

    @property
    def seen(self) -> NDArray[Any]:
        """The array as the node reads it."""
        return self.array.transpose(self.order) if self.order else self.array


Made = fx.Node | Sizes | Sequence["fx.Node | Sizes | None"]
"""What a rule returns: the node's first output, or all of them."""


def _no_body(*_: object) -> fx.GraphModule:
    raise AssertionError("only a lift has bodies")


def _no_inline(*_: object) -> None:
    raise AssertionError("only a lift has bodies")


@dataclass
class Builder:
    """Everything that a lift of one graph, or of one body of an If, has so far."""

    facts: Mapping[str, Fact]
    opset: int
    root: nn.Module = field(default_factory=nn.Module)
    graph: fx.Graph = field(default_factory=fx.Graph)
    env: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    weights: dict[str, NDArray[Any]] = field(default_factory=dict)
    computed: dict[str, NDArray[Any]] = field(default_factory=dict)
    """Those constants that nodes compute from others."""
    slots: dict[str, Slot] = field(default_factory=dict)
    shared: dict[str, nn.Parameter] = field(default_factory=dict)
    layouts: dict[str, Layout] = field(default_factory=dict)
    """Initializer → the one way in which modules hold it. Bodies share this, and `shared`."""
    lift_body: "Callable[[Builder, ir.Graph, Sequence[str]], fx.GraphModule]" = _no_body
    inline: "Callable[[Builder, ir.Graph], None]" = _no_inline
    selections: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Path of a convolution that stands for a Slice and a Pad → those two nodes."""
    wide: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    here: tuple[str, ...] = ()
    """The ONNX nodes that are being lifted; the last one names the result."""

    # -- what is there ----------------------------------------------------------------------

    def array(self, name: str) -> NDArray[Any] | None:
        """Return what a tensor is, if that is known now; weights too."""
        found = self.constants.get(name)
        return self.weights.get(name) if found is None else found

    def known_rank(self, name: str) -> int | None:
        """Return how many axes a tensor has, if that is known."""
        if (known := self.array(name)) is not None:
            return known.ndim
        if isinstance(made := self.env.get(name), Sizes):
            return 0 if made.scalar else 1
        return len(self.facts[name].shape) if name in self.facts else None

    def rank(self, name: str) -> int:
        """Return how many axes a tensor has; `ModelError` if that is unknown."""
        rank = self.known_rank(name)
        if rank is None:
            raise ModelError(f"the number of axes of tensor {name!r} is unknown")
        return rank

    def tensor(self, name: str) -> fx.Node:
        """Return the fx node of a tensor; constants become buffers, weights parameters."""
        made = self.env.get(name)
        if isinstance(made, Sizes):
            return self.call(functions.whole, self.like(), list(made.items), made.scalar)
        if isinstance(made, fx.Node):
            return made
        if name in self.weights:
            return self._parameter(name)
        if name not in self.constants:
            raise ModelError(f"tensor {name!r} is read before it is made")
        path = self.place(name)
        self._put(path, to_torch(self.constants[name]), buffer=True)
        self.env[name] = self.graph.get_attr(path)
        return self.tensor(name)

    def sizes(self, name: str) -> Sizes | None:
        """Return a tensor as whole numbers, each known now or a node; None if it is a tensor."""
        made = self.env.get(name)
        if isinstance(made, Sizes):
            return made
        known = self.array(name)
        if known is None or known.ndim > 1 or known.dtype.kind not in "iub":
            return None
        return Sizes(tuple(int(x) for x in known.reshape(-1)), scalar=known.ndim == 0)

    def like(self) -> fx.Node:
        """Return a placeholder, for the device that a fresh tensor belongs on."""
        first: fx.Node = next(iter(self.graph.nodes))
        return first

    # -- growing ----------------------------------------------------------------------------

    def call(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """Add a call of a function."""
        return self._marked(self.graph.call_function(target, args, kwargs))

    def method(self, name: str, *args: Any) -> fx.Node:
        """Add a call of a tensor's method."""
        return self._marked(self.graph.call_method(name, args))

    def size(self, tensor: fx.Node, axis: int) -> fx.Node:
        """Return one size of a tensor as a node."""
        return self.method("size", tensor, axis)

    def _marked(self, node: fx.Node) -> fx.Node:
        if self.here:
            node.meta["onnx"], node.meta["onnx_nodes"] = self.here[-1], self.here
        return node

    def module(self, path: str, module: nn.Module, *args: Any) -> fx.Node:
        """Put a module at `path` (from `place`) and add a call of it."""
        self._put(path, module)
        return self._marked(self.graph.call_module(path, args))

    def owns(self, weight: Weight, layout: Layout) -> bool:
        """Tell whether a module may hold a weight in this layout: nobody holds it in another."""
        return self.layouts.get(weight.name, layout) == layout

    def hold(
        self, path: str, module: nn.Module, names: Sequence[str], weight: Weight, layout: Layout
    ) -> None:
        """Give the module at `path` its parameters (or buffers) called `names` from a weight."""
        self.layouts[weight.name] = layout
        for part, (name, array) in enumerate(zip(names, layout.parts(weight.array), strict=True)):
            key = f"{weight.name}#{part}"
            buffer = name in module._buffers
            if key not in self.shared or buffer:
                made = to_torch(array)
                self.shared[key] = nn.Parameter(made, requires_grad=made.is_floating_point())
            held = self.shared[key]
            _assign(module, name, held.detach() if buffer else held)
            self.slots[f"{path}.{name}"] = Slot(weight.name, layout, part)

    def place(self, name: str, ending: str = "") -> str:
        """Return a free path for what belongs to an initializer: its name without `.ending`."""
        base = name.removesuffix(f".{ending}") if ending else name
        parts = [_attribute(part) for part in base.split(".")]
        path = ".".join(parts)
        count = 1
        while not self._free(path):
            count += 1
            path = ".".join([*parts[:-1], f"{parts[-1]}_{count}"])
        return path

    # -- inside -----------------------------------------------------------------------------

    def _free(self, path: str) -> bool:
        at: nn.Module = self.root
        *parents, last = path.split(".")
        for part in parents:
            if part not in at._modules:
                return not hasattr(at, part)
            at = at.get_submodule(part)
            if type(at) is not nn.Module:
                return False
        return not hasattr(at, last)

    def _put(self, path: str, thing: nn.Module | torch.Tensor, buffer: bool = False) -> None:
        at: nn.Module = self.root
        *parents, last = path.split(".")
        for part in parents:
            if part not in at._modules:
                at.add_module(part, nn.Module())
            at = at.get_submodule(part)
        if isinstance(thing, nn.Module):
            at.add_module(last, thing)
        elif buffer:
            at.register_buffer(last, thing)
        else:
            at.register_parameter(last, thing)  # type: ignore[arg-type]

    def _parameter(self, name: str) -> fx.Node:
        """Return a weight in ONNX's layout: a parameter of its own, or a module's turned back."""
        layout = self.layouts.setdefault(name, Permuted())
        node = self.graph.get_attr(self._path(name, layout))
        if isinstance(layout, Vector):
            shape = [-1 if axis == layout.axis else 1 for axis in range(layout.rank)]
            return self.call(torch.reshape, node, tuple(shape))
        if not isinstance(layout, Permuted):
            raise ModelError(f"weight {name!r} is a layer's, and is read as a tensor too")
        back = tuple(int(i) for i in np.argsort(layout.order))
        return self.call(torch.permute, node, back) if back else node

    def _path(self, name: str, layout: Layout) -> str:
        """Return where a weight is held in this graph; it is put there if it is not yet."""
        for path, slot in self.slots.items():
            if slot.initializer == name:
                return path
        path, key = self.place(name), f"{name}#0"
        if key not in self.shared:
            self.shared[key] = nn.Parameter(to_torch(layout.parts(self.weights[name])[0]))
        self._put(path, self.shared[key])
        self.slots[path] = Slot(name, layout)
        return path


def is_weight(array: NDArray[Any]) -> bool:
    """Tell whether a constant is something to train: floats, more than one, and no mask."""
    floats = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    if not floats or array.size < 2:
        return False
    lowest, highest = float(array.min()), float(array.max())
    return bool(lowest > _MASK and np.isfinite(lowest) and np.isfinite(highest))


def _assign(module: nn.Module, name: str, value: torch.Tensor) -> None:
    if name in module._buffers:
        module._buffers[name] = value
    else:
        module._parameters[name] = value  # type: ignore[assignment]


def _attribute(part: str) -> str:
    """Return a name that a module may have: `class`, '' and what nn.Module uses are changed."""
    text = re.sub(r"\s", "_", part) or "_"
    return f"{text}_" if keyword.iskeyword(text) or hasattr(nn.Module, text) else text
