"""The accuracy gate of a bundle whose passes were lossy: as recorded, and judged again on data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from splitc.comparison import Check
from splitc.records import Manifest

if TYPE_CHECKING:
    from splitc.model import Model

NAME = "accuracy gate"
_KNOWN = ("top1", "agreement")
_UNGATED = "no --max-drop was given: measured, not judged"


def recorded(read: Manifest) -> Check:
    """Return what `compile` measured; not-run where nobody said how much is too much."""
    found = read.passes.gate
    if found is None:
        return Check(NAME, "not-run", detail="the bundle records none")
    text = f"when compiled: {found.metric} {_number(found.before)} → {_number(found.after)}"
    text += f", {found.samples} {'random' if found.random else ''} samples".replace("  ", " ")
    if found.ok is None or found.max_drop is None:
        return Check(NAME, "not-run", detail=f"{text}; {_UNGATED}")
    limit = f"at most {found.max_drop:g} {found.unit} may be lost"
    return Check(NAME, "pass" if found.ok else "fail", detail=f"{text}; {limit}")


def again(
    read: Manifest, model: "Model", data: Path, got: Sequence[Mapping[str, NDArray[Any]]]
) -> Check:
    """Judge what the halves gave for the samples of `data` under the recorded metric and limit.

    A user's metric is code, which a manifest must not name: `recorded` is all there is then.
    """
    from splitc import accuracy
    from splitc import data as datasets

    found = read.passes.gate
    if found is None or found.metric not in _KNOWN:
        return recorded(read)
    samples = datasets.load(data, model)
    if found.metric == "top1" and samples.labels is None:
        text = recorded(read).detail
        return Check(NAME, "not-run", detail=f"{text}; {data.name} has no labels to judge by")
    metric = accuracy.metric(found.metric, samples)
    name = read.outputs[0].name
    answers = accuracy.joined(name, [one[name] for one in got], len(samples), str(data))
    verdict = accuracy.Gate(model, samples, metric).compare({name: answers}, found.max_drop)
    text = verdict.summary()[0]
    if found.max_drop is None:
        return Check(NAME, "not-run", detail=f"{text}; {_UNGATED}")
    limit = f"at most {found.max_drop:g} {found.unit} may be lost"
    return Check(NAME, "pass" if verdict.ok else "fail", detail=f"{text}; {limit}")


def _number(value: float | None) -> str:
    return "no number" if value is None else f"{value:.4g}"
