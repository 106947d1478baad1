"""The Python API: what each command returns, before anything is printed.

    import splitc
    plan = splitc.plan("net.onnx", head="raspberry-pi-4", tail="nvidia-a100", link="wifi")
    plan.chosen.latency_s

Every function takes the command's options under the same names (`-` written `_`) and returns a
value with `to_json()` — what the command's `--json` prints — and `notes`, lines for the reader.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from splitc import pipeline
from splitc.errors import RequestError
from splitc.model import DEFAULT_MAX_SIZE, InputSpec, Model
from splitc.pipeline import Observer
from splitc.request import Request
from splitc.stages import Progress, opened, planned, quiet

if TYPE_CHECKING:
    from splitc.check import Checked
    from splitc.compile import Compiled
    from splitc.cuts import CutList
    from splitc.finish import Finish
    from splitc.inspection import Inspection
    from splitc.optimizing import Optimized
    from splitc.plan import Plan
    from splitc.sensitivity import Sensitivity
    from splitc.verify import Report


def inspect(
    model: str | Path | Model,
    *,
    input: Sequence[str | InputSpec] = (),
    passes: str | None = None,
    max_size: int = DEFAULT_MAX_SIZE,
) -> "Inspection":
    """Nodes, shapes, MACs, bytes, and the operators that no backend takes."""
    from splitc.inspection import inspect as look

    return look(_after(opened(model, input, max_size), passes or ""))


def cuts(
    model: str | Path | Model,
    *,
    max_tensors: int = 3,
    input: Sequence[str | InputSpec] = (),
    passes: str | None = None,
    max_size: int = DEFAULT_MAX_SIZE,
) -> "CutList":
    """List the boundaries worth looking at, of the graph as loaded unless `passes` is given."""
    from splitc.cuts import cuts as listing

    return listing(_after(opened(model, input, max_size), passes or ""), max_tensors=max_tensors)


def optimize(
    model: str | Path | Model,
    *,
    passes: str,
    output: str | Path | None = None,
    cut: str | None = None,
    data: str | Path | None = None,
    eval: str | Path | None = None,
    preprocess: str | None = None,
    metric: str | None = None,
    max_drop: float | None = None,
    train: str | Path | None = None,
    device: str | Path | None = None,
    search: bool = False,
    resume: bool = False,
    input: Sequence[str | InputSpec] = (),
    observe: Observer | None = None,
    progress: Progress = quiet,
    max_size: int = DEFAULT_MAX_SIZE,
) -> "Optimized":
    """Run passes alone, judge the lossy ones, and write the result to `output` unless it is None.

    A pass that breaks `max_drop` ends it: the result is not `ok`, and nothing is written. `search`
    looks for the ratio and the precision that save most within `max_drop`. `device`: the
    profile that a pass with `target = "latency"` prices by. Training that was interrupted leaves a
    checkpoint beside `output`, which `resume` takes up.
    """
    from splitc.optimizing import optimized

    asked = Request(
        passes=passes,
        cut="auto" if cut is None else cut,
        data=_text(data),
        eval=_text(eval),
        preprocess=preprocess,
        metric=metric,
        max_drop=max_drop,
        train=_text(train),
        head=_text(device),
    )
    loaded = opened(model, input, max_size, passes)
    place = None if output is None else Path(output)
    return optimized(
        loaded, asked, place, search=search, resume=resume, observe=observe, progress=progress
    )


def sensitivity(
    model: str | Path | Model,
    *,
    data: str | Path | None = None,
    preprocess: str | None = None,
    cut: str | None = None,
    method: str = "minmax",
    per_tensor: bool = False,
    asymmetric: bool = False,
    input: Sequence[str | InputSpec] = (),
    progress: Progress = quiet,
    max_size: int = DEFAULT_MAX_SIZE,
) -> "Sensitivity":
    """Each node that can be int8: dB of SNR at the outputs when it alone is, MACs, bytes saved.

    Without `data` the ranges come from random inputs, and the notes say so.
    """
    from splitc import data as samples
    from splitc.quant import ranges
    from splitc.quant.numbers import Scheme
    from splitc.sensitivity import sensitivity as look

    try:
        ranges.check(method)
    except ValueError as error:
        raise RequestError(str(error), where="--method") from error
    loaded = opened(model, input, max_size)
    known = None if data is None else samples.load(data, loaded, preprocess)
    scheme = Scheme(symmetric=not asymmetric, per_channel=not per_tensor)
    return look(loaded, known, cut=cut, scheme=scheme, method=method, progress=progress)


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)


_NO_COSTS = (
    *("head", "tail", "link", "objective", "wire", "input_codec", "strict"),
    *("passes", "data", "eval", "preprocess", "metric", "max_drop", "train"),
)
"""Options that mean nothing beside `costs`, which are seconds and bytes already."""


def plan(
    model: str | Path | Model,
    *,
    costs: str | Path | Mapping[str, object] | None = None,
    progress: Progress = quiet,
    max_size: int = DEFAULT_MAX_SIZE,
    **options: object,
) -> "Plan":
    """Choose the cut and price the alternatives. `options`: the fields of `Request`.

    `costs`: somebody else's prices (a path or the mapping itself), taken exactly as given,
    in place of `head`, `tail` and `link`; then only `rate`, `rtt`, `cut` and `top` count.
    Raises `PlanError` when nothing meets the request.
    """
    request = _request(options)
    if costs is not None:
        return _plan_from_costs(model, costs, request, max_size)
    loaded = opened(model, request.input, max_size, request.passes)
    return planned(loaded, request, progress).plan


def compile(
    model: str | Path | Model,
    *,
    output: str | Path = "bundle",
    resume: bool = False,
    progress: Progress = quiet,
    max_size: int = DEFAULT_MAX_SIZE,
    **options: object,
) -> "Compiled":
    """Plan, split, compile both halves, verify them and write the bundle `output`.

    `options`: the fields of `Request`. When verification fails no bundle is left behind and the
    result says `ok = False` with the checks that failed. Raises `GateError` when a lossy pass
    breaks `max_drop`. `resume`: as for `optimize`.
    """
    from splitc.compile import compile_bundle
    from splitc.recording import recording

    request = _request(options)
    with recording(request, Path(output), resume, progress) as recorder:
        return compile_bundle(model, request, Path(output), progress, max_size, recorder)


def check(
    model: str | Path | Model,
    *,
    backend: str,
    device: str | Path | None = None,
    passes: str | None = None,
    input: Sequence[str | InputSpec] = (),
    max_size: int = DEFAULT_MAX_SIZE,
) -> "Checked":
    """Say which nodes a backend refuses, and why; for the limits of `device`, if it is given."""
    from splitc.backend import Target
    from splitc.check import check as ask
    from splitc.scenario import device as profile

    target = None if device is None else Target.of(profile(device))
    return ask(_after(opened(model, input, max_size), passes or ""), backend, target)


def finish(bundle: str | Path) -> "Finish":
    """On the target: build the engines that the bundle has recipes for, and test them."""
    from splitc.finish import finish as build

    return build(Path(bundle))


def verify(
    bundle: str | Path,
    *,
    model: str | Path | Model | None = None,
    data: str | Path | None = None,
    side: str | None = None,
    compiled: bool = False,
    progress: Progress = quiet,
) -> "Report":
    """Check digests, contract and self-test of a bundle, and head ∘ wire ∘ tail.

    `compiled`: also load what backends compiled, which is native code that this process then
    runs; `progress` says which before it is loaded.
    """
    from splitc import native
    from splitc.verify import verify as check
    from splitc.verify import with_checks

    whole = opened(model) if model is not None else None
    report = check(Path(bundle), model=whole, data=Path(data) if data else None, side=side)
    if compiled and report.ok:
        report = with_checks(report, tuple(native.recorded(Path(bundle), side, progress)))
    return report


def _after(model: Model, passes: str) -> Model:
    return pipeline.run(pipeline.parse(passes), model) if passes else model


def _request(options: Mapping[str, object]) -> Request:
    known = Request.__dataclass_fields__
    if unknown := sorted(options.keys() - known.keys()):
        raise TypeError(f"unknown option {unknown[0]!r}; known: {', '.join(known)}")
    given = dict(options)
    if "input" in given:
        texts = given["input"]
        given["input"] = (texts,) if isinstance(texts, str) else tuple(texts)  # type: ignore[arg-type]
    return Request(**given)  # type: ignore[arg-type]


def _plan_from_costs(
    model: str | Path | Model,
    costs: str | Path | Mapping[str, object],
    request: Request,
    max_size: int,
) -> "Plan":
    from splitc.plan import plan_from_costs
    from splitc.plan.reader import network
    from splitc.units import parse_rate, parse_time

    fresh = Request()
    if other := [name for name in _NO_COSTS if getattr(request, name) != getattr(fresh, name)]:
        names = ", ".join("--" + name.replace("_", "-") for name in other)
        raise RequestError(f"--costs plans without {names}", hint="leave one or the other out")
    if request.rate is None:
        raise RequestError("--costs needs the rate of the wire", hint="--rate 20Mbit/s[/50Mbit/s]")
    return plan_from_costs(
        network(model, request.input, max_size),
        costs if isinstance(costs, Mapping) else _read_json(Path(costs)),
        rate=parse_rate(request.rate),
        rtt=parse_time(request.rtt) if request.rtt else 0.0,
        top=request.top,
        cut=request.cut,
        max_tensors=request.max_tensors,
    )


def _read_json(path: Path) -> Mapping[str, object]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"cannot read the costs: {error}", where=str(path)) from error
    if not isinstance(value, dict):
        raise RequestError("the costs are not a JSON object", where=str(path))
    return value
