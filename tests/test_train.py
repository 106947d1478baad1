"""Training: recipes as data, losses that fall, and runs that a break does not change."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs splitc[torch]")

from torch import Tensor, nn  # noqa: E402

from splitc.data import Dataset  # noqa: E402
from splitc.errors import RequestError  # noqa: E402
from splitc.train import (  # noqa: E402
    FolderRecorder,
    Recipe,
    Silent,
    cross_entropy,
    distill,
    fit,
    match,
    recipe,
)

pytestmark = pytest.mark.torch
QUICK = Recipe(optimizer="sgd", epochs=2, batch=16, learning_rate=0.05, loss="cross-entropy")


def net(seed: int = 0, *, dropout: float = 0.25) -> nn.Sequential:
    """Make a small network with all that has a state: convolution, BatchNorm, dropout."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(96, 4),
        ).eval()


def shapes(count: int = 72, seed: int = 0) -> Dataset:
    """Draw noisy images of one of four bright quarters."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    images = rng.standard_normal((count, 1, 8, 8)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        image[0, 4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 1.5
    return Dataset({"x": images}, labels)


def bits(module: nn.Module) -> dict[str, bytes]:
    return {name: t.numpy().tobytes() for name, t in module.state_dict().items()}


def right(module: nn.Module, data: Dataset) -> float:
    with torch.no_grad():
        made = module(torch.from_numpy(data.inputs["x"])).argmax(1).numpy()
    assert data.labels is not None
    return float(np.mean(made == data.labels))


def trained(data: Dataset, plan: Recipe = QUICK, **more: Any) -> nn.Sequential:
    module = net()
    fit(module, data, plan, **more)
    return module


class Taped(Silent):
    """Remembers what it was told; raises `error` at step `stop`."""

    def __init__(self, stop: int = 0, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.stop, self.error = stop, error
        self.told: list[tuple[int, int, str]] = []
        self.kept: dict[str, Any] | None = None

    def progress(self, done: int, total: int, detail: str) -> None:
        self.told.append((done, total, detail))
        if done == self.stop:
            raise self.error

    def save(self, state: dict[str, Any]) -> None:
        self.kept = state


def test_it_learns_what_new_samples_show() -> None:
    module, seen = net(), shapes(400)
    assert right(module, shapes(400, seed=1)) < 0.5
    fit(module, seen, QUICK)
    assert right(module, shapes(400, seed=1)) > 0.9
    assert not module.training


def test_the_same_seed_gives_the_same_weights() -> None:
    data, torch_state = shapes(), torch.get_rng_state()
    first = bits(trained(data))
    assert bits(trained(data)) == first
    assert bits(trained(data, Recipe(**{**vars(QUICK), "seed": 1}))) != first
    assert torch.equal(torch.get_rng_state(), torch_state), "the caller's generator moved"


def test_progress_says_how_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 110.0, 110.1, 400.0, 400.1])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    told: list[tuple[str, str]] = []
    recorder = FolderRecorder(tmp_path, progress=lambda *said: told.append(said))
    recorder.load()
    for done in (1, 2, 3, 4, 11):
        recorder.progress(done, 11, "loss 1")
    assert told == [
        ("train", "step 1 of 11, loss 1"),
        ("train", "step 2 of 11, loss 1, about 90 s left"),
        ("train", "step 4 of 11, loss 1, about 12 min left"),
        ("train", "step 11 of 11, loss 1"),
    ]


def test_progress_shows_epoch_and_loss() -> None:
    tape = Taped()
    trained(shapes(), recorder=tape)
    assert [done for done, _, _ in tape.told] == list(range(1, 11))
    assert {total for _, total, _ in tape.told} == {10}
    assert tape.told[4][2].startswith("epoch 1 of 2, loss ")
    assert tape.told[5][2].startswith("epoch 2 of 2, loss ")
    drawn = Dataset(shapes().inputs, shapes().labels, drawn=True)
    trained(drawn, recorder=tape)
    assert tape.told[-1][2].endswith("ON RANDOM INPUTS")


def test_what_is_frozen_stays_as_it_is() -> None:
    before = bits(net())
    module = trained(shapes(), Recipe(**{**vars(QUICK), "freeze": ("0.*", "1.*")}))
    changed = {name for name, value in bits(module).items() if value != before[name]}
    assert changed == {"6.weight", "6.bias"}, "a frozen BatchNorm keeps its statistics too"
    assert all(p.requires_grad and p.grad is None for p in module.parameters())


def test_initializers_may_be_frozen_by_name() -> None:
    module = net()
    slots = {"0.weight": SimpleNamespace(initializer="stem/w"), "1.weight": "another thing"}
    object.__setattr__(module, "meta", {"parameters": slots})
    before = bits(module)
    fit(module, shapes(), Recipe(**{**vars(QUICK), "freeze": ("stem/*",)}))
    after = bits(module)
    assert after["0.weight"] == before["0.weight"]
    assert after["1.weight"] != before["1.weight"]


def test_freezing_nothing_or_everything_is_said() -> None:
    with pytest.raises(RequestError, match=r"nothing to freeze is called '6.weigth'") as caught:
        trained(shapes(), Recipe(freeze=("6.weigth",), loss="cross-entropy"))
    assert "did you mean '6.weight'?" in str(caught.value)
    with pytest.raises(RequestError, match="nothing is left to train"):
        trained(shapes(), Recipe(freeze=("*",), loss="cross-entropy"))


def objective(loss: Any, module: nn.Module, data: Dataset, teacher: nn.Module) -> float:
    x = torch.from_numpy(data.inputs["x"])
    labels = None if data.labels is None else torch.from_numpy(data.labels)
    with torch.no_grad():
        return float(loss((module(x),), (teacher(x),), labels))


@pytest.mark.parametrize(
    ("name", "loss"), [("cross-entropy", cross_entropy), ("distill", distill), ("match", match)]
)
def test_each_loss_lowers_its_objective(name: str, loss: Any) -> None:
    data, teacher = shapes(), trained(shapes(400, seed=2))
    before = bits(teacher)
    module = net(5, dropout=0)
    first = objective(loss, module, data, teacher)
    fit(module, data, Recipe(**{**vars(QUICK), "loss": name, "epochs": 8}), teacher=teacher)
    assert objective(loss, module, data, teacher) < 0.5 * first
    assert bits(teacher) == before


def test_distillation_follows_the_teacher_and_not_the_labels() -> None:
    """The teacher names the quarters in another order; without labels its order is learnt."""
    data, turned = shapes(400), np.array([1, 2, 3, 0])
    assert data.labels is not None
    teacher = trained(Dataset(data.inputs, turned[data.labels]))
    for name in ("distill", "match"):
        module = net(7)
        fit(module, Dataset(data.inputs), Recipe(**{**vars(QUICK), "loss": name}), teacher=teacher)
        test = shapes(300, seed=3)
        assert test.labels is not None
        assert right(module, Dataset(test.inputs, turned[test.labels])) > 0.9, name
        assert right(module, test) < 0.1, name


def test_the_teacher_answers_once_where_nothing_is_augmented() -> None:
    calls = []
    teacher = net(2)
    teacher.register_forward_hook(lambda *_: calls.append(1))
    data, plan = shapes(), Recipe(**{**vars(QUICK), "loss": "distill"})
    once = trained(data, plan, teacher=teacher)
    assert len(calls) == 5
    each = trained(data, plan, teacher=teacher, augment=lambda inputs: inputs)
    assert len(calls) == 5 + 10 + 10, "each step, and the loss before and after"
    for name, tensor in once.state_dict().items():
        torch.testing.assert_close(each.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


def test_pieces_of_a_batch_add_up() -> None:
    """Without BatchNorm and dropout the gradient of a batch is that of its pieces together."""
    plan = Recipe(loss="cross-entropy", epochs=1, batch=16)
    made = []
    for micro in (None, 1, 5):
        torch.manual_seed(0)
        linear = nn.Linear(64, 4)
        fit(nn.Sequential(nn.Flatten(), linear), shapes(), plan, micro=micro)
        made.append(linear.weight.detach())
    torch.testing.assert_close(made[1], made[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(made[2], made[0], rtol=1e-5, atol=1e-6)


def test_batches_are_the_only_copy_of_the_data() -> None:
    seen: list[tuple[Tensor, ...]] = []

    def watch(inputs: tuple[Tensor, ...]) -> Sequence[Tensor]:
        seen.append(inputs)
        return inputs

    data = shapes(70)
    data.inputs["x"].flags.writeable = False
    trained(data, augment=watch)
    assert sorted(len(x) for (x,) in seen[:5]) == [14] * 5
    assert data.digest == shapes(70).digest
    one = torch.cat([x for (x,) in seen[:5]]).numpy().reshape(70, -1)
    assert sorted(map(bytes, one)) == sorted(map(bytes, data.inputs["x"].reshape(70, -1)))


def test_several_inputs_and_outputs_in_order() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 2), nn.Linear(2, 2)

        def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            return self.first(a), self.second(b)

    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((32, size)).astype(np.float32) for size in (3, 2))
    teacher, module = Two().eval(), Two()
    plan = Recipe("sgd", loss="match", epochs=80, batch=8, learning_rate=0.1)
    fit(module, Dataset({"a": a, "b": b}), plan, teacher=teacher)
    for one, other in zip(module.parameters(), teacher.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-2)


NEEDS: dict[str, tuple[dict[str, Any], Dataset, str]] = {
    "no labels": ({"loss": "cross-entropy"}, Dataset(shapes().inputs), "needs labels"),
    "labels as text": (
        {"loss": "cross-entropy"}, Dataset(shapes().inputs, np.array(["a"] * 72)), "whole numbers"),
    "no teacher": ({"loss": "distill"}, shapes(), "needs a network to learn from"),
    "nobody to match": ({"loss": "match"}, shapes(), "needs a network to learn from"),
    "it diverges": (
        {"loss": "cross-entropy", "optimizer": "sgd", "learning_rate": 1e5, "epochs": 9},
        shapes(), "diverges"),
}  # fmt: skip


@pytest.mark.parametrize(("plan", "data", "reason"), NEEDS.values(), ids=NEEDS)
def test_what_a_loss_lacks_is_said(plan: dict[str, Any], data: Dataset, reason: str) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(RequestError) as caught:
        fit(module, data, recipe(plan))
    assert reason in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_said() -> None:
    with pytest.raises(RequestError, match="'cuda' is not there"):
        trained(shapes(), Recipe(loss="cross-entropy", device="cuda"))


def test_the_schedule_and_the_decay_reach_the_optimizer() -> None:
    class Rates(nn.Module):
        """One weight and one bias under a loss without a gradient: only decay moves them."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, 1))
            self.bias = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return x.mean() + 0 * (self.weight.sum() + self.bias.sum())

    module = Rates()
    plan = Recipe(optimizer="sgd", learning_rate=0.5, weight_decay=0.1, momentum=0,
        schedule="cosine", epochs=2, batch=72)  # fmt: skip
    fit(module, shapes(), plan, loss=lambda outputs, teacher, labels: outputs[0])
    assert float(module.weight.detach()) == pytest.approx((1 - 0.05) * (1 - 0.025), rel=1e-6)
    assert float(module.bias.detach()) == 1


def test_training_that_makes_it_worse_is_taken_back() -> None:
    data = shapes()
    plan = Recipe(optimizer="sgd", learning_rate=40.0, momentum=0.0, epochs=1, batch=32)
    module = net()
    teacher = net()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    near = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    teacher.load_state_dict(before)
    outcome = fit(module, data, plan, teacher=teacher)
    assert outcome.worse
    assert "MADE IT WORSE" in outcome.note("prune")[0]
    assert all(torch.equal(module.state_dict()[name], near[name]) for name in near)


def test_training_that_helps_says_nothing() -> None:
    data = shapes()
    teacher, module = net(), net(1)
    trained_on = Recipe(learning_rate=0.01, epochs=4, batch=32, loss="cross-entropy")
    fit(teacher, data, trained_on)
    outcome = fit(module, data, Recipe(learning_rate=0.01, epochs=4, batch=32), teacher=teacher)
    assert outcome.after < outcome.before
    assert not outcome.worse
    assert outcome.note("prune") == ()
