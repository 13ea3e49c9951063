"""A task's own RocksDB, its writer's side: everything that a task knows, moved from one position to the next by atomic, synced write batches.

What is written says nothing without the meta record (meta.py) that goes with it. Readers: view.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rocksdict import Rdict, WriteBatch

from flows.directories import make_directory, translated
from flows.errors import MAKE_ANEW, DataDirectoryError
from flows.state import anchor
from flows.state.anchor import ANCHOR, SEAL_BYTES, Parts
from flows.state.database import check_current, check_options, pairs_with, state_errors, task_options
from flows.state.meta import META, Meta
from flows.state.runs import Runs, Table
from flows.state.task_lock import TaskLock


class TaskStore:
    """The writer's side; one process at a time.

    Parameters
    ----------
    path : Path
        Directory of the RocksDB; made if it isn't there.
    flow, partition : str, int
    fingerprint : str
    tables : sequence of Table

    Attributes
    ----------
    meta : Meta
        As of the commit that is being made.
    committed : int
        Position of the last one that is durable.

    Raises
    ------
    LockedError
        Another process has the task.
    DataDirectoryError
        The state was made under another fingerprint or by another format.
    StateError
        The state is damaged.
    """

    def __init__(self, path: Path, flow: str, partition: int, fingerprint: str, tables: Sequence[Table]) -> None:
        self.path = path
        self.runs: Runs = None  # type: ignore[assignment]
        # Before anything is made: where somebody is about to put a database, there must be none.
        self._lock = TaskLock(path)
        try:
            with translated(f"can't make {path}"):
                make_directory(path.absolute())
            check_current(path)
            with state_errors(path):
                check_options(path)
                anchor.delete_draft(path)
                self._db = Rdict(str(path), task_options())
            data = self.get(META)
            self.meta = Meta.from_json(data, path) if data is not None else Meta(flow, partition, fingerprint)
            self._written = self.committed = self.meta.position
            if self.meta.fingerprint != fingerprint:
                raise DataDirectoryError(
                    f"state {path} was made under other features or settings (fingerprint {self.meta.fingerprint}, now {fingerprint}); "
                    f"put the settings back, or {MAKE_ANEW}"
                )
            self.runs = Runs(self._db, tables, self.meta.manifest, self.meta.next_run)
            # What a kill has left.
            with state_errors(path):
                anchor.delete_except(path, [self._mark()])
        except BaseException:
            self.close()
            raise

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, None if there is none."""
        with state_errors(self.path):
            return self._db.get(key)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """The values of keys, in their order: quickest if they are sorted."""
        with state_errors(self.path):
            return list(self._db.get(keys)) if keys else []

    def prefixed(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Keys that begin with a prefix, with their values, in order."""
        with state_errors(self.path):
            return pairs_with(self._db, prefix)

    def saved(self) -> memoryview | None:
        """The working set that was saved last; None if it is not what was written, or there is none."""
        value = self.get(ANCHOR)
        with state_errors(self.path):
            return anchor.checked(self.meta, value, anchor.Saved.opened(self.path, value))

    def save(self, batch: WriteBatch, parts: Parts) -> None:
        """Save a working set, durably, for the commit of a write batch: `meta` says already of which position it is."""
        mark = anchor.seal(self.meta, parts)
        with state_errors(self.path):
            anchor.save(self.path, mark, parts)
            # Those before the last one are needed until what names the last one is durable.
            self.sync()
            anchor.delete_except(self.path, [self._mark(), mark])
        batch.put(ANCHOR, mark)

    def batch(self) -> WriteBatch:
        """An empty write batch."""
        return WriteBatch(raw_mode=True)

    def commit(self, batch: WriteBatch) -> None:
        """Write a batch together with the meta record, synced: all or nothing."""
        self.write(batch)
        self.sync()

    def write(self, batch: WriteBatch) -> None:
        """Write a batch together with the meta record: all or nothing, and nothing of it before what was written earlier, whatever fails."""
        self.meta.manifest = self.runs.manifest
        self.meta.next_run = self.runs.next_id
        batch.put(META, self.meta.to_json())
        with state_errors(self.path):
            self._db.write(batch)
        self._written = self.meta.position

    def sync(self) -> None:
        """Make all that has been written durable; in any thread. Here Python's lock is let go of while the disk works."""
        written = self._written
        with state_errors(self.path):
            self._db.flush_wal(True)
        self.committed = written

    def _mark(self) -> bytes:
        return (self.get(ANCHOR) or b"")[:SEAL_BYTES]

    def close(self) -> None:
        """Release the task. What was committed is in the write-ahead log, synced; nothing needs to be flushed."""
        if self.runs is not None:
            self.runs.release()
        db = self.__dict__.pop("_db", None)
        if db is not None:
            # Or letting go of it would write out memory tables, 25 ms a task, which a start after a kill does as well.
            db.cancel_all_background(True)
        # Only when RocksDB has let go of its files.
        del db
        self._lock.release()
