"""Which networks does the FX view lift, and how exactly? The lift coverage table.

    python benchmarks/lift.py [--only NAME] [--folder DIR]

Prints Markdown. The error is max|a−b| / max|b| of the worst output against onnxruntime (one
thread, no graph optimization) on drawn inputs at batch 1 and, where the batch is open, 3 and 7.
Where it is above 1e-5, "step" is the worst error of a single step that is given onnxruntime's own
tensors: rounding does the rest. "weights": float parameters, all of which must get a gradient that
is not 0 (torch's, of the sum of squared outputs). "back": writing the untouched module back must
give the same model. Torch networks twice: folded by the exporter, and unfolded (with BatchNorm).
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import _lift_networks
import _networks
import _sequence_networks
import _transformers
import torch

import splitc
from splitc.comparison import relative_error
from splitc.errors import SplitcError
from splitc.execute import evaluate
from splitc.feeds import draw
from splitc.fx import lift, write_back
from splitc.fx.checking import LARGEST, run
from splitc.fx.layouts import to_torch
from splitc.fx.wide import batches
from splitc.ingest import load
from splitc.model import Fact, Model

TOLERANCE = 1e-5
LARGER = 7


@dataclass(frozen=True)
class Row:
    """What became of one network; `why` it does not lift, if so."""

    name: str
    nodes: int
    worst: float = 0.0
    step: float = 0.0
    batch: str = ""
    weights: str = ""
    back: bool = False
    why: str = ""


def networks(folder: Path) -> Iterator[tuple[str, Callable[[], Model]]]:
    """Yield (name, what loads it)."""
    for network in (*_networks.shared(), *_networks.light(), *_networks.exported()):
        yield network.name, lambda n=network: splitc.load(n.make(folder), input=n.inputs)  # type: ignore[misc]
    rooms: list[Any] = [_lift_networks, _sequence_networks]
    if find_spec("transformers") is not None:
        rooms.append(_transformers)
    for room, name in ((one, name) for one in rooms for name in one.NETWORKS):
        for fold in (True, False):
            text = f"{room.__name__}:{name}"
            yield f"{name}{'' if fold else ', unfolded'}", lambda t=text, f=fold: load(t, fold=f)  # type: ignore[misc]


def measure(name: str, model: Model) -> Row:
    """Lift, compare, differentiate and write back."""
    nodes = len(model.graph.nodes)
    try:
        module = lift(model, tolerance=TOLERANCE)
        same = write_back(model, module).fingerprint() == model.fingerprint()
    except SplitcError as error:
        return Row(name, nodes, why=" ".join(str(error).split())[:160])
    seen = module.meta["comparison"]
    if seen.constant:
        return Row(
            name, nodes, why=f"the outputs {seen.constant} are constant: this proves nothing"
        )
    worst, batch = seen.worst_error, "fixed"
    if batches(model):
        error = _larger(model, module)
        batch = (
            "open"
            if error is None or error <= (LARGEST if seen.step_error else TOLERANCE)
            else "WRONG"
        )
        batch = "1 only" if error is None else batch
        worst = max(worst, error or 0.0)
    return Row(name, nodes, worst, seen.step_error, batch, _gradients(model, module), same)


def _larger(model: Model, module: Any) -> float | None:
    """Return the worst error at a batch of 7; None if the graph itself does not take it."""
    feeds = _feeds(model, LARGER)
    try:
        want = evaluate(model, feeds, optimize=False)
    except SplitcError:
        return None
    got = run(module, list(feeds.values()), list(want))
    return max(relative_error(got[name], want[name]) for name in want)


def _feeds(model: Model, batch: int) -> dict[str, Any]:
    open_, facts = batches(model), {}
    for tensor in model.inputs:
        fact = model.facts[tensor.name]
        sizes = zip(tensor.shape, fact.shape, strict=True)
        shape = tuple(batch if dim in open_ else size for dim, size in sizes)
        facts[tensor.name] = Fact(fact.dtype, shape, fact.nbytes)
    return draw(model, facts, 5, model.facts)


def _gradients(model: Model, module: Any) -> str:
    made = module(*(to_torch(array) for array in _feeds(model, 1).values()))
    outputs = made if isinstance(made, tuple) else (made,)
    sum(out.square().sum() for out in outputs if out.is_floating_point()).backward()
    weights = [p for p in module.parameters() if p.requires_grad]
    reached = sum(p.grad is not None and bool(p.grad.abs().max() > 0) for p in weights)
    return f"{reached} of {len(weights)}"


def show(row: Row) -> None:
    if row.why:
        print(f"| {row.name} | {row.nodes} | no: {row.why} | | | | |", flush=True)
        return
    step = f"{row.step:.1e}" if row.step else "–"
    back = "same" if row.back else "OTHER"
    cells = (row.nodes, f"{row.worst:.1e}", step, row.batch, row.weights, back)
    print(f"| {row.name} | {' | '.join(map(str, cells))} |", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", default="", help="networks whose name contains this")
    options.add_argument("--folder", type=Path, help="keep the generated networks here")
    given = options.parse_args()
    torch.set_num_threads(1)
    missing = 0
    print("| network | nodes | worst error | step | batch | weights with a gradient | back |")
    print("|---|--:|--:|--:|---|--:|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name, made in networks(folder):
            if given.only in name:
                print(f"{name} …", file=sys.stderr, flush=True)
                row = measure(name, made())
                show(row)
                missing += bool(row.why) or not row.back or row.batch == "WRONG"
    print(f"\nNetworks that do not lift, or not exactly: {missing}.")
    sys.exit(bool(missing))


if __name__ == "__main__":
    main()
