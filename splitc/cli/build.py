"""`splitc plan` and `splitc compile`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitc.cli import config
from splitc.cli.options import (
    Progress,
    data_options,
    emit,
    example,
    input_option,
    json_option,
    max_size_option,
    parse_size,
    progress_option,
    resume_option,
    stacked,
    table,
)

if TYPE_CHECKING:
    from splitc.compile import Compiled
    from splitc.plan.entry import Entry, Plan

request_options = stacked(
    click.argument("model", metavar="MODEL", required=False),
    click.option("--head", metavar="DEVICE", help="Device profile, or a TOML file."),
    click.option("--tail", metavar="DEVICE", help="Server profile, or a TOML file."),
    click.option("--link", metavar="LINK", help="Link profile, or a TOML file."),
    click.option("--rate", metavar="UP[/DOWN]", help="Replace the link's rate: 20Mbit/s/50Mbit/s."),
    click.option("--rtt", metavar="TIME", help="Replace the link's round trip: 5ms."),
    click.option(
        "--objective",
        type=click.Choice(["latency", "energy"]),
        default="latency",
        show_default=True,
    ),
    click.option(
        "--cut",
        default="auto",
        show_default=True,
        metavar="auto|@input|@output|TENSOR[,TENSOR…]|@plan.json",
        help="Where to cut.",
    ),
    click.option(
        "--passes",
        default="simplify",
        show_default=True,
        help="Pipeline; \"\" for none. See 'splitc passes'.",
    ),
    click.option(
        "--head-backend", default="onnxruntime", show_default=True, help="What compiles the head."
    ),
    click.option(
        "--tail-backend", default="onnxruntime", show_default=True, help="What compiles the tail."
    ),
    click.option(
        "--wire",
        default="raw",
        show_default=True,
        metavar="raw|zstd|int8|fp16[+zstd]",
        help="How tensors cross: packed by a codec, floats as int8 or fp16.",
    ),
    *data_options,
    input_option,
    click.option(
        "--input-codec", metavar="f32|u8|jpeg:BYTES", help="How the input really arrives."
    ),
    click.option("--strict", is_flag=True, help="Exit 4 when something splitc can't emit wins."),
    click.option(
        "--max-tensors", default=3, show_default=True, help="Most tensors of a listed cut."
    ),
    max_size_option,
    click.option("--config", "config_file", metavar="FILE", help="Read options from a TOML file."),
    click.option("--dry-run", is_flag=True, help="Print the resolved request as TOML; do nothing."),
    progress_option,
    json_option,
)


@click.command(
    epilog=example(
        "splitc plan net.onnx --head raspberry-pi-4 --tail nvidia-a100 --link wifi",
        "splitc plan net.onnx --costs costs.json --rate 20Mbit/s/50Mbit/s --rtt 5ms",
    )
)
@request_options
@click.option("--costs", metavar="FILE", help="Plan from these prices, without profiles.")
@click.option("--top", default=50, show_default=True, help="Length of the ranking, 0 = all.")
@click.pass_context
def plan(ctx: click.Context, /, **options: Any) -> None:
    """Print the price list: chosen cut, ranked others, baselines, every addend."""
    import splitc

    request = config.resolved(ctx, options)
    if request is None:
        return
    with Progress(request.pop("progress")) as progress:
        as_json = request.pop("as_json")
        request["max_size"] = parse_size(request["max_size"])
        found = splitc.plan(request.pop("model"), progress=progress, **request)
    emit(found, as_json, show_plan)


@click.command(
    "compile",
    epilog=example(
        "splitc compile net.onnx --head raspberry-pi-4 --tail nvidia-a100 --link wifi -o bundle"
    ),
)
@request_options
@click.option("-o", "--output", default="bundle", show_default=True, help="Folder of the bundle.")
@resume_option
@click.pass_context
def compile_(ctx: click.Context, /, **options: Any) -> int:
    """Plan, split, compile both halves, verify them, and write the bundle."""
    import splitc

    request = config.resolved(ctx, options)
    if request is None:
        return 0
    with Progress(request.pop("progress")) as progress:
        as_json = request.pop("as_json")
        request["max_size"] = parse_size(request["max_size"])
        made = splitc.compile(request.pop("model"), progress=progress, **request)
    emit(made, as_json, show_compiled)
    return 0 if made.ok else 3


def show_plan(found: "Plan") -> None:
    """Print the chosen cut with its addends, then the ranking."""
    from splitc.units import si

    unit = "s" if found.objective == "latency" else "J"
    click.echo(f"chosen ({found.objective}): {found.chosen.title}")
    click.echo(addends(found.chosen))
    proof = found.certificate
    click.echo(
        f"proof: {proof.method}; optimum {si(proof.optimum, unit)}, gap {proof.gap:.3g} {unit}"
    )
    if why := found.why():
        click.echo(why)
    for side, how in found.estimates.items():
        click.echo(f"{side} prices: {how}")
    rows = [
        (
            place,
            entry.title + ("" if entry.emittable else "  (not emittable)"),
            si(entry.price.latency_s, "s"),
            si(entry.price.energy_j.get("device", 0.0), "J") if entry.price.energy_j else "",
            f"{entry.price.wire_bytes:,}",
            si(entry.price.addends["head_s"], "s"),
            si(entry.price.addends["uplink_s"], "s"),
            si(entry.price.addends["tail_s"], "s"),
        )
        for place, entry in enumerate(found.ranked[:20], start=1)
    ]
    columns = (
        ">#",
        "cut",
        ">latency",
        ">device energy",
        ">wire bytes",
        ">head",
        ">uplink",
        ">tail",
    )
    table("", columns, rows)
    if len(found.ranked) > 20:
        click.echo(f"… {len(found.ranked) - 20} more with --json")


def addends(entry: "Entry") -> str:
    """Return one line: latency as the sum of its parts."""
    from splitc.units import si

    parts = " + ".join(
        f"{key.removesuffix('_s')} {si(value, 's')}" for key, value in entry.price.addends.items()
    )
    return f"  {si(entry.price.latency_s, 's')} = {parts}"


def _beaten(plan: "Plan") -> str:
    """Say what would win if splitc could emit it; nothing where the chosen cut is the best."""
    best = plan.ranked[0]
    if best.emittable:
        return ""
    return f" ({best.title} would win, but splitc cannot emit it)"


def show_compiled(made: "Compiled") -> None:
    """Print what was compiled and how it was checked."""
    from splitc.cli.bundles import show_checks

    click.echo(f"cut: {made.plan.chosen.title}{_beaten(made.plan)}")
    click.echo(addends(made.plan.chosen))
    show_checks(made.report)
    done = f"wrote {Path(made.bundle)}" if made.ok else "verification failed: no bundle was written"
    click.echo(done)
