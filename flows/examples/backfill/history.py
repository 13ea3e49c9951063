"""What one partition of ACTIONS says of seen pins and of what followed: its accepted records as columns, and how its watermark rose.

The judge is the stream's own, so duplicates, lateness and corrections are decided as ever. A large partition is taken in slices of its users, a
pass for each, so that memory is bounded; nothing here depends on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from flows.decode import Columns
from flows.errors import CorruptionError
from flows.kernels.layout import ACCEPTED, LABEL_COLUMNS, NEVER
from flows.log import Log, LogBatch, read_before
from flows.outputs import ACTIONS
from flows.record_texts import texts_of
from flows.settings import Settings
from flows.state.actions_task import Judge, JudgedBatch
from flows.vocabulary import Vocabulary

SLICE_RECORDS = 4_000_000
"""Records whose columns are held together: some 100 bytes each, and as much again while they are sorted."""
_KINDS: dict[str, type] = {
    **dict.fromkeys(("user_id", "pin_id", "event_id", "event_time", "topic", "order", "arrival"), np.int64),
    "action": np.int16,
    "surface": np.int16,
    "late": np.bool_,
}
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, eq=False)
class Rises:
    """How the watermark of a partition rose: after record `order` it is `watermark`; that record's arrival. int64[k] each, ascending."""

    watermark: np.ndarray
    order: np.ndarray
    arrival: np.ndarray

    def reaching(self, times: np.ndarray) -> np.ndarray:
        """Which rise is the first to reach each time; k: none."""
        return np.searchsorted(self.watermark, times, "left")


@dataclass(frozen=True, eq=False)
class Accepted:
    """Accepted records of a slice of a partition's users, in the order of the log.

    Attributes
    ----------
    user_id, pin_id, event_id, event_time, topic, order, arrival : int64[n]
        `order` counts the partition's records.
    action, surface : int16[n]
    late : bool[n]
    request : int64[n]
        Which of `requests` it names, -1: none.
    requests : pa.StringArray
    labels : int64[m, 8]
        Of all saves that opened a window, columns LABEL_COLUMNS.
    revisited : int64[r, 5]
        User, pin, time and ID of a save, and the record by which it came to be revisited; maybe more than once, in the order of the log.
    rises : Rises
        Of the whole partition.
    """

    user_id: np.ndarray
    pin_id: np.ndarray
    event_id: np.ndarray
    event_time: np.ndarray
    topic: np.ndarray
    order: np.ndarray
    arrival: np.ndarray
    action: np.ndarray
    surface: np.ndarray
    late: np.ndarray
    request: np.ndarray
    requests: pa.StringArray
    labels: np.ndarray
    revisited: np.ndarray
    rises: Rises

    def __len__(self) -> int:
        return len(self.user_id)


