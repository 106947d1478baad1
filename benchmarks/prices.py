"""How well the ten-second profile of this machine predicts onnxruntime on real networks.

    python benchmarks/prices.py [--seconds 10] [--budget 4] [--cuts 20] [--light] [--profile X.toml]

Makes the profile, then measures each network: the head of up to 20 listed inner cuts, spread evenly
over the listing (it is in topological order), and the whole, which is the head of `@output`. One
thread; a run's time is the CPU time of that thread, so that a neighbour's time slice does not
count; the heads of a network take turns for `--budget` seconds and at least nine times, each turn
is the fastest run of about a millisecond after one that warms up; the table shows medians of
turns. Many cuts cost the same (before and behind a fused Relu), and their order is noise; so
"Spearman" counts all of them, "apart" only cuts whose measured times differ by 5 % or more (every
time, in rising order, that is 5 % above the last one kept), and "repeat" is the coefficient
between the odd and the even turns. Prints Markdown.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _networks
from scipy.stats import spearmanr

from splitc import cost, pipeline, profiler, scenario
from splitc.cuts import Cut, cuttable, listed
from splitc.execute import session
from splitc.feeds import draw_inputs
from splitc.ingest import load
from splitc.model import Model
from splitc.scenario import Device, Scenario
from splitc.split import split

TURN, ROUNDS, APART = 1e-3, 9, 1.05
MEMORY = 1e9
"""Bytes of weights that all open heads together may hold."""


@dataclass
class Head:
    """One measured head: session, inputs, runs per turn, seconds of each turn."""

    session: Any
    feeds: dict[str, Any]
    repeat: int
    turns: list[float]

    def turn(self) -> None:
        self.session.run(None, self.feeds)
        fastest = float("inf")
        for _ in range(self.repeat):
            begin = time.thread_time()
            self.session.run(None, self.feeds)
            fastest = min(fastest, time.thread_time() - begin)
        self.turns.append(fastest)


@dataclass(frozen=True)
class Row:
    """One network; seconds; `rho` over all heads, `apart` over those that differ (`distinct`)."""

    name: str
    measured: float
    predicted: float
    cuts: int
    rho: float
    apart: float
    distinct: int
    repeat: float

    @property
    def factor(self) -> float:
        return max(self.predicted / self.measured, self.measured / self.predicted)


def spread(cuts: Sequence[Cut], most: int) -> list[Cut]:
    count = min(most, len(cuts))
    return [cuts[round(i * (len(cuts) - 1) / max(count - 1, 1))] for i in range(count)]


def opened(model: Model, feeds: dict[str, Any]) -> Head:
    made = session(model, threads=1)
    head = Head(made, {i.name: feeds[i.name] for i in made.get_inputs()}, 1, [])
    head.turn()
    head.repeat = max(1, min(200, round(TURN / head.turns.pop())))
    return head


def measure(model: Model, cuts: Sequence[Cut], budget: float) -> list[Head]:
    feeds = draw_inputs(model)
    halves = [split(model, cut).head for cut in cuts]
    heads = [opened(half, feeds) for half in halves if half is not None]
    end = time.perf_counter() + budget
    while len(heads[0].turns) < ROUNDS or time.perf_counter() < end:
        for head in heads:
            head.turn()
    return heads


def row(name: str, model: Model, device: Device, budget: float, most: int) -> Row:
    inner = [c for c in listed(model.graph, allowed=cuttable(model)) if c.kind == "inner"]
    whole = Cut("output", (), frozenset(model.graph.by_id))
    fit = max(3, int(MEMORY / max(model.weight_bytes(), 1)))
    cuts = [*spread(inner, min(most, fit)), whole]
    heads = measure(model, cuts, budget)
    link = scenario.link("wifi")
    table = cost.table(model, Scenario(head=device, tail=device, link=link))
    predicted = [cost.price(table, cut.head_nodes).addends["head_s"] for cut in cuts]
    seconds = [statistics.median(head.turns) for head in heads]
    halves = [[statistics.median(head.turns[at::2]) for head in heads] for at in (0, 1)]
    kept = distinct(seconds)
    return Row(
        name=name,
        measured=seconds[-1],
        predicted=predicted[-1],
        cuts=len(inner),
        rho=float(spearmanr(seconds, predicted)[0]),
        apart=float(spearmanr([seconds[at] for at in kept], [predicted[at] for at in kept])[0]),
        distinct=len(kept),
        repeat=float(spearmanr(*halves)[0]),
    )


def distinct(seconds: Sequence[float]) -> list[int]:
    """Places of the times that are at least 5 % above the last one kept, in rising order."""
    kept: list[int] = []
    for at in sorted(range(len(seconds)), key=seconds.__getitem__):
        if not kept or seconds[at] >= seconds[kept[-1]] * APART:
            kept.append(at)
    return kept


def profiled(path: str | None, seconds: float) -> Device:
    if path:
        return scenario.device(path)
    begin = time.perf_counter()
    device = profiler.measure("here", seconds=seconds, threads=1)
    print(f"Profile made in {time.perf_counter() - begin:.1f} s: {device.summary}; ", end="")
    print(f"{', '.join(device.features)}; error band {device.error_band:g}.\n")
    return device


def networks(light: bool) -> list[_networks.Network]:
    if (found := _networks.shared()) and not light:
        return found
    if not light:
        print("No folder ../shared with real networks here: the light models of `onnx` instead.\n")
    return _networks.light()


def report(rows: Sequence[Row]) -> None:
    close = sum(r.factor <= 2 for r in rows)
    print(f"\n* Whole latency within a factor 2: {close} of {len(rows)} networks ", end="")
    print(
        f"({close / len(rows):.0%}; asked: 80 %); worst factor {max(r.factor for r in rows):.2f}."
    )
    for what, rhos in (
        ("cuts", [r.rho for r in rows]),
        ("cuts 5 % apart", [r.apart for r in rows]),
    ):
        print(f"* Spearman of head time over {what} (asked: 0.95): least {min(rhos):.3f}, ", end="")
        print(f"median {statistics.median(rhos):.3f}, below 0.95: {sum(r < 0.95 for r in rhos)}.")
    print(f"* The measurement against itself: least {min(r.repeat for r in rows):.3f}.")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--budget", type=float, default=4.0, help="seconds for each network")
    parser.add_argument("--light", action="store_true", help="the light models of `onnx`")
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--profile", help="an existing profile in place of a new one")
    options = parser.parse_args()
    print("Prices: predicted by the profile of this machine, against onnxruntime, 1 thread.\n")
    device = profiled(options.profile, options.seconds)
    print(
        "| network | whole, ms | predicted, ms | ratio | cuts | Spearman | apart (cuts) | repeat |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for network in networks(options.light):
            loaded = load(network.make(Path(folder)), input=network.inputs)
            model = pipeline.run(pipeline.parse("simplify"), loaded)
            one = row(network.name, model, device, options.budget, options.cuts)
            rows.append(one)
            print(
                f"| {one.name} | {one.measured * 1e3:.3f} | {one.predicted * 1e3:.3f} "
                f"| {one.predicted / one.measured:.2f} | {one.cuts} "
                f"| {one.rho:.3f} | {one.apart:.3f} ({one.distinct}) | {one.repeat:.3f} |",
                flush=True,
            )
    report(rows)


if __name__ == "__main__":
    main()
