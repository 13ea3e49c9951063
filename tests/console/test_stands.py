"""Where flows stand is what `tidemark status` says; rates, waiting events and late records are what a plain reckoning gives."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows import deadletters
from flows.log import Log, LogBatch
from flows.outputs import ACTIONS, DEADLETTER_SCHEMA, DEADLETTERS, LATE, REVISITS
from flows.settings import Settings
from flows.state import set_aside
from flows.state.handover import task_taken
from flows.state.lock import run_lock
from flows.state.task import task_path
from replay.console.letters import SHOWN, LettersSection, newest
from replay.console.rates import Rates
from replay.console.stands import NOTHING, REDIS, STATE, StandsSection
from tests.console.conftest import PARTITIONS, Site, site_time
from tests.processes import tidemark
from tests.serving.conftest import RedisServer, server, shared_redis, synced

__all__ = ["server", "shared_redis"]


def test_they_stand_where_status_says(shared: Site) -> None:
    status = json.loads(tidemark("status", "--json", data=shared.settings.data, partitions=PARTITIONS).out)
    section = StandsSection(shared.settings)
    said = section.look()
    section.close()
    told = [(flow.flow, t.partition, t.position, t.end, t.lag, t.watermark, t.problem) for flow in said.flows for t in flow.tasks]
    assert told == [tuple(task.values()) for task in status["tasks"]]
    assert said.counts == status["counts"]
    assert (said.source, said.logs, said.problems) == (STATE, "embedded", [])
    for flow in said.flows:
        tasks = [task for task in status["tasks"] if task["flow"] == flow.flow]
        assert flow.position == sum(task["position"] for task in tasks) > 0
        assert (flow.watermark_low, flow.watermark) == (min(t["watermark"] for t in tasks), max(t["watermark"] for t in tasks))
        size = sum(f.stat().st_size for p in range(PARTITIONS) for f in (shared.settings.state / flow.flow / f"{p:04d}").iterdir())
        assert flow.bytes == size


def test_an_event_waits_from_its_arrival_until_it_is_applied(site: Site) -> None:
    section = StandsSection(site.settings)
    [actions, _] = section.look().flows
    assert (actions.lag, actions.waiting_since) == (0, None)
    arrived = site_time() - 5_000
    site.append({"user_id": 1}, arrived=arrived + 20)
    site.append(*({"user_id": user} for user in range(1, 9)), arrived=arrived + 40)
    [actions, _] = section.look().flows
    assert (actions.lag, actions.waiting_since) == (9, arrived + 20)
    assert sum(task.waiting_since is not None for task in actions.tasks) == PARTITIONS
    site.apply()
    [actions, revisits] = section.look().flows
    assert (actions.lag, actions.waiting_since, revisits.lag) == (0, None, 0)
    assert [point.lag for point in actions.history] == [0, 9, 0]
    section.close()


def test_the_history_is_of_five_minutes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often somebody has looked, and however long nobody has."""
    at = site_time()
    section = StandsSection(site.settings)
    for later in (0, 1_000, 200_000, 301_000, 499_000, 500_000):
        monkeypatch.setattr("replay.console.stands.time.time_ns", lambda later=later: (at + later) * 1_000_000)
        history = section.look().flows[0].history
    assert [point.at - at for point in history] == [200_000, 301_000, 499_000, 500_000]
    monkeypatch.setattr("replay.console.stands.time.time_ns", lambda: (at + 5_000_000) * 1_000_000)
    assert len(section.look().flows[0].history) == 1
    section.close()


def test_whether_somebody_runs_it(site: Site) -> None:
    section = StandsSection(site.settings)
    assert [flow.running for flow in section.look().flows] == [False, False]
    with run_lock(site.settings.state):
        assert [flow.running for flow in section.look().flows] == [True, True]
    with task_taken(site.settings, REVISITS, 1):
        handed = [(flow.flow, task.partition) for flow in section.look().flows for task in flow.tasks if task.handed_over]
    assert handed == [(REVISITS, 1)]
    section.close()


def test_a_damaged_task_is_told_and_the_others_all_the_same(site: Site) -> None:
    for path in (site.settings.state / ACTIONS / "0001").iterdir():
        if path.is_file() and path.name != "LOCK":
            path.write_bytes(b"no longer what it was")
    section = StandsSection(site.settings)
    said = section.look()
    section.close()
    [sound, damaged] = said.flows[0].tasks
    assert sound.problem is None
    assert sound.position
    assert damaged.problem
    assert damaged.position is None
    assert any(damaged.problem in problem for problem in said.problems)


def test_a_task_that_a_run_has_set_aside_is_told_while_it_is_on(site: Site) -> None:
    set_aside.note(task_path(site.settings, REVISITS, 1), "a table is gone")
    section = StandsSection(site.settings)
    assert section.look().problems == []
    with run_lock(site.settings.state):
        said = section.look()
        [task] = [task for flow in said.flows for task in flow.tasks if task.problem is not None]
        assert task.position is not None
        [problem] = said.problems
        assert problem.startswith("revisits/1 is set aside by the run that is on")
        assert problem.endswith("puts it back (a table is gone)")
        set_aside.forget(task_path(site.settings, REVISITS, 1))
        assert section.look().problems == []
    section.close()


