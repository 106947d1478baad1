"""Where two halves begin to compute something else than the model."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from splitc.comparison import relative_error
from splitc.execute import evaluate
from splitc.ingest.onnx_file import read as read_onnx
from splitc.manifest import SIDES
from splitc.model import DEFAULT_MAX_SIZE, Model
from splitc.records import Manifest

_BYTES_AT_A_TIME = 96 * 2**20


def first_divergence(
    folder: Path,
    read: Manifest,
    model: Model,
    sample: Mapping[str, NDArray[Any]],
    tolerance: float,
) -> str:
    """Return the first tensor, in the model's order, whose value in a half is another; '' if none.

    Only tensors whose names the passes kept are looked at. `sample`: the model's inputs.
    """
    feeds = dict(sample)
    for side in SIDES:
        path = read.segment(side).model
        if path is None:
            continue
        half = Model(read_onnx(folder / path, DEFAULT_MAX_SIZE), source=path)
        made = [t for node in model.graph.nodes for t in node.outputs if t in half.graph.producer]
        for names in _chunks(model, made):
            want, got = evaluate(model, sample, names), evaluate(half, feeds, names)
            for name in names:
                if relative_error(got[name], want[name]) > tolerance:
                    return name
        feeds |= evaluate(half, feeds)
    return ""


def _chunks(model: Model, names: Sequence[str]) -> Iterator[list[str]]:
    """Divide `names` so that no more than `_BYTES_AT_A_TIME` are looked at at once."""
    chunk: list[str] = []
    size = 0
    for name in (name for name in names if name in model.facts):
        if chunk and size + model.facts[name].nbytes > _BYTES_AT_A_TIME:
            yield chunk
            chunk, size = [], 0
        chunk.append(name)
        size += model.facts[name].nbytes
    if chunk:
        yield chunk
