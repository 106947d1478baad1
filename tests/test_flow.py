"""The minimum cut against brute force, a second solver, and the planner's known traps."""

import math
import random

import numpy as np
import pytest
from scipy.optimize import linprog

from splitc.errors import ModelError, PlanError
from splitc.graph import Graph, Node
from splitc.plan.flow import solve
from splitc.plan.problem import Indexed, Prices, Problem
from tests.oracle import cost, legal_heads


def random_graph(rng: random.Random, size: int) -> Graph:
    """A DAG with 1–3 inputs and outputs, fan-out, and nodes of one or two outputs."""
    inputs = tuple(f"in{i}" for i in range(rng.randint(1, 3)))
    tensors, nodes = list(inputs), []
    for at in range(size):
        read = rng.sample(tensors[-6:], min(len(tensors[-6:]), rng.randint(1, 3)))
        made = tuple(f"n{at}.{i}" for i in range(rng.choice([1, 1, 1, 2])))
        nodes.append(Node(made[0], "Op", tuple(read), made))
        tensors += made
    read_names = {t for node in nodes for t in node.inputs}
    loose = [t for t in tensors if t not in read_names and t not in inputs]
    outputs = dict.fromkeys([*loose, rng.choice(tensors[len(inputs) :])])
    return Graph(inputs, tuple(outputs), tuple(nodes))


def random_problem(rng: random.Random, size: int) -> Problem:
    graph = random_graph(rng, size)
    top = rng.choice([1, 5, 1000])

    def price(scale: float) -> float:
        draw = rng.choice([0.0, rng.random(), rng.random(), float(rng.randint(0, 3))])
        return draw * scale

    ids = [node.id for node in graph.nodes]
    groups = []
    if size > 3 and rng.random() < 0.5:
        start = rng.randrange(size - 2)
        groups.append(tuple(ids[start : start + rng.randint(2, 3)]))
    return Problem(
        graph,
        head={v: price(10) for v in ids},
        tail={v: price(rng.choice([1, 10])) for v in ids},
        send={t: price(top) for t in graph.tensors},
        back={t: price(3) for t in graph.outputs},
        offload=price(5),
        groups=tuple(groups),
        only_head=frozenset(v for v in ids if rng.random() < 0.03),
        only_tail=frozenset(v for v in ids if rng.random() < 0.03),
    )


@pytest.mark.parametrize("seed", range(300))
def test_equals_brute_force(seed: int) -> None:
    rng = random.Random(seed)
    problem = random_problem(rng, rng.randint(1, 10 if seed % 20 else 13))
    found = {head: cost(problem, head) for head in legal_heads(problem)}
    if not found:
        with pytest.raises(PlanError, match="node '"):
            solve(problem)
        return
    best = min(found.values())
    answer = solve(problem)
    assert found[answer.head_nodes] == pytest.approx(answer.optimum, rel=1e-12, abs=0)
    assert answer.optimum == pytest.approx(best, rel=1e-12, abs=1e-300)
    assert 0 <= answer.gap <= 1e-12 * answer.optimum
    assert answer.bound <= best * (1 + 1e-15)


def chain(head: list[float], tail: list[float], send: list[float]) -> Problem:
    """Price a chain: send[0] is the graph input's, the last output is the graph's."""
    names = [f"v{i + 1}" for i in range(len(head))]
    before = ["x", *names[:-1]]
    nodes = tuple(Node(v, "Op", (t,), (v,)) for v, t in zip(names, before, strict=True))
    graph = Graph(("x",), (names[-1],), nodes)
    prices = dict(zip([*before, names[-1]], [*send, 0.0], strict=True))
    return Problem(
        graph,
        dict(zip(names, head, strict=True)),
        dict(zip(names, tail, strict=True)),
        prices,
        {names[-1]: 0.0},
    )


def test_data_does_not_return_for_nothing() -> None:
    answer = solve(chain([100, 1], [1, 100], [5, 50]))
    assert answer.optimum == answer.bound == 101
    assert answer.gap == 0


def fan(readers: int) -> Problem:
    """One cheap node on the device, read by many that only the server is good at."""
    nodes = [Node("p", "Op", ("x",), ("p",))]
    nodes += [Node(f"r{i}", "Op", ("p",), (f"r{i}",)) for i in range(readers)]
    graph = Graph(("x",), tuple(f"r{i}" for i in range(readers)), tuple(nodes))
    ids = [node.id for node in nodes]
    head = {v: 1.0 if v == "p" else 100.0 for v in ids}
    send = dict.fromkeys(graph.tensors, 50.0) | {"p": 10.0}
    return Problem(graph, head, dict.fromkeys(ids, 1.0), send, dict.fromkeys(graph.outputs, 0.0))


def test_a_tensor_is_paid_once_however_many_read_it() -> None:
    answer = solve(fan(4))
    assert answer.head_nodes == {"p"}
    assert answer.optimum == 1 + 10 + 4


def test_two_equal_tensors_are_two_tensors() -> None:
    nodes = (
        Node("a", "Op", ("x",), ("a", "a2")),
        Node("b", "Op", ("a", "a2"), ("b",)),
    )
    graph = Graph(("x",), ("b",), nodes)
    problem = Problem(
        graph, {"a": 0, "b": 100}, {"a": 50, "b": 0}, {"x": 50, "a": 7, "a2": 7, "b": 0}, {"b": 0}
    )
    assert solve(problem).optimum == 14


