"""What rounding does to the outputs: signal-to-noise ratios, of a changed graph and of one node."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from splitc.accuracy import predict, snr_db
from splitc.accuracy.results import Outputs
from splitc.data import Dataset
from splitc.errors import ModelError
from splitc.macs import macs
from splitc.model import Model
from splitc.quant.numbers import Scheme
from splitc.quant.qdq import quantized
from splitc.quant.ranges import Range, some

Step = Callable[[int, int, str], None]
"""Called as `step(done, total, what)`."""


@dataclass(frozen=True)
class NodeCost:
    """What int8 costs and gives at one node, all others being float.

    `snr_db`: of the worst output, dB; infinite where nothing changed. `mac_share`: of the whole
    model's MACs, 0 to 1. `bytes_saved`: of stored weights.
    """

    id: str
    op: str
    snr_db: float
    mac_share: float
    bytes_saved: int

    @property
    def noise(self) -> float:
        """Noise power over signal power at the worst output."""
        return float(10 ** (-self.snr_db / 10))


_SAMPLES = (8, 32)
_MACS = 2**32
"""Work for one measurement: a larger network is listened to on fewer samples, 8 at least."""


def few(model: Model, data: Dataset) -> Dataset:
    """Return the samples that noise is measured on: 32 at most, 8 of a network with much work."""
    count = _MACS // max(1, sum(macs(model).values()))
    return some(data, int(np.clip(count, *_SAMPLES)))


class Noise:
    """Compares changed graphs with one original on the same data; the original runs once.

    `outputs`: where to listen, all graph outputs if it is empty. In place of one without floats (a
    class, a choice) count the floats that it is made from.
    """

    def __init__(self, model: Model, data: Dataset, outputs: Sequence[str] = ()) -> None:
        ends = outputs or [tensor.name for tensor in model.outputs]
        self.names = list(dict.fromkeys(name for end in ends for name in _floats(model, end)))
        if not self.names:
            raise ModelError("no output is made from floats: no noise to measure", where=ends[0])
        self.model, self.data = model, data

    @cached_property
    def _reference(self) -> Outputs:
        return predict(self.model, self.data, self.names)

    def snr_db(self, changed: Model) -> float:
        """Return the signal-to-noise ratio of the worst output, dB."""
        made = predict(changed, self.data, self.names)
        return min(snr_db(self._reference[name], made[name]) for name in self.names)


def alone(
    noise: Noise,
    nodes: Collection[str],
    ranges: Mapping[str, Range],
    scheme: Scheme,
    step: Step | None = None,
) -> Iterator[NodeCost]:
    """Yield what each of `nodes` costs when it alone is int8, in the order given."""
    model = noise.model
    counts = macs(model)
    total = sum(counts.values()) or 1
    for done, name in enumerate(nodes):
        if step:
            step(done, len(nodes), f"int8 at {name} alone")
        node = model.nodes[name]
        made = quantized(model, [name], ranges, scheme)
        saved = model.weight_bytes() - made.weight_bytes()
        yield NodeCost(name, node.op_type, noise.snr_db(made), counts[name] / total, saved)


def _floats(model: Model, output: str) -> list[str]:
    """Return the output if it holds floats, else the float tensors nearest before it."""
    found: list[str] = []
    waiting, seen = [output], {output}
    while waiting:
        name = waiting.pop()
        fact = model.facts.get(name)
        if fact is not None and fact.dtype.startswith(("float", "bfloat")):
            found.append(name)
        elif name in model.graph.producer:
            read = model.graph.by_id[model.graph.producer[name]].inputs
            waiting += [t for t in read if t not in seen]
            seen |= set(read)
    return [name for name in found if name in model.graph.producer]
