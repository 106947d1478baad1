"""Does head ∘ wire ∘ tail compute the model? Every listed cut of small networks, 20 of large ones.

    python benchmarks/equality.py [--only NAME] [--large 24] [--spread 20] [--folder DIR]

Prints Markdown, one row a graph: after the default pipeline, real networks as loaded ("raw") too.
Each cut is resolved again from its `--cut` text, split, opened as two onnxruntime sessions (one
thread), and fed through a frame; the error is max|a−b| / max|b|, worst over outputs and cuts.
"simplified" compares the whole after the pipeline with the whole as loaded.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _networks
import numpy as np

import splitc
from splitc import pipeline
from splitc.bundle import Parts, contract
from splitc.comparison import relative_error
from splitc.cuts import INPUT, OUTPUT, Cut, resolve
from splitc.execute import evaluate
from splitc.feeds import draw_inputs
from splitc.model import Model
from splitc.records import Source
from splitc.split import Split, split
from splitc.wire import frame

TOLERANCE = 1e-5
Values = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One graph's figures; `misses`: cuts beyond the tolerance, or that failed outright."""

    name: str
    nodes: int
    listed: int
    tried: int
    worst: float
    simplified: float | None
    seconds: float
    misses: tuple[str, ...]


def through(model: Model, halves: Split, feeds: Values) -> Values:
    """Run head, frame and tail as a bundle does; return all graph outputs by name."""
    made = {**feeds, **(evaluate(halves.head, feeds) if halves.head else {})}
    rules = contract(Parts(model, halves, Source("", ""), "", {}, {}, {}), "00" * 32)
    packed = frame.pack([made[t.name] for t in rules.tensors], rules, 0)
    sent = dict(zip((t.name for t in rules.tensors), frame.unpack(packed, rules)[1], strict=True))
    late = evaluate(halves.tail, sent) if halves.tail else {}
    return {
        t.name: (late if t.name in halves.tail_outputs else made)[t.name] for t in model.outputs
    }


def error(got: Values, want: Values) -> float:
    """Return the worst relative error over the outputs."""
    return max(relative_error(got[name], want[name]) for name in want)


def again(model: Model, cut: Cut) -> Cut:
    """Resolve a listed cut from what its row says."""
    ends = {"input": INPUT, "output": OUTPUT}
    return resolve(model.graph, ends.get(cut.kind) or cut.tensors)


def one(model: Model, cut: Cut, feeds: Values, whole: Values) -> float:
    """Return the error of one cut."""
    found = again(model, cut)
    if found.tensors != cut.tensors:
        return float("inf")
    return error(through(model, split(model, found), feeds), whole)


def spread(items: Sequence[Cut], count: int) -> list[Cut]:
    """Return `count` items, evenly spread, first and last included."""
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[i] for i in dict.fromkeys(places.tolist())]


def measure(name: str, model: Model, loaded: Values | None, count: int | None) -> Row:
    """Try the cuts of one graph; `loaded`: the outputs of the graph before passes."""
    begin = time.perf_counter()
    feeds = draw_inputs(model, seed=0)
    whole, other = evaluate(model, feeds), evaluate(model, draw_inputs(model, seed=1))
    assert any(not np.array_equal(whole[n], other[n]) for n in whole), f"{name}: constant outputs"
    found = [row.cut for row in splitc.cuts(model).cuts]
    chosen = found if count is None else spread(found, count)
    errors = {}
    for cut in chosen:
        errors[cut.kind if cut.kind != "inner" else ",".join(cut.tensors)] = one(
            model, cut, feeds, whole
        )
    return Row(
        name=name,
        nodes=len(model.graph.nodes),
        listed=len(found),
        tried=len(chosen),
        worst=max(errors.values()),
        simplified=None if loaded is None else error(whole, loaded),
        seconds=time.perf_counter() - begin,
        misses=tuple(f"{t}: {e:.1e}" for t, e in errors.items() if not e <= TOLERANCE),
    )


def rows(network: _networks.Network, folder: Path, large: int, count: int) -> Iterator[Row]:
    """Measure the graph as loaded (real ones only) and after the default pipeline."""
    model = splitc.load(network.make(folder), input=network.inputs)
    small = model.weight_bytes() <= large * 2**20
    if network.real:
        yield measure(f"{network.name}, raw", model, None, None)
    loaded = evaluate(model, draw_inputs(model, seed=0))
    after = pipeline.run(pipeline.parse(pipeline.DEFAULT), model)
    yield measure(network.name, after, loaded, None if small else count)


def show(row: Row) -> None:
    """Print a row of the table."""
    passed = "–" if row.simplified is None else f"{row.simplified:.1e}"
    tried = f"{row.tried} of {row.listed}"
    print(
        f"| {row.name} | {row.nodes} | {tried} | {row.worst:.1e} | {passed} | {row.seconds:.1f} |",
        flush=True,
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", default="", help="networks whose name contains this")
    options.add_argument("--large", type=int, default=24, help="MB of weights of a large network")
    options.add_argument("--spread", type=int, default=20, help="cuts tried of a large network")
    options.add_argument("--folder", type=Path, help="keep the generated networks here")
    given = options.parse_args()
    networks = [*_networks.shared(), *_networks.light(), *_networks.exported()]
    if not _networks.shared():
        print("The folder 'shared' with real networks is absent: they are left out.\n")
    print("| network | nodes | cuts tried | worst error | simplified | seconds |")
    print("|---|--:|--:|--:|--:|--:|")
    misses: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for network in (n for n in networks if given.only in n.name):
            print(f"{network.name} …", file=sys.stderr, flush=True)
            for row in rows(network, folder, given.large, given.spread):
                show(row)
                misses += [f"{row.name} at {miss}" for miss in row.misses]
    print(f"\nCuts beyond {TOLERANCE:.0e}: {len(misses)}.", *misses, sep="\n* ")
    sys.exit(bool(misses))


if __name__ == "__main__":
    main()
