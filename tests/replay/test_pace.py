"""An audit keeps to its share of a core, and to nothing else: disks that are waited for earn it nothing."""

from __future__ import annotations

import pytest

from flows import stopping
from replay.audit import pace as pacing
from replay.audit.pace import Pace, StopRequested


class Clocks:
    """CPU and wall time that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cpu, self.wall, self.waits = 0.0, 0.0, list[float]()
        monkeypatch.setattr(pacing.time, "process_time", lambda: self.cpu)
        monkeypatch.setattr(pacing.time, "monotonic", lambda: self.wall)
        monkeypatch.setattr(stopping, "wait", self.wait)

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.wall += seconds * 1.25
        return False

    def work(self, cpu: float, wall: float) -> None:
        self.cpu, self.wall = self.cpu + cpu, self.wall + wall


def test_a_budget_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks(monkeypatch)
    pace = Pace(0.1)
    for _ in range(50):
        clocks.work(0.3, 0.5)
        pace.step()
        assert pace.share <= 0.1 + 1e-9
    assert clocks.waits
    # Waiting for a disk earns nothing that could be spent at once later.
    clocks.work(0.0, 1_000.0)
    pace.step()
    clocks.waits.clear()
    clocks.work(1.0, 1.0)
    pace.step()
    assert sum(clocks.waits) == pytest.approx(9.0)


def test_without_a_budget_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks(monkeypatch)
    pace = Pace(None)
    clocks.work(5.0, 5.0)
    pace.step()
    assert clocks.waits == []
    assert pace.share == 1.0


def test_a_stop_ends_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks(monkeypatch)
    pace = Pace(0.1)
    monkeypatch.setattr(stopping, "wait", lambda seconds: True)
    clocks.work(1.0, 1.0)
    with pytest.raises(StopRequested):
        pace.step()
