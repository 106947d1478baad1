"""`splitc check` and `splitc finish`."""

from typing import TYPE_CHECKING

import click

from splitc.cli.bundles import show_rows
from splitc.cli.options import (
    emit,
    example,
    input_option,
    json_option,
    max_size_option,
    model_argument,
    parse_size,
    table,
)

if TYPE_CHECKING:
    from splitc.check import Checked
    from splitc.finish import Finish


_SHOWN = 6
"""Nodes that are named of those with one reason; `--json` names all."""


@click.command(
    epilog=example(
        "splitc check net.onnx --backend tensorrt --input x=1..8..32x3x224x224",
        "splitc check net.onnx --backend tensorrt-rtx --device nvidia-t4",
    )
)
@model_argument
@click.option("--backend", required=True, metavar="NAME", help="See 'splitc backends'.")
@click.option("--device", metavar="NAME", help="For this machine: its limits count, too.")
@click.option("--passes", help="Check the graph after these passes.")
@input_option
@max_size_option
@json_option
def check(
    model: str,
    backend: str,
    device: str | None,
    passes: str | None,
    input: tuple[str, ...],
    max_size: str,
    as_json: bool,
) -> int:
    """Say which nodes a backend refuses, and why. Exits with 1 if there is one."""
    import splitc

    found = splitc.check(
        model,
        backend=backend,
        device=device,
        passes=passes,
        input=input,
        max_size=parse_size(max_size),
    )
    emit(found, as_json, show_checked)
    return 0 if found.ok else 1


def show_checked(found: "Checked") -> None:
    """Print a row for each reason, with the nodes that are refused for it."""
    if found.ok:
        return click.echo(f"{found.backend} takes every node")
    reasons: dict[str, list[str]] = {}
    for node, why in found.refused.items():
        reasons.setdefault(why, []).append(node)
    rows = [
        (
            ", ".join(nodes[:_SHOWN])
            + (f" and {len(nodes) - _SHOWN} more" if nodes[_SHOWN:] else ""),
            why,
        )
        for why, nodes in reasons.items()
    ]
    return table("", ("node", f"why {found.backend} refuses it"), rows)


@click.command(epilog=example("splitc finish bundle"))
@click.argument("bundle")
@json_option
def finish(bundle: str, as_json: bool) -> int:
    """On the target: build the engines that the bundle has recipes for, and test them."""
    import splitc

    done = splitc.finish(bundle)
    emit(done, as_json, show_finished)
    return 0 if done.ok else 3


def show_finished(done: "Finish") -> None:
    """Print what was built, and a row for each check."""
    for path, facts in done.built.items():
        about = "  ".join(f"{k} {v}" for k, v in facts.items() if k not in ("key", "backend"))
        click.echo(f"{path}: {about}")
    if done.checks:
        show_rows(done.checks)
    click.echo("ok" if done.ok else "FAILED: nothing was written")
