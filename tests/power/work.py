"""The work that a power failure interrupts: a stream is appended chunk by chunk while both flows apply it, commit and publish beside each other.

`python -m tests.power.work SEED DIRECTORY …` does it in each directory, from wherever that stands, and marks in the journal what it has promised.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import numpy as np

import flows.directories
import flows.log_file
import flows.state.anchor
import flows.state.database
import flows.state.store
from flows.log import LedgerEntry, LocalLog
from flows.outputs import ACTIONS, DEADLETTERS, LATE, REVISITS
from flows.settings import Settings
from flows.state.actions_task import ActionsTask
from flows.state.behind import Lanes
from flows.state.revisits_task import RevisitsTask
from flows.state.task import Task
from tests import driving
from tests.power.disk import mark
from tests.state.small import small
from tests.strategies import adversarial

PARTITIONS, RECORDS = 2, 240
STREAM = "the stream"


def settings_of(data: Path) -> Settings:
    return Settings(data=data, partitions=PARTITIONS, batch_records=40, anchor_records=60)


@contextmanager
def small_files() -> Iterator[None]:
    """State and logs so small that runs merge, memory tables are flushed and write-ahead logs move into their files all the time."""
    with ExitStack() as stack:
        stack.enter_context(small())
        stack.enter_context(mock.patch.object(flows.log_file, "WAL_PAGES", 24))
        stack.enter_context(mock.patch.object(flows.log_file, "PAGE_BYTES", 4096))
        stack.enter_context(mock.patch.object(flows.state.database, "WRITE_BUFFER_BYTES", 64 << 10))
        yield


def work(data: Path, seed: int, promise: Callable[[dict[str, object]], None] = lambda _: None) -> dict[str, int]:
    """Do what is left of it. Returns what was there at first: records of the ledger and the position of each task."""
    settings = settings_of(data)
    vocabulary = settings.load_vocabulary()
    logs = {name: driving.open_log(settings, name) for name in (ACTIONS, REVISITS, LATE, DEADLETTERS)}
    outputs = {name: logs[name] for name in (REVISITS, LATE, DEADLETTERS)}
    lanes = Lanes.start()
    entry = logs[ACTIONS].ledger_entry(STREAM)
    found = {STREAM: entry.done if entry else 0}
    tasks: dict[str, Task] = {}
    for partition in range(PARTITIONS):
        tasks[f"{ACTIONS}-{partition}"] = ActionsTask(settings, partition, vocabulary, logs[ACTIONS], outputs, lanes)
        tasks[f"{REVISITS}-{partition}"] = RevisitsTask(settings, partition, vocabulary, logs[REVISITS], lanes)
    found |= {name: task.position for name, task in tasks.items()}
    promise(dict(found))
    ended = threading.Event()
    failures: list[BaseException] = []

    def append() -> None:
        try:
            _append(logs[ACTIONS], seed, found[STREAM], promise)
        except BaseException as error:
            failures.append(error)
        ended.set()

    appending = threading.Thread(target=append)
    appending.start()
    rng = np.random.default_rng(seed)
    while True:
        last = ended.is_set() and all(task.settled() for task in tasks.values())
        records = sum(task.apply(task.source.read(task.partition, task.reached, int(rng.integers(1, 40)))) for task in tasks.values())
        if last and not records:
            break
        if rng.random() < 0.3:
            task = tasks[rng.choice(sorted(tasks))]
            task.settle()
            promise({f"{task.store.meta.flow}-{task.partition}": task.position})
    appending.join()
    for task in tasks.values():
        task.close()
    for log in logs.values():
        log.close()
    if failures:
        raise failures[0]
    promise({name: task.position for name, task in tasks.items()})
    return found


def _append(log: LocalLog, seed: int, done: int, promise: Callable[[dict[str, object]], None]) -> None:
    chunks = list(driving.chunks(adversarial(seed, RECORDS, PARTITIONS), np.random.default_rng(seed)))
    for i, chunk in enumerate(chunks[done:], done):
        log.append([chunk], ledger=LedgerEntry(STREAM, i + 1, len(chunks), previous=i))
        promise({STREAM: i + 1})


def _written(store: flows.state.store.TaskStore) -> None:
    """What `sync` does, but for the disk."""
    store._db.flush_wal(False)
    store.committed = store._written


@contextmanager
def unsynced(what: str) -> Iterator[None]:
    """Leave out a sync that the promises need: the checks must then find something."""
    with ExitStack() as stack:
        if what == "logs":
            prepare = flows.log_file._prepare
            stack.enter_context(
                mock.patch.object(flows.log_file, "_prepare", lambda c: (prepare(c), c.execute("PRAGMA synchronous = NORMAL")))
            )
        elif what == "state":
            stack.enter_context(mock.patch.object(flows.state.store.TaskStore, "sync", _written))
        elif what == "saved":
            stack.enter_context(mock.patch.object(flows.state.anchor, "sync"))
        elif what == "names":
            stack.enter_context(mock.patch.object(flows.directories, "sync"))
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--unsynced", choices=("nothing", "logs", "state", "saved", "names"), default="nothing")
    parser.add_argument("seed", type=int)
    parser.add_argument("directories", nargs="+", type=Path)
    arguments = parser.parse_args()
    journal = Path(os.environ["POWER_JOURNAL"])
    with small_files(), unsynced(arguments.unsynced):
        for directory in arguments.directories:
            work(directory, arguments.seed, lambda told, name=directory.name: mark(journal, json.dumps({name: told})))  # type: ignore[misc]


if __name__ == "__main__":
    main()
