"""Leave out what the network needs least: filters, heads, inner widths, blocks, or single weights.

    c = Conv(x, w)      w: 64 × 16 × 3 × 3            c = Conv(x, w)      w: 40 × 16 × 3 × 3
    r = Relu(c)                             becomes   r = Relu(c)
    y = Conv(r, v)      v: 16 × 64 × 3 × 3            y = Conv(r, v)      v: 16 × 40 × 3 × 3

Nodes, tensors and initializers keep their names; inputs, outputs and the tensors of a boundary
keep their sizes. What must go together is found by torch-pruning and tried. With data, layers are
refitted in closed form to what the whole network computed; with a recipe, the result is then
trained, learning from the whole network by default. Single weights (`kind` "weights" and "2:4")
are set to 0: the graph stays as large and slow as it was, unless a backend makes use of zeros.
"""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

from splitc import scope as scopes
from splitc.errors import PassError, did_you_mean
from splitc.model import Model
from splitc.pipeline import resource
from splitc.pruning.how import How

if TYPE_CHECKING:
    from splitc.data import Dataset
    from splitc.pipeline import Prices
    from splitc.scope import Boundary
    from splitc.train import Recipe, Recorder

KINDS = ("channels", "heads", "mlp", "blocks", "weights", "2:4")
TARGETS = ("macs", "bytes", "channels", "latency")
IMPORTANCES = ("energy", "magnitude", "taylor", "bn-scale")


@dataclass(frozen=True)
class Prune(How):
    """Remove the share `ratio` of the MACs (or of the target named) where it is missed least."""

    name: ClassVar[str] = "prune"
    exact: ClassVar[bool] = False

    scope: str = "both"
    data: "Dataset | None" = resource()
    recipe: "Recipe | None" = resource()
    recorder: "Recorder | None" = resource()
    boundary: "Boundary | None" = resource()
    prices: "Prices | None" = resource()

    def __post_init__(self) -> None:
        scopes.check(self.scope)
        choices = {"kind": KINDS, "target": TARGETS, "importance": IMPORTANCES}
        for option, known in choices.items():
            if (given := getattr(self, option)) not in known:
                raise ValueError(f"{option} = {given!r}; {did_you_mean(given, known)}")
        if not isinstance(self.ratio, int | float):
            raise ValueError(f"ratio = {self.ratio!r}: a number, the share to remove")
        if not 0 < self.ratio < 1:
            raise ValueError(f"ratio = {self.ratio}: the share to remove, above 0 and below 1")
        if self.round_to < 1:
            raise ValueError(f"round_to = {self.round_to}: a whole number, 1 or more")
        self._check_pairs()

    def _check_pairs(self) -> None:
        """Raise `ValueError` for options that do not go together."""
        if self.kind == "2:4" and self.ratio != 0.5:
            raise ValueError("kind = '2:4' removes two of every four weights: ratio = 0.5")
        if self.kind == "blocks" and self.target == "channels":
            raise ValueError("target = 'channels' counts filters; for blocks, 'macs' or 'bytes'")
        if self.target == "latency" and self.kind in ("weights", "2:4"):
            raise ValueError(f"kind = {self.kind!r} saves no time that a backend is known to give")

    def run(self, model: Model) -> Model:
        """Return the smaller model; its notes say by how much.

        Raises `PassError` where nothing of the kind can be pruned, or not enough.
        """
        if find_spec("torch") is None:
            raise PassError("'prune' needs torch", hint="pip install 'splitc[torch]'")
        if any(node.op == "QuantizeLinear" for node in model.graph.nodes):
            hint = "write 'prune' in front of 'quantize'"
            raise PassError("'prune' works on floats; this graph is quantized", hint=hint)
        if self.target == "latency":
            return self._faster(model)
        from splitc.pruning.run import pruned

        return pruned(
            model,
            self,
            scope=self.scope,
            boundary=self.boundary,
            data=self.data,
            recipe=self.recipe,
            recorder=self.recorder,
        )

    def _faster(self, model: Model) -> Model:
        """Prune that share of the MACs which takes the share `ratio` of the priced seconds away."""
        if self.prices is None:
            hint = "--device DEVICE; plan and compile have one"
            raise PassError("target = 'latency' needs a device to price by", hint=hint)
        from splitc.pruning.latency import macs_share

        prices = self.prices

        def seconds(made: Model) -> float:
            return prices(made, scopes.within(made, self.scope, self.boundary))

        def at(share: float) -> float:
            rough = replace(self, target="macs", ratio=share, repair=False, recipe=None)
            return seconds(rough.run(model))

        whole = seconds(model)
        share = macs_share(self.ratio, at, whole, self.recorder)
        after = replace(self, target="macs", ratio=share).run(model)
        left = seconds(after)
        return after.with_notes(f"prune: priced at {left / whole:.1%} of the seconds before")
