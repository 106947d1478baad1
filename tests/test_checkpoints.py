"""Checkpoints: a run that is resumed ends with the very weights of one without a break."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs splitc[torch]")

from torch import Tensor  # noqa: E402

from splitc.errors import RequestError  # noqa: E402
from splitc.train import (  # noqa: E402
    FolderRecorder,
    Recipe,
    cross_entropy,
    fit,
)
from tests.test_train import QUICK, Taped, bits, net, shapes, trained  # noqa: E402

pytestmark = pytest.mark.torch


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
