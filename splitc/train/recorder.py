"""Where training tells how far it is, and keeps what it needs to go on after a break."""

import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from splitc.errors import RequestError

_EVERY_S = 0.5


class Recorder(Protocol):
    """One `load` begins a training run; `progress` and `save` then belong to it.

    A state holds tensors, numbers, texts, and lists and dicts of these.
    """

    def progress(self, done: int, total: int, detail: str) -> None:
        """Take note that `done` of `total` steps are done."""
        ...

    def save(self, state: dict[str, Any]) -> None:
        """Keep `state` in place of what was kept before."""
        ...

    def load(self) -> dict[str, Any] | None:
        """Return what an interrupted run kept at this place, or None to begin anew."""
        ...


class Silent:
    """Tells nobody and keeps nothing."""

    def progress(self, done: int, total: int, detail: str) -> None:
        """Do nothing."""

    def save(self, state: dict[str, Any]) -> None:
        """Do nothing."""

    def load(self) -> dict[str, Any] | None:
        """Return None."""
        return None


SILENT = Silent()


class FolderRecorder:
    """Keeps checkpoints in a folder, one file for each training run of a pipeline, in order.

    With `resume`, a run takes up the file of its number; what had finished before the break is
    then read, not trained again. Without, what an earlier pipeline left there is removed first.
    `progress` is called as ``progress("train", "step 3 of 100, …, about 2 min left")``, at most
    twice a second. Files are written whole or not at all, and read without unpickling code.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        resume: bool = False,
        progress: Callable[[str, str], None] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.resume = resume
        self._tell = progress
        self._run = 0
        self._first = (0, 0.0)
        self._said = 0.0

    def progress(self, done: int, total: int, detail: str) -> None:
        """Pass on how far it is, and about how long the rest takes at the pace so far."""
        now = time.monotonic()
        if not self._first[1]:
            self._first = (done, now)
        if self._tell is None or (now - self._said < _EVERY_S and done < total):
            return
        self._said = now
        left = _left(done, total, *self._first, now)
        self._tell("train", f"step {done} of {total}, {detail}{left}")

    def save(self, state: dict[str, Any]) -> None:
        """Write a checkpoint, whole or not at all."""
        import torch

        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(".part")
        torch.save(state, draft)
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.replace(self._path)

    def load(self) -> dict[str, Any] | None:
        """Begin the next run; return its checkpoint where there is one to resume.

        Raises `RequestError` for a file that is damaged, or holds more than data.
        """
        self._run += 1
        self._first, self._said = (0, 0.0), 0.0
        if not self.resume:
            self._forget()
            return None
        return _read(self._path) if self._path.exists() else None

    @property
    def _path(self) -> Path:
        return self.folder / f"training{max(self._run, 1):02d}.pt"

    def _forget(self) -> None:
        """Remove what earlier pipelines left, before the first run."""
        if self._run == 1:
            for path in self.folder.glob("training[0-9][0-9].pt"):
                path.unlink()


def _left(done: int, total: int, first: int, begun: float, now: float) -> str:
    if done <= first or done >= total:
        return ""
    seconds = (total - done) * (now - begun) / (done - first)
    if seconds < 100:
        return f", about {seconds:.0f} s left"
    return f", about {seconds / 60:.0f} min left"


def _read(path: Path) -> dict[str, Any]:
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        text = " ".join(str(error).split())[:200]
        hint = "remove it, and train from the beginning"
        message = f"cannot read the checkpoint: {text}"
        raise RequestError(message, where=str(path), hint=hint) from error
    if not isinstance(state, dict):
        raise RequestError("this is no checkpoint", where=str(path))
    return state
