"""Reads of features from Redis: the same answers as from task state at the position that Redis holds, with no data directory needed.

All that is read after a catch-up reflects the marks that it has found; rows that were written since are refused, never mixed in. A task that Redis
holds nothing of is an error: that an entity is unknown can only be said of rows that are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from flows.answers import EntityReader, Tiles
from flows.errors import MovedOnError, OnlineStoreError, OtherFingerprintError, TidemarkError
from flows.events import hash_id
from flows.kernels.rows import fold_sums
from flows.log import Log
from flows.online.connection import connect, translated
from flows.online.held import MARK, Mark, fields_of, key_of, rows_in
from flows.open_log import open_log
from flows.outputs import ACTIONS, REVISITS
from flows.settings import Settings
from flows.state import tables
from flows.state.actions_task import state_fingerprint
from flows.state.meta import Meta
from flows.state.runs import Table

_Task = tuple[str, int]


class RedisReader(EntityReader):
    """Reads what Redis holds of a data directory. For one thread at a time.

    Parameters
    ----------
    settings : Settings
        `online` names the Redis; of the data directory nothing but the ACTIONS log is ever read, for times that Redis doesn't reach back to.
    progress : callable, optional
        Called with a number of log records whenever a read has to go through the log.

    Raises
    ------
    OnlineStoreError
        Redis doesn't answer, or holds no features.
    OtherFingerprintError
        They were made under other features or settings.
    """

    def __init__(self, settings: Settings, progress: Callable[[int], None] | None = None) -> None:
        super().__init__(settings, progress)
        self._client = connect(settings)
        self._fingerprint = state_fingerprint(settings, self.vocabulary)
        self._tasks: list[_Task] = [(flow, p) for flow in (ACTIONS, REVISITS) for p in range(settings.partitions)]
        self._marks: dict[_Task, bytes] = {}
        self._metas: dict[_Task, Meta] = {}
        self._asked: dict[_Task, dict[bytes, None]] = {}
        self._values: dict[_Task, dict[bytes, bytes | None]] = {}
        self._moved = False
        self._log: Log | None = None
        try:
            self.refresh()
        except BaseException:
            # Whoever serves opens a reader again and again until one can be.
            self.close()
            raise

    def refresh(self) -> None:
        """Take the marks of all tasks, of one moment; after a MovedOnError also the values that had been asked for."""
        together = self._asked if self._moved else {}
        wanted = {task: [MARK, *together.get(task, ())] for task in self._tasks}
        answers = self._fetch(wanted, transaction=True)
        self._moved, self._asked, self._values = False, {}, {}
        for task, found in answers.items():
            mark = found[0]
            if mark is None:
                raise OnlineStoreError(
                    f"Redis {self.settings.online} holds nothing of task {task[0]}/{task[1]} (key '{key_of(self.settings, *task)}'): it was never "
                    "filled, or emptied since; `tidemark online sync` fills it from the data directory"
                )
            if mark != self._marks.get(task):
                self._metas[task] = self._checked(task, mark)
                self._marks[task] = mark
            self._values[task] = dict(zip(wanted[task][1:], found[1:], strict=True))

    def close(self) -> None:
        """Release all connections."""
        self._client.close()
        if self._log is not None:
            self._log.close()

    def __enter__(self) -> RedisReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def meta(self, flow: str, partition: int) -> Meta | None:
        """What a task's rows in Redis reflect; None if it had committed nothing."""
        meta = self._metas[flow, partition]
        return meta if meta.position else None

    def rows_of(self, flow: str, table: Table, wanted: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Folded rows of entities, by partition, in one round trip for all of them."""
        values = self._read({(flow, partition): fields_of(table, ids) for partition, ids in wanted.items()})
        return {partition: rows_in(table, ids, values[flow, partition], self._where(flow, partition)) for partition, ids in wanted.items()}

    def tiles_of(self, partitions: Iterable[int], topics: list[str] | None) -> list[Tiles]:
        """Tiles of the topics that are named; without names there is nothing to ask Redis for."""
        if topics is None:
            raise OnlineStoreError(
                "Redis answers for topics that are named; all of them are read from task state, by `tidemark features export`"
            )
        names = {hash_id(topic): topic for topic in topics}
        ids = np.array(sorted(names), np.int64)
        rows = self.rows_of(ACTIONS, tables.TILES, dict.fromkeys(partitions, ids))
        return [Tiles(fold_sums(found, tables.TILES.keys), names) for found in rows.values()]

    def _read(self, wanted: dict[_Task, list[bytes]]) -> dict[_Task, list[bytes | None]]:
        """Values of fields, as of the last catch-up."""
        if all(field in self._values[task] for task, fields in wanted.items() for field in fields):
            return {task: [self._values[task][field] for field in fields] for task, fields in wanted.items()}
        for task, fields in wanted.items():
            self._asked.setdefault(task, {}).update(dict.fromkeys(fields))
        answers = self._fetch({task: [MARK, *fields] for task, fields in wanted.items()}, transaction=False)
        for task, found in answers.items():
            if found[0] != self._marks[task]:
                self._moved = True
                raise MovedOnError(f"{self._where(*task)} was written between two reads that belong together; read again")
        return {task: found[1:] for task, found in answers.items()}

    def _fetch(self, wanted: dict[_Task, list[bytes]], transaction: bool) -> dict[_Task, list[bytes | None]]:
        with translated(self.settings), self._client.pipeline(transaction=transaction) as pipeline:
            for task, fields in wanted.items():
                pipeline.hmget(key_of(self.settings, *task), fields)
            answers: list[Any] = pipeline.execute()
        return dict(zip(wanted, answers, strict=True))

    def _checked(self, task: _Task, data: bytes) -> Meta:
        mark = Mark.from_bytes(data)
        if mark is None:
            raise OnlineStoreError(
                f"{self._where(*task)} is of a format that this Tidemark doesn't read; `tidemark online sync` writes it anew"
            )
        if mark.fingerprint != self._fingerprint:
            raise OtherFingerprintError(
                f"{self._where(*task)} was made under other features or settings (fingerprint {mark.fingerprint}, now {self._fingerprint}); "
                "read it with those, or have `tidemark online sync` follow a data directory that was made with these"
            )
        return mark.meta(*task)

    def _where(self, flow: str, partition: int) -> str:
        return f"Redis {self.settings.online}, key '{key_of(self.settings, flow, partition)}'"

    def _actions(self) -> Log:
        """The ACTIONS log, if this process can read it."""
        if self._log is None:
            try:
                self._log = open_log(self.settings, ACTIONS, read_only=True)
            except TidemarkError as error:
                raise OnlineStoreError(
                    f"Redis {self.settings.online} doesn't reach back to this time, and the log that does can't be read here ({error}); "
                    "read it where --data names the data directory, or read a later time"
                ) from error
        return self._log
