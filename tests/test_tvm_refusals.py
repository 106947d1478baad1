"""What the TVM backend refuses: nodes, sizes and targets, each with its reason."""

from importlib.util import find_spec

import pytest

from splitc import backend
from splitc.backend import Target
from splitc.errors import BackendError
from tests.test_tvm import HERE, NETWORKS, text

pytestmark = pytest.mark.skipif(find_spec("tvm") is None, reason="needs the extra splitc[tvm]")


BRANCH = """g (bool c, float[2] x) => (float[2] y) {
    y = If(%s) <then_branch = t () => (float[2] p) { p = Relu(x) },
               else_branch = e () => (float[2] q) { q = Neg(x) }>
}"""


REFUSED = {
    "no such operator": (
        "g (float[2,2] x) => (float[2,2] y) { y = Det(x) }",
        {"y": "TVM's importer has no operator Det"},
    ),
    "another domain, though the name is known": (
        "g (float[2] x) => (float[2] y) { a = Neg(x)  y = com.acme.Relu(a) }",
        {"y": "TVM's importer has no operator com.acme.Relu"},
    ),
    "sizes that depend on values": (
        "g (float[4] x) => (int64[1,K] y) { y = NonZero(x) }",
        {"y": "NonZero: the size of its result depends on values"},
    ),
    "type": (
        "g (bfloat16[2] x) => (bfloat16[2] y) { y = Relu(x) }",
        {"y": "Relu on bfloat16"},
    ),
    "computed condition": (BRANCH % "c", {"y": "If: its condition is computed"}),
    "constant condition": (
        BRANCH.replace("{\n", "{ k = Constant<value = bool {1}>()\n", 1) % "k",
        {},
    ),
}


@pytest.mark.parametrize(("body", "refused"), REFUSED.values(), ids=REFUSED)
def test_refusals_name_node_and_reason(body: str, refused: dict[str, str]) -> None:
    tvm, model = backend.get("tvm"), text(body)
    assert tvm.supports(model, HERE) == refused
    if refused:
        with pytest.raises(BackendError, match="node 'y'"):
            tvm.compile(model, HERE)


def test_an_open_size_is_refused_and_names_the_option() -> None:
    model = text("g (float[N,T] x) => (float[N,T] y) { y = Relu(x) }")
    found = backend.get("tvm").supports(model, HERE)
    assert set(found) == {"y"}
    assert "--input x=1xT" in found["y"]


TARGETS = {
    "no triple": (Target("server"), "names no triple"),
    "unknown processor": (
        Target("x", "aarch64-linux-gnu", "cortex-a999"),
        "no processor called 'cortex-a999'",
    ),
    "other architecture": (
        Target("x", "riscv64-linux-gnu"),
        "no schedules for 'riscv64-linux-gnu'",
    ),
}


@pytest.mark.parametrize(("target", "message"), TARGETS.values(), ids=TARGETS)
def test_a_target_that_says_too_little_is_refused(target: Target, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        backend.get("tvm").compile(NETWORKS["integers"], target)
