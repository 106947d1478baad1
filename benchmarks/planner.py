"""How long a plan takes, and how that grows: random layered DAGs of 100 … 10,000 nodes.

    python benchmarks/planner.py [--sizes 100,1000,10000] [--repeat 5] [--seeds 3]

Prints Markdown. "solve" is construction, solver and certificate with the model and the prices in
memory; "plan" is `splitc.plan(path, costs=path, rate=…)` in this process: reading the ONNX file
and the prices, solving, and `ranked`.
"""

import argparse
import gc
import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx

import splitc
from splitc.graph import Graph, Node
from splitc.plan.costs_file import checked, problem_of
from splitc.plan.flow import Solution, solve

RATE = "20Mbit/s/50Mbit/s"
TARGETS_MS = {1000: {"solve_s": 50, "plan_s": 150}, 10000: {"solve_s": 1000, "plan_s": 2500}}


def layered(size: int, rng: random.Random) -> Graph:
    """Layers of 1–8 nodes, each reading 1–3 tensors of the last two layers, and joins between.

    A join reads all of the layer before it; the last node joins what nobody has read, so that the
    graph has one output and cuts of one tensor here and there, as networks do.
    """
    layers, nodes = [["x0", "x1"]], []
    unread: dict[str, None] = {}
    while len(nodes) < size:
        recent = [t for layer in layers[-2:] for t in layer]
        last = len(nodes) == size - 1
        join = last or rng.random() < 0.4
        layer = []
        for _ in range(1 if join else min(rng.randint(1, 8), size - 1 - len(nodes))):
            read = (
                tuple(unread) if join and unread else tuple(rng.sample(recent, min(len(recent), 3)))
            )
            read = read if join else read[: rng.randint(1, 3)]
            name = f"n{len(nodes)}"
            nodes.append(Node(name, "Sum", read, (name,)))
            layer.append(name)
            for tensor in read:
                unread.pop(tensor, None)
        unread |= dict.fromkeys(layer)
        layers.append(layer)
    return Graph(("x0", "x1"), tuple(unread), tuple(nodes))


def costs(graph: Graph, rng: random.Random) -> dict[str, dict[str, float]]:
    """Prices whose optimum is an inner cut: the device is slower, tensors shrink."""
    head = {node.id: rng.lognormvariate(-7, 1) for node in graph.nodes}
    tail = {v: t / rng.uniform(5, 50) for v, t in head.items()}
    n, first = len(graph.tensors), sum(head.values()) * 2e6
    size = {
        t: int(first * rng.lognormvariate(0, 0.7) * (1.0 - 0.97 * min(1.0, 3 * i / n)))
        for i, t in enumerate(graph.tensors)
    }
    return {"head_s": head, "tail_s": tail, "bytes": size}


def write(graph: Graph, path: Path) -> None:
    """Write the graph as an ONNX file of Sum nodes."""
    info = [
        [onnx.helper.make_tensor_value_info(t, onnx.TensorProto.FLOAT, [1, 8]) for t in names]
        for names in (graph.inputs, graph.outputs)
    ]
    made = [onnx.helper.make_node(n.op, list(n.inputs), list(n.outputs)) for n in graph.nodes]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(made, "layered", *info),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=10,
    )
    onnx.save(model, path)


def median(repeat: int, work: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of `repeat` calls: by the clock, and of the processor."""
    taken = []
    for _ in range(repeat):
        gc.collect()
        start = time.perf_counter(), time.process_time()
        work()
        taken.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    clock, busy = zip(*taken, strict=True)
    return statistics.median(clock), statistics.median(busy)


@dataclass(frozen=True)
class Row:
    """One graph: seconds (by the clock, of the processor) of both jobs, and what came out."""

    solve_s: tuple[float, float]
    plan_s: tuple[float, float]
    head: int
    listed: int
    gap: float


def measure(size: int, repeat: int, seed: int, folder: Path) -> Row:
    """Make one graph and time both jobs on it."""
    rng = random.Random(seed * 1_000_003 + size)
    graph = layered(size, rng)
    prices = costs(graph, rng)
    model, table = folder / f"{size}.onnx", folder / f"{size}.json"
    write(graph, model)
    table.write_text(json.dumps(prices))
    given = checked(graph, prices)

    def alone() -> Solution:
        fresh = Graph(graph.inputs, graph.outputs, graph.nodes)
        return solve(problem_of(fresh, given, rate=(20e6, 50e6), rtt=0.005))

    def whole() -> object:
        return splitc.plan(model, costs=table, rate=RATE, rtt="5ms")

    solved = alone()
    found = splitc.plan(model, costs=table, rate=RATE, rtt="5ms", top=0)
    assert found.chosen.cut.head_nodes == solved.head_nodes
    return Row(
        median(repeat, alone),
        median(repeat, whole),
        len(solved.head_nodes),
        len(found.ranked),
        solved.gap / solved.optimum,
    )


def show(size: int, rows: list[Row]) -> tuple[float, float]:
    """Print one line; return the processor seconds of both jobs."""
    cells = [f"{size:,}"]
    for job in ("solve_s", "plan_s"):
        clock, busy = (statistics.median(getattr(row, job)[i] for row in rows) for i in (0, 1))
        goal = TARGETS_MS.get(size, {}).get(job)
        target = f"< {goal:,}" if goal else ""
        cells += [f"{clock * 1e3:.1f}", f"{busy * 1e3:.1f}", target]
    cells += ["/".join(str(row.head) for row in rows), "/".join(str(row.listed) for row in rows)]
    print("| " + " | ".join([*cells, f"{max(row.gap for row in rows):.1e}"]) + " |", flush=True)
    solve_s, plan_s = (
        statistics.median(getattr(row, job)[1] for row in rows) for job in ("solve_s", "plan_s")
    )
    return solve_s, plan_s


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--sizes", default="100,300,1000,3000,10000")
    options.add_argument("--repeat", type=int, default=5)
    options.add_argument("--seeds", type=int, default=3)
    given = options.parse_args()
    sizes = [int(size) for size in given.sizes.split(",")]
    print(
        f"Median of {given.repeat} runs, then over {given.seeds} graphs. One thread. `CPU`: of the "
        "processor, which a busy machine does not change.\n"
    )
    print(
        "| nodes | solve, ms | CPU | target | with reading and ranked, ms | CPU | target "
        "| head nodes | cuts listed | gap/optimum |\n" + "|---" * 10 + "|"
    )
    taken = []
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            rows = [measure(size, given.repeat, s, Path(folder)) for s in range(given.seeds)]
            taken.append(show(size, rows))
    if len(sizes) > 1:
        span = math.log(sizes[-1] / sizes[0])
        growth = [math.log(taken[-1][i] / taken[0][i]) / span for i in (0, 1)]
        print(
            f"\nGrowth from {sizes[0]:,} to {sizes[-1]:,} nodes: CPU time ~ nodes^{growth[0]:.2f} "
            f"(solve), nodes^{growth[1]:.2f} (with reading and ranked)."
        )


if __name__ == "__main__":
    main()
