"""`splitc inspect`, `cuts` and `optimize`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitc.cli.options import (
    Progress,
    data_options,
    emit,
    example,
    input_option,
    json_option,
    max_size_option,
    model_argument,
    parse_size,
    progress_option,
    resume_option,
    stacked,
    table,
    writable,
)

if TYPE_CHECKING:
    from splitc.cuts import CutList
    from splitc.inspection import Inspection
    from splitc.optimizing import Optimized

passes_option = click.option("--passes", help="Look at the graph after these passes.")
looking = stacked(model_argument, input_option, passes_option, max_size_option, json_option)


@click.command(epilog=example("splitc inspect net.onnx --input x=1x3x224x224"))
@looking
def inspect(model: str, as_json: bool, max_size: str, **options: Any) -> None:
    """Print nodes, shapes, MACs, weight and activation bytes, operators no backend takes."""
    import splitc

    emit(splitc.inspect(model, max_size=parse_size(max_size), **options), as_json, show_inspection)


def show_inspection(found: "Inspection") -> None:
    """Print the interface, a row for each node, then the totals."""
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
    for kind, tensors in (("input", found.inputs), ("output", found.outputs)):
        for one in tensors:
            sizes = ", ".join(map(str, one["shape"]))
            click.echo(f"{kind} {one['name']}: {one['dtype']}[{sizes}]")
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
        "splitc optimize net.onnx --passes simplify -o small.onnx --print-after simplify",
        "splitc optimize net.onnx --passes 'quantize{mixed = true}' --data calib.npz "
        "--eval eval.npz --max-drop 1.0 -o int8.onnx",
        "splitc optimize net.onnx --passes 'prune{ratio = 0.5}' --data train.npz "
        "--eval eval.npz --train recipe.toml -o half.onnx",
    )
)
@model_argument
@click.option(
    "--passes",
    required=True,
    help="Pipeline, such as 'simplify, prune{ratio = 0.3}'; see 'splitc passes'.",
)
@click.option("-o", "--output", required=True, help="ONNX file to write.")
@click.option("--cut", help="Where to cut, for passes that work on one side.")
@stacked(*data_options)
@click.option("--device", metavar="DEVICE", help='Profile that target = "latency" prices by.')
@click.option("--search", is_flag=True, help="Find ratio and precision that --max-drop allows.")
@resume_option
@click.option("--print-after", metavar="NAME", help="Print the graph after this pass (stderr).")
@click.option("--time-passes", is_flag=True, help="Print what each pass took (stderr).")
@input_option
@max_size_option
@progress_option
@json_option
def optimize(
    model: str,
    as_json: bool,
    max_size: str,
    print_after: str | None,
    time_passes: bool,
    progress: str,
    **options: Any,
) -> int:
    """Run passes on a model, judge the lossy ones, and write the result."""
    import splitc
    from splitc.pipeline import Pass

    def observe(step: Pass, before: Any, after: Any, seconds: float) -> None:
        counts = len(before.ir.graph), len(after.ir.graph)
        if time_passes:
            click.echo(f"{step.name}: {counts[0]} -> {counts[1]} nodes, {seconds:.2f} s", err=True)
        if print_after == step.name:
            click.echo(after.text(), err=True, nl=False)

    writable(Path(options["output"]))
    options["max_size"] = parse_size(max_size)
    with Progress(progress) as told:
        made = splitc.optimize(model, observe=observe, progress=told, **options)
    emit(made, as_json, show_optimized)
    return 0 if made.ok else 3


def show_optimized(made: "Optimized") -> None:
    """Print sizes and the metric before and after, and where the result is."""
    rows = []
    for name in made.before.__dataclass_fields__:
        old, new = getattr(made.before, name), getattr(made.after, name)
        shown = (f"{old:.1%}", f"{new:.1%}") if isinstance(old, float) else (f"{old:,}", f"{new:,}")
        share = f"{new / old:.2f} x" if old and name != "int8_mac_share" else ""
        rows.append((name.replace("_", " "), *shown, share))
    if judged := made.verdict:
        drawn = "random " if judged.random else ""
        what = f"{judged.metric}, {judged.samples} {drawn}samples"
        rows.append((what, f"{judged.before:.4g}", f"{judged.after:.4g}", ""))
    table("", ("", ">before", ">after", ">"), rows)
    if made.broken_by:
        click.echo(f"pass {made.broken_by!r} breaks the accuracy gate: nothing was written")
    else:
        click.echo(f"wrote {made.output}")
