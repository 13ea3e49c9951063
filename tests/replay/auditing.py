"""A stream that has run with its state, audited: what tests of audits and of the command that makes them share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from flows.log import Log
from flows.outputs import ACTIONS, REVISITS
from flows.settings import Settings
from flows.state import tables
from flows.state.actions_task import state_fingerprint
from flows.state.runs import Table
from flows.state.store import TaskStore
from flows.state.task import task_path
from flows.state.view import TaskView
from replay.audit.audit import Audited, Auditor
from replay.audit.said import ENTITIES
from replay.tasks import TaskName, every, named
from tests import driving
from tests.state.house import House
from tests.state.small import small
from tests.strategies import adversarial

PARTITIONS = 2


@pytest.fixture(autouse=True)
def _small(request: pytest.FixtureRequest) -> Iterator[None]:
    with small(sequences=True):
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A data directory that has come to its end, of a stream with every kind of row."""
    with small(sequences=True):
        house = House(tmp_path_factory.mktemp("finished") / "data", adversarial(11, 900, PARTITIONS), PARTITIONS, anchor_records=40)
        house.finish([17])
        house.close()
    return house.settings


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The same for processes of their own, where nothing is small."""
    house = House(tmp_path_factory.mktemp("plain") / "data", adversarial(11, 300, PARTITIONS), PARTITIONS, anchor_records=40)
    house.finish([70])
    house.close()
    return house.settings


@pytest.fixture
def served(plain: Settings, tmp_path: Path) -> Settings:
    """A copy of it."""
    shutil.copytree(plain.data, tmp_path / "plain")
    return Settings(**{**plain.__dict__, "data": tmp_path / "plain"})


@pytest.fixture
def settings(finished: Settings, tmp_path: Path) -> Settings:
    """A copy of it."""
    shutil.copytree(finished.data, tmp_path / "data")
    return Settings(**{**finished.__dict__, "data": tmp_path / "data"})


def audited(
    settings: Settings, *names: str, seed: int = 0, size: int | None = None, logs: dict[str, Log] | None = None
) -> dict[str, Audited]:
    opened = logs if logs is not None else {name: driving.open_log(settings, name) for name in (ACTIONS, REVISITS)}
    try:
        auditor = Auditor(settings, settings.load_vocabulary(), opened, seed, size)
        found = list(auditor.audit(named(settings, names) if names else every(settings)))
    finally:
        if logs is None:
            for log in opened.values():
                log.close()
    assert len(found) == len({one.task for one in found})
    return {str(one.task): one for one in found}


def wrong(found: dict[str, Audited]) -> list[str]:
    """What an audit found, in a word each."""
    assert not [one.problem for one in found.values() if one.problem]
    return [f"{task} {mismatch.entity} {mismatch.table}" for task, one in sorted(found.items()) for mismatch in one.mismatches]


def rows_of(settings: Settings, task: TaskName, table: Table) -> tuple[np.ndarray, int]:
    """A table's rows, folded, and what has expired before."""
    view = TaskView(task_path(settings, task.flow, task.partition))
    try:
        assert view.meta is not None
        assert view.meta.watermark is not None
        found = [np.empty((0, table.columns), np.int64), *view.runs.scan(table, view.meta.manifest.get(table.name, []))]
        return np.concatenate(found), tables.expiry(settings, view.meta.watermark)
    finally:
        view.close()


def live(settings: Settings, task: TaskName, table: Table) -> tuple[np.ndarray, int]:
    """A table's rows, and the index of one that counts, in the middle."""
    rows, before = rows_of(settings, task, table)
    counts = {tuple(row) for row in tables.canonical(table, rows, before)[0].tolist()}
    clean = rows.copy()
    if table is tables.SEQUENCES:
        clean[:, tables.SEQUENCE_CODES] &= ~tables.CUT
    at = [i for i, row in enumerate(clean.tolist()) if tuple(row) in counts]
    assert at
    return rows.copy(), at[len(at) // 2]


def rewrite(
    settings: Settings, task: TaskName, table: Table, rows: np.ndarray, change: Callable[[TaskStore], None] = lambda store: None
) -> None:
    """Give a table other rows, as a commit would: whole, sorted, with every checksum right."""
    mark = state_fingerprint(settings, settings.load_vocabulary())
    store = TaskStore(task_path(settings, task.flow, task.partition), task.flow, task.partition, mark, list(ENTITIES[task.flow]))
    batch = store.batch()
    store.runs.manifest[table.name] = []
    store.runs.add(batch, table.name, rows)
    change(store)
    store.commit(batch)
    store.close()
