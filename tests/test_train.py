"""Training: recipes as data, losses that fall, and runs that a break does not change."""

import math
import os
import signal
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
from splitc.train.losses import logits  # noqa: E402

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


OPTIMIZERS = ["sgd", "adam", "adamw"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("stop", [1, 4, 5, 7, 10])
def test_a_resumed_run_ends_as_one_without_a_break(
    tmp_path: Path, optimizer: str, stop: int
) -> None:
    plan = Recipe(**{**vars(QUICK), "optimizer": optimizer, "schedule": "one-cycle"})
    data = shapes()
    whole = bits(trained(data, plan, augment=noisy))
    told: list[str] = []

    def pressed(stage: str, detail: str) -> None:
        told.append(detail)
        raise KeyboardInterrupt

    recorder = FolderRecorder(tmp_path / "c", progress=None)
    recorder.progress = Taped(stop).progress  # type: ignore[method-assign]
    broken = net()
    with pytest.raises(KeyboardInterrupt):
        fit(broken, data, plan, augment=noisy, recorder=recorder)
    assert not broken.training
    assert stop == 10 or bits(broken) != whole
    again = Taped()
    resumed = FolderRecorder(tmp_path / "c", resume=True)
    resumed.progress = again.progress  # type: ignore[method-assign]
    module = trained(data, plan, augment=noisy, recorder=resumed)
    assert bits(module) == whole
    assert [done for done, _, _ in again.told] == list(range(stop + 1, 11))


def noisy(inputs: tuple[Tensor, ...]) -> Sequence[Tensor]:
    return [x + 0.1 * torch.randn_like(x) for x in inputs]


def test_ctrl_c_waits_for_the_end_of_the_step(tmp_path: Path) -> None:
    """The signal comes while a batch is in the works, twice; the state is that of whole steps."""
    data = shapes()
    whole = bits(trained(data, augment=noisy))
    for at in (2, 6):
        calls: list[int] = []

        def struck(inputs: tuple[Tensor, ...], at: int = at, calls: list[int] = calls) -> Any:
            calls.append(1)
            if len(calls) == at:
                os.kill(os.getpid(), signal.SIGINT)
            return noisy(inputs)

        struck.__qualname__ = "noisy"
        folder = tmp_path / str(at)
        with pytest.raises(KeyboardInterrupt):
            trained(data, augment=struck, recorder=FolderRecorder(folder))
        assert len(calls) == at
        kept = FolderRecorder(folder, resume=True).load()
        assert kept is not None
        assert kept["done"] == at
        again = trained(data, augment=noisy, recorder=FolderRecorder(folder, resume=True))
        assert bits(again) == whole
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_break_within_a_step_keeps_the_last_epoch(tmp_path: Path) -> None:
    data, calls = shapes(), list[int]()

    def raises(inputs: tuple[Tensor, ...]) -> Sequence[Tensor]:
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return inputs

    with pytest.raises(KeyboardInterrupt):
        trained(data, augment=raises, recorder=FolderRecorder(tmp_path))
    state = FolderRecorder(tmp_path, resume=True).load()
    assert state is not None
    assert state["done"] == 5


def test_a_finished_run_is_read_and_not_trained_again(tmp_path: Path) -> None:
    """Two runs of one pipeline, the second interrupted: resuming trains only what is missing."""
    data, first, second = shapes(), net(0), net(1)
    recorder = FolderRecorder(tmp_path)
    fit(first, data, QUICK, recorder=recorder)
    recorder.progress = Taped(3).progress  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        fit(second, data, QUICK, recorder=recorder)
    again, tape = FolderRecorder(tmp_path, resume=True), Taped()
    again.progress = tape.progress  # type: ignore[method-assign]
    reread, rest, fresh = net(0), net(1), net(1)
    fit(reread, data, QUICK, recorder=again)
    assert tape.told == []
    assert bits(reread) == bits(first)
    fit(rest, data, QUICK, recorder=again)
    fit(fresh, data, QUICK)
    assert bits(rest) == bits(fresh)
    assert [done for done, _, _ in tape.told] == list(range(4, 11))


def test_without_resume_old_checkpoints_go(tmp_path: Path) -> None:
    data = shapes()
    recorder = FolderRecorder(tmp_path)
    for seed in (0, 1):
        fit(net(seed), data, QUICK, recorder=recorder)
    (tmp_path / "mine.pt").write_bytes(b"")
    FolderRecorder(tmp_path).load()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.pt"]


OTHERS: dict[str, dict[str, Any]] = {
    "recipe": {"plan": Recipe(**{**vars(QUICK), "epochs": 3})},
    "data": {"data": shapes(72, seed=5)},
    "network": {"module": net(3)},
    "teacher": {"teacher": net(4)},
    "loss": {"loss": cross_entropy},
}


@pytest.mark.parametrize(("what", "changed"), OTHERS.items(), ids=OTHERS)
def test_a_checkpoint_of_something_else_is_refused(
    tmp_path: Path, what: str, changed: dict[str, Any]
) -> None:
    given = {"module": net(), "data": shapes(), "plan": QUICK, "teacher": None, "loss": None}

    def run(recorder: FolderRecorder, **more: Any) -> None:
        one = {**given, **more}
        fit(
            one["module"],
            one["data"],
            one["plan"],
            teacher=one["teacher"],
            loss=one["loss"],
            recorder=recorder,
        )

    run(FolderRecorder(tmp_path))
    with pytest.raises(RequestError, match=f"belongs to another {what}\n"):
        run(FolderRecorder(tmp_path, resume=True), **{"module": net(), **changed})


class _Planted:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"done": _Planted(marker)}, tmp_path / "training01.pt")
    with pytest.raises(RequestError, match="cannot read the checkpoint"):
        FolderRecorder(tmp_path, resume=True).load()
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"hello", None], ids=["empty", "text", "cut off"])
def test_a_damaged_checkpoint_is_said(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "training01.pt"
    fit(net(), shapes(), QUICK, recorder=FolderRecorder(tmp_path))
    path.write_bytes(path.read_bytes()[:900] if content is None else content)
    with pytest.raises(RequestError) as caught:
        FolderRecorder(tmp_path, resume=True).load()
    assert str(path) in str(caught.value)


def test_a_save_that_fails_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = FolderRecorder(tmp_path)
    recorder.load()
    recorder.save({"done": 1})

    def full(state: object, file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        recorder.save({"done": 2})
    assert FolderRecorder(tmp_path, resume=True).load() == {"done": 1}


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


OUTPUTS = {
    "logits": (torch.tensor([[1.0, 3.0]]), [[1.0, 3.0]]),
    "probabilities": (torch.tensor([[0.25, 0.75]]), [[math.log(0.25), math.log(0.75)]]),
    "axes of size 1": (torch.tensor([[1.0, 3.0]])[:, :, None, None], [[1.0, 3.0]]),
    "one logit": (torch.tensor([[2.0]]), [[0.0, 2.0]]),
    "one probability": (torch.tensor([0.75]), [[0.0, math.log(3)]]),
    "positions": (torch.arange(4.0).reshape(1, 2, 2) - 1, [[[-1.0, 1.0], [0.0, 2.0]]]),
}


@pytest.mark.parametrize(("output", "wanted"), OUTPUTS.values(), ids=OUTPUTS)
def test_logits_of_what_a_network_gives(output: Tensor, wanted: Any) -> None:
    torch.testing.assert_close(logits(output), torch.tensor(wanted), rtol=1e-5, atol=1e-5)


def test_distill_by_hand() -> None:
    student, teacher = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    p, q = 1 / (1 + math.e), math.e / (1 + math.e)  # softmax of (0, 4) / 4
    divergence = p * math.log(p / q) + q * math.log(q / p)
    assert float(distill([student], [teacher], None)) == pytest.approx(16 * divergence, rel=1e-5)
    both = float(distill([student], [teacher], torch.tensor([0])))
    hard = math.log(1 + math.exp(-4))
    assert both == pytest.approx(0.9 * 16 * divergence + 0.1 * hard, rel=1e-5)


def test_labels_that_do_not_fit_are_said() -> None:
    with pytest.raises(RequestError, match=r"labels of shape \[2, 3\]"):
        cross_entropy([torch.zeros(2, 4)], None, torch.zeros(2, 3, dtype=torch.long))


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
