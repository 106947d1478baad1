"""What the stages make of a request before any pass runs."""

from pathlib import Path

import pytest

from splitc import pipeline
from splitc.request import Request
from splitc.stages import steps_of
from tests.networks import model

RULED = 'quantize{rules = "tensorrt"}'
PIPELINES = {
    "onnxruntime takes any form": (
        "quantize{symmetric = false}",
        {},
        "quantize{symmetric = false}",
    ),
    "tensorrt takes one": ("quantize{symmetric = false}", {"tail_backend": "tensorrt"}, RULED),
    "so does tensorrt-rtx": ("quantize", {"tail_backend": "tensorrt-rtx"}, RULED),
    "but not of the head": (
        'quantize{scope = "head"}',
        {"tail_backend": "tensorrt"},
        'quantize{scope = "head"}',
    ),
    "the wire is a pass": ("simplify", {"wire": "int8+zstd"}, "simplify, narrow-boundary"),
    "in half floats too": ("", {"wire": "fp16"}, 'narrow-boundary{dtype = "float16"}'),
    "a codec is none": ("simplify", {"wire": "zstd"}, "simplify"),
}


@pytest.mark.parametrize(("typed", "more", "runs"), PIPELINES.values(), ids=PIPELINES)
def test_steps(tmp_path: Path, typed: str, more: dict[str, str], runs: str) -> None:
    net = model("g (float[2] x) => (float[2] y) { y = Relu(x) }", tmp_path)
    steps = steps_of(Request(passes=typed, **more), net)  # type: ignore[arg-type]
    assert pipeline.text(steps) == runs
