"""The main job: model → passes → plan → split → artifacts → verified bundle, or nothing at all."""

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitc import backend, bundle, native
from splitc.backend import Artifact, Target
from splitc.bundle import Parts
from splitc.errors import BackendError, ModelError
from splitc.model import Model
from splitc.parking import parked
from splitc.plan import Plan
from splitc.records import GateRecord, Source
from splitc.request import Request
from splitc.scenario import Device, Scenario
from splitc.split import Split, split
from splitc.stages import Planned, Progress, opened, planned
from splitc.verify import Report, verify, with_checks
from splitc.wire.codec import DTYPES
from splitc.wire.form import form

if TYPE_CHECKING:
    from collections.abc import Sequence

    from splitc.train import Recorder


@dataclass(frozen=True)
class Compiled:
    """What `compile` did. When `ok` is False a check failed and no bundle was left behind."""

    ok: bool
    bundle: str
    plan: Plan
    report: Report
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return {"ok", "bundle", "plan", "checks"}, as the command's `--json` prints it."""
        return {
            **self.report.to_json(),
            "ok": self.ok,
            "bundle": self.bundle,
            "plan": self.plan.chosen.to_json(),
        }


def compile_bundle(
    model: str | Path | Model,
    request: Request,
    output: Path,
    progress: Progress,
    max_size: int,
    recorder: "Recorder | None" = None,
) -> Compiled:
    """Compile `model` into the folder `output`; see `splitc.compile`."""
    bundle.check_target(output)
    _return_freed_memory()
    scenario = request.scenario()
    progress("load", str(model) if not isinstance(model, Model) else model.source)
    loaded = parked(opened(model, request.input, max_size, request.passes))
    _check_outputs(loaded)
    made = planned(loaded, request, progress, recorder)
    after, plan = parked(made.model), made.plan
    progress("split", plan.chosen.title)
    halves = split(after, plan.chosen.cut)
    progress("compile", f"{request.head_backend} and {request.tail_backend}")
    parts = Parts(
        model=after,
        split=halves,
        source=Source(model=loaded.source, fingerprint=loaded.fingerprint()),
        passes=request.passes,
        request=recorded(request),
        plan=plan.chosen.to_json(),
        certificate=plan.certificate.to_json(),
        codec=form(request.wire)[1],
        tiers=(scenario.head.name, scenario.tail.name),
        artifacts=_artifacts(halves, scenario, request),
        exact=made.exact,
        gate=gate_record(made),
        resources=made.resources,
        libraries=("torch", "torch-pruning") if "recipe" in made.resources else (),
    )
    with bundle.stage(output, parts) as staged:
        progress("verify", "head, wire, tail against the whole")
        report = verify(staged.folder, model=loaded)
        loaded_code = tuple(native.check(staged.folder, staged.manifest, parts.artifacts))
        report = with_checks(report, loaded_code)
        if report.ok:
            progress("write", str(output))
            staged.publish(report.records())
    told = [note for side in parts.artifacts.values() for one in side for note in one.notes]
    notes = (*plan.notes, *told, *report.notes)
    return Compiled(report.ok, str(output), plan, report, notes)


def gate_record(made: Planned) -> GateRecord | None:
    """Return what the manifest keeps of the accuracy gate; None if no pass was lossy."""
    if made.verdict is None:
        return None
    judged = {name: _rounded(value) for name, value in made.verdict.to_json().items()}
    return GateRecord(**{name: judged[name] for name in GateRecord.__struct_fields__})


def _rounded(value: object) -> Any:
    """Round to what a measurement is worth: three decimals."""
    if isinstance(value, list):
        return tuple(map(_rounded, value))
    return round(value, 3) if isinstance(value, float) else value


def _check_outputs(model: Model) -> None:
    """Refuse what a bundle could neither send nor record: strings, sequences, 4-bit numbers."""
    for tensor in model.outputs:
        if tensor.dtype not in DTYPES:
            raise ModelError(
                f"output {tensor.name!r} is {tensor.dtype}, which a bundle cannot hold",
                where=model.source,
                hint=f"types that it can: {', '.join(DTYPES)}",
            )


def _return_freed_memory() -> None:
    """Let glibc give large freed blocks back at once: its own threshold grows up to 32 MB."""
    mmap_threshold = -3
    if tune := getattr(ctypes.CDLL(None), "mallopt", None):
        tune(mmap_threshold, 2**20)


def _artifacts(
    halves: Split, scenario: Scenario, request: Request
) -> Mapping[str, "Sequence[Artifact]"]:
    sides = (
        ("head", halves.head, request.head_backend, scenario.head),
        ("tail", halves.tail, request.tail_backend, scenario.tail),
    )
    made: dict[str, Sequence[Artifact]] = {}
    for side, half, name, device in sides:
        if half is None:
            continue
        try:
            made[side] = (backend.get(name).compile(half, Target.of(device)),)
        except BackendError as error:
            error.where = f"{side}, {name}: {error.where}".rstrip(": ")
            raise
    return made


_FILES = ("head", "tail", "link", "data", "eval", "train")


def recorded(request: Request) -> dict[str, object]:
    """Return the resolved request as the manifest keeps it: names of profiles, no paths."""
    found: dict[str, object] = {}
    for field in fields(request):
        value = getattr(request, field.name)
        if isinstance(value, Device) or hasattr(value, "uplink_mbit_s"):
            value = value.name
        elif field.name in _FILES and value is not None:
            value = Path(str(value)).name
        elif field.name == "cut" and str(value).startswith("@") and str(value).endswith(".json"):
            value = "@" + Path(str(value)).name
        found[field.name] = list(value) if isinstance(value, tuple) else value
    return found
