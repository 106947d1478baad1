"""The cut that `--cut` names: tensors, ends, and plan files, whole or damaged."""

import json
from pathlib import Path

import pytest

from splitc.errors import ModelError, RequestError
from splitc.graph import Graph, Node
from splitc.plan.naming import named, replayed_tensors

GRAPH = Graph(
    ("x",),
    ("c",),
    (
        Node("a", "Op", ("x",), ("a",)),
        Node("b", "Op", ("a",), ("b", "b2")),
        Node("c", "Op", ("a", "b2"), ("c",)),
    ),
)


def plan_file(folder: Path, text: str) -> str:
    (folder / "plan.json").write_text(text)
    return f"@{folder / 'plan.json'}"


def recorded(*nodes: object) -> str:
    return json.dumps({"chosen": {"head_nodes": nodes, "tensors": ["a", "b2"]}})


def test_ends_and_tensors() -> None:
    assert named(GRAPH, "@input").head_nodes == frozenset()
    assert named(GRAPH, "@output").head_nodes == {"a", "b", "c"}
    assert named(GRAPH, "b2,a").head_nodes == {"a", "b"}


def test_a_plan_file_names_nodes_and_its_tensors_are_known_before(tmp_path: Path) -> None:
    file = plan_file(tmp_path, recorded("b", "a"))
    assert named(GRAPH, file).tensors == ("a", "b2")
    assert replayed_tensors(file) == ("a", "b2")


def test_a_plan_of_another_model(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="another model: no node 'z'"):
        named(GRAPH, plan_file(tmp_path, recorded("a", "z")))
    with pytest.raises(ModelError, match="head node 'b' reads 'a'"):
        named(GRAPH, plan_file(tmp_path, recorded("b")))


BAD_PLANS = {"absent": None, "no JSON": "{", "a list": "[1]", "no chosen": "{}", "empty": ""}
BAD_PLANS |= {"chosen is text": '{"chosen": "x"}', "no nodes": '{"chosen": {}}'}
BAD_PLANS |= {"nodes are numbers": '{"chosen": {"head_nodes": [[1]]}}'}


@pytest.mark.parametrize("text", BAD_PLANS.values(), ids=BAD_PLANS)
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str | None) -> None:
    file = plan_file(tmp_path, text or "")
    if text is None:
        (tmp_path / "plan.json").unlink()
    with pytest.raises(RequestError, match="plan"):
        named(GRAPH, file)
