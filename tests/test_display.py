"""The live display of a run: what it says fits into 80 columns, and never passes 100 %."""

from __future__ import annotations

import io
import itertools
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from flows.outputs import ACTIONS
from flows.run.display import LiveDisplay
from flows.run.main_job import run_flows
from tests.processes import Simulated, settings_of


def screen(width: int, total: int | None) -> list[str]:
    """The lines that stand when two flows have told where they are."""
    out, seconds = io.StringIO(), itertools.count()
    console = Console(file=out, width=width, force_terminal=True, color_system=None, get_time=lambda: float(next(seconds)))
    with LiveDisplay(console=console) as display:
        display.begin(ACTIONS, 0, total)
        display.begin("revisits", 0, None)
        for _ in range(3):
            display.advance(ACTIONS, (total or 9_000_000) // 3, 1_709_251_080_000)
            display.advance("revisits", 1_234_567, 1_709_251_080_000)
    return out.getvalue().removesuffix("\n\x1b[?25h").splitlines()[-2:]


@pytest.mark.parametrize("total", [9_999_999, 1_234_567_890, None])
@pytest.mark.parametrize("width", [80, 100, 200])
def test_nothing_is_cut(width: int, total: int | None) -> None:
    actions, revisits = screen(width, total)
    assert "…" not in actions + revisits
    assert all("watermark 2024-02-29 23:58" in line for line in (actions, revisits))
    assert {9_999_999: "9,999,999 of 9,999,999", 1_234_567_890: "1,234.6 of 1,234.6 M", None: "9,000,000"}[total] in actions
    assert "3,703,701" in revisits
    assert all("/s " in line for line in (actions, revisits))
    assert ("━" in actions) == (width > 85)


class Counts:
    """Where the bar of ACTIONS stands, each time that it moves."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.seen: list[int] = []

    def note(self, line: str) -> None: ...
    def warn(self, line: str) -> None: ...

    def begin(self, flow: str, done: int, total: int | None) -> None:
        if flow == ACTIONS:
            self.total, self.seen = total, [done]

    def advance(self, flow: str, offsets: int, watermark: int | None) -> None:
        if flow == ACTIONS:
            self.seen.append(self.seen[-1] + offsets)
            # Judged, if not committed: known as soon as anything is.
            assert offsets == 0 or watermark is not None


def test_a_bar_ends_at_its_end_whatever_groups_say(simulated: Simulated, tmp_path: Path) -> None:
    """State is deleted, and where its group had come to is not: it begins anew. What goes out again is not applied again."""
    data = tmp_path / "data"
    shutil.copytree(simulated.run, data)
    shutil.rmtree(data / "state" / ACTIONS)
    bar = Counts()
    done = run_flows(settings_of(data), "all", False, 1, bar)
    assert bar.seen[0] == 0
    assert bar.seen == sorted(bar.seen)
    assert bar.seen[-1] == bar.total == simulated.records
    assert (done.events, done.changes) == (simulated.records, 0)


def test_a_bar_begins_where_state_is(simulated: Simulated, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(simulated.run, data)
    bar = Counts()
    run_flows(settings_of(data), "all", False, 1, bar)
    assert set(bar.seen) == {bar.total}
