"""Where training keeps what it needs to go on after a break: beside the output, while it lasts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitc.errors import RequestError
from splitc.request import Request

if TYPE_CHECKING:
    from splitc.train import Recorder

Progress = Callable[[str, str], None]
"""Called as `progress(stage, detail)`."""


@contextmanager
def recording(
    request: Request, output: Path | None, resume: bool, progress: Progress
) -> "Iterator[Recorder]":
    """Give training a place for its checkpoints, beside `output`; a finished run takes them away.

    Where nothing is trained the recorder only tells. Raises `RequestError` where there is nothing
    to resume.
    """
    from splitc.train import FolderRecorder

    if request.train is None:
        if resume:
            raise RequestError("--resume takes up training", hint="--train recipe.toml")
        yield _Teller(progress)
        return
    folder = (output or Path("splitc")).absolute()
    place = folder.with_name(f"{folder.name}.checkpoint")
    if resume and not place.exists():
        raise RequestError("there is no checkpoint to resume", where=str(place))
    try:
        yield FolderRecorder(place, resume=resume, progress=progress)
    except KeyboardInterrupt:
        if place.exists():
            progress("interrupted", f"--resume takes up {place.name}")
        raise
    _cleared(place)


def _cleared(place: Path) -> None:
    """Remove the checkpoints of a finished run, and their folder if nothing else lies in it."""
    for path in place.glob("training[0-9][0-9].*"):
        path.unlink()
    if place.is_dir() and not any(place.iterdir()):
        place.rmdir()


@dataclass(frozen=True)
class _Teller:
    """Tells how far a pass is, and keeps nothing."""

    tell: Progress

    def progress(self, done: int, total: int, detail: str) -> None:
        self.tell("work", f"{done} of {total}, {detail}")

    def save(self, state: dict[str, Any]) -> None:
        """Keep nothing."""

    def load(self) -> dict[str, Any] | None:
        return None
