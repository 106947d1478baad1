"""What `splitc` says on stderr while it works, where that is no terminal."""

import time

import pytest

from splitc.cli.options import Progress


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "_SILENT_S", 0.2)
    monkeypatch.setattr(Progress, "_EVERY_S", 0.4)
    monkeypatch.setattr(Progress, "_PULSE_S", 0.01)


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.partition("] ")[2] for line in capsys.readouterr().err.splitlines()]


def test_a_stage_that_says_nothing_is_named_and_named_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Progress("auto") as progress:
        progress("pass", "simplify")
        progress("pass", "prune")
        assert said(capsys) == []
        time.sleep(1.5)
    assert set(lines := said(capsys)) == {"pass: prune"}
    assert 2 <= len(lines) <= 4
    time.sleep(0.5)
    assert said(capsys) == []


def test_many_reports_are_thinned(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("plain") as progress:
        progress("load", "net")
        for step in range(100):
            progress("train", f"step {step}")
    assert said(capsys) == ["load: net", "train: step 0"]


def test_none_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("none") as progress:
        progress("pass", "prune")
        time.sleep(0.6)
    assert said(capsys) == []
