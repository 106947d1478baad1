"""`splitc sensitivity`."""

import math
from typing import TYPE_CHECKING, Any

import click

from splitc.cli.options import (
    Progress,
    emit,
    example,
    input_option,
    json_option,
    max_size_option,
    model_argument,
    parse_size,
    progress_option,
    table,
)

if TYPE_CHECKING:
    from splitc.sensitivity import Sensitivity


@click.command(epilog=example("splitc sensitivity net.onnx --data calib.npz --cut conv3"))
@model_argument
@click.option(
    "--data", metavar="NPZ|FOLDER", help="Samples: an .npz, or an image folder with labels.csv."
)
@click.option(
    "--preprocess", metavar="PKG.MOD:FN", help="Reads one image of a folder; RUNS that code."
)
@click.option("--cut", help="Say which side of this cut each node is on.")
@click.option(
    "--method",
    default="minmax",
    show_default=True,
    help="How ranges come from data: minmax, entropy or percentile.",
)
@click.option("--per-tensor", is_flag=True, help="One scale for a weight, not one per channel.")
@click.option("--asymmetric", is_flag=True, help="uint8 activations, as onnxruntime prefers them.")
@input_option
@max_size_option
@progress_option
@json_option
def sensitivity(model: str, as_json: bool, max_size: str, progress: str, **options: Any) -> None:
    """Print what int8 at each node alone costs (dB), and what it saves: MACs, bytes."""
    import splitc

    with Progress(progress) as say:
        found = splitc.sensitivity(model, progress=say, max_size=parse_size(max_size), **options)
    emit(found, as_json, show)


def show(found: "Sensitivity") -> None:
    """Print a row for each node, worst first."""
    rows = [
        (
            cost.id,
            cost.op,
            f"{cost.snr_db:.1f}" if math.isfinite(cost.snr_db) else str(cost.snr_db),
            f"{cost.mac_share:.1%}",
            f"{cost.bytes_saved:,}",
            found.sides.get(cost.id, ""),
        )
        for cost in found.nodes
    ]
    table("", ("node", "operator", ">SNR dB", ">MACs", ">bytes saved", ""), rows)
    click.echo(f"int8 at one node at a time; noise of the outputs over {found.samples} samples")