def test_nothing_is_there_and_nothing_is_made(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, partitions=PARTITIONS)
    section, letters = StandsSection(settings), LettersSection(settings)
    said = section.look()
    section.close()
    assert (said.source, said.counts, [flow.position for flow in said.flows]) == (NOTHING, {}, [0, 0])
    assert letters.look().dead_offsets is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.redis
def test_without_state_redis_says_where_they_are(shared: Site, server: RedisServer, tmp_path: Path) -> None:
    elsewhere = synced(shared.settings, server)
    section = StandsSection(Settings(**{**elsewhere.__dict__, "data": tmp_path}))
    said = section.look()
    section.close()
    here = StandsSection(shared.settings)
    want = here.look()
    here.close()
    assert said.source == REDIS
    assert [(f.position, f.watermark, f.running) for f in said.flows] == [(f.position, f.watermark, None) for f in want.flows]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(-5, 500)), min_size=2, max_size=30))
def test_a_rate_is_of_about_its_span(steps: list[tuple[int, int]]) -> None:
    now, value, seen = 0.0, 1_000, []
    rates: Rates[str] = Rates(10.0, lambda: now)
    for wait, grown in steps:
        now, value = now + wait, value + grown
        rates.add({"a": value})
        seen.append((now, value))
        # The newest that lies a span back, else the oldest of the last minute.
        recent = [one for one in seen if seen[-1][0] - one[0] <= 60]
        old = [one for one in recent if seen[-1][0] - one[0] >= 10]
        began, before = old[-1] if old else recent[0]
        told = rates.of("a")
        if now - began < 0.5 or value < before:
            assert told is None
        else:
            assert told == pytest.approx((value - before) / (now - began))
    assert rates.of("b") is None


def test_the_newest_letters_are_those_of_the_command(shared: Site) -> None:
    section = LettersSection(shared.settings)
    said = section.look()
    want = deadletters.newest(shared.settings, SHOWN)
    assert [(one.id, one.reason, one.size, one.arrived) for one in said.dead] == [
        (one.id, one.reason, one.size, one.timestamp) for one in reversed(want)
    ]
    assert {one.reason for one in said.dead} >= {"unknown_action", "not_json"}
    [bytes_] = [one for one in said.dead if one.reason == "not_json" and one.size == 5_009]
    assert bytes_.raw.startswith("\\xff\x00no JSONxxx")
    assert len(bytes_.raw) < 700
    newest = said.late[0]
    assert (newest.user_id, newest.pin_id, newest.action) == ("3", str(2**53 + 1), "closeup")
    assert 364 * 86_400_000 < newest.lateness_ms < 366 * 86_400_000
    assert section.look() == said


def test_letters_that_were_put_out_twice_are_told_once(site: Site) -> None:
    site.append(b"{", b"[]", {"action": "shrug"})
    site.apply()
    section = LettersSection(site.settings)
    before = section.look()
    log = site.logs[DEADLETTERS]
    for partition, end in enumerate(log.end_positions()):
        for batch in log.read(partition, max(0, end - 2), 2):
            log.append([(partition, batch.records)])
    after = section.look()
    assert after.dead_offsets is not None
    assert before.dead_offsets is not None
    assert after.dead_offsets > before.dead_offsets
    assert after.dead == before.dead
    assert [one.id for one in after.dead[:3]] == list(dict.fromkeys(one.id for one in after.dead[:3]))
    assert after.late_offsets == sum(site.logs[LATE].end_positions())


class Topic:
    """A log of dead letters whose offsets hold many records each, with holes between them, as Kafka has them; keeps what a read was asked for."""

    name, dense = DEADLETTERS, False

    def __init__(self, partitions: list[dict[int, pa.RecordBatch]]) -> None:
        self._held, self.partitions, self.asked = partitions, len(partitions), 0

    def read(self, partition: int, position: int, most: int, *, exact: bool = True) -> list[LogBatch]:
        self.asked = max(self.asked, most)
        offsets = [offset for offset in sorted(self._held[partition]) if offset >= position][:most]
        held = [(offset, self._held[partition][offset]) for offset in offsets]
        return [LogBatch(partition, o, o + 2, records, np.full(records.num_rows, o, np.int64)) for o, records in held]


def letters_of(origin: int, first: int, n: int, raw: bytes) -> pa.RecordBatch:
    row = {"generation": 0, "origin": origin, "log": ACTIONS, "partition": origin, "reason": "not_json", "detail": "", "raw": raw}
    rows = [{**row, "sequence": at, "timestamp": at // 3, "offset": at, "size": len(raw)} for at in range(first, first + n)]
    return pa.RecordBatch.from_pylist(rows, DEADLETTER_SCHEMA)


def test_of_messages_of_thousands_no_more_is_held_than_is_shown() -> None:
    each, raw = 2_000, b"x" * 2_048
    messages = [{2 * i: letters_of(p, each * i, each, raw) for i in range(30)} for p in range(2)]
    # A restart has put the last message out again.
    messages[1][60] = messages[1][58]
    topic = Topic(messages)
    tracemalloc.start()
    found = newest(cast(Log, topic), [0, 0], [60, 62])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < each * len(raw), "less than one message as Python's objects"
    assert topic.asked == 1
    every = [(at // 3, p, at) for p in range(2) for at in range(30 * each)]
    assert [(row["timestamp"], row["partition"], row["offset"]) for row in found] == sorted(every, reverse=True)[:SHOWN]
