"""How long a plan takes, and how that grows: random layered DAGs of 100 … 10,000 nodes.

    python benchmarks/planner.py [--sizes 100,1000,10000] [--repeat 5] [--seed 0]

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
from pathlib import Path

import onnx

import splitc
from splitc.graph import Graph, Node
from splitc.plan.costs_file import checked, problem_of
from splitc.plan.flow import solve
from splitc.plan.reader import read

RATE = "20Mbit/s/50Mbit/s"


def layered(size: int, rng: random.Random) -> Graph:
    """Layers of 1–8 nodes; each node reads 1–3 tensors of the last two layers."""
    layers, nodes = [["x0", "x1"]], []
    while len(nodes) < size:
        recent = [t for layer in layers[-2:] for t in layer]
        width = 1 if rng.random() < 0.3 else rng.randint(1, 8)
        layer = []
        for _ in range(min(width, size - len(nodes))):
            read = tuple(rng.sample(recent, min(len(recent), rng.randint(1, 3))))
            name = f"n{len(nodes)}"
            nodes.append(Node(name, "Sum", read, (name,)))
            layer.append(name)
        layers.append(layer)
    read_names = {t for node in nodes for t in node.inputs}
    outputs = tuple(node.id for node in nodes if node.id not in read_names)
    return Graph(("x0", "x1"), outputs, tuple(nodes))


def costs(graph: Graph, rng: random.Random) -> dict[str, dict[str, float]]:
    """Prices whose optimum is an inner cut: the device is slower, tensors shrink."""
    head = {node.id: rng.lognormvariate(-7, 1) for node in graph.nodes}
    tail = {v: t / rng.uniform(5, 50) for v, t in head.items()}
    n = len(graph.tensors)
    first = sum(head.values()) * 5e5
    size = {
        t: int(first * rng.lognormvariate(0, 0.7) * (1.02 - i / n))
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


def median(repeat: int, work: Callable[[], object]) -> float:
    """Median seconds of `repeat` calls."""
    taken = []
    for _ in range(repeat):
        gc.collect()
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def measure(
    size: int, repeat: int, seed: int, folder: Path
) -> tuple[float, float, int, int, float]:
    """Return (solve s, plan s, head nodes, cuts ranked, relative gap) for one size."""
    rng = random.Random(seed * 1_000_003 + size)
    graph = layered(size, rng)
    prices = costs(graph, rng)
    model, table = folder / f"{size}.onnx", folder / f"{size}.json"
    write(graph, model)
    table.write_text(json.dumps(prices))

    def alone() -> object:
        fresh = Graph(graph.inputs, graph.outputs, graph.nodes)
        return solve(problem_of(fresh, given, rate=(20e6, 50e6), rtt=0.005))

    given = checked(graph, prices)
    solved = solve(problem_of(read(model).graph, given, rate=(20e6, 50e6), rtt=0.005))
    whole = lambda: splitc.plan(model, costs=table, rate=RATE, rtt="5ms")  # noqa: E731
    ranked = len(whole().ranked)
    return (
        median(repeat, alone),
        median(repeat, whole),
        len(solved.head_nodes),
        ranked,
        solved.gap / solved.optimum,
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--sizes", default="100,300,1000,3000,10000")
    options.add_argument("--repeat", type=int, default=5)
    options.add_argument("--seeds", type=int, default=3)
    given = options.parse_args()
    sizes = [int(size) for size in given.sizes.split(",")]
    print("| nodes | solve, ms | with reading and ranked, ms | head nodes | ranked | gap/optimum |")
    print("|---|---|---|---|---|---|")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            runs = [measure(size, given.repeat, s, Path(folder)) for s in range(given.seeds)]
            solve_s, plan_s = (statistics.median(run[i] for run in runs) for i in (0, 1))
            heads = "/".join(str(run[2]) for run in runs)
            listed = "/".join(str(run[3]) for run in runs)
            gap = max(run[4] for run in runs)
            rows.append((solve_s, plan_s))
            print(
                f"| {size:,} | {solve_s * 1e3:.1f} | {plan_s * 1e3:.1f} | {heads} | {listed} "
                f"| {gap:.1e} |",
                flush=True,
            )
    if len(sizes) > 1:
        span = math.log(sizes[-1] / sizes[0])
        growth = [math.log(rows[-1][i] / rows[0][i]) / span for i in (0, 1)]
        print(
            f"\nGrowth from {sizes[0]:,} to {sizes[-1]:,} nodes: time ~ nodes^{growth[0]:.2f} "
            f"(solve), nodes^{growth[1]:.2f} (with reading and ranked). "
            f"Median of {given.repeat} runs, then over {given.seeds} graphs."
        )


if __name__ == "__main__":
    main()
