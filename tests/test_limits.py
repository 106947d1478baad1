"""The search under memory limits against brute force; footprints against `splitc.cost.memory`."""

import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

from splitc import load
from splitc.cost.memory import Memory
from splitc.errors import PlanError
from splitc.graph import Graph, Node
from splitc.plan import limits as limits_module
from splitc.plan.flow import solve
from splitc.plan.footprint import Footprint
from splitc.plan.limits import METHOD, Limits, solve_limited
from splitc.plan.network import contract
from splitc.plan.problem import Indexed, Prices, Problem
from splitc.plan.program import program_of
from tests.oracle import cost, legal_heads


def random_graph(rng: random.Random, size: int) -> Graph:
    """A DAG with fan-out, long edges, several outputs, dead outputs and shared weights."""
    inputs = tuple(f"in{i}" for i in range(rng.randint(1, 2)))
    tensors, nodes = list(inputs), []
    for at in range(size):
        near = tensors[-4:] if rng.random() < 0.7 else tensors
        read = tuple(rng.sample(near, min(len(near), rng.randint(1, 3))))
        made = tuple(f"n{at}.{i}" for i in range(rng.choice([1, 1, 2])))
        weights = tuple(rng.sample(["w0", "w1", "w2", "w3"], rng.choice([0, 0, 1, 2])))
        nodes.append(Node(made[0], "Op", read, made, weights))
        tensors += made
    unread = set(tensors) - {t for node in nodes for t in node.inputs} - set(inputs)
    ends = [t for t in tensors if t in unread and rng.random() < 0.7]
    return Graph(inputs, tuple(dict.fromkeys([*ends, tensors[-1]])), tuple(nodes))


def random_case(rng: random.Random, size: int) -> tuple[Problem, Footprint]:
    graph = random_graph(rng, size)
    ids = [node.id for node in graph.nodes]
    first = rng.randrange(size)
    groups = (tuple(ids[first : first + 2]),) if size > 3 and rng.random() < 0.4 else ()
    problem = Problem(
        graph,
        head={v: rng.uniform(0, 10) for v in ids},
        tail={v: rng.uniform(0, rng.choice([1, 10])) for v in ids},
        send={t: rng.uniform(0, 4) for t in graph.tensors},
        back={t: rng.uniform(0, 3) for t in graph.outputs},
        offload=rng.choice([0.0, 2.0]),
        groups=tuple(g for g in groups if len(g) > 1),
        only_head=frozenset(v for v in ids[:2] if rng.random() < 0.1),
    )
    sizes = np.array([float(rng.randint(0, 40)) for _ in graph.tensors])
    return problem, Footprint(Indexed.of(graph), sizes, {f"w{i}": 7 * i + 1 for i in range(4)})


def held(
    graph: Graph, side: frozenset[str], sizes: Mapping[str, int], bytes_of: Mapping[str, int]
) -> int:
    """Weights and peak of a side, written a second time: what is needed later, node by node."""
    order = [node for node in graph.nodes if node.id in side]
    made = {t for node in order for t in node.outputs}
    away = {t for node in graph.nodes if node.id not in side for t in node.inputs}
    kept = (away | set(graph.outputs)) & made

    def alive(step: int) -> set[str]:
        born = {t for node in order[: step + 1] for t in node.outputs}
        later = {t for node in order[max(step, 0) :] for t in node.inputs}
        now = set(order[step].outputs) if step >= 0 else set()
        come_in = {t for node in order[max(step, 0) :] for t in node.inputs} - made
        return now | (born & (later | kept)) | come_in

    peak = max((sum(sizes[t] for t in alive(step)) for step in range(-1, len(order))), default=0)
    return peak + sum(bytes_of[w] for w in {w for node in order for w in node.weights})


