"""The table of what NVIDIA's parser refuses, and the real parser of TensorRT-RTX beside it."""

import sys
from pathlib import Path

import onnx_ir
import pytest

from splitc.backend import Target
from splitc.backends.tensorrt import blame, child, judge, refusals
from splitc.backends.tensorrt.child import RTX
from splitc.model import Model

HEADER = '<ir_version: 10, opset_import: ["": 21, "com.acme": 1, "com.microsoft": 1]>\n'


def model(text: str) -> Model:
    return Model(onnx_ir.from_onnx_text(HEADER + text))


QUANTIZED = "g ({0}[2,4] x) => (float[2,4] y) {{ s = Constant<value_float = 0.5>() {1} }}"

REFUSED = {
    "no importer": (
        "g (float[2,2] x) => (float y) { a = Relu(x)  y = Det(a) }",
        {"y": "Det: the parser has no importer for it"},
    ),
    "another domain": (
        "g (float[2] x) => (float[2] y) { a = com.acme.Magic(x)  y = Relu(a) }",
        {"a": "com.acme.Magic: no plugin of this name"},
    ),
    "an attribute": (
        "g (float[1,1,4,4] x) => (float[1,1,1,1] y) "
        "{ y = MaxPool<kernel_shape = [2,2], dilations = [3,3]>(x) }",
        {"y": "MaxPool: dilations = [3, 3] is not supported"},
    ),
    "a second output": (
        "g (float[2,4] x, float[4] s) => (float[2,4] y, float[2,1] m) "
        "{ y, m = LayerNormalization(x, s) }",
        {"y": "LayerNormalization: only its first output is supported"},
    ),
    "must be constant": (
        "g (float[2,4] x, int64[1] n) => (float[2,1] y) { y = ReduceSum(x, n) }",
        {"y": "ReduceSum: axes must be a constant"},
    ),
    "uint8 input of DequantizeLinear": (
        QUANTIZED.format("uint8", "y = DequantizeLinear(x, s)"),
        {"y": "DequantizeLinear: a quantized tensor of uint8 is not supported, int8 is"},
    ),
    "zero point": (
        QUANTIZED.format("int8", "z = Constant<value = int8 {3}>()  y = DequantizeLinear(x, s, z)"),
        {"y": "DequantizeLinear: the zero point must be zero"},
    ),
    "a type": (
        "g (int16[2,4] x) => (float[2,4] y) { y = Cast<to = 1>(x) }",
        {"y": "Cast: TensorRT has no int16"},
    ),
    "arithmetic on bytes": (
        "g (uint8[2] x) => (float[2] y) { a = Add(x, x)  y = Cast<to = 1>(a) }",
        {"a": "Add: no arithmetic on uint8"},
    ),
    "inside a body": (
        """g (bool c, float[2,2] x) => (float[2,2] y) {
            y = If(c) <then_branch = t () => (float[2,2] p) { p = BitwiseNot(x) },
                       else_branch = e () => (float[2,2] q) { q = Relu(x) }>
        }""",
        {"y": "BitwiseNot: the parser has no importer for it"},
    ),
}

TAKEN = {
    "Gelu of com.microsoft": "g (float[2,4] x) => (float[2,4] y) { y = com.microsoft.Gelu(x) }",
    "no dilation": "g (float[1,1,4,4] x) => (float[1,1,3,3] y) "
    "{ y = MaxPool<kernel_shape = [2,2], dilations = [1,1]>(x) }",
    "one output": "g (float[2,4] x, float[4] s) => (float[2,4] y) { y = LayerNormalization(x, s) }",
    "a constant axis": "g (float[2,4] x) => (float[2,1] y) "
    "{ n = Constant<value_ints = [1]>()  y = ReduceSum(x, n) }",
    "int8 input of DequantizeLinear": QUANTIZED.format("int8", "y = DequantizeLinear(x, s)"),
    "zero point of zero": QUANTIZED.format(
        "int8", "z = Constant<value = int8 {0}>()  y = DequantizeLinear(x, s, z)"
    ),
    "bytes that are cast": "g (uint8[2,4] x) => (float[2,4] y) { y = Cast<to = 1>(x) }",
}


@pytest.mark.parametrize(("text", "refused"), REFUSED.values(), ids=REFUSED)
def test_the_table_names_node_and_reason(text: str, refused: dict[str, str]) -> None:
    assert refusals.refused(model(text)) == refused


@pytest.mark.parametrize("text", TAKEN.values(), ids=TAKEN)
def test_the_table_takes_the_neighbours(text: str) -> None:
    assert refusals.refused(model(text)) == {}


