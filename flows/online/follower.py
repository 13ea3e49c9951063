"""Keeps Redis where task state is: what `tidemark online sync` does, a round at a time.

Where each task stands in Redis is in Redis, beside its rows; so a follower needs no memory, may be killed anywhere, and may run twice. It never takes
Redis back within one history: what Redis reflects may be newer than a state that was put back to before and goes through its log again, or than an
older copy of the whole data directory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from flows.errors import OnlineStoreError, StateError
from flows.kernels.rows import fold_sequences, fold_sums
from flows.online.changes import Changes
from flows.online.connection import connect, translated
from flows.online.held import MARK, Mark, Pairs, fields_of, key_of, pairs_of
from flows.online.writing import change, remove, replace, seen_mark
from flows.outputs import ACTIONS, REVISITS
from flows.reading import FeatureReader
from flows.settings import Settings
from flows.state import tables
from flows.state.actions_task import state_fingerprint
from flows.state.meta import Meta
from flows.state.runs import Table

# Of changed entities: what is read of state at a time, some 25 MB of sequences.
_SLICE = 4_096
# What has changed lies in new blocks, which are read once: more than this is of use to a reader that is asked for anything.
_CACHE_MB = 32
# Each time that another follower was faster, it has moved on; once is enough but for a follower of yet another directory.
_ATTEMPTS = 5


class Outcome(StrEnum):
    """What became of a task in a round."""

    KEPT = "kept"  # stands where state does
    CHANGED = "changed"  # the entities that had changed were written
    ANEW = "anew"  # the whole was written
    AHEAD = "ahead"  # reflects more of the same log than state does now, and was left alone
    OVERTAKEN = "overtaken"  # another follower has written meanwhile


@dataclass(frozen=True)
class Synced:
    """A task after a round.

    Attributes
    ----------
    position : int
        Of its state.
    fields : int
        How many fields of its hash were written.
    """

    flow: str
    partition: int
    outcome: Outcome
    position: int
    fields: int


class Follower:
    """Follows the state of one data directory.

    Parameters
    ----------
    settings : Settings
    anew : bool
        Have Redis follow this data directory even where it holds more of the same log.

    Raises
    ------
    DataDirectoryError
        There is no log, or state was made under other features or settings.
    """

    def __init__(self, settings: Settings, anew: bool = False) -> None:
        self.settings = settings
        self._anew = anew
        self._client = connect(settings)
        self._reader = FeatureReader(settings, cache_mb=min(_CACHE_MB, settings.read_cache_mb))
        self._places = self._reader.places
        self._changes = Changes(settings, self._reader.vocabulary)
        self._fingerprint = state_fingerprint(settings, self._reader.vocabulary)
        # Marks that were found to be of this log, and what the tiles of these partitions were then.
        self._known: dict[tuple[str, int], Mark] = {}
        self._tiles: dict[int, dict[int, bytes]] = {}

    def close(self) -> None:
        """Release all that is open."""
        self._changes.close()
        self._reader.close()
        self._client.close()

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def round(self) -> Iterator[Synced]:
        """Bring every task in Redis to where its state is now.

        Raises
        ------
        OnlineStoreError
            Redis doesn't answer, or reflects more of the same log than there is here. What was written is whole, task by task.
        StateError
            At the end: tasks whose state is damaged were left as they are in Redis, and while one of actions is, those of revisits too.
        """
        self._reader.refresh()
        if self._places != self._reader.places:
            # Another directory lies there: what is known of the logs of the one before says nothing of its own.
            self._places = self._reader.places
            self._changes.close()
            self._changes = Changes(self.settings, self._reader.vocabulary)
            self._known.clear()
            self._tiles.clear()
        damaged: list[str] = []
        if not self._anew:
            with translated(self.settings):
                self._refuse_older_copy()
        # As they were refreshed: what pins have applied was committed by the actions tasks before, and so it is in Redis.
        for flow in (ACTIONS, REVISITS):
            for partition in range(self.settings.partitions):
                try:
                    with translated(self.settings):
                        synced = self._sync(flow, partition)
                except StateError as error:
                    damaged.append(str(error))
                    continue
                yield synced
            if damaged and flow == ACTIONS:
                damaged[-1] += f"; until then tasks of {REVISITS} wait too, for pins must not reflect more than users do"
                break
        if damaged:
            raise StateError("; ".join(damaged))

    def _sync(self, flow: str, partition: int) -> Synced:
        meta = self._reader.meta(flow, partition) or Meta(flow, partition, self._fingerprint)
        for _ in range(_ATTEMPTS):
            outcome, fields = self._step(flow, partition, meta)
            if outcome is not Outcome.OVERTAKEN:
                break
        return Synced(flow, partition, outcome, meta.position, fields)

    def _step(self, flow: str, partition: int, meta: Meta) -> tuple[Outcome, int]:
        key = key_of(self.settings, flow, partition)
        seen = seen_mark(self._client, key)
        there = Mark.from_bytes(seen) if seen is not None else None
        if there is not None and there.partitions > self.settings.partitions:
            self._remove_beyond(there.partitions)
        same = there is not None and self._is_of_this_log(there, flow, partition)
        if there is not None and same and (there.corrected_to, there.position) >= (meta.corrected_to, meta.position):
            if self._known.get((flow, partition)) != there:
                self._forget(flow, partition)
                self._known[flow, partition] = there
            return Outcome.KEPT if (there.corrected_to, there.position) == (meta.corrected_to, meta.position) else Outcome.AHEAD, 0
        partitions = self.settings.partitions
        if seen is not None and there is not None and same and there.corrected_to == meta.corrected_to:
            changed = self._changes.entities(flow, partition, there.position, meta.position, meta.corrected_to)
            if changed is not None:
                # To look up what the log begins with, and what it ends with, would take its reader away from where it goes on the next time.
                first = there.first or self._changes.last_record(flow, partition, 1) or ""
                mark = Mark.of(meta, partitions, first, changed.last or "")
                return self._change(flow, partition, seen, there, mark, changed.ids)
        first, last = (self._changes.last_record(flow, partition, position) or "" for position in (min(meta.position, 1), meta.position))
        mark = Mark.of(meta, partitions, first, last)
        done, fields = replace(self._client, key, seen, mark.to_bytes(), self._whole(flow, partition))
        self._forget(flow, partition)
        return self._noted(flow, partition, mark, done, Outcome.ANEW), fields

    def _is_of_this_log(self, there: Mark, flow: str, partition: int) -> bool:
        """Whether a mark was made of this log, under the settings that hold now."""
        if self._known.get((flow, partition)) == there:
            return True
        if (there.fingerprint, there.partitions) != (self._fingerprint, self.settings.partitions):
            return False
        last = self._changes.last_record(flow, partition, there.position)
        return last is None or not there.last or last == there.last

    def _refuse_older_copy(self) -> None:
        """Refuse, before anything is written, to take Redis back to a log that begins as the one that it reflects, and ends before."""
        for flow in (ACTIONS, REVISITS):
            for partition in range(self.settings.partitions):
                seen = seen_mark(self._client, key_of(self.settings, flow, partition))
                there = Mark.from_bytes(seen) if seen is not None else None
                if there is None or self._known.get((flow, partition)) == there:
                    continue
                end = self._changes.end(flow, partition)
                if end and there.position > end and there.first and there.first == self._changes.last_record(flow, partition, 1):
                    raise OnlineStoreError(
                        f"Redis {self.settings.online} reflects task {flow}/{partition} up to position {there.position}, and the log of this "
                        f"data directory ends at {end}: it is an older copy, or was made anew; `tidemark online sync --anew` has Redis follow it "
                        "all the same"
                    )

    def _change(self, flow: str, partition: int, seen: bytes, there: Mark, mark: Mark, ids: np.ndarray) -> tuple[Outcome, int]:
        """Write the entities that have changed."""
        pairs, gone = list[bytes](), list[bytes]()
        for at in range(0, len(ids), _SLICE):
            some = ids[at : at + _SLICE]
            for table in _TABLES[flow]:
                rows = self._reader.rows_of(flow, table, {partition: some}).get(partition, np.empty((0, table.columns), np.int64))
                rows = _folded(table, rows)
                pairs += pairs_of(table, rows)
                # What was credited may have been taken back.
                gone += fields_of(table, np.setdiff1d(some, rows[:, 0]))
        tiles = None
        if flow == ACTIONS:
            tiles, changed = self._changed_tiles(partition, self._known.get((flow, partition)) == there)
            pairs += changed
        done = change(self._client, key_of(self.settings, flow, partition), seen, mark.to_bytes(), pairs, gone)
        if tiles is not None and done:
            self._tiles[partition] = tiles
        return self._noted(flow, partition, mark, done, Outcome.CHANGED), len(pairs) // 2 + len(gone)

    def _changed_tiles(self, partition: int, known: bool) -> tuple[dict[int, bytes], Pairs]:
        """Digests of the tiles of each topic, and the tiles of those topics whose are others than they were; of all, where that isn't known.

        A click changes the tiles of a save's topic, which may be long ago and in no record: so tiles are compared, not looked for in the log.
        """
        before = self._tiles.get(partition, {}) if known else {}
        now: dict[int, bytes] = {}
        changed: Pairs = []
        for rows in self._reader.scan(ACTIONS, tables.TILES, partition):
            pairs = pairs_of(tables.TILES, rows)
            for topic, field, value in zip(np.unique(rows[:, 0]).tolist(), pairs[::2], pairs[1::2], strict=True):
                now[topic] = hashlib.blake2b(value, digest_size=16).digest()
                if before.get(topic) != now[topic]:
                    changed += [field, value]
        return now, changed

    def _whole(self, flow: str, partition: int) -> Iterator[Pairs]:
        for table in (*_TABLES[flow], *([tables.TILES] if flow == ACTIONS else [])):
            for rows in self._reader.scan(flow, table, partition):
                yield pairs_of(table, rows)

    def _noted(self, flow: str, partition: int, mark: Mark, done: bool, outcome: Outcome) -> Outcome:
        if not done:
            self._forget(flow, partition)
            return Outcome.OVERTAKEN
        self._known[flow, partition] = mark
        return outcome

    def _forget(self, flow: str, partition: int) -> None:
        """Somebody else has written, or all was: what the tiles of each topic are in Redis isn't known."""
        self._known.pop((flow, partition), None)
        if flow == ACTIONS:
            self._tiles.pop(partition, None)

    def _remove_beyond(self, partitions: int) -> None:
        """Remove what a data directory of more partitions has left."""
        left = range(self.settings.partitions, partitions)
        remove(self._client, [key_of(self.settings, flow, partition) for flow in (ACTIONS, REVISITS) for partition in left])


