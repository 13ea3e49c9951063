"""What a task's state says of a sample of its entities, at one commit, beside whoever runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from flows.errors import DataDirectoryError
from flows.kernels.rows import sort_rows
from flows.log import Log
from flows.outputs import ACTIONS, REVISITS
from flows.settings import Settings
from flows.state import tables
from flows.state.actions_task import Judge, resume, state_fingerprint
from flows.state.meta import Meta
from flows.state.runs import Run, RunReader, Table
from flows.state.task import task_path
from flows.state.view import TaskView
from flows.vocabulary import Vocabulary
from replay.audit.sample import Sample
from replay.tasks import TaskName

USER, TOPIC, PIN = "user", "topic", "pin"
# Of each flow, its tables and whose rows they hold.
ENTITIES: dict[str, dict[Table, str]] = {
    ACTIONS: {tables.SEQUENCES: USER, tables.REVISITS: USER, tables.LABELS: USER, tables.TILES: TOPIC},
    REVISITS: {tables.REVISITS: PIN},
}
# Blocks that are looked at together; their rows, up to 8 MiB, are what is held.
_BLOCKS = 128
_TOPIC = b"T"

Step = Callable[[int], None]
"""Called with a number of log records, now and then with none."""


@dataclass(frozen=True)
class Said:
    """What state says.

    Attributes
    ----------
    meta : Meta
        Of the commit that was read.
    samples : dict of entity kind to Sample
    rows : dict of table name to int64[n, columns]
        Of the sampled entities, folded.
    topics : dict of int to str
        Names of all topics.
    """

    meta: Meta
    samples: dict[str, Sample]
    rows: dict[str, np.ndarray]
    topics: dict[int, str]


def said(settings: Settings, vocabulary: Vocabulary, task: TaskName, log: Log, seed: int, size: int | None, step: Step) -> Said | None:
    """What a task's state says of a sample of what it has; None without state.

    Parameters
    ----------
    log : Log
        ACTIONS: saves that may still change lie in the working set, which is as of an earlier record.
    seed, size
        See `Sample`.

    Raises
    ------
    CorruptionError, DataDirectoryError
        State can't be read, or is of other features or settings.
    """
    path, fingerprint = task_path(settings, task.flow, task.partition), state_fingerprint(settings, vocabulary)
    if not (path / "CURRENT").exists():
        return None
    view = TaskView(path)
    try:
        meta = view.meta
        if meta is None:
            return None
        if meta.fingerprint != fingerprint:
            raise DataDirectoryError(
                f"state {path} was made under other features or settings (fingerprint {meta.fingerprint}, now {fingerprint}); "
                "audit it with the settings that it was made with"
            )
        entities = ENTITIES[task.flow]
        samples = {kind: Sample(seed, size) for kind in entities.values()}
        for table, kind in entities.items():
            for run in meta.manifest.get(table.name, []):
                for ids in _entities(view.runs, table, run):
                    samples[kind].offer(ids)
                    step(0)
        waiting = _waiting(settings, vocabulary, view, meta, log, samples[USER].ids, step) if task.flow == ACTIONS else []
        rows = {}
        for table, kind in entities.items():
            wanted = samples[kind].ids
            found = view.runs.rows_of(table, meta.manifest.get(table.name, []), wanted)
            if table is tables.LABELS:
                found = sort_rows(np.concatenate([found, *waiting]), table.keys)
            rows[table.name] = table.fold(found) if table.fold is not None else found
        named = {int.from_bytes(key[len(_TOPIC) :], "big", signed=True): name.decode() for key, name in view.prefixed(_TOPIC)}
        return Said(meta, samples, rows, named)
    finally:
        view.close()


def _waiting(
    settings: Settings, vocabulary: Vocabulary, view: TaskView, meta: Meta, log: Log, users: np.ndarray, step: Step
) -> list[np.ndarray]:
    """Label rows of some users' saves that may still change, which no table has."""
    judge = Judge(settings, vocabulary, meta.partition, corrected_to=meta.corrected_to)
    for _ in resume(judge, view, meta, log, settings.batch_records):
        step(0)
    return [rows[np.isin(rows[:, 0], users)] for rows in judge.working_set.open_labels_in_parts()]


def _entities(runs: RunReader, table: Table, run: Run) -> Iterator[np.ndarray]:
    """IDs of a run's rows, some at a time."""
    blocks = len(runs.index(run))
    for first in range(0, blocks, _BLOCKS):
        yield runs.blocks(table, run, first, min(first + _BLOCKS, blocks) - 1)[:, 0]
