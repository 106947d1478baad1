"""Run passes, and judge after each lossy one what it has cost so far against the loaded model.

The samples are those of `--eval`, else those of `--data`, else drawn, which proves nothing and says
so. Where halves are kept apart (`--search`), what tunes sees one half of them, the other judges.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from splitc import pipeline
from splitc.errors import GateError, RequestError
from splitc.model import Model
from splitc.pipeline import Observer, Pass, Resources

if TYPE_CHECKING:
    from splitc import accuracy
    from splitc.accuracy import Verdict
    from splitc.data import Dataset

_DRAWN = 32

Told = Callable[[str, str], None]
"""Called as `told(stage, detail)` when a pass begins."""


@dataclass(frozen=True)
class Step:
    """What one pass did. `options`: as text may give them. `verdict`: what all passes so far cost.

    `before`: the metric in front of this pass; None with `verdict` for an exact one. `changed`: the
    graph is another than before.
    """

    name: str
    options: Mapping[str, object]
    seconds: float
    exact: bool
    before: float | None = None
    verdict: "Verdict | None" = None
    changed: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return {"name", "options", "seconds", "exact", "metric_before", "metric_after", …}."""
        made = {
            "name": self.name,
            "options": dict(self.options),
            "seconds": self.seconds,
            "exact": self.exact,
            "metric_before": self.before,
            "metric_after": None,
            "samples": None,
        }
        if self.verdict is None:
            return made
        judged = self.verdict.to_json()
        shown = {key: judged[key] for key in ("metric", "drop", "interval", "snr_db", "random")}
        return {**made, "metric_after": judged["after"], "samples": judged["samples"], **shown}


@dataclass
class Judge:
    """Runs passes on what came of `original`, and keeps a `Step` of each.

    Raises `GateError` as soon as a lossy pass breaks `resources.max_drop`, unless `lenient`: then
    `broken_by` names the pass, and what follows it does not run. `split`: the passes look at one
    half of the evaluation data, and the other judges.
    """

    original: Model
    resources: Resources
    told: Told | None = None
    observe: Observer | None = None
    lenient: bool = False
    split: bool = False
    steps: list[Step] = field(default_factory=list)
    broken_by: str = ""
    _trained: bool = False
    _tuners: list[str] = field(default_factory=list)

    def run(
        self, passes: Sequence[Pass], model: Model, *, pin: Sequence[str] = (), **bound: Any
    ) -> Model:
        """Run the passes in order; `bound` are resources of these alone (boundary, target)."""
        for step in passes:
            if self.broken_by:
                return model
            model = self._step(step, model, pin, bound)
        return model

    @property
    def last(self) -> "Verdict | None":
        """What all passes together cost; None if none of them was lossy."""
        return next((s.verdict for s in reversed(self.steps) if s.verdict is not None), None)

    def notes(self) -> tuple[str, ...]:
        """Return what the user must know about the data that judged."""
        idle = self.resources.recipe is not None and not self._trained
        unused = ("no pass here trains: --train is of no use",) if idle else ()
        if not any(step.verdict for step in self.steps):
            return unused
        lines = [
            f"{s.name}: {line}" for s in self.steps if s.verdict for line in s.verdict.summary()
        ]
        return (*unused, *self._doubts(), *dict.fromkeys(lines))

    def _doubts(self) -> list[str]:
        given, count = self.resources, len(self._samples)
        lines = []
        if given.data is not None and given.evaluation in (None, given.data):
            lines.append("judged on the calibration data: --eval FILE judges on others")
        if given.evaluation is not None and self.split:
            tuned = len(given.evaluation) - count
            lines.append(f"tuned on {tuned} samples, judged on {count} others")
        elif given.evaluation is not None and self._tuners:
            names = ", ".join(dict.fromkeys(self._tuners))
            lines.append(f"{names} chose by the samples that judge it: --search keeps halves apart")
        return lines

    def _step(
        self, step: Pass, model: Model, pin: Sequence[str], bound: Mapping[str, Any]
    ) -> Model:
        if self.told:
            self.told("pass", step.name)
        self._trained = self._trained or pipeline.trains(step)
        self._tuners += [step.name] if tunes(step) else []
        given = replace(self.resources, **bound, evaluation=self._tuned, apart=self.split)
        seen: list[float] = []

        def note(done: Pass, before: Model, after: Model, seconds: float) -> None:
            seen.append(seconds)
            if self.observe:
                self.observe(done, before, after, seconds)

        after = pipeline.run((pipeline.bind(step, given),), model, note, pin=pin)
        options = {name: getattr(step, name) for name in pipeline.settable(step)}
        changed = step.exact or after.fingerprint() != model.fingerprint()
        made = Step(step.name, options, seen[0], step.exact, changed=changed)
        self.steps.append(made if step.exact else self._judged(made, after))
        return after

    def _judged(self, step: Step, after: Model) -> Step:
        if self.told:
            self.told(
                "judge", f"{step.name}: {self._gate.metric.name} of {len(self._samples)} samples"
            )
        verdict = self._gate.judge(after, self.resources.max_drop)
        before = self.last.after if self.last else verdict.before
        if not verdict.ok:
            self.broken_by = step.name
            if not self.lenient:
                raise GateError(
                    f"pass {step.name!r} breaks the accuracy gate",
                    where="\n".join(verdict.summary()),
                    hint="a gentler option, other data, or a larger --max-drop",
                )
        return replace(step, before=before, verdict=verdict)

    @property
    def _tuned(self) -> "Dataset | None":
        """The evaluation data that a pass may look at."""
        whole = self.resources.evaluation
        return whole.halves()[0] if whole is not None and self.split else whole

    @cached_property
    def _samples(self) -> "Dataset":
        """The samples that judge."""
        from splitc import data

        given = self.resources
        if given.evaluation is not None:
            return given.evaluation.halves()[1] if self.split else given.evaluation
        if given.data is not None:
            return given.data
        if given.max_drop is not None:
            hint = "--eval FILE, labelled or not; or --data FILE"
            raise RequestError("--max-drop needs data to judge with", hint=hint)
        return data.drawn(self.original, _DRAWN, seed=1)

    @cached_property
    def _gate(self) -> "accuracy.Gate":
        from splitc import accuracy

        data = self._samples
        wanted = self.resources.metric
        return accuracy.Gate(self.original, data, wanted or accuracy.metric(None, data))


def tunes(step: Pass) -> bool:
    """Tell whether a pass looks at the evaluation data: it has the field, and does not say no."""
    has = any(f == "evaluation" for f in getattr(step, "__dataclass_fields__", {}))
    return has and bool(getattr(step, "tunes", True))
