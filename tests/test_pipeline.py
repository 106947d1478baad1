"""Pipelines as text, and what the runner checks."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest

from splitc import pipeline
from splitc.errors import PassError
from splitc.model import Model
from tests.networks import model
from tests.registered import register

TEXT = "g (float[2] x) => (float[2] y) { a = Relu(x)  y = Neg(a) }"


@dataclass(frozen=True)
class Scale:
    """Takes options, changes nothing."""

    name: ClassVar[str] = "scale"
    exact: ClassVar[bool] = True
    ratio: float = 1.0
    side: str = "head"

    def run(self, model: Model) -> Model:
        return model.clone()


@dataclass(frozen=True)
class Rename:
    """Breaks the interface."""

    name: ClassVar[str] = "rename"
    exact: ClassVar[bool] = True

    def run(self, model: Model) -> Model:
        copy = model.clone()
        copy.ir.graph.outputs[0].name = "z"
        return copy


@dataclass(frozen=True)
class Break:
    """Leaves an invalid graph."""

    name: ClassVar[str] = "break"
    exact: ClassVar[bool] = True

    def run(self, model: Model) -> Model:
        copy = model.clone()
        next(iter(copy.ir.graph)).op_type = "NoSuchOperator"
        return copy


@pytest.fixture(autouse=True)
def more_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, Scale, Rename, Break)


def test_options_are_an_inline_table() -> None:
    text = ' scale{ratio = 0.5, side = "a, } b"} ,scale'
    assert pipeline.parse(text) == (Scale(0.5, "a, } b"), Scale())
    assert pipeline.parse("  ") == ()


WRONG = {
    "skale": ("unknown pass 'skale'", "did you mean 'scale'", 0),
    "scale, skale": ("unknown pass", "", 7),
    "scale{rato = 1}": ("no option 'rato'", "did you mean 'ratio'", 0),
    "rename{a = 1}": ("no option 'a'", "takes no options", 0),
    "scale{ratio = }": ("cannot read options: Invalid value\n", "options are TOML", 0),
    "scale{ratio = True}": ("cannot read options", "mixed = true", 0),
    "scale{ratio = 1": ("no closing", "", 0),
    "scale scale": ("expected ','", "", 6),
    "scale,, scale": ("expected 'name'", "", 6),
}


@pytest.mark.parametrize("text", WRONG)
def test_errors_point_at_the_place(text: str) -> None:
    message, hint, column = WRONG[text]
    with pytest.raises(PassError, match=message) as caught:
        pipeline.parse(text)
    assert hint in caught.value.hint
    assert caught.value.where == f"{text}\n{' ' * column}^"


def test_the_runner_checks_each_pass(tmp_path: Path) -> None:
    whole = model(TEXT, tmp_path)
    with pytest.raises(PassError, match="pass 'rename' changed the outputs"):
        pipeline.run([Scale(), Rename()], whole)
    with pytest.raises(PassError, match="pass 'break' broke the graph"):
        pipeline.run([Break()], whole)


def test_observers_see_each_step_and_pins_are_taken_back(tmp_path: Path) -> None:
    whole = model(TEXT, tmp_path)
    seen: list[tuple[str, int, bool]] = []

    def observe(step: pipeline.Pass, before: Model, after: Model, seconds: float) -> None:
        seen.append((step.name, len(after.outputs), seconds >= 0))

    after = pipeline.run([Scale(), Scale()], whole, observe, pin=["a"])
    assert seen == [("scale", 2, True), ("scale", 2, True)]
    assert after.outputs == whole.outputs
    assert after.fingerprint() == whole.fingerprint()
    assert pipeline.run([], replace(whole, notes=("n",))).notes == ("n",)