def test_offload_is_paid_by_any_tail_and_only_then() -> None:
    base = chain([3, 3], [1, 1], [1, 9])
    at_4, at_2 = (Problem(**{**vars(base), "offload": rtt}) for rtt in (4.0, 2.0))
    assert (solve(at_4).optimum, len(solve(at_4).head_nodes)) == (6.0, 2)
    assert (solve(at_2).optimum, len(solve(at_2).head_nodes)) == (5.0, 0)


def test_ties_prefer_the_smallest_head() -> None:
    assert solve(chain([0, 0, 0], [0, 0, 0], [0, 0, 0])).head_nodes == frozenset()
    assert solve(chain([1, 1, 1], [1, 1, 1], [2, 2, 2])).optimum == 3
    first = solve(chain([1, 1, 1], [1, 1, 1], [0, 0, 0]))
    assert first.head_nodes == frozenset()


@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1.0, 1e9, 1e290])
def test_scale_does_not_matter(scale: float) -> None:
    problem = random_problem(random.Random(7), 12)
    problem = Problem(**{**vars(problem), "only_head": frozenset(), "only_tail": frozenset()})
    other = Problem(
        problem.graph,
        {k: v * scale for k, v in problem.head.items()},
        {k: v * scale for k, v in problem.tail.items()},
        {k: v * scale for k, v in problem.send.items()},
        {k: v * scale for k, v in problem.back.items()},
        problem.offload * scale,
        problem.groups,
    )
    assert solve(other).optimum == pytest.approx(solve(problem).optimum * scale, rel=1e-12)


def test_far_apart_prices_stay_exact() -> None:
    answer = solve(chain([1e-12, 3e9, 1.0], [1.0, 1e-12, 3e9], [5e9, 2**31 + 0.5, 1e-9]))
    assert answer.optimum == 3e9 + 1.0 + 1e-12
    assert answer.gap <= 1e-12 * answer.optimum


def test_one_end_may_cost_any_number_of_times_the_other() -> None:
    size = 100
    problem = chain([1.0] * size, [1e9] * size, [1e9] * size)
    assert (solve(problem).optimum, solve(problem).gap) == (size, 0)
    problem = chain([1e9] * size, [1.0] * size, [1.0] * size)
    assert (solve(problem).optimum, solve(problem).gap) == (size + 1, 0)


def test_infinite_send_keeps_producer_and_readers_together() -> None:
    problem = chain([1, 100], [100, 1], [3, math.inf])
    assert solve(problem).optimum == 101.0
    problem = chain([1, 9], [100, 1], [math.inf, 2])
    assert solve(problem).head_nodes == {"v1"}


def test_contradictions_name_the_node() -> None:
    base = vars(chain([1, 1], [1, 1], [1, 1]))
    both = Problem(**{**base, "only_head": frozenset({"v1"}), "only_tail": frozenset({"v1"})})
    with pytest.raises(PlanError, match="'v1' can run on neither side"):
        solve(both)
    crossed = Problem(**{**base, "only_head": frozenset({"v2"}), "only_tail": frozenset({"v1"})})
    with pytest.raises(PlanError, match="'v1' can run on the tail only, but 'v2'"):
        solve(crossed)


def test_unpriced_nodes_are_refused_never_free() -> None:
    base = chain([1, 1], [1, 1], [1, 1])
    with pytest.raises(ModelError, match="'v2' has no head price"):
        solve(Problem(**{**vars(base), "head": {"v1": 1.0}}))
    with pytest.raises(ModelError, match="nan, not a number"):
        solve(Problem(**{**vars(base), "head": {"v1": 1.0, "v2": math.nan}}))


def relaxation(problem: Problem) -> float:
    """The same question as a linear program (totally unimodular), solved by HiGHS."""
    index = Indexed.of(problem.graph)
    prices = Prices.of(problem, index)
    n, m = len(prices.head), len(prices.send)
    back = np.zeros(n)
    np.add.at(back, index.producer[index.outputs], prices.back[index.outputs])
    objective = np.concatenate([prices.head - prices.tail - back, prices.send])
    rows, limits = [], []
    for tensor, reader in zip(index.edge_tensor, index.edge_reader, strict=True):
        maker = index.producer[tensor]
        row = np.zeros(n + m)
        row[reader], row[n + tensor] = -1, -1
        if maker >= 0:
            closed = np.zeros(n + m)
            closed[reader], closed[maker] = 1, -1
            rows.append(closed)
            limits.append(0.0)
            row[maker] += 1
        rows.append(row)
        limits.append(0.0 if maker >= 0 else -1.0)
    found = linprog(objective, A_ub=np.array(rows), b_ub=limits, bounds=(0, 1), method="highs")
    assert found.status == 0
    return float(found.fun + prices.tail.sum() + back.sum())


@pytest.mark.parametrize("seed", range(1000, 1020))
def test_equals_the_linear_relaxation(seed: int) -> None:
    made = random_problem(random.Random(seed), 60)
    free = Problem(made.graph, made.head, made.tail, made.send, made.back)
    assert solve(free).optimum == pytest.approx(relaxation(free), rel=1e-8)
