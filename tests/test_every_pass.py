"""The contract every registered pass signs. Registering a pass enrols it here."""

import pkgutil
from dataclasses import MISSING, fields
from pathlib import Path

import numpy as np
import pytest

import splitc.passes
from splitc import pipeline
from splitc.comparison import relative_error
from splitc.errors import PassError
from splitc.execute import evaluate
from splitc.feeds import draw_inputs
from splitc.pipeline import Pass, Resources
from splitc.scope import Boundary
from tests.networks import random_model

NAMES = sorted(pipeline.BUILT_IN)
EXACT = [name for name in NAMES if pipeline.get(name).exact]
every_pass = pytest.mark.parametrize("name", NAMES)
every_exact_pass = pytest.mark.parametrize("name", EXACT)
every_lossy_pass = pytest.mark.parametrize("name", sorted({*NAMES} - {*EXACT}))
NEEDS = {"share-weights": "share-weights{bits = 16}"}
SEEDS = (1, 6, 11)
TOLERANCE = 1e-5


def whole(name: str) -> Pass:
    """Make the pass with its default options; those that need one are tested elsewhere."""
    made = pipeline.get(name)
    needed = [f.name for f in fields(made) if f.default is f.default_factory is MISSING]
    if needed:
        pytest.skip(f"{name} needs {needed}: its own test runs it")
    return made()


def test_every_file_in_passes_is_registered() -> None:
    files = {module.name for module in pkgutil.iter_modules(splitc.passes.__path__)}
    assert files == {name.replace("-", "_") for name in NAMES}
    for name in NAMES:
        found = pipeline.get(name)
        assert found.name == name
        assert found.__name__.lower() == name.replace("-", "")
        assert isinstance(found.exact, bool)
        assert found.__doc__


@every_exact_pass
@pytest.mark.parametrize("seed", SEEDS)
def test_keeps_meaning_interface_and_the_model_given(name: str, seed: int, tmp_path: Path) -> None:
    before = random_model(seed, tmp_path)
    print_ = before.fingerprint()
    after = whole(name).run(before)
    assert before.fingerprint() == print_, "the pass changed the model that it was given"
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    after.check()
    feeds = draw_inputs(before, seed)
    want, got = evaluate(before, feeds), evaluate(after, feeds)
    assert all(relative_error(got[n], want[n]) <= TOLERANCE for n in want)


@every_lossy_pass
@pytest.mark.parametrize("seed", SEEDS)
def test_a_lossy_pass_keeps_the_interface_and_the_model_given(
    name: str, seed: int, tmp_path: Path
) -> None:
    """It may find nothing to do (a `PassError`); what it makes is sound, and no number is lost."""
    step = lossy(name)
    before = random_model(seed, tmp_path)
    print_ = before.fingerprint()
    try:
        after = pipeline.run((step,), before)
    except PassError:
        assert before.fingerprint() == print_
        return
    assert before.fingerprint() == print_, "the pass changed the model that it was given"
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    feeds = draw_inputs(before, seed)
    want, got = evaluate(before, feeds), evaluate(after, feeds)
    for output, values in want.items():
        finite = np.isfinite(values.astype(np.float64))
        assert np.isfinite(got[output].astype(np.float64))[finite].all()


def lossy(name: str) -> Pass:
    """Make a lossy pass, with what it needs to do anything at all."""
    if name == "prune":
        pytest.importorskip("torch_pruning")
    (made,) = pipeline.parse(NEEDS.get(name, name))
    return pipeline.bind(made, Resources(boundary=Boundary(())))


@every_exact_pass
@pytest.mark.parametrize("seed", SEEDS)
def test_names_that_survive_carry_the_same_value(name: str, seed: int, tmp_path: Path) -> None:
    before = random_model(seed, tmp_path)
    after = whole(name).run(before)
    both = [t for t in after.graph.producer if t in before.graph.producer and t in before.facts]
    assert both
    feeds = draw_inputs(before, seed)
    old, new = evaluate(before, feeds, both), evaluate(after, feeds, both)
    for tensor in both:
        np.testing.assert_allclose(new[tensor], old[tensor], rtol=1e-4, atol=1e-5, err_msg=tensor)


@every_exact_pass
def test_reaches_a_fixed_point(name: str, tmp_path: Path) -> None:
    step = whole(name)
    once = step.run(random_model(1, tmp_path))
    assert step.run(once).fingerprint() == once.fingerprint()


@every_pass
def test_text_round_trips(name: str) -> None:
    made = whole(name)
    (step,) = pipeline.parse(name)
    assert step == made
    assert pipeline.parse(f" {name} ,{name}") == (step, step)
