"""What `--cut` means and what `cuts` lists, against the definitions, by brute force."""

import itertools
import random
from pathlib import Path

import pytest

import splitc
from splitc.cuts import Cut, listed, resolve
from splitc.errors import RequestError
from splitc.graph import Graph, Node
from tests.networks import model, random_model


def graph(seed: int) -> Graph:
    """Draw a DAG of up to 8 nodes: fan-out, several outputs, inputs that nobody reads."""
    rng = random.Random(seed)
    tensors = inputs = [f"x{i}" for i in range(rng.randint(1, 3))]
    nodes: list[Node] = []
    for index in range(rng.randint(1, 8)):
        least = 0 if rng.random() < 0.1 else 1
        read = tuple(dict.fromkeys(rng.choice(tensors) for _ in range(rng.randint(least, 3))))
        made = tuple(f"n{index}_{place}" for place in range(rng.choice((1, 1, 1, 2))))
        nodes.append(Node(made[0], "Op", read, made))
        tensors = [*tensors, *made]
    read_by = {t for node in nodes for t in node.inputs}
    ends = [t for t in tensors if rng.random() < (0.15 if t in read_by else 0.8)] or [tensors[-1]]
    return Graph(tuple(inputs), tuple(ends), tuple(nodes))


def ancestors(g: Graph, tensors: list[str]) -> set[str]:
    """Identities of the nodes above these tensors, one step at a time."""
    found: set[str] = set()
    waiting = list(tensors)
    while waiting:
        maker = g.producer.get(waiting.pop())
        if maker is not None and maker not in found:
            found.add(maker)
            waiting += g.by_id[maker].inputs
    return found


def reached(g: Graph, readers: set[str]) -> set[str]:
    """These nodes and all that depend on them, by the definition."""
    found = set(readers)
    for node in g.nodes:
        if any(g.producer.get(t) in found for t in node.inputs):
            found.add(node.id)
    return found


def crossing(g: Graph, head: set[str]) -> set[str]:
    tail = [node for node in g.nodes if node.id not in head]
    return {t for n in tail for t in n.inputs} - {t for n in tail for t in n.outputs}


def meant(g: Graph, names: tuple[str, ...]) -> set[str]:
    """The head of a list, by the words of the definition."""
    above = ancestors(g, list(names))
    tail = reached(g, {r for t in names for r in g.readers[t]}) - above
    feeding = ancestors(g, [t for n in tail for t in g.by_id[n].inputs]) - above
    return set(g.by_id) - (reached(g, tail | feeding) - above)


def outcome(g: Graph, names: tuple[str, ...]) -> Cut | None:
    try:
        return resolve(g, list(names))
    except RequestError:
        return None


@pytest.mark.parametrize("seed", range(60))
def test_lists_mean_what_the_definition_says(seed: int) -> None:
    g = graph(seed)
    for count in (1, 2):
        for names in itertools.combinations(g.tensors, count):
            head, cut = meant(g, names), outcome(g, names)
            assert (cut is not None) == (crossing(g, head) == set(names)), names
            assert cut is None or cut.head_nodes == head


@pytest.mark.parametrize("seed", range(60))
def test_the_hint_of_a_wrong_list_works(seed: int) -> None:
    g = graph(seed)
    for names in itertools.combinations(g.tensors, 2):
        if outcome(g, names) is None:
            with pytest.raises(RequestError) as caught:
                resolve(g, list(names))
            resolve(g, caught.value.hint.removeprefix("--cut "))


@pytest.mark.parametrize("seed", range(60))
def test_listed_is_the_definition(seed: int) -> None:
    g = graph(seed)
    wanted = {frozenset(crossing(g, ancestors(g, [node.id]))) for node in g.nodes}
    wanted = {b for b in wanted if 0 < len(b) <= 3 and outcome(g, tuple(b))}
    found = listed(g, max_tensors=3)
    assert [found[0].kind, found[-1].kind] == ["input", "output"]
    assert found[-1].tensors == ()
    inner = [frozenset(cut.tensors) for cut in found[1:-1]]
    assert len(inner) == len(set(inner)), "a boundary is listed twice"
    assert set(inner) == wanted - {frozenset(found[0].tensors)}
    for cut in found[1:-1]:
        assert resolve(g, ",".join(cut.tensors)) == cut
        assert list(cut.tensors) == sorted(cut.tensors, key=g.rank.__getitem__)
        assert all(ancestors(g, [node]) <= cut.head_nodes for node in cut.head_nodes)


