"""Compute in int8: static, with scales from data, as QuantizeLinear and DequantizeLinear.

    c = Conv(x, w, b)        becomes    x_q = QuantizeLinear(x, s, z)
                                        x_d = DequantizeLinear(x_q, s, z)
                                        w_d = DequantizeLinear(w_quantized, w_s, w_z)
                                        c = Conv(x_d, w_d, b')

Every tensor keeps its name and its float value; `b'` gives back the mean that rounding takes from
each channel. The default form (`symmetric`: int8 around zero, float biases) is what TensorRT
takes and every backend computes; `symmetric = false` is the form that onnxruntime has integer
kernels for. Two things must not happen: another reader of `x` sees it rounded, and an output or
a pinned tensor changes its name.
"""

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from splitc import data as samples
from splitc import scope as scopes
from splitc.accuracy import Gate, metric
from splitc.data import Dataset
from splitc.errors import PassError, did_you_mean
from splitc.model import Model
from splitc.pipeline import resource
from splitc.quant import mixed, places, ranges
from splitc.quant.int8 import Int8
from splitc.quant.noise import Noise, alone, few
from splitc.quant.numbers import Scheme
from splitc.quant.opset import with_axes
from splitc.quant.share import int8_mac_share

if TYPE_CHECKING:
    from splitc.accuracy import Metric, Verdict
    from splitc.scope import Boundary
    from splitc.train import Recorder

SCHEMES = ("int8",)
RULES = ("", "tensorrt")
DEFAULT_SNR = 20.0
"""dB: noise is a tenth of the outputs' amplitude. It binds beside a `max_drop` too: a drop over a
few hundred samples is known to a point or two, noise is known to a tenth of a dB."""
_CALIBRATE, _DRAW = 256, 64
"""Samples: for ranges and biases; drawn where there are no data."""


