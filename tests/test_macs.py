from pathlib import Path

import onnx.parser
import onnx_ir as ir
import pytest

from splitc import load
from splitc.macs import kind, macs
from splitc.model import Model

CONV = "(float[1,8,10,10] x, float[16,8,3,3] w) => (y) { y = Conv<pads=[1,1,1,1]>(x, w) }"
CASES = {
    "Conv": (CONV, 16 * 100 * 8 * 9),
    "Conv, stride 2, no padding": (
        "(float[2,8,11,9] x, float[16,8,3,3] w) => (y) { y = Conv<strides=[2,2]>(x, w) }",
        2 * 16 * 5 * 4 * 8 * 9,
    ),
    "Conv, depthwise": (
        "(float[1,8,10,10] x, float[8,1,3,3] w) => (y) { y = Conv<group=8, pads=[1,1,1,1]>(x, w) }",
        8 * 100 * 9,
    ),
    "Conv, one axis": (
        "(float[1,4,50] x, float[6,4,5] w) => (y) { y = Conv(x, w) }",
        6 * 46 * 4 * 5,
    ),
    "ConvTranspose counts its input": (
        "(float[1,8,5,5] x, float[8,4,2,2] w) => (y) { y = ConvTranspose<strides=[2,2]>(x, w) }",
        8 * 25 * 4 * 4,
    ),
    "Gemm": ("(float[3,20] x, float[20,7] w) => (y) { y = Gemm(x, w) }", 3 * 20 * 7),
    "Gemm, both turned": (
        "(float[20,3] x, float[7,20] w) => (y) { y = Gemm<transA=1, transB=1>(x, w) }",
        3 * 20 * 7,
    ),
    "MatMul, broadcast": (
        "(float[2,4,5,6] x, float[6,7] w) => (y) { y = MatMul(x, w) }",
        2 * 4 * 5 * 6 * 7,
    ),
    "MatMul, vectors": ("(float[6] x, float[6] w) => (y) { y = MatMul(x, w) }", 6),
    "Einsum": (
        '(float[2,5,6] x, float[2,6,7] w) => (y) { y = Einsum<equation="bij,bjk->bik">(x, w) }',
        2 * 5 * 6 * 7,
    ),
    "Einsum, ellipsis and spaces": (
        "(float[2,3,5,6] x, float[6,7] w) => (y) "
        '{ y = Einsum<equation="... i j, j k -> ... i k">(x, w) }',
        2 * 3 * 5 * 6 * 7,
    ),
    "Einsum, three operands": (
        "(float[4] x, float[4,5] v, float[5] w) => (y) "
        '{ y = Einsum<equation="i,ij,j->">(x, v, w) }',
        2 * 4 * 5,
    ),
    "LSTM": (
        "(float[9,2,5] x, float[1,28,5] w, float[1,28,7] r) => (y) "
        "{ y, h, c = LSTM<hidden_size=7>(x, w, r) }",
        9 * 2 * 4 * 7 * (5 + 7),
    ),
    "GRU, both directions": (
        "(float[9,2,5] x, float[2,21,5] w, float[2,21,7] r) => (y) "
        '{ y, h = GRU<hidden_size=7, direction="bidirectional">(x, w, r) }',
        9 * 2 * 2 * 3 * 7 * (5 + 7),
    ),
    "Relu has none": ("(float[1,8] x) => (y) { y = Relu(x) }", 0),
    "MaxPool has none": (
        "(float[1,8,4,4] x) => (y) { y = MaxPool<kernel_shape=[2,2]>(x) }",
        0,
    ),
    "an If counts its larger branch": (
        """(float[4,20] x, bool c, float[20,7] w, float[20,9] v) => (y) {
             y = If (c) <
               then_branch = t () => (float[4,7] a) { a = MatMul(x, w) },
               else_branch = e () => (float[4,7] b) { p = MatMul(x, v)  b = MatMul(x, w) }> }""",
        4 * 20 * (7 + 9),
    ),
}
TOTALS = {
    "ad_autoencoder_mlperf": 0.3e6,
    "cifar10_resnet20_jpegft": 41e6,
    "cifar10_resnet56_jpegft": 126e6,
    "cifar10_resnet8_mlperf": 12.5e6,
    "coco_yolox_nano_416": 523e6,
    "imagenet_mobilenet_v1_0.25_128": 14e6,
    "imagenet_mobilenet_v1_0.25_224_fp32": 41e6,
    "imagenet_mobilenet_v2_1.0_224": 301e6,
    "kws_dscnn_mlperf": 2.7e6,
    "mnist_cnn": 0.8e6,
}
"""Published totals of the shared networks (their INDEX.md), two or three digits each."""


def parse(graph: str) -> Model:
    text = f'<ir_version: 8, opset_import: ["" : 18]> test {graph}'
    return Model(ir.from_proto(onnx.parser.parse_model(text)))


@pytest.mark.parametrize(("graph", "count"), CASES.values(), ids=CASES)
def test_macs_by_hand(graph: str, count: int) -> None:
    assert sum(macs(parse(graph)).values()) == count


@pytest.mark.shared
def test_a_recurrent_node_in_a_branch_counts(shared: Path) -> None:
    model = load(shared / "models" / "silero_vad_16k_op15.onnx", input=["input=1x512"])
    lstm = 4 * 128 * (128 + 128)
    assert macs(model)["/model/decoder/If_1_output_0"] == lstm


def test_macs_follow_the_batch_that_the_user_gives(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 18]> test '
    text += "(float[N,20] x, float[20,7] w) => (float[N,7] y) { y = MatMul(x, w) }"
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    one = sum(macs(load(tmp_path / "m.onnx")).values())
    assert one == 20 * 7
    assert sum(macs(load(tmp_path / "m.onnx", input=["x=5x20"])).values()) == 5 * one


@pytest.mark.shared
@pytest.mark.parametrize("name", TOTALS)
def test_macs_of_real_networks(name: str, shared: Path) -> None:
    found = sum(macs(load(shared / "models" / f"{name}.onnx")).values())
    unit = 10 ** (len(str(int(TOTALS[name]))) - (3 if TOTALS[name] > 1e8 else 2))
    assert abs(found - TOTALS[name]) <= max(unit, 0.05e6)


KINDS = {
    "conv": CONV,
    "depthwise": CASES["Conv, depthwise"][0],
    "grouped": "(float[1,8,9,9] x, float[8,4,3,3] w) => (y) { y = Conv<group=2>(x, w) }",
    "gemm": CASES["Gemm"][0],
    "recurrent": CASES["LSTM"][0],
    "pool": CASES["MaxPool has none"][0],
    "elementwise": CASES["Relu has none"][0],
    "layout": "(float[1,8] x) => (y) { y = Transpose(x) }",
    "reduce": "(float[1,8] x) => (y) { y = Softmax(x) }",
    "control": CASES["an If counts its larger branch"][0],
    "other": "(float[8] x) => (y) { y = Det(x) }",
}


@pytest.mark.parametrize(("family", "graph"), KINDS.items())
def test_every_family_has_its_operator(family: str, graph: str) -> None:
    model = parse(graph)
    facts = {} if family == "other" else model.facts
    assert kind(next(iter(model.nodes.values())), facts) == family
