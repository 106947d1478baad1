"""Replace a weight by a product of thinner ones: two or three small nodes for a large one.

    y = MatMul(x, w)          becomes   t = MatMul(x, a)       w (m, n) ≈ a (m, r) · b (r, n)
                                        y = MatMul(t, b)
    y = Conv(x, w, bias)      becomes   s = Conv(x, a)         1×1, fewer channels
                                        t = Conv(s, core)      the kernel, strides and pads
                                        y = Conv(t, b, bias)   1×1

Matrices and 1×1 convolutions are cut by SVD, kernels by Tucker-2 or CP (`conv`). `y` keeps its
name. What must not change: a node whose low rank would not save both MACs and bytes, a grouped
convolution, and a weight that the graph computes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from glob import escape
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from splitc import scope as scopes
from splitc.data import fixed_batch
from splitc.errors import PassError, did_you_mean
from splitc.factor.choose import Chosen, by_energy, by_target, most
from splitc.factor.harm import harms
from splitc.factor.layers import METHODS, Layer, Option, layers, weight_bytes
from splitc.factor.moments import fitted
from splitc.factor.rewrite import Rewrite
from splitc.macs import macs
from splitc.model import Model
from splitc.pipeline import resource
from splitc.shapes import infer

if TYPE_CHECKING:
    from splitc.data import Dataset
    from splitc.scope import Boundary
    from splitc.train import Recipe, Recorder

TARGETS = ("macs", "bytes")
FITS = ("data", "weights")
DEFAULT_ENERGY = 0.9


@dataclass(frozen=True)
class LowRank:
    """Factor weights of MatMul, Gemm and Conv by SVD, Tucker-2 or CP.

    `energy`: the share of each weight's sum of squares to keep, 0 to 1 (0.9 if nothing is said);
    or `ratio`: the share of the `target` ('macs', 'bytes'), within the scope, to remove. With data
    (unless `fit` is 'weights'), factors are fitted to the outputs of each node instead, whose
    energy it then is, and a target falls where the network's outputs suffer least. With a recipe,
    the result is trained to answer as the original does.
    """

    name: ClassVar[str] = "low-rank"
    exact: ClassVar[bool] = False

    energy: float | None = None
    target: str = "macs"
    ratio: float | None = None
    conv: str = "tucker"
    fit: str = "data"
    scope: str = "both"
    data: "Dataset | None" = resource()
    recipe: "Recipe | None" = resource()
    recorder: "Recorder | None" = resource()
    boundary: "Boundary | None" = resource()

    def __post_init__(self) -> None:
        scopes.check(self.scope)
        options = {"conv": METHODS, "target": TARGETS, "fit": FITS}
        for option, known in options.items():
            if (given := getattr(self, option)) not in known:
                raise ValueError(f"{option} = {given!r}; {did_you_mean(given, known)}")
        if self.ratio is None and self.target != "macs":
            raise ValueError(f"target = {self.target!r} needs the ratio to remove")
        if self.ratio is not None and self.energy is not None:
            raise ValueError("energy or ratio, not both")
        for option in ("energy", "ratio"):
            value = getattr(self, option)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"{option} = {value}; a number between 0 and 1")

    def run(self, model: Model) -> Model:
        """Return the model with thinner weights; notes say each one's rank and error.

        Raises `PassError` for a target that low rank cannot reach, or training without data.
        """
        nodes = scopes.within(model, self.scope, self.boundary)
        known = layers(model, nodes, self.conv)
        if (data := self._fits) is not None:
            known = fitted(model, known, data)
        chosen = self._chosen(model, nodes, known)
        if not chosen:
            return model.with_notes("low-rank: no weight is worth factoring: nothing changed")
        made = _rewritten(model, known, chosen)
        return made if self.recipe is None else self._trained(model, made)

    @property
    def _fits(self) -> "Dataset | None":
        """The data that the factors are fitted to; never random ones."""
        drawn = self.data is None or self.data.drawn
        return None if drawn or self.fit == "weights" else self.data

    def _chosen(self, model: Model, nodes: frozenset[str], known: Sequence[Layer]) -> Chosen:
        if self.ratio is None:
            return by_energy(known, DEFAULT_ENERGY if self.energy is None else self.energy)
        counted = macs(model) if self.target == "macs" else {}
        inside = sum(counted[n] for n in nodes) if counted else weight_bytes(model, nodes)
        harm = {} if self._fits is None else harms(model, known, self._fits)
        chosen = by_target(known, self.target, int(np.ceil(self.ratio * inside)), harm)
        if chosen is None:
            share = most(known, self.target) / max(inside, 1)
            raise PassError(
                f"low rank cannot remove {self.ratio:.0%} of the {self.target}",
                where=f"scope = {self.scope!r}: {inside} {self.target}",
                hint=f"rank 1 everywhere removes {share:.0%}",
            )
        return chosen

    def _trained(self, original: Model, made: Model) -> Model:
        """Train the factors, and what else lies within the scope, towards the original."""
        if self.data is None:
            raise PassError("training after low-rank needs data", hint="--data FILE")
        if find_spec("torch") is None:
            raise PassError("training needs torch", hint="pip install 'splitc[torch]'")
        from splitc.fx import lift, write_back
        from splitc.train import SILENT, fit

        assert self.recipe is not None
        module = lift(made)
        outside = self._outside(made)
        slots = {slot.initializer for slot in module.meta["parameters"].values()}
        frozen = tuple(escape(name) for name in sorted(outside & slots))
        outcome = fit(
            module,
            self.data,
            replace(self.recipe, freeze=(*self.recipe.freeze, *frozen)),
            teacher=lift(original),
            recorder=self.recorder or SILENT,
            micro=fixed_batch(made),
        )
        return write_back(made, module).with_notes(*outcome.note("low-rank"))

    def _outside(self, model: Model) -> set[str]:
        """Return the initializers that a node outside the scope reads."""
        nodes = scopes.within(model, self.scope, self.boundary)
        graph = model.graph
        return {name for n in graph.by_id if n not in nodes for name in graph.by_id[n].weights}


def _rewritten(model: Model, known: Sequence[Layer], chosen: Chosen) -> Model:
    copy = model.clone()
    work, notes = Rewrite(copy.ir), list[str]()
    by_id = dict(copy.nodes)
    saved = sum(layer.macs - chosen[layer.node].macs for layer in known if layer.node in chosen)
    notes.append(f"low-rank: {len(chosen)} of {len(known)} weights factored, {saved} MACs fewer")
    for layer in known:
        if layer.node in chosen:
            option = chosen[layer.node]
            parts, error = layer.factors(option)
            work.factor(by_id[layer.node], layer, option, parts)
            notes.append(_line(layer, option, error))
    work.sweep()
    infer(copy.ir)
    return replace(copy).with_notes(*notes)


def _line(layer: Layer, option: Option, error: float) -> str:
    ranks = "×".join(map(str, option.ranks))
    size = "×".join(map(str, layer.array.shape))
    share = option.macs / layer.macs
    of = "Frobenius error" if layer.root is None else "error of its output on the data"
    return (
        f"low-rank: {layer.node}: {size} at rank {ranks}, relative {of} {error:.3g}, "
        f"{share:.0%} of its MACs"
    )
