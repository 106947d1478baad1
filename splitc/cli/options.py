"""Options that several commands share, and how results reach the user."""

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from splitc.errors import RequestError

Command = TypeVar("Command", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
input_option = click.option(
    "--input",
    "input",
    multiple=True,
    metavar="NAME=SHAPE[:DTYPE]",
    help="Size of an input, x=1x3x224x224 or x=1..8..32x3x224x224 (min..best..max). Repeatable.",
)
max_size_option = click.option(
    "--max-size", default="16GB", show_default=True, help="Refuse a larger model."
)
progress_option = click.option(
    "--progress",
    type=click.Choice(["auto", "plain", "none"]),
    default="auto",
    show_default=True,
    help="Progress on stderr.",
)
model_argument = click.argument("model", metavar="MODEL")


data_options = (
    click.option(
        "--data",
        metavar="NPZ|FOLDER",
        help="Samples to calibrate or train with: an .npz with one array per input (labels under "
        "'label'), or an image folder with labels.csv.",
    ),
    click.option("--eval", metavar="NPZ|FOLDER", help="Other samples, to judge lossy passes with."),
    click.option(
        "--preprocess", metavar="PKG.MOD:FN", help="Reads one image of a folder; RUNS that code."
    ),
    click.option(
        "--metric",
        metavar="NAME|PKG.MOD:FN",
        help="top1 (with labels), agreement, or your function.  [default: what the labels allow]",
    ),
    click.option(
        "--max-drop", type=float, help="Exit 3 when lossy passes cost more of the metric (points)."
    ),
    click.option(
        "--train",
        metavar="RECIPE.TOML",
        help="For prune and low-rank: optimizer, learning_rate, epochs, … (all have defaults).",
    ),
)
resume_option = click.option("--resume", is_flag=True, help="Take up interrupted training.")


def stacked(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Apply several option decorators, first listed first in the help."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def example(*lines: str) -> str:
    """Return the epilog of a command's help."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def parse_size(text: str) -> int:
    """Parse ``16GB``, ``500MB`` or a number of bytes."""
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([kMGT]?B?)", text.strip())
    if match is None:
        raise RequestError(f"cannot read the size {text!r}", hint="--max-size 16GB")
    power = " kMGT".index(match[2][0]) if match[2] not in ("", "B") else 0
    return int(min(float(match[1]) * 1024**power, float(sys.maxsize)))


def writable(path: Path) -> None:
    """Raise `RequestError` where `path` cannot become a file, before the work that fills it."""
    if path.is_dir():
        raise RequestError("the output is a folder", where=str(path))
    if not path.absolute().parent.is_dir():
        raise RequestError("the folder of the output does not exist", where=str(path))


def emit(value: Any, as_json: bool, show: Callable[[Any], None]) -> None:
    """Print a result: its JSON, or what `show` prints; its notes go to stderr."""
    for note in getattr(value, "notes", ()):
        click.echo(f"note: {note}", err=True)
    if as_json:
        click.echo(json.dumps(value.to_json(), allow_nan=False))
    else:
        show(value)


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table on stdout; columns whose name starts with '>' are right-aligned."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        made.add_column(
            name.lstrip(">"), justify="right" if name.startswith(">") else "left", overflow="fold"
        )
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    width = None if sys.stdout.isatty() else 160
    Console(file=sys.stdout, width=width, highlight=False).print(made)


_LONG = ("train", "sensitivity", "work")
"""Stages that report many times while they last."""


class Progress:
    """Says on stderr what goes on: a live line on a terminal, plain lines elsewhere.

    Called as `progress(stage, detail)`. In a pipe nothing is said in the first two seconds; what
    goes on (training) says how far it is, and what says nothing is named again, every ten seconds.
    """

    _SILENT_S = 2.0
    _EVERY_S = 10.0
    _PULSE_S = 0.5

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._begin = time.monotonic()
        self._status: Any = None
        self._stage = self._text = self._said = ""
        self._at = self._begin + self._SILENT_S - self._EVERY_S
        self._over = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, stage: str, detail: str = "") -> None:
        """Say that `stage` begins."""
        text = f"{stage}: {detail}" if detail else stage
        if self._mode == "none":
            return
        if self._on_terminal:
            self._live(text)
            return
        with self._lock:
            self._stage, self._text = stage, text
            silent = self._mode == "auto" and time.monotonic() - self._begin <= self._SILENT_S
            if not silent and (stage != self._said or stage not in _LONG or self._due):
                self._line()

    @property
    def _on_terminal(self) -> bool:
        return self._mode == "auto" and sys.stderr.isatty()

    @property
    def _due(self) -> bool:
        return time.monotonic() - self._at >= self._EVERY_S

    def _line(self) -> None:
        self._said, self._at = self._stage, time.monotonic()
        click.echo(f"[{self._at - self._begin:6.1f} s] {self._text}", err=True)

    def _pulse(self) -> None:
        """Name the stage again where it has been silent for long."""
        while not self._over.wait(self._PULSE_S):
            with self._lock:
                if self._text and self._due:
                    self._line()

    def _live(self, text: str) -> None:
        from rich.console import Console

        if self._status is None:
            self._status = Console(stderr=True).status(text)
            self._status.start()
        self._status.update(text)

    def __enter__(self) -> "Progress":
        if self._mode != "none" and not self._on_terminal:
            threading.Thread(target=self._pulse, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._status is not None:
            self._status.stop()
