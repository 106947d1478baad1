"""Make a device profile of this machine in about ten seconds, and fit its predictor.

Some eighty small networks (`probes`) run in onnxruntime, in turns, until the time is over; the
median of each is a sample for the additive predictor of the price list. Power is not measured.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from splitc.cost.roofline import base
from splitc.errors import RequestError
from splitc.profiler import fit, machine
from splitc.profiler.fit import Sample, Start
from splitc.scenario import Device

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_TURN = 1e-3
_ROUNDS = 3
_SHARE = 0.9
"""Of the time, for measuring; the rest is for the fit."""

_PLAIN = Start(per_op=1 / 20e9, per_byte=1 / 10e9)
_POWER = (28.0, 4.0)


@dataclasses.dataclass
class _Running:
    """A probe with its open session; `repeat` runs make one turn of about a millisecond."""

    name: str
    features: fit.Features
    session: "InferenceSession"
    feeds: dict[str, Any]
    repeat: int
    turns: list[float]


def measure(name: str = "here", *, seconds: float = 10.0, threads: int = 1) -> Device:
    """Measure this machine for about `seconds` with `threads` threads in each kernel.

    With one thread the clock is the thread's own CPU time, which a neighbour's time slice does
    not enter; otherwise the wall's. Raises `RequestError` for a time or count that is not positive.
    """
    if not (seconds > 0 and threads > 0):
        raise RequestError("seconds and threads must be above 0", hint="--seconds 10 --threads 1")
    end = time.perf_counter() + seconds * _SHARE
    bandwidth = machine.bandwidth_gb_s(threads, seconds / 20)
    samples = sample(end, threads)
    start = dataclasses.replace(_PLAIN, per_byte=1 / (bandwidth * 1e9))
    return profile(name, samples, start, bandwidth, threads)


def sample(end: float, threads: int) -> list[Sample]:
    """Run all probes in turns until `end` (of `time.perf_counter`), at least `_ROUNDS` times."""
    from splitc.profiler.probes import probes

    clock = time.thread_time if threads == 1 else time.perf_counter
    running = [_open(model, threads, clock) for model in probes()]
    rounds = 0
    while rounds < _ROUNDS or time.perf_counter() < end:
        for one in running:
            one.turns.append(_turn(one, clock))
        rounds += 1
    return [Sample(one.name, one.features, median(one.turns)) for one in running]


def _open(model: Any, threads: int, clock: Callable[[], float]) -> _Running:
    from splitc.execute import session
    from splitc.feeds import draw_inputs

    opened = session(model, threads=threads)
    one = _Running(model.source, fit.features(model), opened, draw_inputs(model), 1, [])
    one.repeat = max(1, min(100, round(_TURN / _turn(one, clock))))
    return one


def _turn(one: _Running, clock: Callable[[], float]) -> float:
    """Return the seconds of the fastest of `repeat` runs, after one that warms the caches."""
    one.session.run(None, one.feeds)
    fastest = float("inf")
    for _ in range(one.repeat):
        begin = clock()
        one.session.run(None, one.feeds)
        fastest = min(fastest, clock() - begin)
    return fastest


def profile(
    name: str, samples: Sequence[Sample], start: Start, bandwidth: float, threads: int
) -> Device:
    """Write the samples up as a profile: fitted predictor, and the roofline's own numbers."""
    predictor = fit.fit(samples, start)
    info = machine.cpuinfo()
    peak = _peaks(samples)
    return Device(
        name=name,
        summary=machine.summary(info, threads),
        tier="device",
        triple=machine.triple(),
        cpu=machine.core(info),
        features=machine.features(info),
        compute_capability="",
        memory_bytes=machine.memory_bytes(),
        memory_bandwidth_gb_s=_short(bandwidth),
        peak_gops=peak,
        efficiency=_efficiency(samples, predictor, peak["float32"]),
        overhead_us=_short(_overhead(samples, predictor) * 1e6),
        active_w=_POWER[0],
        idle_w=_POWER[1],
        error_band=_short(max(fit.band(samples, start), 1.1)),
        sources=_sources(len(samples), threads),
        estimated=("active_w", "idle_w"),
        predictor={f: tuple(_short(value) for value in row) for f, row in predictor.items()},
    )


def _peaks(samples: Sequence[Sample]) -> dict[str, float]:
    """Return dtype → the best 10⁹ operations/s that a probe reached; float16 runs as float32."""
    best = {"float32": 0.0, "int8": 0.0}
    for one in samples:
        for family, row in one.features.items():
            if family.startswith(("conv", "gemm")):
                dtype = "int8" if family.endswith("/int8") else "float32"
                best[dtype] = max(best[dtype], _short(row[0] / one.seconds / 1e9))
    return {"float32": best["float32"], "float16": best["float32"], "int8": best["int8"]}


def _efficiency(
    samples: Sequence[Sample], predictor: dict[str, fit.Row], peak: float
) -> dict[str, float]:
    """Return base family → operations per fitted second over all probes, as a share of the peak."""
    done: dict[str, list[float]] = {}
    for one in samples:
        for family, row in one.features.items():
            total = done.setdefault(base(family), [0.0, 0.0])
            total[0] += row[0]
            total[1] += sum(v * w for v, w in zip(row, predictor[family], strict=True))
    shares = {f: _short(min(ops / s / peak / 1e9, 1.0)) for f, (ops, s) in done.items() if ops}
    return {**shares, "other": min(shares.values())}


def _overhead(samples: Sequence[Sample], predictor: dict[str, fit.Row]) -> float:
    """Return the mean seconds that the fit gives one group of the probes."""
    rows = [(row[2], predictor[f][2]) for one in samples for f, row in one.features.items()]
    return sum(count * each for count, each in rows) / sum(count for count, _ in rows)


def _sources(count: int, threads: int) -> dict[str, str]:
    import onnxruntime

    how = (
        f"measured by splitc profile: {count} probes in onnxruntime {onnxruntime.__version__}, "
        f"{threads} thread{'s' if threads > 1 else ''}, governor {machine.governor()}"
    )
    return {
        "memory_bytes": "read from the operating system (its control group's limit if lower)",
        "memory_bandwidth_gb_s": "measured by splitc profile: copies of 64 MiB, read plus written",
        "peak_gops": f"{how}; the best probe; float16 runs as float32 in these kernels",
        "efficiency": f"{how}; operations per fitted second over the peak",
        "overhead_us": f"{how}; mean fitted seconds per group",
        "active_w": "estimate: power is not measured; a 28 W processor package",
        "idle_w": "estimate: power is not measured; a 28 W processor package",
        "error_band": f"{how}; 90 % of held-out probes lie within this factor",
    }


def _short(value: float) -> float:
    """Round to four significant digits."""
    return float(f"{value:.4g}")


def to_toml(device: Device) -> str:
    """Write a profile as the TOML text that `scenario.device` reads back."""
    import tomli_w

    table = {key: value for key, value in dataclasses.asdict(device).items() if value != {}}
    return tomli_w.dumps(table)
