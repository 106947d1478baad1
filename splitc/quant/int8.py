"""A model on its way to int8: calibrated once, then made with any choice of nodes."""

from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass
from functools import cached_property

from splitc.data import Dataset
from splitc.model import Model
from splitc.quant import bias, places, qdq
from splitc.quant.numbers import Scheme
from splitc.quant.ranges import Range, ranges, some

DRAFT = 32
"""Samples that correct the biases of a draft."""


@dataclass(frozen=True, eq=False)
class Int8:
    """What can be int8 and how; `allowed`: nodes that may go along with the candidates.

    `data` calibrate: for the ranges by `method`, and for biases if `correct`.
    """

    model: Model
    candidates: tuple[str, ...]
    allowed: Set[str]
    data: Dataset
    scheme: Scheme
    method: str = "minmax"
    correct: bool = True

    @cached_property
    def ranges(self) -> Mapping[str, Range]:
        """The range of every tensor that any choice of nodes may round."""
        nodes = self.nodes(frozenset())
        return ranges(self.model, self.data, qdq.measured(self.model, nodes), self.method)

    @cached_property
    def layers(self) -> bias.Layers:
        """What the candidates make in float."""
        return bias.layers(self.model, self.candidates, self.data)

    @cached_property
    def _fewer(self) -> bias.Layers:
        return bias.layers(self.model, self.candidates, some(self.data, DRAFT))

    def nodes(self, kept: Collection[str]) -> frozenset[str]:
        """Return the nodes that are int8 when the candidates in `kept` stay float."""
        chosen = [name for name in self.candidates if name not in kept]
        return places.with_followers(self.model, chosen, set(self.allowed) - set(kept))

    def made(self, kept: Collection[str] = (), *, draft: bool = False) -> Model:
        """Return the model in int8, the candidates in `kept` in float.

        A `draft` has its biases from `DRAFT` samples: nearly the same in a fraction of the time.
        """
        nodes = self.nodes(kept)
        source = self.model
        if self.correct:
            known = self._fewer if draft else self.layers
            source = bias.corrected(source, nodes, self.ranges, self.scheme, known)
        return qdq.quantized(source, nodes, self.ranges, self.scheme)