class History:
    """Reads partitions.

    Parameters
    ----------
    settings : Settings
    vocabulary : Vocabulary
    log : Log
        ACTIONS.
    progress : callable
        Called with the number of records just read.

    Attributes
    ----------
    topics : dict of int to str
        The name of every topic that was met.
    actions : dict of int to int
        How many accepted records each action has.
    """

    def __init__(self, settings: Settings, vocabulary: Vocabulary, log: Log, progress: Callable[[int], None]) -> None:
        self._settings, self._vocabulary, self._log, self._progress = settings, vocabulary, log, progress
        self.topics: dict[int, str] = {}
        self.actions: dict[int, int] = {}

    def slices(self, partition: int, end: int, most: int = SLICE_RECORDS) -> Iterator[Accepted]:
        """The first `end` records of a partition, by users."""
        count = max(1, -(-end // most))
        for number in range(count):
            yield self._slice(partition, end, number, count)

    def _slice(self, partition: int, end: int, number: int, count: int) -> Accepted:
        judge = Judge(self._settings, self._vocabulary, partition, examples=True)
        gathered, texts, labels, rises, revisited = _Columns(), [], [], _Columns(), []
        watermark, first = -int(NEVER), 0
        for batches, done in self._judged(judge, partition, end):
            after = _watermarks(done, watermark)
            rose, order = np.flatnonzero(np.diff(after, prepend=watermark) > 0), first + np.arange(len(after))
            rises.add((after[rose], order[rose], done.arrival[rose]))
            watermark = int(after[-1])
            first += len(after)
            wanted = (done.judged.status == ACCEPTED) & _of_slice(done.columns.user_id, number, count)
            c, at = done.columns, np.flatnonzero(wanted)
            gathered.add((
                c.user_id[at], c.pin_id[at], c.event_id[at], c.event_time[at], c.topic[at], order[at], done.arrival[at],
                c.action[at], c.surface[at], done.judged.lateness[at] > 0,
            ))  # fmt: skip
            texts.append(texts_of(batches, done.offsets, "request_id", judge.overlay, wanted))
            labels.append(_of_users(done.judged.labels, number, count))
            at = np.flatnonzero(wanted & (done.judged.revisited[:, 0] != NEVER))
            revisited.append(np.column_stack([c.user_id[at], c.pin_id[at], done.judged.revisited[at], order[at]]))
            if number == 0:
                self._count(done)
        labels.append(_of_users(judge.working_set.open_labels(), number, count))
        request, requests = _requests(texts)
        columns = dict(zip(_KINDS, gathered.taken(tuple(_KINDS.values())), strict=True))
        risen = Rises(*rises.taken((np.int64,) * 3))
        return Accepted(
            **columns,
            request=request,
            requests=requests,
            labels=np.concatenate(labels),
            revisited=np.concatenate([np.empty((0, 5), np.int64), *revisited]),
            rises=risen,
        )

    def _count(self, done: JudgedBatch) -> None:
        counts = np.bincount(done.columns.action[done.judged.status == ACCEPTED], minlength=1)
        for code in np.flatnonzero(counts).tolist():
            self.actions[code] = self.actions.get(code, 0) + int(counts[code])
        self.topics.update(done.columns.topics)

    def _judged(self, judge: Judge, partition: int, end: int) -> Iterator[tuple[list[LogBatch], JudgedBatch]]:
        """Records up to `end`, read and decoded beside the judging."""
        with ThreadPoolExecutor(1, "backfill") as ahead:
            at = 0
            coming = ahead.submit(self._read, judge, partition, at, end) if end else None
            while coming is not None:
                batches, decoded = coming.result()
                read, at = batches[-1].end_offset - at, batches[-1].end_offset
                coming = ahead.submit(self._read, judge, partition, at, end) if at < end else None
                if len(decoded):
                    yield batches, judge.judge(batches, decoded)
                self._progress(read)

    def _read(self, judge: Judge, partition: int, at: int, end: int) -> tuple[list[LogBatch], Columns]:
        batches = read_before(self._log, end, partition, at, self._settings.batch_records)
        if not batches:
            raise CorruptionError(f"log '{ACTIONS}', partition {partition}: records from offset {at} on are missing; restore the log")
        return batches, judge.decoder.decode(*(batch.records for batch in batches))


class _Columns:
    """Columns that grow by parts."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, ...]] = []

    def add(self, part: tuple[np.ndarray, ...]) -> None:
        self._parts.append(part)

    def taken(self, kinds: tuple[type, ...]) -> list[np.ndarray]:
        """All of them; they are kept here no longer."""
        parts, self._parts = self._parts, []
        return [np.concatenate([np.empty(0, kind), *(part[i] for part in parts)]).astype(kind, copy=False) for i, kind in enumerate(kinds)]


def _watermarks(done: JudgedBatch, before: int) -> np.ndarray:
    """W after each record: int64[n]."""
    moved = np.where(done.judged.status == ACCEPTED, done.columns.event_time, -NEVER)
    if len(done.clock):
        moved = np.where(done.clock != NEVER, done.clock, moved)
    return np.maximum(np.maximum.accumulate(moved), before)


def _of_slice(users: np.ndarray, number: int, count: int) -> np.ndarray:
    if count == 1:
        return np.ones(len(users), np.bool_)
    return np.asarray((users.astype(np.uint64) * _MIX >> np.uint64(33)) % np.uint64(count) == np.uint64(number))


def _of_users(labels: np.ndarray, number: int, count: int) -> np.ndarray:
    return labels[_of_slice(np.ascontiguousarray(labels[:, LABEL_COLUMNS.index("user_id")]), number, count)]


def _requests(texts: list[pa.Array]) -> tuple[np.ndarray, pa.StringArray]:
    """Which request each record names, and the names; an empty one is none."""
    whole = pa.chunked_array(texts, pa.string()).combine_chunks().dictionary_encode()
    names = whole.dictionary
    code = whole.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    empty = names.index("").as_py()
    if empty >= 0:
        code[code == empty] = -1
    return code, names
