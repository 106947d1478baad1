"""The input as the server could get it: 8-bit pixels, or a JPEG."""

from pathlib import Path

import onnx
import onnx.parser
import pytest

import splitc
from splitc import cost
from splitc.errors import RequestError
from splitc.model import Model
from splitc.plan.baselines import image_inputs, jpeg_bytes
from splitc.plan.choose import plan
from splitc.plan.entry import Entry, Plan
from splitc.scenario import Scenario, device, link

HEADER = '<ir_version: 10, opset_import: ["": 20]>\n'
IMAGE = """net (float[batch, 3, 32, 32] image) => (float[batch, 3, 16, 16] y) {
  y = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (image)
}"""


def loaded(folder: Path, text: str) -> Model:
    onnx.save(onnx.parser.parse_model(HEADER + text), folder / "net.onnx")
    return splitc.load(folder / "net.onnx")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return loaded(tmp_path_factory.mktemp("net"), IMAGE)


def scenario() -> Scenario:
    head, tail, wire = device("raspberry-pi-4"), device("nvidia-a100"), link("wifi")
    return Scenario.of(head=head, tail=tail, link=wire)


def baselines(found: Plan) -> dict[str | None, Entry]:
    return {e.codec: e for e in found.ranked if not e.emittable}


def test_an_image_competes_as_u8_and_as_jpeg(image: Model) -> None:
    found = plan(image, scenario(), top=0)
    u8, jpeg = (baselines(found)[codec].price for codec in ("u8", "jpeg"))
    raw = next(e for e in found.ranked if e.codec == "f32").price
    assert raw.wire_bytes - u8.wire_bytes == 3 * 3 * 32 * 32
    assert jpeg.wire_bytes < u8.wire_bytes < raw.wire_bytes
    assert raw.addends["uplink_s"] / u8.addends["uplink_s"] == pytest.approx(
        raw.wire_bytes / u8.wire_bytes
    )
    assert jpeg.addends["tail_s"] == raw.addends["tail_s"]
    assert any("--input-codec jpeg:BYTES" in note for note in found.notes)


def test_a_given_jpeg_size_is_taken_as_it_is(image: Model) -> None:
    sizes = [
        baselines(plan(image, scenario(), input_codec=f"jpeg:{n}"))["jpeg"] for n in (5_000, 6_000)
    ]
    assert sizes[1].price.wire_bytes - sizes[0].price.wire_bytes == 1_000
    assert not plan(image, scenario(), input_codec="jpeg:5000").notes


def test_what_is_no_image_has_no_codec_unless_it_is_named(tmp_path: Path) -> None:
    text = "net (float[1, 64] x, float[1, 64] z) => (float[1, 64] y) { y = Add(x, z) }"
    model = loaded(tmp_path, text)
    assert baselines(plan(model, scenario())) == {}
    assert set(baselines(plan(model, scenario(), input_codec="u8"))) == {"u8"}
    given = baselines(plan(model, scenario(), input_codec="jpeg:77"))
    frame = cost.table(model, scenario()).wire
    record = frame.bytes["x"] - 64 * 4
    assert given["jpeg"].price.wire_bytes == frame.frame_bytes + 2 * (77 + record)
    with pytest.raises(RequestError, match="how large its JPEG is must be given"):
        plan(model, scenario(), input_codec="jpeg")
    for wrong in (
        "png",
        "jpeg:",
        "jpeg:0",
        "jpeg:-1",
        "jpeg:1.5",
        "jpeg:²",
        "jpeg:" + "9" * 400,
        "u8:3",
        "",
    ):
        with pytest.raises(RequestError, match="unknown input codec"):
            plan(model, scenario(), input_codec=wrong)


SHAPES = {
    "colour": ("float[1, 3, 8, 8]", True),
    "grey": ("float[1, 1, 64, 48]", True),
    "half precision": ("float16[1, 3, 8, 8]", True),
    "narrow": ("float[1, 3, 4, 64]", False),
    "channels last": ("float[1, 64, 64, 3]", False),
    "a feature map": ("float[1, 16, 64, 64]", False),
    "integers": ("uint8[1, 3, 64, 64]", False),
    "a sequence": ("float[1, 3, 64]", False),
}


@pytest.mark.parametrize(("kind", "looks"), SHAPES.values(), ids=SHAPES)
def test_what_looks_like_an_image(tmp_path: Path, kind: str, looks: bool) -> None:
    model = loaded(tmp_path, f"net ({kind} x) => ({kind} y) {{ y = Identity(x) }}")
    found = image_inputs(cost.table(model, scenario()))
    assert found == (("x",) if looks else ())


def test_the_jpeg_estimate_goes_through_both_data_sets() -> None:
    """Mean bytes a sample: CIFAR-10 1,790, ImageNet at 224 pixels 44,770."""
    assert jpeg_bytes((1, 3, 32, 32)) == pytest.approx(1_790, rel=1e-3)
    assert jpeg_bytes((1, 3, 224, 224)) == pytest.approx(44_770, rel=1e-3)
    assert jpeg_bytes((4, 3, 32, 32)) == 4 * jpeg_bytes((1, 3, 32, 32))
    assert jpeg_bytes((1, 1, 32, 32)) < jpeg_bytes((1, 3, 32, 32))
