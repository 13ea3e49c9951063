"""A training's progress is shown on a terminal and nowhere else."""

from __future__ import annotations

import pytest

from online_model.training.progress import bar


def test_without_a_terminal_nothing_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with bar(quiet=False) as progress:
        progress(5, 10)
    assert capfd.readouterr() == ("", "")


def test_on_a_terminal_it_is(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with bar(quiet=False) as progress:
        progress(5, 10)
    assert "5/10" in capfd.readouterr().err
    with bar(quiet=True) as progress:
        progress(5, 10)
    assert capfd.readouterr().err == ""
