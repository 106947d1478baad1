"""`splitc inspect`, `cuts` and `optimize`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitc.cli.options import (
    emit,
    example,
    input_option,
    json_option,
    max_size_option,
    model_argument,
    parse_size,
    stacked,
    table,
    writable,
)

if TYPE_CHECKING:
    from splitc.cuts import CutList
    from splitc.inspection import Inspection

passes_option = click.option("--passes", help="Look at the graph after these passes.")
looking = stacked(model_argument, input_option, passes_option, max_size_option, json_option)


@click.command(epilog=example("splitc inspect net.onnx --input x=1x3x224x224"))
@looking
def inspect(model: str, as_json: bool, max_size: str, **options: Any) -> None:
    """Print nodes, shapes, MACs, weight and activation bytes, operators no backend takes."""
    import splitc

    emit(splitc.inspect(model, max_size=parse_size(max_size), **options), as_json, show_inspection)


def show_inspection(found: "Inspection") -> None:
    """Print a row for each node, then the totals."""
    rows = [
        (
            n.id,
            n.op,
            "x".join(map(str, n.shape)),
            f"{n.macs:,}",
            f"{n.weight_bytes:,}",
            f"{n.activation_bytes:,}",
        )
        for n in found.nodes
    ]
    columns = ("node", "operator", "output", ">MACs", ">weight bytes", ">activation bytes")
    table("", columns, rows)
    total = found.to_json()["totals"]
    click.echo("  ".join(f"{key} {value:,}" for key, value in total.items()))
    for name, why in found.refused.items():
        click.echo(f"no backend takes {name}: {why}")


@click.command(epilog=example("splitc cuts net.onnx --max-tensors 2"))
@looking
@click.option("--max-tensors", default=3, show_default=True, help="Most tensors that may cross.")
def cuts(model: str, as_json: bool, max_size: str, **options: Any) -> None:
    """List the boundaries worth looking at: bytes, share of MACs before them, bottlenecks."""
    import splitc

    emit(splitc.cuts(model, max_size=parse_size(max_size), **options), as_json, show_cuts)


def show_cuts(found: "CutList") -> None:
    """Print a row for each cut."""
    names = {"input": "@input", "output": "@output"}
    rows = [
        (
            names.get(row.cut.kind, ",".join(row.tensors)),
            f"{row.bytes:,}",
            f"{row.head_mac_share:.1%}",
            "bottleneck" if row.natural_bottleneck else "",
            "breaks a group" if row.breaks_group else "",
            row.wire_dtype or "",
        )
        for row in found.cuts
    ]
    table("", ("--cut", ">bytes", ">MACs before", "", "", ""), rows)


@click.command(
    epilog=example(
        "splitc optimize net.onnx --passes simplify -o small.onnx --print-after simplify"
    )
)
@model_argument
@click.option("--passes", required=True, help="Pipeline, such as 'simplify, prune{ratio = 0.3}'.")
@click.option("-o", "--output", required=True, help="ONNX file to write.")
@click.option("--cut", help="Where to cut, for passes that work on one side.")
@click.option("--print-after", metavar="NAME", help="Print the graph after this pass (stderr).")
@click.option("--time-passes", is_flag=True, help="Print what each pass took (stderr).")
@input_option
@max_size_option
@json_option
def optimize(
    model: str,
    as_json: bool,
    max_size: str,
    print_after: str | None,
    time_passes: bool,
    **options: Any,
) -> None:
    """Run passes on a model and write the result."""
    import splitc
    from splitc.pipeline import Pass

    steps: list[dict[str, object]] = []

    def observe(step: Pass, before: Any, after: Any, seconds: float) -> None:
        counts = len(before.ir.graph), len(after.ir.graph)
        steps.append({"name": step.name, "seconds": seconds, "nodes": list(counts)})
        if time_passes:
            click.echo(f"{step.name}: {counts[0]} -> {counts[1]} nodes, {seconds:.2f} s", err=True)
        if print_after == step.name:
            click.echo(after.text(), err=True, nl=False)

    writable(Path(options["output"]))
    made = splitc.optimize(model, observe=observe, max_size=parse_size(max_size), **options)
    for note in made.notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        import json

        click.echo(json.dumps({"output": options["output"], "passes": steps}))
    else:
        click.echo(f"wrote {options['output']}")
