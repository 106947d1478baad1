"""Recipes: keys, defaults, what is refused, and the rates of a schedule."""

import math
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs splitc[torch]")


from splitc.errors import RequestError  # noqa: E402
from splitc.train import (  # noqa: E402
    Recipe,
    recipe,
)

pytestmark = pytest.mark.torch


SCHEDULES = {
    "constant": [1, 1, 1, 1],
    "cosine": [1, (1 + math.cos(math.pi / 4)) / 2, 0.5, (1 + math.cos(3 * math.pi / 4)) / 2],
    "step": [1, 1, 0.1, 0.01],
    "one-cycle": [
        0.04,
        0.84,
        *(1e-4 + 0.9999 * (1 + math.cos(a * math.pi / 14)) / 2 for a in (4, 9)),
    ],
}


@pytest.mark.parametrize(("name", "wanted"), SCHEDULES.items(), ids=SCHEDULES)
def test_schedules(name: str, wanted: list[float]) -> None:
    plan = Recipe(schedule=name, learning_rate=2)
    assert [plan.rate(step, 4) for step in range(4)] == pytest.approx([2 * w for w in wanted])


def test_a_recipe_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('optimizer = "adamw"\nlearning_rate = 1\nfreeze = ["stem*"]\nepochs = 3\n')
    made = recipe(path)
    assert made == Recipe(optimizer="adamw", learning_rate=1.0, freeze=("stem*",), epochs=3)
    assert made.digest == recipe({**vars(made), "freeze": ["stem*"]}).digest
    assert made.digest != recipe({}).digest
    assert recipe({}) == Recipe()
    assert hash(made) == hash(recipe(str(path)))


RECIPES = {
    "another key": ("lr = 1", "no key 'lr'"),
    "a near key": ('optimiser = "sgd"', "did you mean 'optimizer'?"),
    "another optimizer": ('optimizer = "sdg"', "did you mean 'sgd'?"),
    "another schedule": ('schedule = "cos"', "cosine"),
    "another loss": ('loss = "kd"', "cross-entropy, distill, match"),
    "another device": ('device = "tpu"', "unknown device 'tpu'"),
    "text for a number": ('epochs = "3"', "epochs is a whole number"),
    "a float for a whole number": ("epochs = 3.5", "epochs is a whole number"),
    "a truth for a number": ("learning_rate = true", "learning_rate is a number"),
    "numbers to freeze": ("freeze = [1]", "freeze is a list of texts"),
    "text to freeze": ('freeze = "a"', "freeze is a list of texts"),
    "no rate": ("learning_rate = 0", "a number above 0"),
    "no number": ("learning_rate = nan", "a number above 0"),
    "too much momentum": ("momentum = 1.0", "from 0 to below 1"),
    "negative decay": ("weight_decay = -0.1", "0 or more"),
    "no epochs": ("epochs = 0", "1 or more"),
    "no batch": ("batch = 0", "1 or more"),
    "negative seed": ("seed = -1", "0 or more"),
    "no TOML": ("epochs: 3", "cannot read the recipe"),
}


@pytest.mark.parametrize(("text", "reason"), RECIPES.values(), ids=RECIPES)
def test_a_recipe_that_cannot_be_read(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(RequestError) as caught:
        recipe(path)
    assert reason in str(caught.value)
    assert "r.toml" in str(caught.value)


def test_no_recipe_there(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot read the recipe: No such file"):
        recipe(tmp_path / "none.toml")


def test_reading_a_recipe_leaves_torch_alone() -> None:
    import subprocess
    import sys

    code = "import sys; from splitc.train import recipe, FolderRecorder; recipe({}); "
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
