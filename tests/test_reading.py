"""Reads at any time: from state where it answers, else from the log, and never one that differs from the oracle."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flows.answers import EntityReader
from flows.errors import CorruptionError, DataDirectoryError, LogError, TidemarkError
from flows.features import PIN_COUNTERS, TOPIC_STATS, USER_COUNTERS
from flows.outputs import ACTIONS, REVISITS
from flows.past import Past
from flows.reading import FeatureReader
from flows.settings import Settings
from flows.state.view import TaskView
from tests import agreement, driving
from tests.oracles import features as oracle
from tests.oracles.decide import decide
from tests.oracles.records import DAY, HOUR, T, click, log, save
from tests.sparing import first
from tests.state.house import House
from tests.state.small import small
from tests.strategies import adversarial, interesting_times, play, random_stream, streams

FAR = [-(2**63), -(2**62), -1, 0, 2**31, 2**62, 2**63 - 1, 2**70]


def check_reads(reader: EntityReader, decided: pd.DataFrame, as_of: int | None) -> None:
    """Every entity that there may be, and some that there are not, in an order of their own and twice."""
    users = np.array([*decided["user_id"].unique(), 987, *decided["user_id"].unique()[:2]], np.int64)
    pins = np.array([*decided["pin_id"].unique(), 987, *decided["pin_id"].unique()[:2]], np.int64)
    want = oracle.sequences(decided, as_of)
    got = reader.user_sequences(users, as_of)
    actions, surfaces = reader.vocabulary.action_names(), reader.vocabulary.surface_names()
    for i, user in enumerate(users.tolist()):
        part = slice(got.offsets[i], got.offsets[i + 1])
        names = [actions[a] for a in got.action[part]], [surfaces[s] for s in got.surface[part]]
        rows = zip(got.pin_id[part].tolist(), *names, got.event_time[part].tolist(), got.duration_ms[part].tolist(), strict=True)
        assert list(rows) == want.get(user, [])
        assert got.found[i] == (user in want)
    for ids, entity, columns, read in (
        (users, "user", USER_COUNTERS, reader.user_counters(users, as_of)),
        (pins, "pin", PIN_COUNTERS, reader.pin_counters(pins, as_of)),
    ):
        counters = oracle.counters(decided, entity, as_of)  # type: ignore[arg-type]
        for i, one in enumerate(ids.tolist()):
            expected = counters.loc[one, list(columns)].tolist() if one in counters.index else [0] * len(columns)
            assert read.values[i].tolist() == expected
            assert not read.found[i] or one in counters.index
    topics = oracle.topics(decided, as_of)
    asked = [*reversed(topics.index.tolist()), "no such topic", *topics.index.tolist()]
    stats = reader.topic_stats(asked, as_of)
    for i, topic in enumerate(asked):
        assert stats.found[i] == (topic in topics.index)
        assert stats.values[i].tolist() == (topics.loc[topic, [n for n, _ in TOPIC_STATS]].tolist() if topic in topics.index else [0] * 15)


@contextmanager
def house(events: pd.DataFrame, sizes: tuple[int, ...] = (5,), partitions: int = 1, **limits: int) -> Iterator[House]:
    with tempfile.TemporaryDirectory() as directory, small(sequences=True):
        made = House(Path(directory) / "data", events, partitions, **limits)
        made.finish(sizes)
        yield made
        made.close()


@hypothesis_settings(max_examples=8)
@given(streams(40, partitions=2), st.data())
def test_reads_equal_the_oracles_at_any_time(events: pd.DataFrame, data: st.DataObject) -> None:
    with house(events, (data.draw(st.integers(1, 20)),), partitions=2) as made, FeatureReader(made.settings) as reader:
        decided = decide(events)
        check_reads(reader, decided, None)
        for as_of in data.draw(st.lists(st.sampled_from(interesting_times(events) + FAR), min_size=1, max_size=3)):
            check_reads(reader, decided, as_of)


@pytest.mark.parametrize("seed", first(2, range(5)))
def test_reads_of_merged_and_expired_state_equal_the_oracles(seed: int, tmp_path: Path) -> None:
    """Steps of 31 days: rows expire in merges through several levels; earlier times are answered from the log."""
    events = adversarial(seed, 250, partitions=2)
    rng = np.random.default_rng(seed)
    decided = decide(events)
    with house(events, (7, 1, 30), partitions=2) as made, FeatureReader(made.settings) as reader:
        assert any(max((r.level for r in reader.meta(ACTIONS, p).manifest["revisits"]), default=0) >= 2 for p in range(2))
        with mock.patch.object(reader, "_past", mock.Mock(wraps=reader._past)) as past:
            for as_of in [*rng.choice(interesting_times(events), 5).tolist(), *FAR[3:6]]:
                check_reads(reader, decided, as_of)
                agreement.check(driving.exported(made.settings, as_of, tmp_path / "out"), decided, as_of)
            assert past.users.called
            past.reset_mock()
            check_reads(reader, decided, oracle.default_as_of(decided))
            check_reads(reader, decided, oracle.default_as_of(decided) + HOUR)
            assert not past.method_calls, "now is answered from state"


def test_a_time_just_before_now_is_answered_from_state() -> None:
    """Within L + S + 1 h of the newest event counters and sequences need no log."""
    events = random_stream(4, 1_000, partitions=1, users=12, pins=40, days=120)
    decided = decide(events)
    now = oracle.default_as_of(decided)
    assert now is not None
    with tempfile.TemporaryDirectory() as directory:
        made = House(Path(directory) / "data", events)
        made.finish([100])
        with FeatureReader(made.settings) as reader:
            assert reader.meta(ACTIONS, 0).expired_to > T
            with mock.patch.object(Past, "_judged", side_effect=AssertionError("read from the log")):
                users = decided["user_id"].unique()
                for back in (0, 2 * HOUR):
                    want = oracle.counters(decided, "user", now - back)
                    got = reader.user_counters(want.index.to_numpy(), now - back)
                    assert got.values.tolist() == want[list(USER_COUNTERS)].to_numpy().tolist()
                    reader.user_sequences(users, now - back)
        made.close()


@pytest.mark.parametrize("limits", [(0, 0, 0), (30 * DAY, 30 * DAY, 30 * DAY), (2 * HOUR, 1, DAY)])
@pytest.mark.parametrize("partitions", [1, 5])
def test_reads_under_other_settings(limits: tuple[int, int, int], partitions: int) -> None:
    names = ("allowed_lateness_ms", "dedup_horizon_ms", "clock_skew_ms")
    events = adversarial(21, 150, partitions, lateness_ms=limits[0], horizon_ms=limits[1], skew_ms=limits[2])
    decided = decide(events, *limits)
    with house(events, (20,), partitions, **dict(zip(names, limits, strict=True))) as made, FeatureReader(made.settings) as reader:
        for as_of in np.random.default_rng(0).choice(interesting_times(events), 3).tolist():
            check_reads(reader, decided, as_of)


def test_a_long_sequence_that_a_later_run_has_cut(tmp_path: Path) -> None:
    """100 old actions, then 200 newer ones in one commit: a read between the two must not take the old ones for the newest."""
    records = [{**save(i), "action": "closeup", "event_id": i + 1} for i in range(300)]
    events = log(*records)
    made = House(tmp_path / "data", events)
    made.finish([100, 200])
    decided = decide(events)
    with FeatureReader(made.settings) as reader:
        for as_of in (T + 50, T + 99, T + 100, T + 150, T + 171, T + 172, T + 199, T + 271, T + 272, T + 299):
            check_reads(reader, decided, as_of)
    made.close()


# What is missing, or moves -----------------------------------------------------------------------------------------------------------------


def test_nothing_yet(tmp_path: Path) -> None:
    with pytest.raises(DataDirectoryError, match="there is no log"):
        FeatureReader(Settings(data=tmp_path))
    made = House(tmp_path, play([]), partitions=3)
    for finished in (False, True):
        if finished:
            made.finish()
        with FeatureReader(made.settings) as reader:
            assert reader.default_as_of() is None
            for as_of in (None, *FAR):
                assert reader.user_sequences(np.array([1, 2]), as_of).offsets.tolist() == [0, 0, 0]
                assert reader.user_counters(np.array([1]), as_of).values.tolist() == [[0] * 24]
                assert reader.pin_counters(np.array([], np.int64), as_of).values.shape == (0, 24)
                assert not reader.topic_stats(["x"], as_of).found.any()
            assert reader.positions() == {ACTIONS: [0] * 3, REVISITS: [0] * 3}
            assert reader.counts() == {}
    made.close()


def test_other_settings_are_refused(tmp_path: Path) -> None:
    made = House(tmp_path, log(save(0)))
    made.finish()
    with pytest.raises(DataDirectoryError, match="read it with the settings"):
        FeatureReader(Settings(data=tmp_path, partitions=1, allowed_lateness_ms=5))
    made.close()


def test_what_a_row_reflects(tmp_path: Path) -> None:
    made = House(tmp_path, log(save(0), click(1), click(2)))
    task = made.open()
    task.apply(made.logs[ACTIONS].read(0, 0, 2))
    task.close()
    made.feed(made.open(REVISITS)).close()
    with FeatureReader(made.settings) as reader:
        assert reader.user_position(7) == {"partition": 0, "position": 2}
        assert reader.pin_position(70) == {"partition": 0, "applied": {"0": 1}}
        assert reader.counts() == {"accepted": 2, "action.grid_click": 1, "action.save": 1, "records": 2}
        made.finish()
        assert reader.user_position(7)["position"] == 2
        reader.refresh()
        assert reader.user_position(7)["position"] == 3
        assert reader.pin_position(70)["applied"] == {"0": 2}
    made.close()


def test_a_log_that_ends_before_its_state(tmp_path: Path) -> None:
    """A read that needs the log says so, and so do labels, which replay from the last anchor."""
    whole = log(*(save(i * HOUR) for i in range(20)))
    made = House(tmp_path, whole)
    made.finish()
    task = made.open()
    task.store.meta.anchor = 0
    task.store.commit(task.store.batch())
    task.abandon()
    made.close()
    (made.settings.logs / "actions.db").unlink()
    for suffix in ("-wal", "-shm"):
        (made.settings.logs / f"actions.db{suffix}").unlink(missing_ok=True)
    driving.write(made.settings, whole.iloc[:12], np.random.default_rng(0))
    with FeatureReader(made.settings) as reader:
        for read in (
            lambda: reader.user_sequences(np.array([7]), T - 1) and reader.all_topics(T + HOUR),
            lambda: reader.past_pins(T, None),
            lambda: reader.labels(0, T + 30 * HOUR),
            lambda: reader.labels(0, T),
        ):
            with pytest.raises((CorruptionError, LogError), match=r"lost records|lies outside"):
                read()


@pytest.mark.parametrize("slow", [ACTIONS, REVISITS])
def test_pins_are_never_read_ahead_of_the_actions_that_credited_them(slow: str, tmp_path: Path) -> None:
    """While a reader refreshes task after task, the writers go on between any two."""
    events = adversarial(2, 200, partitions=1)
    made = House(tmp_path, events)
    as_of = int(events["event_time"][events["event_time"] < events["event_time"].max() - 100 * DAY].median())

    def advance(to: int) -> None:
        task = made.open()
        task.apply(made.logs[ACTIONS].read(0, task.position, to - task.position))
        task.close()
        made.feed(made.open(REVISITS)).close()

    advance(60)
    with FeatureReader(made.settings) as reader:
        position = 60
        refresh = TaskView.refresh

        def meanwhile(view: TaskView) -> None:
            nonlocal position
            if slow in view.path.parts and position < 200:
                refresh(view)
                position += 20
                advance(position)
            else:
                refresh(view)

        for _ in range(7):
            with mock.patch.object(TaskView, "refresh", meanwhile):
                reader.refresh()
            applied = reader.meta(REVISITS, 0).applied.get(0, -1) + 1
            emitted = 0
            decided = decide(events[events["offset"] < reader.positions()[ACTIONS][0]])
            task_rows = reader.past_pins(10**15, None)[0]
            emitted = int(task_rows[:, 4].sum())
            assert emitted <= len(oracle.credited(decided))
            scanned = sum(int(r[:, 4].sum()) for r in reader.pin_rows(10**15))
            assert scanned == emitted, f"state has applied {applied} changes; the log gives the same"
            reader.past_pins(as_of, None)
    made.close()


def test_reads_while_a_writer_writes_equal_the_oracle_at_their_position(tmp_path: Path) -> None:
    events = random_stream(9, 1_500, partitions=1, users=20, pins=20, days=30)
    made = House(tmp_path, events)
    failures: list[BaseException] = []

    def write() -> None:
        try:
            task = made.open()
            made.feed(task, [10])
            task.close()
        except BaseException as error:
            failures.append(error)

    made.open().close()
    with small():
        writer = threading.Thread(target=write)
        writer.start()
        positions = set()
        while True:
            last = not writer.is_alive()
            try:
                with FeatureReader(made.settings) as reader:
                    position = reader.positions()[ACTIONS][0]
                    if position and position not in positions:
                        users = events["user_id"].unique()
                        want = oracle.sequences(decide(events[events["offset"] < position]))
                        got = reader.user_sequences(users)
                        assert dict(zip(users.tolist(), np.diff(got.offsets).tolist(), strict=True)) == {
                            u: len(want.get(u, [])) for u in users.tolist()
                        }
                        positions.add(position)
            except TidemarkError as error:
                failures.append(error)
                break
            if last:
                break
        writer.join()
    assert not failures
    assert 1_500 in positions
    made.close()