@pytest.mark.parametrize("seed", range(160))
def test_equals_brute_force(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows alone decide: with sizes this small, no answer has to be searched past."""
    monkeypatch.setattr(limits_module, "exclude", _never)
    rng = random.Random(seed)
    problem, footprint = random_case(rng, rng.randint(2, 9))
    graph = problem.graph
    everything = frozenset(graph.by_id)
    sizes = dict(zip(graph.tensors, footprint.sizes.astype(int).tolist(), strict=True))
    weights = {f"w{i}": 7 * i + 1 for i in range(4)}
    need = {
        head: tuple(held(graph, side, sizes, weights) for side in (head, everything - head))
        for head in legal_heads(problem)
    }
    free = solve(problem)
    pick = need[free.head_nodes]
    limits = Limits(
        head=rng.choice([0, max(1, pick[0] - rng.randint(1, 30))]),
        tail=rng.choice([0, max(1, pick[1] - rng.randint(1, 30))]),
    )
    fits = {
        head: cost(problem, head)
        for head, (here, there) in need.items()
        if limits.hold(here, there)
    }
    if not fits:
        with pytest.raises(PlanError, match=r"no cut fits the (device|server)"):
            solve_limited(problem, footprint, limits, free)
        return
    answer = solve_limited(problem, footprint, limits, free)
    assert answer.head_nodes in fits
    assert answer.optimum == pytest.approx(min(fits.values()), rel=1e-9)
    assert fits[answer.head_nodes] == pytest.approx(answer.optimum, rel=1e-12)
    assert answer.bound <= answer.optimum
    assert 0 <= answer.gap <= 1e-7 * max(1.0, answer.optimum)
    assert answer.method == METHOD


def _never(*_: object) -> None:
    raise AssertionError("the program took a head that is over the limit")


@pytest.mark.parametrize("seed", range(24))
def test_the_rows_take_a_head_exactly_when_it_fits(seed: int) -> None:
    """With the head fixed, the limit may be what the side needs, and no byte less."""
    rng = random.Random(seed)
    problem, footprint = random_case(rng, rng.randint(4, 9))
    indexed = footprint.indexed
    prices = Prices.of(problem, indexed)
    forced = contract(problem, indexed, prices)
    heads = list(legal_heads(problem))
    for head in rng.sample(heads, min(3, len(heads))):
        mask = indexed.mask(head)
        here, there = footprint.total(mask), footprint.total(~mask)
        for limits, fits in (
            (Limits(head=here), True),
            (Limits(head=here - 1), False),
            (Limits(tail=there), True),
            (Limits(tail=there - 1), False),
        ):
            if max(limits.head, limits.tail) <= 0:
                continue
            made = program_of(indexed, prices, forced, 1.0)
            limits_module.add_limits(made, footprint, limits)
            for variable, kept in zip(made.x, mask.tolist(), strict=True):
                made.program.lower[variable] = made.program.upper[variable] = float(kept)
            assert (made.program.solve().x is not None) == fits, (head, limits)


@pytest.mark.parametrize("seed", range(8))
def test_one_byte_too_many_is_too_many(seed: int) -> None:
    """The solver keeps rows to a millionth, which is a kilobyte of a gigabyte."""
    rng = random.Random(seed)
    problem, footprint = random_case(rng, 8)
    footprint = Footprint(footprint.indexed, footprint.sizes * 1e9 + rng.randint(0, 9), {})
    free = solve(problem)
    head = footprint.indexed.mask(free.head_nodes)
    limits = Limits(max(1, footprint.peak(head) - 1), max(1, footprint.peak(~head) - 1))
    masks = [footprint.indexed.mask(one) for one in legal_heads(problem)]
    fits = [
        cost(problem, one)
        for one, mask in zip(legal_heads(problem), masks, strict=True)
        if limits.hold(footprint.peak(mask), footprint.peak(~mask))
    ]
    if not fits:
        with pytest.raises(PlanError, match="no cut fits"):
            solve_limited(problem, footprint, limits, free)
        return
    answer = solve_limited(problem, footprint, limits, free)
    assert answer.optimum == pytest.approx(min(fits), rel=1e-9)


def test_the_limits_of_the_cases_bind() -> None:
    """The cases above are no easy ones: the free optimum is over the limit in all with one."""
    rng = random.Random(5)
    problem, footprint = random_case(rng, 9)
    free = solve(problem)
    head = footprint.indexed.mask(free.head_nodes)
    limits = Limits(tail=footprint.total(~head) - 1)
    answer = solve_limited(problem, footprint, limits, free)
    assert answer.optimum > free.optimum
    assert answer.bound >= free.bound


def test_footprint_is_what_the_price_list_says(tmp_path: Path) -> None:
    """Concat grows its outputs, so that sizes differ; weights are shared, some by constants."""
    rng = random.Random(1)
    for case in range(25):
        graph = random_graph(rng, rng.randint(1, 9))
        path = tmp_path / f"{case}.onnx"
        onnx.save(concatenated(graph), path)
        model = load(path)
        memory = Memory(model)
        sizes = np.array([float(memory.sizes[t]) for t in model.graph.tensors])
        footprint = Footprint(Indexed.of(model.graph), sizes, memory.weight_bytes)
        for _ in range(20):
            side = np.array([rng.random() < 0.5 for _ in model.graph.nodes])
            names = {n.id for n, here in zip(model.graph.nodes, side, strict=True) if here}
            assert footprint.peak(side) == memory.peak(names)
            assert footprint.weights(side) == memory.weights(names)


def concatenated(graph: Graph) -> onnx.ModelProto:
    """The graph as a model of Concat (one output) and Split (two)."""
    helper = onnx.helper
    nodes = [helper.make_node("Neg", ["w0"], ["k"])]
    for node in graph.nodes:
        weights = [{"w3": "k"}.get(w, w) for w in node.weights]
        whole = node.outputs[0] if len(node.outputs) == 1 else f"{node.outputs[0]}.whole"
        nodes.append(helper.make_node("Concat", [*node.inputs, *weights], [whole], axis=0))
        if len(node.outputs) == 2:
            nodes.append(
                helper.make_node("Split", [whole], list(node.outputs), num_outputs=2, axis=0)
            )
    body = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, 1, [4]) for name in graph.inputs],
        [helper.make_tensor_value_info(name, 1, [None]) for name in graph.outputs],
        [helper.make_tensor(f"w{i}", 1, [2 * i + 2], [0.0] * (2 * i + 2)) for i in range(3)],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