@dataclass(frozen=True)
class Quantize:
    """Compute in int8, with scales from calibration data and corrected biases.

    `nodes`: only these (all that can be, if empty); `mixed`: keep the most harmful nodes in float
    until `min_snr` (dB, on the calibration data) and `max_drop` (on `evaluation`), if given, hold.
    """

    name: ClassVar[str] = "quantize"
    exact: ClassVar[bool] = False

    scheme: str = "int8"
    scope: str = "both"
    nodes: tuple[str, ...] = ()
    method: str = "minmax"
    per_channel: bool = True
    symmetric: bool = True
    rules: str = ""
    bias_correction: bool = True
    mixed: bool = False
    min_snr: float = DEFAULT_SNR
    data: Dataset | None = resource()
    evaluation: Dataset | None = resource()
    metric: "Metric | None" = resource()
    max_drop: float | None = resource()
    apart: bool | None = resource()
    boundary: "Boundary | None" = resource()
    recorder: "Recorder | None" = resource()

    def __post_init__(self) -> None:
        scopes.check(self.scope)
        ranges.check(self.method)
        for option, known in (("scheme", SCHEMES), ("rules", RULES)):
            if (given := getattr(self, option)) not in known:
                raise ValueError(f"{option} = {given!r}; {did_you_mean(given, known)}")
        if self.rules and not self.symmetric:
            raise ValueError("rules = 'tensorrt' needs symmetric = true")
        if self.min_snr != DEFAULT_SNR and not self.mixed:
            raise ValueError("min_snr is a limit of mixed = true")
        object.__setattr__(self, "nodes", tuple(self.nodes))

    @property
    def tunes(self) -> bool:
        """Whether the evaluation data decide something, so that others must judge the result."""
        return self.mixed

    def run(self, model: Model) -> Model:
        """Return the model in int8; its notes say how much of it, and from which data.

        Raises `PassError` for nodes that are not there or cannot be int8.
        """
        raised = with_axes(model)
        candidates = self._candidates(raised)
        if not candidates:
            return model.with_notes("quantize: no node here can be int8 that is not")
        data = self._data(raised)
        allowed = scopes.within(raised, self.scope, self.boundary) - self._left_out(raised)
        scheme = Scheme(self.symmetric, self.per_channel)
        job = Int8(raised, candidates, allowed, data, scheme, self.method, self.bias_correction)
        kept, notes = self._kept(job) if self.mixed else (frozenset[str](), ())
        made = job.made(kept)
        return made.with_notes(*self._warnings(data), *notes, self._summary(job, made, kept))

    def _candidates(self, model: Model) -> tuple[str, ...]:
        allowed = scopes.within(model, self.scope, self.boundary)
        found = places.candidates(model, allowed)
        for name in self.nodes:
            if name not in model.nodes:
                hint = did_you_mean(name, model.nodes)
                raise PassError(f"quantize: no node called {name!r}", where=model.source, hint=hint)
            if name not in found:
                where = f"{name} ({model.nodes[name].op_type})"
                hint = f"it must be one of {', '.join(places.PRODUCTS)} on float32, in the scope"
                raise PassError("quantize: this node cannot be int8", where=where, hint=hint)
        return tuple(name for name in found if not self.nodes or name in self.nodes)

    def _left_out(self, model: Model) -> frozenset[str]:
        """Return the nodes that were not asked for, if some were."""
        found = frozenset(places.candidates(model)) if self.nodes else frozenset()
        return found - {*self.nodes}

    def _data(self, model: Model) -> Dataset:
        if self.data is None:
            return samples.drawn(model, _DRAW)
        return ranges.some(self.data, _CALIBRATE)

    def _warnings(self, data: Dataset) -> tuple[str, ...]:
        random = "quantize: CALIBRATED ON RANDOM INPUTS, NO DATA: accuracy is a guess; give --data"
        slow = "quantize: onnxruntime on a CPU is faster with symmetric = false (uint8 activations)"
        on_cpu = self.scope == scopes.HEAD and self.symmetric and not self.rules
        return (*((random,) if data.drawn else ()), *((slow,) if on_cpu else ()))

    def _kept(self, job: Int8) -> tuple[frozenset[str], tuple[str, ...]]:
        """Search for the least that must stay in float; return it, and lines for the user.

        The search goes by drafts; where its result does not hold in full, all is measured in full.
        """
        noise = Noise(job.model, few(job.model, job.data), self._ends(job.model))
        holds, limit = self._limit(job, noise)
        costs = tuple(alone(noise, job.candidates, job.ranges, job.scheme, self._say))
        found = mixed.search(costs, lambda kept: holds(job.made(kept, draft=True)), self._say)
        tried = found.tried + 1
        if job.correct and not holds(job.made(found.kept)):
            found = mixed.search(costs, lambda kept: holds(job.made(kept)), self._say)
            tried += found.tried
        return found.kept, (f"quantize: mixed until {limit}; {tried} graphs were measured",)

    def _say(self, done: int, total: int, what: str) -> None:
        if self.recorder is not None:
            self.recorder.progress(done, total, what)

    def _ends(self, model: Model) -> list[str]:
        """Return the outputs that count: the model's own, not those pinned at the cut."""
        pinned = set(self.boundary.tensors) if self.boundary else set()
        return [t.name for t in model.outputs if t.name not in pinned]

    def _within(self, verdict: "Verdict") -> bool:
        """Tell whether a drop is small enough: where other samples judge, with room to spare."""
        return verdict.clear if self.apart else verdict.ok

    def _limit(self, job: Int8, noise: Noise) -> tuple[Callable[[Model], bool], str]:
        """Return what decides whether a model is good enough, and the name of the limit."""
        checks: list[Callable[[Model], bool]] = [lambda made: noise.snr_db(made) >= self.min_snr]
        names = [f"the outputs keep {self.min_snr:g} dB on {len(noise.data)} samples"]
        if self.max_drop is not None:
            data = self.evaluation or job.data
            gate = Gate(job.model, data, self.metric or metric(None, data))
            checks.append(lambda made: self._within(gate.judge(made, self.max_drop)))
            less = ", less one standard error," if self.apart else ""
            names.append(
                f"{gate.metric.name} drops by at most {self.max_drop:g}{less} on {len(data)}"
            )
        return lambda made: all(check(made) for check in checks), " and ".join(names)

    def _summary(self, job: Int8, made: Model, kept: Set[str]) -> str:
        count = len(job.candidates) - len(kept)
        source = job.data.source or "data"
        text = (
            f"quantize: {count} of {len(job.candidates)} nodes in int8, "
            f"{int8_mac_share(made):.1%} of all MACs; {self.method} ranges of {len(job.data)} "
            f"samples of {source}"
        )
        return text + (f"; in float: {', '.join(sorted(kept))}" if kept else "")
