"""Options that several commands share, and how results reach the user."""

import json
import re
import sys
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
    click.option("--train", metavar="RECIPE.TOML", help="How passes that train do it."),
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

    Called as `progress(stage, detail)`. In a pipe nothing is said in the first two seconds, and a
    stage that goes on (training) says how far it is every ten seconds.
    """

    _EVERY_S = 10.0

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._begin = time.monotonic()
        self._status: Any = None
        self._last = ("", 0.0)

    def __call__(self, stage: str, detail: str = "") -> None:
        """Say that `stage` begins."""
        text = f"{stage}: {detail}" if detail else stage
        if self._mode == "none":
            return
        if self._mode == "auto" and sys.stderr.isatty():
            self._live(text)
        elif self._mode == "plain" or time.monotonic() - self._begin > 2:
            self._line(stage, text)

    def _line(self, stage: str, text: str) -> None:
        now = time.monotonic()
        before, said = self._last
        if stage != before or now - said >= self._EVERY_S or stage not in _LONG:
            self._last = stage, now
            click.echo(f"[{now - self._begin:6.1f} s] {text}", err=True)

    def _live(self, text: str) -> None:
        from rich.console import Console

        if self._status is None:
            self._status = Console(stderr=True).status(text)
            self._status.start()
        self._status.update(text)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()
