"""A data directory that is used as a site uses it: records arrive, a run follows them, and now and then it is killed."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pyarrow.compute as pc

from benchmarks import _measure
from benchmarks._process import Run
from flows.events import EVENT_SCHEMA
from flows.log import LocalLog
from flows.outputs import ACTIONS
from flows.reading import FeatureReader
from flows.settings import Settings
from flows.vocabulary import IMPRESSION

_PAUSE_S = 0.002  # between two looks at the state; each costs about as much
_PATIENCE_S = 300.0
_LOOKED_AT = 64
_APPENDED = 65_536


class Site:
    """A data directory whose log is filled from another's, from its beginning on.

    Parameters
    ----------
    settings : Settings
        Of the directory to be made.
    stream : Settings
        A data directory with a longer log.
    """

    def __init__(self, settings: Settings, stream: Settings) -> None:
        self.settings = settings
        settings.logs.mkdir(parents=True)
        self._stream = LocalLog.open(stream.logs, ACTIONS, read_only=True)
        self._log = LocalLog.open(settings.logs, ACTIONS, settings.partitions, create=True)
        self._whole = np.array(self._stream.end_positions())
        self._share = 0.0
        self._ends = np.zeros(settings.partitions, np.int64)
        self._reader = FeatureReader(settings)
        self._run: Run | None = None

    def start(self) -> None:
        """Start a run that follows the log."""
        self._run = Run(self.settings, "--follow")

    def feed(self, records: int) -> None:
        """Append about so many more records: of each partition the next ones, so that all come as far in time."""
        self._share += records / self._whole.sum()
        ends = (self._whole * self._share).astype(np.int64)
        if (ends > self._whole).any():
            raise ValueError("the stream is too short")
        while (self._ends < ends).any():
            batches = []
            for partition in np.flatnonzero(self._ends < ends).tolist():
                at = int(self._ends[partition])
                batches += self._stream.read(partition, at, min(int(ends[partition]) - at, _APPENDED))
                self._ends[partition] = batches[-1].end_offset
            self._log.append([(batch.partition, batch.records) for batch in batches])

    def fed(self) -> int:
        """Records in the log."""
        return int(self._ends.sum())

    def committed(self) -> np.ndarray:
        """What a reader sees now: the position of each partition, int64[p]."""
        self._reader.refresh()
        return np.array(self._reader.positions()[ACTIONS], np.int64)

    def to_replay(self) -> list[int]:
        """Of each partition, the records that a start has to judge again: those since its working set was saved."""
        metas = [self._reader.meta(ACTIONS, p) for p in range(self.settings.partitions)]
        return [meta.position - meta.anchor if meta is not None else 0 for meta in metas]

    def unflushed_bytes(self) -> int:
        """What a start has to read of RocksDB's write-ahead logs."""
        return sum(path.stat().st_size for path in self.settings.state.glob("*/*/*.log"))

    def await_all(self) -> None:
        """Wait until the run has committed all that there is."""
        self._await(lambda at: bool((at >= self._ends).all()))

    def recover(self) -> dict[str, float]:
        """Start the run again; seconds until something new is committed, until a feature of it is read, and until all is committed."""
        before = self.committed()
        started, took = time.perf_counter(), {}
        self.start()
        after = self._await(lambda at: bool((at > before).any()))
        took["first_commit_s"] = time.perf_counter() - started
        while not self._shows(before, after):
            after = self._await(lambda at, seen=after: bool((at > seen).any()))  # type: ignore[misc]
        took["first_feature_s"] = time.perf_counter() - started
        self.await_all()
        took["all_committed_s"] = time.perf_counter() - started
        return took

    def kill_at_work(self, records: int, piece: int) -> None:
        """Feed piece by piece, one ahead of what the run has committed, and kill it when that is so many."""
        target = int(self.committed().sum()) + records
        at = 0
        while at < target:
            self.feed(piece)
            at = int(self._await(lambda at: int(at.sum()) >= min(target, self.fed() - piece)).sum())
        self._kill()

    def close(self) -> None:
        """Kill the run, if one goes on, and release all files."""
        self._kill()
        self._reader.close()
        self._log.close()
        self._stream.close()

    def _kill(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.kill()

    def _await(self, holds: Callable[[np.ndarray], bool]) -> np.ndarray:
        deadline = time.monotonic() + _PATIENCE_S
        while not holds(at := self.committed()):
            if self._run is not None:
                self._run.check()
            if time.monotonic() > deadline:
                raise _measure.CheckFailedError(f"nothing new has been committed in {_PATIENCE_S:.0f} s")
            time.sleep(_PAUSE_S)
        return at

    def _shows(self, before: np.ndarray, after: np.ndarray) -> bool:
        """Whether some user's sequence holds an action that was committed in between."""
        for partition in np.flatnonzero(after > before).tolist():
            batches = self._log.read(partition, int(before[partition]), int(after[partition] - before[partition]))
            for batch in batches:
                if batch.records.schema.names != EVENT_SCHEMA.names:
                    continue
                engaged = batch.records.filter(pc.not_equal(batch.records.column("action").cast("string"), IMPRESSION)).slice(0, _LOOKED_AT)
                users, times, pins = (engaged.column(name).to_numpy() for name in ("user_id", "event_time", "pin_id"))
                rows = self._reader.user_sequences(users)
                for i, (start, end) in enumerate(zip(rows.offsets[:-1].tolist(), rows.offsets[1:].tolist(), strict=True)):
                    if ((rows.event_time[start:end] == times[i]) & (rows.pin_id[start:end] == pins[i])).any():
                        return True
        return False
