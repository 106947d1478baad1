"""Which nodes have a weight that can be factored, and what each choice of ranks costs.

Costs are MACs at batch 1 (or the `--input` sizes) and bytes of weights. Only choices that save
both are listed: a low rank that costs more than the whole is none.
"""

from collections.abc import Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from splitc.factor import decompose
from splitc.factor.decompose import Array, Canonical, Tucker
from splitc.model import Fact, Model, identity

METHODS = ("tucker", "cp")
_CP_SHARES = (0.1, 0.2, 0.35, 0.55, 0.8)
"""Ranks tried for CP, as shares of the largest that saves: each takes a decomposition."""
_FAINT = 1e-3
"""Share of the loudest output below which an output counts as no louder."""
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class Option:
    """Ranks of one layer: what they cost, and the square of the relative Frobenius error.

    `ranks`: (r,) of a matrix or CP, (out, in) of Tucker-2. An error estimated from a truncated
    higher-order SVD is an upper bound: refining lowers it.
    """

    ranks: tuple[int, ...]
    macs: int
    bytes: int
    error: float


@dataclass(frozen=True, eq=False)
class Layer:
    """One node with a weight. `place`: where its weight stands among the inputs.

    `matrix`: the weight is a matrix (m, n), of a 1×1 convolution (O, I); else a kernel (O, I, K).
    `before`, `after`: positions that the node reads and makes (rows of a matrix product, pixels).
    `data`: what the weight is multiplied by, with its channels at `channel`, which meet the
    weight's `axis`. `root`: L, where L·Lᵀ are the second moments of these channels; errors are then
    those of the node's output, not of its weight. `even`: every output channel counts alike then,
    however loud it is (what follows a convolution treats its channels one by one).
    """

    node: str
    place: int
    weight: str
    array: Array = field(repr=False)
    matrix: bool
    before: int
    after: int
    itemsize: int
    data: str = ""
    channel: int = -1
    axis: int = 0
    method: str = "tucker"
    root: Array | None = field(default=None, repr=False)
    even: bool = False

    @property
    def macs(self) -> int:
        """MACs of the node as it is."""
        return self.after * self.array.size

    @property
    def bytes(self) -> int:
        """Bytes of the weight as it is."""
        return self.array.size * self.itemsize

    @cached_property
    def seen(self) -> Array:
        """The weight as its data see it: their channels uncorrelated and equally strong."""
        return np.asarray(self._met / self._loud)

    @cached_property
    def _met(self) -> Array:
        if self.root is None:
            return self.array
        moved = np.tensordot(self.array, self.root, (self.axis, 0))
        return np.asarray(np.moveaxis(moved, -1, self.axis))

    @cached_property
    def _loud(self) -> Array:
        """How strong each output is on the data, root mean square; 1 where that does not count."""
        axes = tuple(i for i in range(self.array.ndim) if i != 1 - self.axis)
        power = np.sqrt(np.sum(self._met**2, axis=axes, keepdims=True))
        if self.root is None or not self.even or not power.any():
            return np.ones_like(power)
        return np.asarray(np.maximum(power, _FAINT * power.max()))

    def _unseen(self, part: Array) -> Array:
        """Return a factor (channels, …) of `seen` as a factor of the weight."""
        return part if self.root is None else np.asarray(np.linalg.solve(self.root.T, part))

    @cached_property
    def options(self) -> tuple[Option, ...]:
        """Every choice that saves MACs and bytes, and that no other beats in both and in error."""
        if self.matrix:
            made = self._matrix()
        else:
            made = self._tucker() if self.method == "tucker" else self._canonical()
        saving = [o for o in made if o.macs < self.macs and o.bytes < self.bytes]
        return tuple(_best(saving))

    @cached_property
    def _hosvd(self) -> Tucker:
        return decompose.hosvd(self.seen)

    @cached_property
    def _canonicals(self) -> dict[int, Canonical]:
        outs, ins, places = self.array.shape
        unit = self.before * ins + self.after * (places + outs)
        most = min((self.macs - 1) // unit, (self.array.size - 1) // (outs + ins + places))
        ranks = sorted({max(1, int(share * most)) for share in _CP_SHARES} if most > 0 else ())
        return {rank: decompose.cp(self.seen, rank) for rank in ranks}

    def _matrix(self) -> list[Option]:
        rows, columns = self.array.shape
        values = np.linalg.svd(self.seen, compute_uv=False)
        left = 1 - np.cumsum(values**2) / max(float(np.sum(values**2)), 1e-300)
        return [
            self._option((rank,), self.after * rank * (rows + columns), rank * (rows + columns), e)
            for rank, e in enumerate(np.maximum(left, 0), 1)
        ]

    def _tucker(self) -> list[Option]:
        outs, ins, places = self.array.shape
        kept = decompose.retained(self._hosvd.core)
        left = np.maximum(1 - kept / max(float(kept[-1, -1]), 1e-300), 0)
        out, into = np.indices(left.shape) + 1
        first = np.where(into < ins, ins * into, 0)
        last = np.where(out < outs, outs * out, 0)
        middle = out * into * places
        macs = self.before * first + self.after * (middle + last)
        size = first + middle + last
        left[(out > into * places) | (into > out * places)] = 1.0  # no core has such ranks
        order = np.argsort(macs, axis=None, kind="stable")
        errors = np.minimum.accumulate(left.reshape(-1)[order])
        better = np.flatnonzero(np.diff(errors, prepend=1.0) < 0)
        return [
            self._option(
                (int(out.reshape(-1)[i]), int(into.reshape(-1)[i])),
                int(macs.reshape(-1)[i]),
                int(size.reshape(-1)[i]),
                float(left.reshape(-1)[i]),
            )
            for i in order[better]
        ]

    def _canonical(self) -> list[Option]:
        outs, ins, places = self.array.shape
        return [
            self._option(
                (rank,),
                rank * (self.before * ins + self.after * (places + outs)),
                rank * (outs + ins + places),
                decompose.relative(self.seen, made.whole()) ** 2,
            )
            for rank, made in self._canonicals.items()
        ]

    def _option(self, ranks: tuple[int, ...], macs: int, size: int, error: float) -> Option:
        return Option(ranks, int(macs), int(size) * self.itemsize, float(error))

    def factors(self, option: Option) -> tuple[list[Array], float]:
        """Return the weights of the nodes in order, and the relative error.

        A matrix (m, n): (m, r), (r, n). A kernel: (s, I), (r, s, K), (O, r), the first or the last
        left out at full rank; CP: (r, I), (r, 1, K), (O, r). The error is that of the weight in
        the Frobenius norm; with a `root`, that of the output on the data, root mean square.
        """
        if self.matrix:
            first, second = decompose.pair(self.seen, option.ranks[0])
            error = decompose.relative(self.seen, first @ second)
            if self.axis == 0:
                return [self._unseen(first), second * self._loud], error
            return [first * self._loud, self._unseen(second.T).T], error
        if self.method == "cp":
            made = self._canonicals[option.ranks[0]]
            far = made.out * self._loud[:, :, 0]
            parts = [self._unseen(made.into).T, made.place.T[:, None, :], far]
            return parts, decompose.relative(self.seen, made.whole())
        return self._three(*option.ranks)

    def _three(self, out: int, into: int) -> tuple[list[Array], float]:
        outs, ins, _ = self.array.shape
        made = decompose.refined(self.seen, self._hosvd.cut(out, into))
        error, core = decompose.relative(self.seen, made.whole()), made.core
        near, far = self._unseen(made.into), made.out * self._loud[:, :, 0]
        if into == ins:
            core = np.einsum("rsk,is->rik", core, near, optimize=True)
        if out == outs:
            core = np.einsum("or,rsk->osk", far, core, optimize=True)
        parts = [near.T] if into < ins else []
        return [*parts, core, *([far] if out < outs else [])], error


def _best(options: list[Option]) -> list[Option]:
    """Return the options that none cheaper in MACs beats in error, most expensive first."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda o: (o.macs, o.error)):
        if not kept or option.error < kept[-1].error:
            kept.append(option)
    return kept[::-1]


def layers(model: Model, nodes: Set[str], method: str = "tucker") -> list[Layer]:
    """Return the nodes among `nodes` whose weight can be factored, in graph order."""
    found = []
    for node in model.ir.graph:
        if identity(node) in nodes:
            made = _conv(model, node, method) if node.op_type == "Conv" else _product(model, node)
            if made is not None and min(made.array.shape[:2]) > 1:
                found.append(made)
    return found


def _weight(node: ir.Node, place: int) -> NDArray[Any] | None:
    """Return the constant float at an input, if that is what stands there."""
    value = node.inputs[place] if place < len(node.inputs) else None
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return tensor.numpy() if tensor is not None and tensor.dtype in _FLOATS else None


def _product(model: Model, node: ir.Node) -> Layer | None:
    if node.op_type not in ("MatMul", "Gemm") or node.domain:
        return None
    weights = {place: _weight(node, place) for place in (0, 1)}
    known = [place for place, array in weights.items() if array is not None]
    if len(known) != 1 or (node.op_type == "Gemm" and known == [0]):
        return None
    (place,) = known
    array = weights[place]
    if array is None or array.ndim != 2 or (other := _fact(model, node, 1 - place)) is None:
        return None
    turned = node.op_type == "Gemm" and flag(node, "transB")
    wide = (array.T if turned else array).astype(np.float64)
    shared = wide.shape[0] if place == 1 else wide.shape[1]
    rows = other.elements // shared
    across = flag(node, "transA") == 1 or place == 0
    return Layer(
        node=identity(node),
        place=place,
        weight=_name(node, place),
        array=wide,
        matrix=True,
        before=rows,
        after=rows,
        itemsize=array.itemsize,
        data=_name(node, 1 - place),
        channel=-2 if across else -1,
        axis=1 - place,
    )


def _conv(model: Model, node: ir.Node, method: str) -> Layer | None:
    array, data = _weight(node, 1), _fact(model, node, 0)
    made = model.facts.get(identity(node))
    if array is None or data is None or made is None or flag(node, "group", 1) != 1:
        return None
    outs, ins = array.shape[:2]
    wide = array.reshape(outs, ins, -1).astype(np.float64)
    matrix = wide.shape[2] == 1
    before, after = data.elements // ins, made.elements // outs
    return Layer(
        node=identity(node),
        place=1,
        weight=_name(node, 1),
        array=wide[:, :, 0] if matrix else wide,
        matrix=matrix,
        before=before,
        after=after,
        itemsize=array.itemsize,
        data=_name(node, 0),
        channel=1,
        axis=1,
        method=method,
        even=True,
    )


def _name(node: ir.Node, place: int) -> str:
    value = node.inputs[place]
    assert value is not None
    return str(value.name)


def _fact(model: Model, node: ir.Node, place: int) -> Fact | None:
    value = node.inputs[place] if place < len(node.inputs) else None
    fact = None if value is None else model.facts.get(str(value.name))
    return fact if fact is not None and fact.elements else None


def flag(node: ir.Node, name: str, default: int = 0) -> int:
    """Return an integer attribute of a node."""
    return node.attributes[name].as_int() if name in node.attributes else default


def weight_bytes(model: Model, nodes: Set[str]) -> int:
    """Return the bytes of the initializers that these nodes read, each once."""
    names = {name for n in nodes for name in model.graph.by_id[n].weights}
    return model.weight_bytes(names)
