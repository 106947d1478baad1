"""What rounding does to the outputs: signal-to-noise ratios, of a changed graph and of one node."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from splitc.accuracy import predict, snr_db
from splitc.accuracy.results import Outputs
from splitc.data import Dataset
from splitc.errors import ModelError
from splitc.macs import macs
from splitc.model import Model
from splitc.quant.numbers import Scheme
from splitc.quant.qdq import quantized
from splitc.quant.ranges import Range

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


class Noise:
    """Compares changed graphs with one original on the same data; the original runs once.

    `outputs`: those that count; of all graph outputs those with floats, if it is empty.
    """

    def __init__(self, model: Model, data: Dataset, outputs: Sequence[str] = ()) -> None:
        floats = [t.name for t in model.outputs if t.dtype.startswith(("float", "bfloat"))]
        self.names = [name for name in outputs or floats if name in floats]
        if not self.names:
            raise ModelError("no output holds floats: noise cannot be measured", where=model.source)
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