_TABLES: dict[str, tuple[Table, ...]] = {ACTIONS: (tables.SEQUENCES, tables.REVISITS), REVISITS: (tables.REVISITS,)}


def _folded(table: Table, rows: np.ndarray) -> np.ndarray:
    return fold_sequences(rows) if table is tables.SEQUENCES else fold_sums(rows, table.keys)


@dataclass(frozen=True)
class Standing:
    """Where a task stands, here and in Redis.

    Attributes
    ----------
    position : int or None
        Of its state; None: it is damaged.
    online : int or None
        That its rows in Redis reflect; None if Redis holds nothing of it that could be read.
    fields : int
        Of its hash.
    bytes : int
        That Redis holds them in.
    """

    flow: str
    partition: int
    position: int | None
    online: int | None
    fields: int
    bytes: int


def standings(settings: Settings) -> Iterator[Standing]:
    """Where every task stands.

    Raises
    ------
    OnlineStoreError
        Redis doesn't answer.
    """
    with FeatureReader(settings) as reader, connect(settings) as client:
        for flow in (ACTIONS, REVISITS):
            for partition in range(settings.partitions):
                meta, key = reader.readable_meta(flow, partition), key_of(settings, flow, partition)
                with translated(settings), client.pipeline(transaction=True) as pipeline:
                    pipeline.hget(key, MARK.decode())
                    pipeline.hlen(key)
                    pipeline.memory_usage(key)
                    data, fields, size = pipeline.execute()
                mark = Mark.from_bytes(data) if data is not None else None
                here = None if (flow, partition) in reader.unreadable else meta.position if meta else 0
                yield Standing(flow, partition, here, mark.position if mark else None, max(fields - 1, 0), size or 0)
