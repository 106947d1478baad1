"""A boundary names the same head before and after a pass that rewrites nodes."""

from pathlib import Path

import pytest

from splitc.errors import PassError
from splitc.scope import Boundary, check, within
from tests.networks import model

TEXT = """g (float[2] x) => (float[2] y, float[2] z) {
    a = Relu(x)  b = Neg(a)  c = Exp(a)  y = Add(b, c)  z = Abs(b)
}"""


def test_sides_partition_the_nodes(tmp_path: Path) -> None:
    whole = model(TEXT, tmp_path)
    boundary = Boundary(("a", "b"), ("z",))
    assert boundary.head(whole) == {"a", "b", "z"}
    assert within(whole, "head", boundary) == {"a", "b", "z"}
    assert within(whole, "tail", boundary) == {"c", "y"}
    assert within(whole, "both", None) == {"a", "b", "c", "y", "z"}


def test_an_input_that_crosses_has_no_head(tmp_path: Path) -> None:
    assert Boundary(("x",)).head(model(TEXT, tmp_path)) == frozenset()


def test_names_are_each_once() -> None:
    assert Boundary(("a", "y"), ("y",)).names == ("a", "y")


def test_a_side_needs_a_cut(tmp_path: Path) -> None:
    with pytest.raises(PassError, match="needs a cut"):
        within(model(TEXT, tmp_path), "tail", None)


def test_a_tensor_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(PassError, match="'nothing' of the boundary is gone"):
        Boundary(("nothing",)).head(model(TEXT, tmp_path))


def test_an_unknown_scope_has_a_hint() -> None:
    with pytest.raises(ValueError, match="did you mean 'head'"):
        check("heads")