@pytest.mark.parametrize(("text", "refused"), REFUSED.values(), ids=REFUSED)
def test_the_real_parser_refuses_the_same(text: str, refused: dict[str, str]) -> None:
    if missing := RTX.missing():
        pytest.skip(missing)
    verdict = judge.judge(model(text), "8.0")
    assert verdict.outcome.stage == "parse"
    assert verdict.outcome.engine is None
    assert verdict.refused.keys() == refused.keys()


def test_the_real_builder_takes_the_neighbours() -> None:
    if missing := RTX.missing():
        pytest.skip(missing)
    stages = {name: judge.judge(model(text), "8.0").outcome.stage for name, text in TAKEN.items()}
    assert stages == dict.fromkeys(TAKEN, "done")


def test_what_only_rtx_lacks_is_refused_only_there() -> None:
    some = model("g (float[2,4] x) => (int64[2,N] y) { y = NonZero(x) }")
    assert refusals.refused(some) == {}
    assert refusals.refused(some, rtx=True) == {
        "y": "NonZero: TensorRT-RTX cannot build it, TensorRT can"
    }


def test_float64_is_refused_because_it_would_be_computed_as_float32() -> None:
    some = model("g (double[2] x) => (double[2] y) { y = Relu(x) }")
    assert refusals.refused(some) == {"y": "Relu: TensorRT has no float64"}


CHAIN = model("g (float[2,4] x) => (float[2,4] y) { a = Relu(x) b = Neg(a) c = Abs(b) y = Exp(c) }")


def tried(bad: str) -> blame.Try:
    """Return a builder that fails on every graph that holds the node `bad`."""

    def attempt(some: Model) -> child.Outcome:
        return child.Outcome(stage="build", engine=None if bad in some.nodes else b"engine")

    return attempt


@pytest.mark.parametrize("bad", ["a", "b", "c", "y"])
def test_a_failure_without_a_name_is_traced_to_its_node(bad: str) -> None:
    assert blame.shortest(CHAIN, tried(bad)) == bad


SAID = {
    "a layer": ({"stage": "build", "messages": ("node_of_c_2 has no runners",)}, "c"),
    "a crash": ({"stage": "parse", "node": "node_of_b", "died": "crashed with SIGSEGV"}, "b"),
    "an input": ({"stage": "parse", "messages": ("ERROR: x:992 In function importInput",)}, "a"),
    "the log": (
        {
            "stage": "parse",
            "refusals": (child.Refusal(7, "", "Abs", "false"),),
            "messages": ('While parsing node number 7 [Abs -> "c"]:',),
        },
        "c",
    ),
    "an index": ({"stage": "parse", "refusals": (child.Refusal(1, "", "Neg", "no"),)}, "b"),
}


@pytest.mark.parametrize(("said", "node"), SAID.values(), ids=SAID)
def test_what_tensorrt_says_becomes_our_name(said: dict[str, object], node: str) -> None:
    outcome = child.Outcome(**said)  # type: ignore[arg-type]
    assert list(blame.refused(CHAIN, outcome, tried("nothing"))) == [node]


def test_a_crash_is_told_apart_from_a_refusal(tmp_path: Path) -> None:
    died = child._wait([sys.executable, "-c", "import os; os.abort()"], tmp_path, {})
    assert died == "crashed with SIGABRT"
    why = blame.refused(
        CHAIN, child.Outcome(stage="parse", node="node_of_b", died=died), tried("b")
    )
    assert why == {"b": "parsing: the builder crashed with SIGABRT"}


def test_a_refusal_without_a_name_from_the_real_builder() -> None:
    if missing := RTX.missing():
        pytest.skip(missing)
    text = """g (float[2,4] x, int64[2] n) => (float[K,L] y) {
        a = Relu(x)  y = Tile(a, n)  z = Neg(a) }"""
    assert list(judge.judge(model(text), "8.0").refused) == ["y"]


def test_examine_asks_again_without_what_was_refused() -> None:
    if missing := RTX.missing():
        pytest.skip(missing)
    text = """g (float[2,4] x) => (float[2,4] y, int64[2,N] i) {
        s = Constant<value_ints = [0,0]>()  e = Constant<value_ints = [2,2]>()
        x2 = Slice(x, s, e)  a = Det(x2)  y = Relu(x)  i = NonZero(y)  b = Size(i) }"""
    graph = model(text)
    from splitc.backends.tensorrt.backend import TensorRT

    found, notes = TensorRT().examine(graph, Target("any"))
    assert found == {"a": "Det: the parser has no importer for it"}
    assert notes[1] == "TensorRT-RTX cannot judge, but TensorRT takes: i"
    asked = judge.examine(graph, found, "8.0")
    assert set(asked) == {"a", "i"}
    assert asked["i"].startswith("the parser refuses NonZero")
