"""Which channels must go together: torch-pruning's dependency graph, each group of it tried.

A channel that leaves a convolution leaves the bias, the normalisation behind it, and the inputs of
every layer that reads it; where tensors are added, all of them lose it. torch-pruning finds these
groups by following autograd. What it cannot know (a Reshape with sizes written down, a channel
that a Slice moves, a tensor that is an output) is found by trying: a group is kept only if the
network without some of its channels computes what it computes with their readers' weights zeroed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from splitc.errors import PassError
from splitc.pruning.layers import CONV, copied, depthwise, transposed, weighty

if TYPE_CHECKING:
    from torch_pruning import DependencyGraph

Side = Literal["out", "in", "both"]
"""A module loses outputs, inputs, or (normalisation, depthwise convolution) what is both."""

Channels = NDArray[np.intp]
Removed = Mapping[str, Channels]
"""Group name → channels that go, in ascending order."""

_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Part:
    """What a group holds of one module: row i of `places` are the positions of its channel i.

    `axis`: of a parameter that stands alone, under its own name; a layer knows its own.
    """

    module: str
    side: Side
    places: Channels
    axis: int | None = None

    def at(self, channels: Channels) -> Channels:
        """Return the positions of these channels, ascending."""
        return np.sort(self.places[channels].reshape(-1))


@dataclass(frozen=True, eq=False)
class Group:
    """Channels 0 … width-1 that leave all its parts together; named after the first producer.

    `work`: MACs of products without weights that shrink with the channels (attention's own).
    """

    name: str
    width: int
    parts: tuple[Part, ...]
    work: float = 0.0

    @property
    def makers(self) -> tuple[Part, ...]:
        """The parts whose outputs the channels are."""
        return tuple(part for part in self.parts if part.side == "out")

    @property
    def readers(self) -> tuple[Part, ...]:
        """The parts whose inputs the channels are."""
        return tuple(part for part in self.parts if part.side == "in")


def groups(module: fx.GraphModule, inputs: tuple[Tensor, ...]) -> tuple[Group, ...]:
    """Return the groups that can be pruned, in the network's order.

    `inputs`: one sample or a few of each of the module's inputs. Raises `PassError` without
    torch-pruning.
    """
    graph = dependencies(module, inputs)
    taken: set[str] = set()
    made: list[Group] = []
    for name, layer in module.named_modules():
        if weighty(layer) and name not in taken:
            group = _group(graph, name, layer)
            if group is not None:
                taken |= {part.module for part in group.parts if part.side != "in"}
                made.append(group)
    return tried(module, made, inputs)


def tried(
    module: fx.GraphModule, candidates: Sequence[Group], inputs: tuple[Tensor, ...]
) -> tuple[Group, ...]:
    """Return those of the groups without whose channels the module computes what it should.

    Each alone, and all together: of groups that do not get on, the later ones stay.
    """
    off = _shared(module) | _grouped(module) | _recurrent(module)
    with torch.no_grad():
        want = outputs(module, inputs)
        found = [
            group
            for group in candidates
            if not off & {part.module for part in group.parts}
            and _hold(module, [group], inputs, want)
        ]
        if len(found) > 1 and not _hold(module, found, inputs, want):
            candidates, found = found, []
            for group in candidates:
                if _hold(module, [*found, group], inputs, want):
                    found.append(group)
    return tuple(found)


def dependencies(module: fx.GraphModule, inputs: tuple[Tensor, ...]) -> "DependencyGraph":
    """Return torch-pruning's graph of the module."""
    torch_pruning = library()
    with torch.enable_grad():
        return torch_pruning.DependencyGraph().build_dependency(module, inputs, verbose=False)


def library() -> Any:
    """Return torch-pruning; `PassError` where it is not installed."""
    try:
        import torch_pruning
    except ImportError as error:
        hint = "pip install 'splitc[torch]'"
        raise PassError("'prune' needs torch-pruning", hint=hint) from error
    return torch_pruning


def _group(graph: "DependencyGraph", name: str, layer: nn.Module) -> Group | None:
    """Return the group of all outputs of a layer; None where torch-pruning cannot follow them."""
    if layer not in graph.module2node:
        return None
    pruner = graph.get_pruner_of_module(layer)
    width = int(pruner.get_out_channels(layer))
    try:
        made = graph.get_pruning_group(layer, pruner.prune_out_channels, list(range(width)))
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    parts = [_part(graph, item, width) for item in made.items if _named(graph, item)]
    if any(part is None for part in parts):
        return None
    return Group(name, width, tuple(part for part in parts if part is not None))


def _named(graph: "DependencyGraph", item: Any) -> bool:
    """Tell whether a member of a group holds weights; operators without them need no change."""
    target = item.dep.target.module
    return target in graph._param_to_name or bool(graph._module2name.get(target))


def _part(graph: "DependencyGraph", item: Any, width: int) -> Part | None:
    """Return a member of a group as a part; None if its positions are no rows of equal length."""
    rows: list[list[int]] = [[] for _ in range(width)]
    for at, root in zip(item.idxs, item.root_idxs, strict=True):
        if root is None or not 0 <= root < width:
            return None
        rows[root].append(int(at))
    if len({len(row) for row in rows}) != 1 or not rows[0]:
        return None
    target, places = item.dep.target.module, np.array(rows, np.intp)
    if isinstance(target, nn.Parameter):
        axis = int(item.dep.target.pruning_dim)
        return Part(graph._param_to_name[target], "both", places, axis % target.ndim)
    pruner = graph.get_pruner_of_module(target)
    both = pruner.prune_out_channels == pruner.prune_in_channels
    out = graph.is_out_channel_pruning_fn(item.dep.handler)
    return Part(graph._module2name[target], "both" if both else "out" if out else "in", places)


def _shared(module: fx.GraphModule) -> set[str]:
    """Return what holds a parameter that another holds too, and the modules that run twice."""
    owners: dict[int, set[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        owner = name.rpartition(".")[0]
        plain = isinstance(module.get_submodule(owner), CONV | nn.Linear | nn.Embedding)
        owners.setdefault(id(parameter), set()).add(owner if plain else name)
    found = {name for names in owners.values() if len(names) > 1 for name in names}
    calls = [str(node.target) for node in module.graph.nodes if node.op == "call_module"]
    return found | {name for name in calls if calls.count(name) > 1}


def _grouped(module: nn.Module) -> set[str]:
    """Return the convolutions in groups of several channels: none of theirs can go alone."""
    return {
        name
        for name, layer in module.named_modules()
        if isinstance(layer, CONV) and layer.groups > 1 and not depthwise(layer)
    }


def _recurrent(module: nn.Module) -> set[str]:
    """Return the recurrent layers: their gates share widths in ways that no group says."""
    return {name for name, layer in module.named_modules() if isinstance(layer, nn.RNNBase)}


def _hold(
    module: nn.Module, of: Sequence[Group], inputs: tuple[Tensor, ...], want: Sequence[Tensor]
) -> bool:
    """Try groups: whether without half of their channels it is as if nobody read them."""
    removed = {}
    for place, group in enumerate(of):
        order = np.random.default_rng(place).permutation(group.width)
        removed[group.name] = np.sort(order[: group.width // 2])
        if not removed[group.name].size or not group.readers or not group.makers:
            return False
    return not differs(module, of, removed, inputs, want)


def differs(
    module: nn.Module,
    of: Sequence[Group],
    removed: Removed,
    inputs: tuple[Tensor, ...],
    want: Sequence[Tensor],
) -> bool:
    """Tell whether removing channels is anything else than nobody reading them.

    `want`: the module's outputs as it is, for the scale.
    """
    try:
        with _zeroed(module, of, removed):
            masked = outputs(module, inputs)
        with _without(module, of, removed):
            got = outputs(module, inputs)
    except (RuntimeError, IndexError, ValueError, AssertionError):
        return True
    return not all(_close(g, m, w) for g, m, w in zip(got, masked, want, strict=True))


def _close(got: Tensor, masked: Tensor, want: Tensor) -> bool:
    if got.shape != masked.shape or not got.is_floating_point():
        return got.shape == masked.shape and torch.equal(got, masked)
    scale = max(float(want.abs().max()), float(masked.abs().max()), 1e-12)
    return float((got - masked).abs().max()) <= _TOLERANCE * scale


def outputs(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Run the module; one output becomes a tuple of one."""
    made = type(module).forward(module, *inputs)  # a call would print the traceback of an error
    return (made,) if isinstance(made, Tensor) else tuple(made)


@contextmanager
def _zeroed(module: nn.Module, of: Sequence[Group], removed: Removed) -> Iterator[None]:
    """Meanwhile, nobody reads these channels: the readers' weights for them are 0."""
    parts = [(part, removed[g.name]) for g in of if g.name in removed for part in g.readers]
    with _restored(module, [part.module for part, _ in parts]):
        for part, channels in parts:
            layer = module.get_submodule(part.module)
            weight = layer.get_parameter("weight").detach().clone()
            axis = 0 if transposed(layer) else 1
            weight.index_fill_(axis, torch.from_numpy(part.at(channels)), 0.0)
            layer.weight = nn.Parameter(weight, requires_grad=False)
        yield


@contextmanager
def _without(module: nn.Module, of: Sequence[Group], removed: Removed) -> Iterator[None]:
    """Meanwhile, these channels are gone."""
    parts = [part for g in of if g.name in removed for part in g.parts]
    names = [p.module if p.axis is None else p.module.rpartition(".")[0] for p in parts]
    with _restored(module, names):
        remove(module, of, removed)
        yield


@contextmanager
def _restored(module: nn.Module, names: Sequence[str]) -> Iterator[None]:
    layers = [module.get_submodule(name) for name in dict.fromkeys(names)]
    saved = [dict(layer.__dict__) for layer in layers]
    tables = [(dict(layer._parameters), dict(layer._buffers)) for layer in layers]
    try:
        yield
    finally:
        for layer, plain, (parameters, buffers) in zip(layers, saved, tables, strict=True):
            layer.__dict__.update(plain)
            layer._parameters.update(parameters)
            layer._buffers.update(buffers)


def remove(module: nn.Module, of: Sequence[Group], removed: Removed) -> None:
    """Take the channels out of the module, in place, with torch-pruning's own functions."""
    rules = library().DependencyGraph()
    total: dict[tuple[str, Side, int | None], list[Channels]] = {}
    for group in of:
        channels = removed.get(group.name)
        if channels is not None and channels.size:
            for part in group.parts:
                key = (part.module, part.side, part.axis)
                total.setdefault(key, []).append(part.at(channels))
    for (name, side, axis), places in total.items():
        gone = np.unique(np.concatenate(places))
        if axis is not None:
            _shorten(module, name, axis, gone)
            continue
        layer = module.get_submodule(name)
        pruner = rules.get_pruner_of_module(layer)
        (pruner.prune_in_channels if side == "in" else pruner.prune_out_channels)(
            layer, gone.tolist()
        )


def _shorten(module: nn.Module, name: str, axis: int, gone: Channels) -> None:
    """Take positions out of a parameter that belongs to no layer."""
    path, _, last = name.rpartition(".")
    owner = module.get_submodule(path)
    before = owner.get_parameter(last)
    kept = np.setdiff1d(np.arange(before.shape[axis]), gone)
    after = before.detach().index_select(axis, torch.from_numpy(kept))
    setattr(owner, last, nn.Parameter(after, requires_grad=before.requires_grad))


def cut_down(module: fx.GraphModule, of: Sequence[Group], removed: Removed) -> fx.GraphModule:
    """Return a copy of the module without these channels."""
    made = copied(module)
    remove(made, of, removed)
    return made


def kept(of: Sequence[Group], removed: Removed, sizes: Mapping[str, int]) -> dict[str, Channels]:
    """Return module → positions of its outputs that stay, for those that lose any."""
    gone: dict[str, list[Channels]] = {}
    for group in of:
        channels = removed.get(group.name)
        if channels is not None and channels.size:
            for part in group.makers:
                gone.setdefault(part.module, []).append(part.at(channels))
    return {
        name: np.setdiff1d(np.arange(sizes[name]), np.concatenate(places))
        for name, places in gone.items()
    }
