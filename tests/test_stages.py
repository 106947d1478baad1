"""What the stages make of a request before any pass runs."""

from pathlib import Path

import pytest

import splitc
from splitc import pipeline
from splitc.errors import RequestError
from splitc.request import Request
from splitc.stages import _rounds, steps_of
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


ROUNDS = {
    "simplify, quantize": (["simplify", "quantize"], []),
    'simplify, prune{scope = "head"}, quantize': (["simplify"], ["prune", "quantize"]),
    'quantize, fp16{scope = "tail"}': (["quantize"], ["fp16"]),
    'prune{scope = "head"}, simplify': (["simplify"], ["prune"]),
}


@pytest.mark.parametrize(("typed", "rounds"), ROUNDS.items())
def test_a_lossy_pass_follows_the_scoped_one_in_front_of_it(
    tmp_path: Path, typed: str, rounds: tuple[list[str], list[str]]
) -> None:
    net = model("g (float[2] x) => (float[2] y) { y = Relu(x) }", tmp_path)
    made = _rounds(pipeline.parse(typed), net)
    assert tuple([step.name for step in part] for part in made) == rounds


def test_a_cut_that_is_not_there_is_refused_before_lossy_passes_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from splitc import pipeline as runner

    def late(*_: object, **__: object) -> None:
        raise AssertionError("a pass ran")

    net = model("g (float[4] x) => (float[4] y) { a = Relu(x)  y = Exp(a) }", tmp_path)
    monkeypatch.setattr(runner, "run", late)
    with pytest.raises(RequestError, match="no tensor called 'b'"):
        splitc.plan(
            net, head="raspberry-pi-4", tail="nvidia-a100", link="wifi", cut="b", wire="fp16"
        )
