"""How to train, as data: a TOML file whose keys are the fields of `Recipe`, all with defaults."""

import dataclasses
import hashlib
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitc.errors import RequestError, did_you_mean

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "step", "one-cycle")
LOSSES = ("cross-entropy", "distill", "match")
DEVICES = ("cpu", "cuda")
_MILESTONES = ((0.75, 0.01), (0.5, 0.1))
_WARM_UP, _FLOOR, _START = 0.3, 1e-4, 1 / 25


@dataclass(frozen=True)
class Recipe:
    """A training run.

    `learning_rate`: the largest that the schedule reaches. `momentum`: of sgd, and adam's decay
    of the mean. `weight_decay`: of weights, not of vectors (biases, scales). `epochs`: times
    through the data. `batch`: samples a step, at most. `loss`: 'cross-entropy' with the labels,
    'distill' from the original network (and the labels, if any), 'match' its outputs.
    `freeze`: patterns (``*``, ``?``) of parameter or initializer names that stay as they are.
    The defaults are gentle: a network whose BatchNorms are folded diverges at larger steps.
    """

    optimizer: str = "adam"
    learning_rate: float = 1e-4
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "cosine"
    epochs: int = 4
    batch: int = 64
    loss: str = "distill"
    freeze: tuple[str, ...] = ()
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "freeze", tuple(self.freeze))
        choices = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "loss": LOSSES}
        for key, known in {**choices, "device": DEVICES}.items():
            value = getattr(self, key)
            if value not in known:
                hint = did_you_mean(value, known)
                raise RequestError(f"unknown {key} {value!r} in a recipe", hint=hint)
        for key, low, high, shown in _RANGES:
            if not low <= getattr(self, key) <= high:
                raise RequestError(f"{key} = {getattr(self, key)} in a recipe", hint=shown)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the fields as JSON."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of a step, counted from 0.

        cosine: ½(1 + cos(π·step/steps)) (I. Loshchilov, F. Hutter, "SGDR", ICLR 2017, without
        restarts). step: a tenth from half of the steps on, a hundredth from three quarters.
        one-cycle: linear from 1/25 to 1 in the first 30 %, then a cosine down to 1/10⁴ (after
        L. Smith, N. Topin, "Super-convergence", 2018).
        """
        done = step / steps
        if self.schedule == "cosine":
            return self.learning_rate * _half_cosine(done)
        if self.schedule == "step":
            return self.learning_rate * next((f for at, f in _MILESTONES if done >= at), 1.0)
        if self.schedule == "one-cycle":
            return self.learning_rate * _one_cycle(done)
        return self.learning_rate


_TINY = math.nextafter(0, 1)
_RANGES = (
    ("learning_rate", _TINY, 1e6, "a number above 0"),
    ("momentum", 0, math.nextafter(1, 0), "from 0 to below 1"),
    ("weight_decay", 0, 1e6, "0 or more"),
    ("epochs", 1, 10**6, "1 or more"),
    ("batch", 1, 10**9, "1 or more"),
    ("seed", 0, 2**63 - 1, "0 or more"),
)


def _half_cosine(done: float) -> float:
    return (1 + math.cos(math.pi * done)) / 2


def _one_cycle(done: float) -> float:
    if done < _WARM_UP:
        return _START + (1 - _START) * done / _WARM_UP
    return _FLOOR + (1 - _FLOOR) * _half_cosine((done - _WARM_UP) / (1 - _WARM_UP))


def recipe(source: str | Path | Mapping[str, Any]) -> Recipe:
    """Read a recipe from a TOML file, or take its keys from a mapping.

    Raises `RequestError` for a file that cannot be read, an unknown key, a value of another type
    or out of range.
    """
    if isinstance(source, Mapping):
        return _made(source, "")
    try:
        table = tomllib.loads(Path(source).read_text("utf-8"))
    except OSError as error:
        text = f"cannot read the recipe: {error.strerror or error}"
        raise RequestError(text, where=str(source)) from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"cannot read the recipe: {error}", where=str(source)) from error
    return _made(table, str(source))


def _made(table: Mapping[str, Any], where: str) -> Recipe:
    kinds = {f.name: type(f.default) for f in dataclasses.fields(Recipe)}
    for key in sorted(table.keys() - kinds.keys()):
        hint = did_you_mean(key, kinds)
        raise RequestError(f"a recipe has no key {key!r}", where=where, hint=hint)
    try:
        return Recipe(**{key: _value(key, value, kinds[key]) for key, value in table.items()})
    except RequestError as error:
        error.where = error.where or where
        raise


def _value(key: str, value: object, kind: type) -> Any:
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is tuple and isinstance(value, list | tuple):
        if all(isinstance(item, str) for item in value):
            return tuple(value)
    elif isinstance(value, kind) and not isinstance(value, bool):
        return value
    wanted = {float: "a number", int: "a whole number", str: "text", tuple: "a list of texts"}
    raise RequestError(f"{key} = {value!r:.80} in a recipe", hint=f"{key} is {wanted[kind]}")
