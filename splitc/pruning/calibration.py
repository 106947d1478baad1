"""Samples that pruning measures with, as the lifted region reads them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from splitc import data as datasets
from splitc.data import Dataset, fixed_batch
from splitc.execute import run, session
from splitc.fx.layouts import to_torch
from splitc.model import Model

SAMPLES, DRAWN = 1024, 64
"""At most so many samples of the data are looked at; so many are drawn where there are none."""
_BYTES = 2**30
"""What the tensors alive at a time may take, for all samples and both networks."""
_ALIVE = 6
_BATCH = 64


@dataclass(frozen=True)
class Calibration:
    """Batches of a region's inputs with their labels, if there are any."""

    batches: tuple[tuple[Tensor, ...], ...]
    labels: tuple[Tensor | None, ...]
    drawn: bool

    @property
    def samples(self) -> int:
        """How many samples these are."""
        return sum(len(batch[0]) if batch[0].ndim else 1 for batch in self.batches)


def calibration(model: Model, module: fx.GraphModule, data: Dataset | None) -> Calibration:
    """Return samples for a module that was lifted from `model`: from the data, else drawn ones."""
    chosen = datasets.drawn(model, DRAWN) if data is None else data
    first = next(_region(model, module, chosen.take(slice(1))))
    count = max(16, min(SAMPLES, _BYTES // max(_ALIVE * _largest(module, first), 1)))
    part = chosen.take(_spread(len(chosen), count))
    batches = tuple(_region(model, module, part))
    labels = None if part.labels is None else torch.from_numpy(np.array(part.labels))
    return Calibration(batches, tuple(_split(labels, batches)), chosen.drawn)


def _spread(length: int, count: int) -> slice | NDArray[np.intp]:
    """Return where to take `count` samples of so many, evenly spread: data may be sorted."""
    if count >= length:
        return slice(length)
    return np.linspace(0, length - 1, count).round().astype(np.intp)


def _split(
    labels: Tensor | None, batches: tuple[tuple[Tensor, ...], ...]
) -> Iterator[Tensor | None]:
    at = 0
    for batch in batches:
        size = len(batch[0]) if batch[0].ndim else 1
        yield None if labels is None or len(labels) < at + size else labels[at : at + size]
        at += size


def _region(model: Model, module: fx.GraphModule, data: Dataset) -> Iterator[tuple[Tensor, ...]]:
    """Yield what the region reads, batch by batch."""
    for values in _values(model, module.meta["inputs"], data):
        yield tuple(to_torch(np.asarray(values[name])) for name in module.meta["inputs"])


def _values(
    model: Model, names: tuple[str, ...], data: Dataset
) -> Iterator[dict[str, NDArray[Any]]]:
    inner = [name for name in names if name not in model.graph.inputs]
    opened = session(model, outputs=inner) if inner else None
    for feeds in data.feeds(model, _BATCH):
        made = run(opened, feeds, inner, model.source) if opened is not None else {}
        yield {**feeds, **made}


def region_data(model: Model, module: fx.GraphModule, data: Dataset) -> Dataset:
    """Return the data as the region reads them, to train it with; the same data for the whole.

    What a tail reads is computed once, and is in memory from then on.
    """
    names: tuple[str, ...] = module.meta["inputs"]
    if all(name in data.inputs for name in names):
        return Dataset({n: data.inputs[n] for n in names}, data.labels, data.source, data.drawn)
    parts = list(_values(model, names, data))
    whole = fixed_batch(model) == 1 and len(parts) == len(data)
    join = np.stack if whole and parts[0][names[0]].ndim == 0 else np.concatenate
    arrays = {name: join([part[name] for part in parts])[: len(data)] for name in names}
    return Dataset(arrays, data.labels, data.source, data.drawn)


def _largest(module: fx.GraphModule, inputs: tuple[Tensor, ...]) -> int:
    """Return the bytes that one sample takes in the largest tensor of the module."""
    walk = _Largest(module)
    with torch.no_grad():
        walk.run(*inputs)
    return walk.found


class _Largest(fx.Interpreter):
    found = 1

    def run_node(self, n: fx.Node) -> Any:
        made = super().run_node(n)
        if isinstance(made, Tensor) and n.op != "get_attr":
            self.found = max(self.found, made.nbytes)
        return made
