"""The contract every registered pass signs. Registering a pass enrols it here."""

import pkgutil
from dataclasses import MISSING, fields
from pathlib import Path

import numpy as np
import pytest

import splitc.passes
from splitc import pipeline
from splitc.comparison import relative_error
from splitc.execute import evaluate
from splitc.feeds import draw_inputs
from splitc.pipeline import Pass
from tests.networks import random_model

NAMES = sorted(pipeline.BUILT_IN)
every_pass = pytest.mark.parametrize("name", NAMES)
SEEDS = (1, 6, 11)
TOLERANCE = 1e-5


def whole(name: str) -> Pass:
    """Make the pass with its default options; those that need one are tested elsewhere."""
    made = pipeline.get(name)
    needed = [f.name for f in fields(made) if f.default is f.default_factory is MISSING]
    if needed:
        pytest.skip(f"{name} needs {needed}: its own test runs it")
    return made()


def exact(name: str) -> Pass:
    """Make the pass; one that may change what the model computes is tested elsewhere."""
    if not pipeline.get(name).exact:
        pytest.skip(f"{name} is lossy: its own test runs it")
    return whole(name)


def test_every_file_in_passes_is_registered() -> None:
    files = {module.name for module in pkgutil.iter_modules(splitc.passes.__path__)}
    assert files == {name.replace("-", "_") for name in NAMES}
    for name in NAMES:
        found = pipeline.get(name)
        assert found.name == name
        assert found.__name__.lower() == name.replace("-", "")
        assert isinstance(found.exact, bool)
        assert found.__doc__


@every_pass
@pytest.mark.parametrize("seed", SEEDS)
def test_keeps_meaning_interface_and_the_model_given(name: str, seed: int, tmp_path: Path) -> None:
    before = random_model(seed, tmp_path)
    print_ = before.fingerprint()
    after = exact(name).run(before)
    assert before.fingerprint() == print_, "the pass changed the model that it was given"
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    after.check()
    feeds = draw_inputs(before, seed)
    want, got = evaluate(before, feeds), evaluate(after, feeds)
    assert all(relative_error(got[n], want[n]) <= TOLERANCE for n in want)


@every_pass
@pytest.mark.parametrize("seed", SEEDS)
def test_names_that_survive_carry_the_same_value(name: str, seed: int, tmp_path: Path) -> None:
    before = random_model(seed, tmp_path)
    after = exact(name).run(before)
    both = [t for t in after.graph.producer if t in before.graph.producer and t in before.facts]
    assert both
    feeds = draw_inputs(before, seed)
    old, new = evaluate(before, feeds, both), evaluate(after, feeds, both)
    for tensor in both:
        np.testing.assert_allclose(new[tensor], old[tensor], rtol=1e-4, atol=1e-5, err_msg=tensor)


@every_pass
def test_reaches_a_fixed_point(name: str, tmp_path: Path) -> None:
    step = exact(name)
    once = step.run(random_model(1, tmp_path))
    assert step.run(once).fingerprint() == once.fingerprint()


@every_pass
def test_text_round_trips(name: str) -> None:
    made = whole(name)
    (step,) = pipeline.parse(name)
    assert step == made
    assert pipeline.parse(f" {name} ,{name}") == (step, step)
