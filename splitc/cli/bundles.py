"""`splitc verify`, `run` and `serve`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from splitc.cli.options import emit, example, json_option, table, writable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from splitc.comparison import Check
    from splitc.verify import Report


@click.command(
    epilog=example("splitc verify bundle --model net.onnx", "splitc verify bundle --side head")
)
@click.argument("bundle")
@click.option("--model", metavar="MODEL", help="Compare with the original, too.")
@click.option(
    "--data",
    metavar="FILE.npz",
    help="Inputs to compare on; with labels, lossy passes are judged again (needs --model).",
)
@click.option("--side", type=click.Choice(["head", "tail"]), help="Check one side alone.")
@click.option("--compiled", is_flag=True, help="Load machine code too: it runs as you.")
@json_option
def verify(
    bundle: str,
    model: str | None,
    data: str | None,
    side: str | None,
    compiled: bool,
    as_json: bool,
) -> int:
    """Check digests, contract and self-test of a bundle: head, wire, tail."""
    import splitc

    def say(stage: str, detail: str) -> None:
        click.echo(f"{stage}: {detail}", err=True)

    report = splitc.verify(
        bundle, model=model, data=data, side=side, compiled=compiled, progress=say
    )
    emit(report, as_json, show_checks)
    return 0 if report.ok else 3


def show_checks(report: "Report") -> None:
    """Print a row for each check and the verdict."""
    show_rows(report.checks)
    click.echo("ok" if report.ok else "FAILED")


def show_rows(checks: "Iterable[Check]") -> None:
    """Print a row for each check."""
    rows = [
        (
            check.status,
            check.name,
            "" if check.worst_error is None else f"{check.worst_error:.1e}",
            "" if check.tolerance is None else f"{check.tolerance:.0e}",
            check.detail,
        )
        for check in checks
    ]
    table("", ("", "check", ">error", ">tolerance", ""), rows)


@click.command(epilog=example("splitc run bundle --input x.npz -o y.npz --connect 127.0.0.1:7070"))
@click.argument("bundle")
@click.option("--input", "data", required=True, metavar="FILE.npz", help="One array per input.")
@click.option("-o", "--output", required=True, metavar="FILE.npz", help="Where outputs go.")
@click.option("--connect", metavar="HOST:PORT", help="The tail is there, behind 'splitc serve'.")
@click.option("--token", envvar="SPLITC_TOKEN", help="What the server asks for.")
@click.option("--timeout", default="30s", show_default=True, help="For each answer of the server.")
@json_option
def run(
    bundle: str,
    data: str,
    output: str,
    connect: str | None,
    token: str | None,
    timeout: str,
    as_json: bool,
) -> None:
    """Run head, framed boundary and tail on one set of inputs."""
    from splitc.runtime import run as run_bundle
    from splitc.selftest import given, save
    from splitc.units import parse_time

    target = Path(output)
    writable(target)
    made = run_bundle(
        bundle, given(Path(data)), connect=connect, token=token, timeout_s=parse_time(timeout)
    )
    save(target, made)
    rows = [
        (name, array.dtype.name, "x".join(map(str, array.shape))) for name, array in made.items()
    ]
    if as_json:
        shapes = {
            name: {"dtype": dtype, "shape": list(made[name].shape)} for name, dtype, _ in rows
        }
        click.echo(json.dumps({"output": str(target), "outputs": shapes}))
    else:
        table("", ("output", "type", "shape"), rows)
        click.echo(f"wrote {target}")


@click.command(epilog=example("splitc serve bundle --listen 127.0.0.1:7070"))
@click.argument("bundle")
@click.option("--listen", default="127.0.0.1:0", show_default=True, metavar="HOST:PORT")
@click.option(
    "--token", envvar="SPLITC_TOKEN", help="Needed when others than this machine connect."
)
@json_option
def serve(bundle: str, listen: str, token: str | None, as_json: bool) -> None:
    """Serve the tail of a bundle; prints its address and runs until interrupted."""
    import signal
    import threading

    from splitc.serve import serve as serve_bundle

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    def ready(host: str, port: int) -> None:
        line = (
            json.dumps({"host": host, "port": port}) if as_json else f"listening on {host}:{port}"
        )
        click.echo(line)

    serve_bundle(bundle, listen=listen, token=token, on_ready=ready, stop=stop)
