"""The freshness benchmark prints what the contract says, looks for events that are there to be seen, and fails where one never shows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import _live, freshness
from benchmarks._live import Appended, Features, Seen, Stretch
from benchmarks._live_events import LiveEvents
from benchmarks._measure import CheckFailedError
from flows.ingest.producer import split
from flows.log import LocalLog
from flows.outputs import ACTIONS, DEADLETTERS, LATE, REVISITS
from flows.settings import Settings
from flows.state.actions_task import ActionsTask
from flows.state.revisits_task import RevisitsTask

EVENTS, STRIDE = 8_192, 64


def test_what_is_appended_is_seen_and_nothing_before(tmp_path: Path) -> None:
    """Events are a function of their index: whoever looks finds each sampled one exactly when it has been applied."""
    settings, events = Settings(data=tmp_path, partitions=2), LiveEvents(1_000, users=50)
    vocabulary = settings.load_vocabulary()
    logs = {name: LocalLog.open(settings.logs, name, 2, create=True) for name in (ACTIONS, REVISITS, LATE, DEADLETTERS)}
    outputs = {name: logs[name] for name in (REVISITS, LATE, DEADLETTERS)}
    actions = [ActionsTask(settings, p, vocabulary, logs[ACTIONS], outputs) for p in range(2)]
    revisits = [RevisitsTask(settings, p, vocabulary, logs[REVISITS]) for p in range(2)]
    closeups, clicks = events.closeups(EVENTS, STRIDE, seed=1), events.clicks(EVENTS, STRIDE, seed=2)
    assert len(closeups) > 100
    assert len(clicks) > 80
    with Features(settings, events) as features:
        cut = 5_000
        for first, end in ((0, cut), (cut, EVENTS)):
            logs[ACTIONS].append(list(split(events.batch(first, end, 1_700_000_000_000 + np.arange(first, end)), 2)))
            for task in (*actions, *revisits):
                task.apply(task.source.read(task.partition, task.position, EVENTS))
            seen, counted = features.look(closeups, clicks)
            # Of what lies far back in a sequence another closeup may have taken the place; the last 300 are too few for that.
            recent = closeups >= end - 300
            assert (seen[recent] == (closeups[recent] < end)).all()
            assert not seen[closeups >= end].any()
            assert (counted == (clicks < end)).all()
    assert sum(task.store.meta.counts["accepted"] for task in actions) == EVENTS
    for task in (*actions, *revisits):
        task.close()
    for log in logs.values():
        log.close()


def test_delays_count_from_the_append_that_held_the_event() -> None:
    stretch = Stretch(LiveEvents(1, 10), number=4, rate=1e9, start=0, stride=1, seed=0)
    ms = 1_000_000
    appended = Appended(np.array([2, 4]), handed=np.array([10, 30]) * ms, acknowledged=np.array([12, 33]) * ms)
    seen = Seen(np.array([1, 2]), np.array([40, 40]) * ms, np.array([3]), np.array([50]) * ms, looks=np.array([ms]))
    told = freshness._told(stretch, appended, seen)
    assert told["sequence"]["handed"] == {"p50": 20.0, "p99": 29.8, "max": 30.0}
    assert told["sequence"]["acknowledged"]["max"] == 28.0
    assert told["counter"]["handed"]["max"] == 20.0
    assert told["counter"]["created"]["max"] == 50.0
    assert told["append"]["max"] == 3.0
    missed = Seen(seen.closeups, np.array([40 * ms, 0]), seen.clicks, seen.clicks_at, seen.looks)
    with pytest.raises(CheckFailedError, match="1 of 2 sampled events of a sequence never showed"):
        freshness._told(stretch, appended, missed)


class _Slow:
    """A place where events show only once the stretch is over: looks must go on."""

    def __init__(self, settings: Settings, events: LiveEvents) -> None:
        self.asked: list[int] = []

    def __enter__(self) -> _Slow:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def look(self, closeups: np.ndarray, clicks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append(len(closeups))
        late = len(self.asked) > 30
        return np.full(len(closeups), late), np.full(len(clicks), late)


def test_an_event_that_takes_long_counts_with_all_its_delay() -> None:
    stretch = Stretch(LiveEvents(1, 10), number=4_096, rate=1e6, start=_live.now(), stride=STRIDE, seed=0)
    seen = _live.watch(Settings(), _Slow, stretch)
    assert len(seen.looks) == 31
    assert len(seen.closeups) == len(stretch.events.closeups(4_096, STRIDE, 0)) > 50
    assert len(set(seen.closeups_at.tolist())) == 1, "all were seen by the last look, the early ones too"


@pytest.mark.slow
def test_it_prints_its_contract() -> None:
    command = [sys.executable, "-m", "benchmarks.freshness", "--json", "--quick", "--rates", "3000", "--seconds", "0.5", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, check=True, text=True, cwd=Path(__file__).parent.parent)
    result = json.loads(done.stdout)
    assert list(result) == ["benchmark", "results", "ratios", "machine", "seed"]
    assert (result["benchmark"], result["seed"]) == ("freshness", 3)
    results = result["results"]
    assert 0 < results["p50_ms_at_20k"] <= results["p99_ms_at_20k"]
    assert results["peak_events_per_s"] > 0
    assert [of["rate"] for of in results["stretches"]][:2] == [20_000, 3_000]
    for of in (*results["stretches"], *results["floors"]):
        for feature in ("sequence", "counter"):
            assert of[feature]["samples"] >= 10
            for moment in ("handed", "acknowledged", "created"):
                spread = of[feature][moment]
                assert spread["p50"] <= spread["p99"] <= spread["max"]
            assert of[feature]["acknowledged"]["max"] <= of[feature]["handed"]["max"] <= of[feature]["created"]["max"]
    assert result["ratios"]["vs_log_floor"]["median"] > 0
