"""The training loop: the same recipe, data and network give the same weights, interrupted or not.

On the CPU, with the same torch and number of threads, bit for bit. Data stay where they are; a
batch is the only copy.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from splitc.data import Dataset
from splitc.errors import RequestError
from splitc.quiet import quiet
from splitc.train import losses, setting
from splitc.train.interrupt import deferred
from splitc.train.losses import Loss
from splitc.train.recipes import Recipe
from splitc.train.recorder import SILENT, Recorder
from splitc.train.teacher import Teacher, outputs_of

_MEASURED = 512

Augment = Callable[[tuple[Tensor, ...]], Sequence[Tensor]]
"""Changes the inputs of one batch; draws from torch's global generator, which is seeded."""


def fit(
    module: nn.Module,
    data: Dataset,
    recipe: Recipe,
    *,
    loss: Loss | None = None,
    teacher: nn.Module | None = None,
    augment: Augment | None = None,
    recorder: Recorder = SILENT,
    micro: int | None = None,
) -> "Outcome":
    """Train `module` in place by `recipe`; it is called with the inputs of `data` in order.

    Where the loss is larger afterwards than before, on up to 512 of the samples, the weights from
    before are put back: what comes of `fit` is never worse than what went in.

    `loss` replaces the recipe's. `teacher`: the original network, never changed. `micro`: the
    most samples that `module` takes at once; larger batches are gone through in pieces whose
    gradients are summed. Afterwards the module is in evaluation mode, on the device it came from.

    Ctrl-C saves a checkpoint and raises `KeyboardInterrupt`. Raises `RequestError` for a loss
    without its labels or teacher, a frozen name that is not there, a device that is not there, a
    checkpoint of something else, or a loss that is no number.
    """
    assert teacher is not module, "the teacher would change while it teaches"
    _check(data, recipe, loss, teacher)
    names = setting.trained(module, recipe.freeze)
    device = setting.device(recipe.device)
    key = _key(module, data, recipe, loss, teacher)
    chosen = loss or losses.NAMED[recipe.loss]
    with (
        setting.seeded(recipe, device),
        setting.placed(module, teacher, device),
        setting.switched(module, names),
    ):
        run = _Run(module, data, recipe, names, chosen, device, key, augment, recorder, micro)
        run.begin(teacher)
        before, kept = run.measure(), {n: t.clone() for n, t in module.state_dict().items()}
        run.take_up()
        run.go()
        outcome = Outcome(before, run.measure())
        if outcome.worse:
            module.load_state_dict(kept)
        return outcome


@dataclass(frozen=True)
class Outcome:
    """The loss in evaluation mode, without augmentation, before and after training."""

    before: float
    after: float

    @property
    def worse(self) -> bool:
        """Whether training made it worse: the weights are then those from before."""
        return not self.after <= self.before

    def note(self, name: str) -> tuple[str, ...]:
        """Return the line that the user of pass `name` must see, if there is one."""
        if not self.worse:
            return ()
        change = f"{self.before:.4g} to {self.after:.4g}"
        return (
            f"{name}: TRAINING MADE IT WORSE (loss {change}), its weights were thrown away; "
            "a smaller learning_rate or more data may help",
        )


def _check(data: Dataset, recipe: Recipe, loss: Loss | None, teacher: nn.Module | None) -> None:
    if loss is not None:
        return
    if recipe.loss == "cross-entropy" and not _classes(data):
        hint = "loss = 'distill' or 'match' trains without"
        message = "the loss 'cross-entropy' needs labels, whole numbers"
        raise RequestError(message, where=data.source, hint=hint)
    if recipe.loss in ("distill", "match") and teacher is None:
        raise RequestError(
            f"the loss {recipe.loss!r} needs a network to learn from", hint="loss = 'cross-entropy'"
        )


def _classes(data: Dataset) -> bool:
    return data.labels is not None and data.labels.dtype.kind in "iub"


def _key(
    module: nn.Module,
    data: Dataset,
    recipe: Recipe,
    loss: Loss | None,
    teacher: nn.Module | None,
) -> dict[str, str]:
    """Return what a checkpoint belongs to, in digests."""
    return {
        "recipe": recipe.digest,
        "loss": "" if loss is None else getattr(loss, "__qualname__", type(loss).__qualname__),
        "data": data.digest,
        "network": _digest(module.state_dict()),
        "teacher": "" if teacher is None else _digest(teacher.state_dict()),
    }


