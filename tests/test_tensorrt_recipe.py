"""Recipes of the TensorRT backend: read strictly, and for which versions and GPUs they hold."""

from pathlib import Path

import pytest

from splitc import backend
from splitc.backends.tensorrt import recipe
from splitc.errors import VerifyError
from tests.test_tensorrt import A100, read, tail

WRONG = {
    "no json": (b"{", "malformed"),
    "unknown key": (b'{"version": 1, "more": 2}', "malformed"),
    "another version": (None, "version 9 is unknown"),
}


@pytest.mark.parametrize(("text", "why"), WRONG.values(), ids=WRONG)
def test_a_recipe_is_read_strictly(text: bytes | None, why: str, tmp_path: Path) -> None:
    if text is None:
        made = backend.get("tensorrt").compile(tail(tmp_path), A100)
        text = made.files[recipe.NAME].replace(b'"version": 1', b'"version": 9')
    with pytest.raises(VerifyError, match=why):
        recipe.loads(text)


HOLDS = {
    "oldest": ("10.12.0.36", "8.0", None),
    "newest": ("11.4.0.106", "8.0", None),
    "too old": ("10.9.0.34", "8.0", "TensorRT 10.9.0.34 is not in"),
    "too new": ("12.0", "8.0", "TensorRT 12.0 is not in"),
    "another GPU": ("11.4", "9.0", "this GPU has compute capability 9.0"),
}


@pytest.mark.parametrize(("version", "gpu", "why"), HOLDS.values(), ids=HOLDS)
def test_where_a_recipe_holds(version: str, gpu: str, why: str | None, tmp_path: Path) -> None:
    made = read(backend.get("tensorrt").compile(tail(tmp_path), A100))
    found = recipe.holds_for(made, version, gpu)
    assert (found is None) == (why is None)
    assert why is None or why in str(found)
