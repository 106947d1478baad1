"""What can go wrong, from the user's side.

SplitcError          exit 1: the user can fix it
├── ModelError       the model is malformed, or uses something splitc cannot represent
├── PassError        a pass is unknown, misconfigured, or left the graph invalid
├── ProfileError     a device or link profile is missing or malformed
├── RequestError     an option's value cannot be understood (a rate, a shape, a cut, a file)
├── BackendError     a backend is unavailable or cannot compile a segment
├── WireError        a frame or a peer does not keep the boundary contract
├── VerifyError      exit 3: the bundle is damaged, or the halves do not compute the model
├── GateError        exit 3: a lossy pass costs more than --max-drop allows
└── PlanError        exit 4: no plan meets the request

Any other exception that escapes is a bug in splitc. Click's usage errors exit with 2.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class SplitcError(Exception):
    """A failure the user can act on: what happened, where, and what to try next."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        parts = {"error": str(self.args[0]), "   at": self.where, " hint": self.hint}
        return "\n".join(
            f"{label}: {text}".replace("\n", "\n       ") for label, text in parts.items() if text
        )


class ModelError(SplitcError):
    """The model is malformed, or uses something splitc cannot represent."""


class PassError(SplitcError):
    """A pass is unknown, misconfigured, or left the graph invalid."""


class ProfileError(SplitcError):
    """A device or link profile is missing or malformed."""


class RequestError(SplitcError):
    """An option's value cannot be understood, or names something that is not there."""


class BackendError(SplitcError):
    """A backend is unavailable or cannot compile a segment."""


class WireError(SplitcError):
    """A frame or a peer does not keep the boundary contract."""


class VerifyError(SplitcError):
    """The bundle is damaged, or its halves do not compute the model."""

    exit_code = 3


class GateError(SplitcError):
    """A lossy pass costs more accuracy than the gate allows."""

    exit_code = 3


class PlanError(SplitcError):
    """No plan meets the request."""

    exit_code = 4


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint naming the closest known name, or listing them (the first twenty)."""
    known = sorted(known)
    if close := get_close_matches(name, known, n=1):
        return f"did you mean {close[0]!r}?"
    more = f", … ({len(known)} in all)" if len(known) > 20 else ""
    return f"known names: {', '.join(known[:20])}{more}" if known else "there are none"