def _digest(state: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name, tensor in state.items():
        total.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        total.update(plain.view(torch.uint8).numpy().data)
    return total.hexdigest()


@dataclass
class _Run:
    """One training run: `done` of `total` steps."""

    module: nn.Module
    data: Dataset
    recipe: Recipe
    names: Sequence[str]
    loss: Loss
    device: torch.device
    key: Mapping[str, str]
    augment: Augment | None
    recorder: Recorder
    micro: int | None
    done: int = 0
    whole: bool = True
    """Whether the weights are those after a number of whole steps."""
    _order: tuple[int, list[NDArray[np.int64]]] = field(default=(-1, []))

    def begin(self, teacher: nn.Module | None) -> None:
        """Make the optimizer, take up a checkpoint, and let the teacher answer once."""
        self.inputs = [_tensor(array) for array in self.data.inputs.values()]
        useful = _classes(self.data) or self.loss not in losses.NAMED.values()
        self.labels = _tensor(self.data.labels) if useful and self.data.labels is not None else None
        self.steps = math.ceil(len(self.data) / self.recipe.batch)
        self.total = self.steps * self.recipe.epochs
        self.optimizer = setting.optimizer(self.module, self.names, self.recipe)
        self.size = min(self.micro or self.recipe.batch, self.recipe.batch)
        self.teacher = None if teacher is None else Teacher(teacher)
        if self.teacher is not None and self.augment is None:
            self.teacher.study(self.inputs, self.size, self.device)

    def take_up(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if (state := self.recorder.load()) is not None:
            self._restore(state)

    def measure(self) -> float:
        """Return the mean loss of evenly spread samples, in evaluation mode."""
        rows = np.unique(np.linspace(0, len(self.data) - 1, min(len(self.data), _MEASURED)))
        places = torch.from_numpy(rows.astype(np.int64))
        modes = [part.training for part in self.module.modules()]
        self.module.eval()
        total = 0.0
        with torch.no_grad():
            for start in range(0, len(places), self.size):
                piece = places[start : start + self.size]
                total += float(self._loss(piece, plain=True)) * len(piece)
        for part, mode in zip(self.module.modules(), modes, strict=True):
            part.training = mode
        return total / len(places)

    def go(self) -> None:
        """Train until it is done; on Ctrl-C save, if the weights are those of whole steps."""
        try:
            with deferred() as release:
                while self.done < self.total:
                    release()
                    self._step()
                release()
        except KeyboardInterrupt:
            if self.whole:
                self._save()
            raise

    def _step(self) -> None:
        self.whole = False
        value = self._descend(self._rows())
        self.done += 1
        self.whole = True
        epoch = (self.done - 1) // self.steps + 1
        random = ", ON RANDOM INPUTS" if self.data.drawn else ""
        detail = f"epoch {epoch} of {self.recipe.epochs}, loss {value:.4g}{random}"
        self.recorder.progress(self.done, self.total, detail)
        if self.done % self.steps == 0:
            self._save()

    def _rows(self) -> NDArray[np.int64]:
        """Return the samples of this step: a seeded shuffle of each epoch, in even parts."""
        epoch, place = divmod(self.done, self.steps)
        if self._order[0] != epoch:
            rng = np.random.default_rng([self.recipe.seed, epoch])
            parts = np.array_split(rng.permutation(len(self.data)), self.steps)
            self._order = (epoch, parts)
        return self._order[1][place]

    def _descend(self, rows: NDArray[np.int64]) -> float:
        """Make one step of the optimizer; return the loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(self.done, self.total)
        self.optimizer.zero_grad(set_to_none=True)
        value = 0.0
        for start in range(0, len(rows), self.size):
            piece = torch.from_numpy(rows[start : start + self.size])
            part = self._loss(piece) * (len(piece) / len(rows))
            part.backward()  # type: ignore[no-untyped-call]
            value += float(part.detach())
        if not math.isfinite(value):
            where = f"step {self.done + 1} of {self.total}"
            hint = f"a learning_rate below {self.recipe.learning_rate:g}"
            raise RequestError(f"the loss is {value}: training diverges", where=where, hint=hint)
        self.optimizer.step()
        return value

    def _loss(self, piece: Tensor, *, plain: bool = False) -> Tensor:
        inputs = tuple(tensor[piece].to(self.device) for tensor in self.inputs)
        if self.augment is not None and not plain:
            inputs = tuple(self.augment(inputs))
        labels = None if self.labels is None else self.labels[piece].to(self.device)
        answers = None if self.teacher is None else self.teacher(piece, inputs)
        return self.loss(outputs_of(self.module(*inputs)), answers, labels)

    def _save(self) -> None:
        on_gpu = self.device.type == "cuda"
        self.recorder.save(
            {
                "key": dict(self.key),
                "done": self.done,
                "total": self.total,
                "module": {name: t.detach().cpu() for name, t in self.module.state_dict().items()},
                "optimizer": self.optimizer.state_dict(),
                "generator": torch.get_rng_state(),
                "gpu_generator": torch.cuda.get_rng_state() if on_gpu else None,
            }
        )

    def _restore(self, state: Mapping[str, Any]) -> None:
        kept = state.get("key", {})
        other = [name for name, digest in self.key.items() if kept.get(name) != digest]
        if other:
            raise RequestError(
                f"the checkpoint belongs to another {' and another '.join(other)}",
                hint="run without --resume, or with what it was begun with",
            )
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done = int(state["done"])
        torch.set_rng_state(state["generator"])
        if self.device.type == "cuda" and state["gpu_generator"] is not None:
            torch.cuda.set_rng_state(state["gpu_generator"])


def _tensor(array: NDArray[Any]) -> Tensor:
    try:
        with quiet():  # a read-only array stays one: training never writes into data
            return torch.from_numpy(array)
    except TypeError as error:
        raise RequestError(f"torch cannot take an array of {array.dtype.name}") from error