def test_names_that_look_like_something_else(tmp_path: Path) -> None:
    g = Graph(
        ("input",),
        ("output",),
        (
            Node("a,b", "Op", ("input",), ("a,b",)),
            Node("with space", "Op", ("a,b",), ("with space",)),
            Node("output", "Op", ("with space",), ("output",)),
        ),
    )
    assert resolve(g, "a,b").head_nodes == {"a,b"}
    assert resolve(g, " with space ").head_nodes == {"a,b", "with space"}
    assert resolve(g, "input") == resolve(g, "@input")
    assert resolve(g, "@output").head_nodes == set(g.by_id)
    with pytest.raises(RequestError) as caught:
        resolve(g, "output")
    assert caught.value.hint == "--cut @output"
    with pytest.raises(RequestError, match="no tensor called '@input'"):
        resolve(g, "@input,a")
    with pytest.raises(RequestError) as caught:
        resolve(g, "with spice")
    assert "'with space'" in caught.value.hint


def test_a_list_of_names_with_commas() -> None:
    g = Graph(
        ("in,put", "b c"),
        ("t,1,2",),
        (
            Node("t,1", "Op", ("in,put", "b c"), ("t,1",)),
            Node("u", "Op", ("t,1",), ("u",)),
            Node("t,1,2", "Op", ("t,1", "u"), ("t,1,2",)),
        ),
    )
    assert resolve(g, "t,1,u").tensors == ("t,1", "u")
    assert resolve(g, "u, t,1").tensors == ("t,1", "u")
    assert resolve(g, "in,put,b c") == resolve(g, "@input")
    with pytest.raises(RequestError, match="no tensor called 't'"):
        resolve(g, "t,7,u")


SMALL = """g (float[1,3,8,8] x) => (float[1,4,1,1] y)
    <float[4,3,3,3] w, float[4,4,1,1] v> {
    c = Conv(x, w)  r = Relu(c)  p = MaxPool <kernel_shape = [6, 6]> (r)  y = Conv(p, v) }"""


def test_counts(tmp_path: Path) -> None:
    import numpy as np
    import onnx

    path = tmp_path / "net.onnx"
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 21]>\n' + SMALL)
    del proto.graph.initializer[:]
    for name, shape in (("w", (4, 3, 3, 3)), ("v", (4, 4, 1, 1))):
        array = np.ones(shape, np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(proto, path)
    rows = splitc.cuts(splitc.load(path)).to_json()["cuts"]
    first, last = 4 * 6 * 6 * 27, 4 * 4
    share = first / (first + last)
    assert rows == [
        row("input", ["x"], 4 * 192, 0, 0.0),
        row("inner", ["c"], 4 * 144, first, share, natural=True, breaks=True),
        row("inner", ["r"], 4 * 144, first, share, natural=True),
        row("inner", ["p"], 4 * 4, first, share, natural=True),
        row("output", [], 0, first + last, 1.0),
    ]


def row(  # one line of the promised JSON
    kind: str,
    tensors: list[str],
    size: int,
    macs: int,
    share: float,
    natural: bool = False,
    breaks: bool = False,
) -> dict[str, object]:
    return {
        "kind": kind,
        "tensors": tensors,
        "bytes": size,
        "head_macs": macs,
        "head_mac_share": share,
        "natural_bottleneck": natural,
        "breaks_group": breaks,
    }


def test_constants_cross_for_nothing(tmp_path: Path) -> None:
    text = """g (float[2] x) => (float[2] y) {
        c = Constant <value_floats = [1.0, 2.0]> ()  d = Neg(c)
        a = Add(x, d)  b = Relu(a)  y = Mul(b, d) }"""
    whole = model(text, tmp_path)
    assert [cut.tensors for cut in listed(whole.graph)] == [("x",), ("a",), ("b",), ()]
    with pytest.raises(RequestError, match="'d' can be cut"):
        resolve(whole.graph, "d")


@pytest.mark.parametrize("seed", range(10))
def test_most_tensors(seed: int, tmp_path: Path) -> None:
    whole = random_model(seed, tmp_path)
    for most in (1, 2, 3):
        found = splitc.cuts(whole, max_tensors=most).cuts
        assert all(len(line.cut.tensors) <= most for line in found[1:-1])
    shares = [line.head_mac_share for line in found]
    assert (shares[0], min(shares), max(shares)) == (0.0, 0.0, max(shares))
