"""Audits: sound state passes whatever its history, beside whoever runs it; what is whole and wrong is found, and named."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.archive import writing
from flows.kernels.layout import TILE_COLUMNS
from flows.log import Log
from flows.outputs import ACTIONS, OUTPUTS, REVISITS
from flows.partition import partition_of
from flows.past import Past, tiles_of
from flows.settings import HOUR_MS, Settings
from flows.state import tables
from flows.state.runs import Table
from flows.state.store import TaskStore
from flows.state.tables import LONGEST_WINDOW_MS
from flows.state.tables import REVISITS as REVISITS_TABLE
from flows.state.task import task_path
from flows.state.view import TaskView
from replay.arrived import Arrived
from replay.audit.audit import Audited
from replay.audit.compare import differences
from replay.audit.said import ENTITIES, TOPIC
from replay.audit.sample import Sample
from replay.tasks import TaskName
from replay.verify import verify_state
from tests import driving
from tests.archive.making import Forgetful, archive_all, joined
from tests.replay.auditing import PARTITIONS, _small, audited, finished, live, plain, rewrite, rows_of, served, settings, wrong
from tests.state.house import House
from tests.strategies import adversarial, random_stream

__all__ = ["_small", "finished", "plain", "served", "settings"]


# Sound state ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_sound_state_passes_whatever_its_history(seed: int, tmp_path: Path) -> None:
    """Late records, duplicates, bad ones; runs merged and expired; tasks killed, and at other positions than each other."""
    rng = np.random.default_rng(seed)
    events = adversarial(seed, 300, PARTITIONS) if seed % 2 else random_stream(seed, 600, PARTITIONS, users=20, pins=15, days=200)
    house = House(tmp_path / "data", events, PARTITIONS, seed, anchor_records=50)
    for flow in (ACTIONS, REVISITS):
        for partition in range(PARTITIONS):
            task = house.open(flow, partition)
            end = int(task.source.end_position(partition) * rng.choice([0.5, 1.0]))
            while task.position < end:
                task.apply(task.source.read(partition, task.position, min(end - task.position, int(rng.integers(1, 60)))))
                if rng.random() < 0.05:
                    task.abandon()
                    task = house.open(flow, partition)
            task.abandon()
    found = audited(house.settings)
    assert wrong(found) == []
    assert sum(one.entities for one in found.values()) > 10
    few = audited(house.settings, seed=seed, size=3)
    assert wrong(few) == []
    assert 0 < sum(one.entities for one in few.values()) <= 3 * (3 * PARTITIONS)
    house.close()


def test_pins_pass_though_their_origins_were_put_back(settings: Settings) -> None:
    """What REVISITS has applied, ACTIONS will say again."""
    shutil.rmtree(task_path(settings, ACTIONS, 0))
    found = audited(settings)
    assert found["actions/0"].problem is None
    assert not found["actions/0"].complete
    assert wrong(found) == []
    assert found["revisits/1"].entities


def test_it_runs_beside_the_tasks(tmp_path: Path) -> None:
    """Commits, merges, anchors and new openings in one thread; audits in another, as fast as they come."""
    house = House(tmp_path / "data", adversarial(5, 400, 1), anchor_records=40)
    over, rounds = threading.Event(), threading.Semaphore(0)
    found, failures = list[dict[str, Audited]](), list[BaseException]()

    def audit() -> None:
        try:
            while not over.is_set():
                found.append(audited(house.settings, logs=dict(house.logs)))
                rounds.release()
        except BaseException as error:
            failures.append(error)
            rounds.release()

    tasks = {flow: house.open(flow) for flow in (ACTIONS, REVISITS)}
    thread = threading.Thread(target=audit)
    thread.start()
    turn = 0
    try:
        while tasks[ACTIONS].position < tasks[ACTIONS].source.end_position(0) and not failures:
            for flow, task in tasks.items():
                task.apply(task.source.read(0, task.position, 3))
                if turn % 15 == 0:
                    task.close()
                    tasks[flow] = house.open(flow)
            if turn % 15 == 0:
                # Or all commits would be over before the first audit is.
                assert rounds.acquire(timeout=60)
            turn += 1
    finally:
        over.set()
        thread.join()
    for task in tasks.values():
        task.abandon()
    house.close()
    assert not failures
    assert len({one["actions/0"].position for one in found}) > 3
    for one in found:
        assert wrong(one) == []


# Wrong state ---------------------------------------------------------------------------------------------------------------------------

CASES = [(TaskName(flow, 1), table, kind) for flow, of in ENTITIES.items() for table, kind in of.items()]


def entity_of(settings: Settings, task: TaskName, kind: str, entity: int) -> str:
    if kind != TOPIC:
        return f"{kind} {entity}"
    view = TaskView(task_path(settings, task.flow, task.partition))
    try:
        return f"{kind} {(view.get(b'T' + entity.to_bytes(8, 'big', signed=True)) or b'').decode()}"
    finally:
        view.close()


def at_home(settings: Settings, ids: np.ndarray, partition: int) -> int:
    """An ID that is none of these, of a partition."""
    return next(i for i in range(10**6, 2 * 10**6) if i not in ids and partition_of(np.array([i]), settings.partitions)[0] == partition)


@pytest.mark.parametrize(("task", "table", "kind"), CASES, ids=[f"{task.flow}-{table.name}" for task, table, _ in CASES])
@pytest.mark.parametrize("how", ["altered", "lost", "invented"])
def test_rows_that_are_whole_and_wrong_are_found(settings: Settings, task: TaskName, table: Table, kind: str, how: str) -> None:
    rows, at = live(settings, task, table)
    entity = int(rows[at, 0])
    name = entity_of(settings, task, kind, entity)
    if how == "altered":
        rows[at, -1] += 1
    elif how == "lost":
        rows = rows[rows[:, 0] != entity]
    else:
        extra = rows[rows[:, 0] == entity].copy()
        extra[:, 0] = entity = at_home(settings, rows[:, 0], task.partition)
        rows = np.concatenate([rows, extra])
        name = f"{kind} {entity}"
    rewrite(settings, task, table, rows)
    found = audited(settings)
    assert wrong(found) == [f"{task} {name} {table.name}"]
    [mismatch] = found[str(task)].mismatches
    assert (bool(mismatch.state), bool(mismatch.log)) == {"altered": (True, True), "lost": (False, True), "invented": (True, False)}[how]
    assert mismatch.position == found[str(task)].position
    assert wrong(audited(settings, str(task))) == wrong(found)
    # No checksum finds it.
    logs = {name: driving.open_log(settings, name) for name in (ACTIONS, *OUTPUTS)}
    assert not list(verify_state(settings, settings.load_vocabulary(), task, logs, Arrived(logs), lambda size: None))
    for log in logs.values():
        log.close()


def test_a_topic_by_another_name_is_found(settings: Settings) -> None:
    task = TaskName(ACTIONS, 0)
    rows, at = live(settings, task, tables.TILES)
    topic = int(rows[at, 0])
    name = entity_of(settings, task, TOPIC, topic)

    def rename(store: TaskStore) -> None:
        batch = store.batch()
        batch.put(b"T" + topic.to_bytes(8, "big", signed=True), b"another")
        store.write(batch)

    rewrite(settings, task, tables.TILES, rows, rename)
    [mismatch] = audited(settings)["actions/0"].mismatches
    assert (mismatch.entity, mismatch.table) == (f"{name}", "topics")
    assert (mismatch.state, mismatch.log) == ([{"name": "another"}], [{"name": name.removeprefix("topic ")}])


def test_another_watermark_is_found(settings: Settings) -> None:
    def move(store: TaskStore) -> None:
        assert store.meta.watermark is not None
        store.meta.watermark += 1

    task = TaskName(ACTIONS, 0)
    rewrite(settings, task, tables.LABELS, rows_of(settings, task, tables.LABELS)[0], move)
    assert wrong(audited(settings)) == ["actions/0 task watermark"]


def test_who_is_out_of_every_window_must_still_be_known() -> None:
    old, new = 10 * HOUR_MS, LONGEST_WINDOW_MS
    rows = np.array([[1, 7, 0, old, 1], [2, 7, 0, new, 1], [3, 7, 0, old, 1]])
    before = old + HOUR_MS
    assert [d.entity for d in differences(REVISITS_TABLE, rows, rows[:2], before)] == [3]
    assert [d.entity for d in differences(REVISITS_TABLE, rows[1:], rows, before)] == [1]
    assert list(differences(REVISITS_TABLE, rows, rows, before)) == []
    # Of one that is known on both sides, rows that no window holds don't count.
    more = np.concatenate([rows[:1], [[1, 8, 0, old, 1]], rows[1:]])
    assert list(differences(REVISITS_TABLE, rows, more, before)) == []


def test_the_tables_are_those_of_the_tasks() -> None:
    assert tuple(ENTITIES[ACTIONS]) == tables.ACTIONS_TABLES
    assert tuple(ENTITIES[REVISITS]) == tables.PIN_TABLES
    assert TILE_COLUMNS[0] == "topic"


# Samples -------------------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(-(2**63), 2**63 - 1)), st.lists(st.integers(-(2**63), 2**63 - 1)), st.integers(0, 2**63 - 1), st.integers(1, 8))
def test_two_lists_choose_the_same_without_knowing_each_other(here: list[int], there: list[int], seed: int, size: int) -> None:
    apart = [Sample(seed, size), Sample(seed, size)]
    for sample, ids in zip(apart, (here, there), strict=True):
        for at in range(0, len(ids), 3):
            sample.offer(np.array(ids[at : at + 3], np.int64))
        assert len(sample.ids) == min(size, len(set(ids)))
    together = Sample(seed, size)
    together.offer(np.concatenate([sample.ids for sample in apart]))
    whole = Sample(seed, size)
    whole.offer(np.array(here + there, np.int64))
    assert together.ids.tolist() == whole.ids.tolist()
    for sample, ids in zip(apart, (here, there), strict=True):
        # What either list has of the sample, that list's own sample has.
        assert set(ids) & set(whole.ids.tolist()) <= set(sample.ids.tolist())


def test_each_entity_is_as_likely_as_another() -> None:
    ids, chosen = np.arange(100), np.zeros(100, np.int64)
    for seed in range(3_000):
        sample = Sample(seed, 10)
        sample.offer(ids)
        chosen[sample.ids] += 1
    # Binomial: 300 expected of each, with a standard deviation of 16.4.
    assert chosen.sum() == 30_000
    assert abs(chosen - 300).max() < 5 * 16.4


def test_a_small_sample_finds_as_often_as_it_should(settings: Settings) -> None:
    task = TaskName(ACTIONS, 1)
    rows, at = live(settings, task, tables.SEQUENCES)
    entities = len(np.unique(rows[:, 0]))
    entity = int(rows[at, 0])
    rows[at, -1] += 1
    rewrite(settings, task, tables.SEQUENCES, rows)
    seeds, size = 60, max(1, entities // 3)
    found = [bool(wrong(audited(settings, str(task), seed=seed, size=size))) for seed in range(seeds)]
    assert audited(settings, str(task), size=entities)["actions/1"].mismatches, "there are no more users than that"
    in_sample = []
    for seed in range(seeds):
        sample = Sample(seed, size)
        sample.offer(np.unique(rows[:, 0]))
        in_sample.append(entity in sample.ids)
    assert found == in_sample
    share = size / entities
    assert abs(sum(found) / seeds - share) < 4 * (share * (1 - share) / seeds) ** 0.5


# Logs ----------------------------------------------------------------------------------------------------------------------------------


def test_what_only_the_archive_has_is_read_from_there_and_a_hole_is_said(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "ROW_GROUP_BYTES", 1_000)
    monkeypatch.setattr(writing, "SEGMENT_BYTES", 2_000)
    rewrite(settings, TaskName(ACTIONS, 0), tables.LABELS, rows_of(settings, TaskName(ACTIONS, 0), tables.LABELS)[0][:-1])
    whole = {name: driving.open_log(settings, name) for name in (ACTIONS, REVISITS)}
    archive_all(settings.archives, whole[ACTIONS], most=20)
    begin = [end * 2 // 3 for end in whole[ACTIONS].end_positions()]

    def logs() -> dict[str, Log]:
        return {ACTIONS: joined(Forgetful(whole[ACTIONS], begin), settings.archives), REVISITS: whole[REVISITS]}

    assert wrong(audited(settings, logs=logs())) == wrong(audited(settings)) != []
    segments = sorted((settings.archives / ACTIONS / "1").rglob("*.parquet")) or sorted(settings.archives.rglob("0001/*.parquet"))
    segments[1].unlink()
    found = audited(settings, logs=logs())
    assert found["actions/0"].mismatches, "what can be audited is"
    for task in ("actions/1", "revisits/0", "revisits/1"):
        assert "missing" in str(found[task].problem), found[task]
    for log in whole.values():
        log.close()


def test_state_that_cannot_be_audited_is_said(settings: Settings) -> None:
    with driving.open_log(settings, ACTIONS) as log:
        log.commit_group(ACTIONS, {0: 5})
    shutil.rmtree(task_path(settings, ACTIONS, 0))
    path = task_path(settings, ACTIONS, 1)
    for file in path.glob("*.log"):
        file.write_bytes(file.read_bytes()[:-3] + b"xyz")
    for file in path.glob("CURRENT"):
        file.write_bytes(b"nothing\n")
    found = audited(settings)
    assert "is gone" in str(found["actions/0"].problem)
    assert "replay restore" in str(found["actions/0"].problem)
    assert found["actions/1"].problem
    other = Settings(**{**settings.__dict__, "allowed_lateness_ms": 1})
    assert all("other features or settings" in str(audited(other)[f"revisits/{p}"].problem) for p in range(PARTITIONS))


def test_of_the_users_that_are_asked_for_the_log_says_what_it_says_of_all(settings: Settings) -> None:
    """And of all saves only what they add up to is held: of a log of a year they would not fit."""
    with driving.open_log(settings, ACTIONS) as log:
        past = Past(settings, settings.load_vocabulary(), lambda: log)
        for partition in range(PARTITIONS):
            end = log.end_positions()[partition]
            for as_of in (2**62, int(np.median(past.users(partition, end, 2**62).labels[:, 2]))):
                every_one = past.users(partition, end, as_of)
                some = np.unique(every_one.labels[:, 0])[::3]
                few = past.users(partition, end, as_of, some)
                assert 0 < len(few.labels) < len(every_one.labels)
                for name in ("sequences", "revisits", "labels"):
                    rows = getattr(every_one, name)
                    assert np.array_equal(getattr(few, name), rows[np.isin(rows[:, 0], some)]), name
                assert np.array_equal(few.tiles, every_one.tiles)
                assert np.array_equal(every_one.tiles, tiles_of(every_one.labels))
