"""Bring a model in: an `.onnx` file, a `torch.export` archive `.pt2`, a factory `pkg.mod:make`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from splitc.errors import RequestError
from splitc.model import DEFAULT_MAX_SIZE, InputSpec, Model, parse_input


def load(
    path: str | Path,
    *,
    input: Sequence[str | InputSpec] = (),
    max_size: int = DEFAULT_MAX_SIZE,
    fold: bool = True,
) -> Model:
    """Load a model as one ONNX graph.

    `path`: a file ending in `.onnx` or `.pt2`, or ``pkg.mod:factory``, which RUNS that code.
    `input`: `--input` texts or values, sizes and types of inputs. `max_size`: bytes, the graph
    and its external data together. `fold`: whether torch's exporter may fold a BatchNorm into the
    convolution before it, which training needs apart. Raises `ModelError` (the
    file) or `RequestError` (`input`).
    """
    from splitc.ingest import onnx_file

    specs = _specs(input)
    text = str(path)
    notes: tuple[str, ...] = ()
    if not Path(path).exists() and ":" in text and not text.endswith((".onnx", ".pt2")):
        from splitc.ingest import factory

        raw, notes = factory.read(text, fold)
    elif text.endswith(".pt2"):
        from splitc.ingest import pt2

        raw, notes = pt2.read(Path(path), max_size, fold)
    else:
        raw = onnx_file.read(Path(path), max_size)
    return _ready(Model(raw, source=_name(text), notes=notes), specs)


def _specs(inputs: str | Sequence[str | InputSpec]) -> dict[str, InputSpec]:
    inputs = [inputs] if isinstance(inputs, str) else inputs
    parsed = [parse_input(item) if isinstance(item, str) else item for item in inputs]
    specs = {spec.name: spec for spec in parsed}
    if len(specs) < len(parsed):
        twice = next(s for s in parsed if s is not specs[s.name])
        raise RequestError(
            f"--input {twice.name} is given twice", where=f"{twice}, {specs[twice.name]}"
        )
    return specs


def _name(text: str) -> str:
    return text if ":" in text and "/" not in text and "\\" not in text else Path(text).name


def _ready(model: Model, specs: dict[str, InputSpec]) -> Model:
    """Normalise the graph: order, names, sizes, types; remember what may be cut."""
    from splitc.ingest.normalise import normalise

    model = replace(model, specs=specs)
    notes = (*model.notes, *normalise(model))
    names = {*model.graph.producer, *model.graph.inputs}
    return replace(model, notes=notes, cuttable=frozenset(names))
