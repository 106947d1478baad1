"""How far apart two tensors are, and the check that says whether that is right.

The error of a tensor is max|a−b| / max|b| of its worst sample, `b` being what is expected; 0 if
both are 0. A tensor that is equal for all inputs proves nothing: its check is `not-run`.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from splitc.records import CheckRecord

Status = Literal["pass", "fail", "not-run"]


@dataclass(frozen=True)
class Check:
    """One claim and what became of it. An error that is infinite or NaN is None; see `detail`.

    `tensor`: the one that was compared, if one was; JSON leaves it out.
    """

    name: str
    status: Status
    worst_error: float | None = None
    tolerance: float | None = None
    detail: str = ""
    tensor: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return {"name", "status", "worst_error", "tolerance", "detail"}."""
        return {key: value for key, value in asdict(self).items() if key != "tensor"}

    def record(self) -> CheckRecord:
        """Return the check as the manifest keeps it, its error rounded up to one digit."""
        worst = None if self.worst_error is None else round_up(self.worst_error)
        return CheckRecord(**{**self.to_json(), "worst_error": worst})


def round_up(error: float) -> float:
    """Return `error` rounded up to one significant digit: 3.2e-7 is 4e-07."""
    if not error or not math.isfinite(error):
        return error
    place = math.floor(math.log10(abs(error)))
    rounded = float(f"{error:.0e}")
    return rounded if rounded >= error else float(f"{rounded + 10.0**place:.0e}")


def relative_error(got: NDArray[Any], want: NDArray[Any]) -> float:
    """Return max|got−want| / max|want|; 0 if both are 0, infinite where one side alone is NaN.

    Infinities must stand in the same places with the same sign. Integers and booleans: 0 if
    equal, else infinite. Another shape or type is infinitely wrong.
    """
    if got.shape != want.shape or got.dtype != want.dtype:
        return math.inf
    if got.dtype.kind in "biuSUO":
        return 0.0 if np.array_equal(got, want) else math.inf
    if got.dtype.kind == "V":  # ml_dtypes
        got, want = got.astype(np.float32), want.astype(np.float32)
    wide = np.complex128 if got.dtype.kind == "c" else np.float64
    a, b = got.astype(wide), want.astype(wide)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if not np.all(same | (np.isfinite(a) & np.isfinite(b))):
        return math.inf
    if np.all(same):
        return 0.0
    scale = np.max(np.abs(b), where=np.isfinite(b), initial=0.0)
    difference = np.max(np.abs(np.where(same, 0, a) - np.where(same, 0, b)))
    return float(difference / scale) if scale else math.inf


def step_error(got: NDArray[Any], want: NDArray[Any]) -> float:
    """Return max|got−want| of quantized integers as a share of their type's range.

    One step of int8 is 1/255. A float that falls on the edge between two steps lands on either,
    as the last bit of whoever computed it has it. Another shape or type is infinitely wrong.
    """
    if got.shape != want.shape or got.dtype != want.dtype:
        return math.inf
    ends = np.iinfo(want.dtype)
    steps = np.abs(got.astype(np.int64) - want.astype(np.int64)).max(initial=0)
    return float(steps) / (int(ends.max) - int(ends.min))


def compare(
    name: str,
    got: Sequence[NDArray[Any]],
    want: Sequence[NDArray[Any]],
    *,
    tolerance: float,
    quantized: bool = False,
) -> Check:
    """Compare a tensor, sample by sample; the check's error is the worst sample's.

    `quantized`: the integers stand for floats, and are held to `step_error`.
    """
    if len(got) != len(want):
        return Check(name, "fail", None, tolerance, f"{len(got)} samples, expected {len(want)}")
    if not want:
        return Check(name, "not-run", None, tolerance, "there are no samples")
    error = step_error if quantized else relative_error
    errors = [error(a, b) for a, b in zip(got, want, strict=True)]
    worst = max(errors)
    shown = worst if math.isfinite(worst) else None
    if worst > tolerance:
        place = errors.index(worst)
        return Check(name, "fail", shown, tolerance, _why(got[place], want[place], place))
    if len(want) > 1 and all(_equal(one, want[0]) for one in want):
        reason = "equal for all inputs, which proves nothing"
        return Check(name, "not-run", shown, tolerance, reason)
    return Check(name, "pass", shown, tolerance)


def _equal(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.shape == other.shape and one.tobytes() == other.tobytes()


def _why(got: NDArray[Any], want: NDArray[Any], sample: int) -> str:
    """Say in words what is wrong with a tensor that diverges."""
    if got.shape != want.shape:
        return f"sample {sample}: shape {list(got.shape)}, expected {list(want.shape)}"
    if got.dtype != want.dtype:
        return f"sample {sample}: {got.dtype.name}, expected {want.dtype.name}"
    if got.dtype.kind in "fc" and np.any(np.isnan(got) != np.isnan(want)):
        return f"sample {sample}: NaN on one side"
    return f"sample {sample}: {np.count_nonzero(got != want)} of {got.size} elements differ"
