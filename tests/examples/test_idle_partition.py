"""A partition whose users do nothing holds nobody up: heartbeats in ACTIONS say that time has passed there, and nothing else."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from flows.decode import Decoder
from flows.events import EVENT_SCHEMA, heartbeat
from flows.examples.heartbeats import beat, beat_idle
from flows.examples.merging import Merged
from flows.examples.record import EXAMPLES, Kind
from flows.kafka_messages import messages_of
from flows.kernels.joining import HEARTBEAT_MS
from flows.log import LocalLog
from flows.outputs import ACTIONS, DEADLETTERS, SERVED
from flows.settings import Settings
from flows.state.task import task_path
from flows.state.view import TaskView
from online_model.serving.heartbeats import Heartbeats
from tests import driving
from tests.examples.playing import HOUR, MINUTE, SECOND, START, Driven, Play, expected, one_served, play, write_served
from tests.examples.test_examples import check, told
from tests.of_messages import records_of as arrow_of
from tests.oracles.partition import partition_of
from tests.processes import await_true

PARTITIONS = 2


def settings_of(data: Path) -> Settings:
    return Settings(data=data, partitions=PARTITIONS, batch_records=50, anchor_records=80)


def in_order(seed: int) -> Play:
    """A random stream in which nothing arrives before what lies ahead of it."""
    made = play(seed, delays=(0,))
    events = made.events.sort_values("timestamp", kind="stable", ignore_index=True)
    events["offset"] = events.groupby("partition").cumcount()
    return Play(events, made.served)


def write_beating(settings: Settings, played: Play) -> int:
    """Append ACTIONS in stretches, with heartbeats after each as a server appends them; gives how many there are."""
    since: list[int] | None = None
    with driving.open_log(settings, ACTIONS) as log:
        for at in range(0, len(played.events), 25):
            for partition, rows in played.events.iloc[at : at + 25].groupby("partition", sort=False):
                log.append([(int(partition), driving.typed(rows.to_dict("records")))])
            since = beat_idle(log, since)
        return sum(log.end_positions()) - len(played.events)


def counts_of(settings: Settings) -> dict[str, int]:
    """What became of all actions."""
    total: dict[str, int] = {}
    for partition in range(PARTITIONS):
        view = TaskView(task_path(settings, ACTIONS, partition))
        assert view.meta is not None
        for name, n in view.meta.counts.items():
            total[name] = total.get(name, 0) + n
        view.close()
    return total


def told_of(settings: Settings) -> list[list[dict[str, Any]]]:
    """EXAMPLES of each partition but its heartbeats, once all is joined."""
    out = []
    for partition in range(PARTITIONS):
        driven = Driven(settings, partition)
        driven.run(np.random.default_rng(0), kill_share=0.2)
        out.append([one for one in told(driven.rows()) if one["kind"] != Kind.HEARTBEAT])
        driven.close()
    return out


def test_examples_are_the_same_with_and_without(tmp_path: Path) -> None:
    """All kinds, with their times: those of the oracle, which knows of none."""
    played = in_order(10)
    without, beating = settings_of(tmp_path / "without"), settings_of(tmp_path / "with")
    driving.write(without, played.events, np.random.default_rng(0), raw_share=0.0)
    assert write_beating(beating, played) > 5
    for settings in (without, beating):
        write_served(settings, played)
    found = told_of(beating)
    assert found == told_of(without)
    for partition in range(PARTITIONS):
        want, _ = expected(played, partition, beating)
        names = [one | {"kind": one["kind"].upper()} for one in want if one["kind"] != "heartbeat"]
        assert [one | {"kind": one["kind"].name} for one in found[partition]] == [
            {name: value for name, value in one.items() if name != "served"} for one in names
        ]
    assert sum(one["kind"] == Kind.FINAL for of in found for one in of) > 20


def test_wherever_they_lie_the_oracle_says_what_comes_out(tmp_path: Path) -> None:
    """Where clocks disagree too: to the oracle a heartbeat is a record of which only the arrival counts."""
    played, rng = play(10), np.random.default_rng(10)
    rows: list[dict[str, Any]] = []
    for event in played.events.to_dict("records"):
        rows.append(event)
        if rng.random() < 0.1:
            rows.append(event | {"partition": int(rng.integers(PARTITIONS)), "timestamp": event["timestamp"] + HOUR, "bad": True})
    frame = pd.DataFrame(rows)
    frame["offset"] = frame.groupby("partition").cumcount()
    settings = settings_of(tmp_path)
    with driving.open_log(settings, ACTIONS) as log:
        log.append(
            [(row["partition"], heartbeat(row["timestamp"]) if row["bad"] else driving.typed([row])) for row in frame.to_dict("records")]
        )
    write_served(settings, Play(frame, played.served))
    check(settings, Play(frame, played.served), rng, kill_share=0.2, grow=True)


def test_features_are_the_same_with_and_without(tmp_path: Path) -> None:
    played = in_order(10)
    without, beating = settings_of(tmp_path / "without"), settings_of(tmp_path / "with")
    driving.write(without, played.events, np.random.default_rng(0), raw_share=0.0)
    beats = write_beating(beating, played)
    counts, exports = [], []
    as_of = int(played.events["event_time"].max())
    for settings in (without, beating):
        driving.apply(settings, np.random.default_rng(1), kill_share=0.2)
        counts.append(counts_of(settings))
        exports.append(driving.exported(settings, as_of, settings.data / "exports"))
    assert counts[1].pop("heartbeats") == beats
    assert counts[1].pop("records") == counts[0].pop("records") + beats
    assert counts[0] == counts[1]
    for name, frame in exports[0].items():
        pd.testing.assert_frame_equal(frame, exports[1][name])


def test_it_is_no_event_and_no_fault() -> None:
    vocabulary = Settings(data=Path("none")).load_vocabulary()
    event = {
        "event_id": 1, "user_id": 7, "pin_id": 3, "action": "save", "surface": "homefeed", "event_time": START, "duration_ms": 0, "topic": "food",
        "timestamp": START,
    }  # fmt: skip
    home = (partition_of(7, 4), 4)
    whole = pa.concat_batches([driving.typed([event]), heartbeat(START + 5)])
    nearly = heartbeat(START + 6).set_column(1, EVENT_SCHEMA.field("user_id"), pa.array([9]))
    odd = heartbeat(START + 7).rename_columns([*EVENT_SCHEMA.names[:-2], "version", "timestamp"])
    columns = Decoder(vocabulary, home, requests=True).decode(heartbeat(START), whole, nearly, odd)
    assert columns.bad.tolist() == [True, False, True, True, True]
    assert columns.heartbeats == 3
    assert columns.faults == {3: ("missing_field", "event_id")}
    assert columns.timestamp.tolist() == [START, START, START + 5, START + 6, START + 7]
    # As it comes back from a topic.
    [(value, stamp)] = messages_of(heartbeat(START))
    assert value is not None
    assert stamp == START
    assert arrow_of(value, stamp) == heartbeat(START)


class Idle:
    """Two partitions, of which one user of the first acts and is served."""

    def __init__(self, data: Path) -> None:
        self.settings = settings_of(data)
        self.user = next(u for u in range(1, 50) if partition_of(u, PARTITIONS) == 0)
        self.actions, self.served = (driving.open_log(self.settings, name) for name in (ACTIONS, SERVED))
        self._number, self._rng = 0, np.random.default_rng(0)

    def see(self, at: int) -> None:
        """Be served a pin, and see it."""
        self._number += 1
        one = one_served(self._rng, START + at, self.user, f"r{self._number}", [3], defaulted=0.0)
        write_served(self.settings, Play(pd.DataFrame(), [(0, one)]))
        event = {
            "event_id": self._number, "user_id": self.user, "pin_id": 3, "action": "impression", "surface": "homefeed", "event_time": START + at,
            "duration_ms": 0, "topic": "", "timestamp": START + at, "request_id": f"r{self._number}",
        }  # fmt: skip
        self.actions.append([(0, driving.typed([event]))])

    def join(self) -> None:
        for partition in range(PARTITIONS):
            driven = Driven(self.settings, partition)
            driven.run(np.random.default_rng(0))
            driven.close()

    def passes(self) -> int:
        """How many examples a reader of all partitions is given while more may come."""
        with LocalLog.open(self.settings.logs, EXAMPLES, read_only=True) as log:
            merged = Merged(log, [0] * PARTITIONS, 1)
            n = 0
            while merged.next() is not None:
                n += 1
            return n


def test_an_idle_partition_lets_the_others_pass(tmp_path: Path) -> None:
    idle, since, ends = Idle(tmp_path), None, [0, 0]
    for at in range(0, 10 * MINUTE, 30 * SECOND):
        idle.see(at)
        ends = beat(idle.actions, idle.served, ends)
    idle.join()
    assert idle.passes() == 0, "nobody can know that nothing earlier comes there"
    since = beat_idle(idle.actions, idle.actions.end_positions())
    assert idle.actions.end_position(1) == 0, "nothing has moved, so nothing is said"
    for at in range(10 * MINUTE, 20 * MINUTE, 30 * SECOND):
        idle.see(at)
        since = beat_idle(idle.actions, since)
        ends = beat(idle.actions, idle.served, ends)
    idle.join()
    assert idle.passes() >= 38
    # As many as are needed: the newest time, once each, and none in a partition that keeps up.
    said = [row for batch in idle.actions.read(1, 0, 1_000) for row in batch.records.to_pylist()]
    assert [row["timestamp"] for row in said] == [START + at for at in range(10 * MINUTE, 20 * MINUTE, 30 * SECOND)]
    assert beat_idle(idle.actions, since) == since == idle.actions.end_positions()
    idle.see(20 * MINUTE - 30 * SECOND + HEARTBEAT_MS - 1)
    assert beat_idle(idle.actions, since)[1] == since[1], "it lies behind by less than counts"


def test_a_server_appends_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In its thread, where an action has come since it began; and says nothing of it."""
    idle = Idle(tmp_path)
    idle.see(0)
    beats = Heartbeats(idle.settings, each_s=0.05)
    try:
        await_true(
            lambda: idle.served.end_position(0) == 2 or idle.served.position_for_time(0, START) < idle.served.end_position(0), "it beats"
        )
        time.sleep(0.2)
        assert idle.actions.end_position(1) == 0
        idle.see(MINUTE)
        await_true(lambda: idle.served.end_position(1) == 1, "both logs go on in the idle partition")
        ends = idle.actions.end_positions()
        time.sleep(0.2)
        assert idle.actions.end_positions() == ends == [2, 1]
    finally:
        beats.close()
    idle.join()
    # The first; what was served at the time of the newest action waits for one that comes later.
    assert idle.passes() == 1
    assert caplog.text == ""
    assert DEADLETTERS not in {path.stem for path in idle.settings.logs.iterdir()}
