"""`tidemark backfill`: drafts of all partitions first, on disk; then their features, a span of time at once; then out, to the log or to files.

What is made is a function of the log's prefix and the options alone. A span is as many requests as memory takes, of all partitions together, for the
features of pins come from all of them; where spans end changes nothing.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from flows.errors import InputError
from flows.examples.backfill.drafts import DRAFT, Drafts, What, drafts_of, sort_drafts
from flows.examples.backfill.featuring import Featuring
from flows.examples.backfill.history import SLICE_RECORDS, Accepted, History
from flows.examples.backfill.matching import first_of
from flows.examples.backfill.ours import OurRequests
from flows.examples.backfill.served import Offers, ServedFile
from flows.examples.record import HEADS, MASKED, Kind
from flows.examples.rows import ExampleRows
from flows.log import Log
from flows.point_in_time import PointInTime
from flows.settings import Settings
from flows.state import scratch
from flows.state.actions_task import state_fingerprint
from flows.vocabulary import IMPRESSION

SPAN_REQUESTS = 100_000
"""Requests whose features are held together: each at most 2.8 kB, twice while they are put in order."""
SPAN_ROWS = 800_000


@dataclass
class Found:
    """What a history holds.

    Attributes
    ----------
    examples : int
        Pins seen, whether their labels have matured or not.
    rows : int
        Records of EXAMPLES that they make.
    kinds : Counter
        Of these, by kind's name.
    labels : dict of str to [int, int]
        Of final rows, how many say something of a head, and how many of these that it came.
    served : int
        Pins that were found in the file of what was served.
    open : int
        Pins of which a label is still to come.
    outlasted : int
        Pins seen more than a day after their request, which make no example: maybe what names it is no request.
    """

    examples: int = 0
    rows: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    labels: dict[str, list[int]] = field(default_factory=lambda: {head: [0, 0] for head in HEADS})
    served: int = 0
    open: int = 0
    outlasted: int = 0

    def add(self, drafts: Drafts) -> None:
        """What a slice holds."""
        rows = drafts.rows
        self.examples += drafts.examples
        self.open += drafts.open
        self.outlasted += drafts.outlasted
        self.served += drafts.offered
        self.rows += len(rows)
        made = (Kind.NEGATIVE, Kind.POSITIVE, Kind.FINAL)
        self.kinds.update({kind.name.lower(): int(np.count_nonzero(rows["kind"] == kind)) for kind in made})
        labels = rows["labels"][rows["kind"] == Kind.FINAL]
        for i, head in enumerate(HEADS):
            self.labels[head][0] += int(np.count_nonzero(labels[:, i] != MASKED))
            self.labels[head][1] += int(np.count_nonzero(labels[:, i] == 1))


@dataclass(frozen=True, eq=False)
class _Shelf:
    """Drafts of a partition in files.

    Attributes
    ----------
    rows : array[n] of DRAFT
        In order.
    moments : int64[n + 1]
        How many requests there are about among those before each; one of which there are several kinds counts for each of them.
    requests : pa.StringArray
        The names that drafts point to.
    """

    rows: np.ndarray
    moments: np.ndarray
    requests: pa.StringArray


class Backfill:
    """Makes examples of a history.

    Parameters
    ----------
    settings : Settings
    log : Log
        ACTIONS.
    ends : sequence of int
        How many positions of each partition are read.
    what : What
    served : ServedFile, optional
    ours : OurRequests, optional
        Requests of which no examples are made.
    progress : callable
        Called with what is done ("reading", "making"), how much of it, and of how much.
    slice_records, span_requests, span_rows : int
        How much is held together. Never changes a result.
    """

    def __init__(
        self,
        settings: Settings,
        log: Log,
        ends: Sequence[int],
        what: What,
        served: ServedFile | None = None,
        ours: OurRequests | None = None,
        progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
        slice_records: int = SLICE_RECORDS,
        span_requests: int = SPAN_REQUESTS,
        span_rows: int = SPAN_ROWS,
    ) -> None:
        self._settings, self._log, self._ends, self._what = settings, log, ends, what
        self._served, self._ours, self._progress = served, ours, progress
        self._slice_records, self._span_requests, self._span_rows = slice_records, span_requests, span_rows
        self._vocabulary = settings.load_vocabulary()
        self.fingerprint = state_fingerprint(settings, self._vocabulary)
        self.found = Found()
        self._topics: dict[int, str] = {}
        self._shelves: list[_Shelf] = []
        self._directory = Path(scratch.take())

    def close(self) -> None:
        """Remove what lies on disk."""
        self._shelves = []
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Backfill:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def prepare(self) -> Found:
        """Find all examples, without their features.

        Raises
        ------
        InputError
            The log holds no impressions, so nobody knows what was seen.
        """
        total = sum(end * max(1, -(-end // self._slice_records)) for end in self._ends)
        read = 0

        def progress(records: int) -> None:
            nonlocal read
            read += records
            self._progress("reading", read, total)

        history = History(self._settings, self._vocabulary, self._log, progress)
        for partition, end in enumerate(self._ends):
            parts = []
            for number, accepted in enumerate(history.slices(partition, end, self._slice_records)):
                parts.append(self._drafted(accepted, partition, number))
                del accepted
            self._shelves.append(self._joined(partition, parts))
        self._topics = history.topics
        self._refuse_without_impressions(history.actions)
        return self.found

    def counts(self) -> list[int]:
        """How many records each partition has."""
        return [len(shelf.rows) for shelf in self._shelves]

    def until(self) -> list[int]:
        """When the last record of each partition became known, ms; -1 for none."""
        return [int(shelf.rows["ready"][-1]) if len(shelf.rows) else -1 for shelf in self._shelves]

    def spans(self, begin: Sequence[int] = ()) -> Iterator[list[tuple[int, ExampleRows]]]:
        """All records with their features, a span at a time: (partition, records), each partition's in order.

        Parameters
        ----------
        begin : sequence of int
            So many of each partition are left out.
        """
        at = np.array(begin or [0] * len(self._shelves), np.int64)
        done = int(at.sum())
        with PointInTime(self._settings, self._passing) as point:
            featuring = Featuring(point, self._topics, self.fingerprint)
            while done < self.found.rows:
                to = self._span_end(at)
                parts = [(p, int(at[p]), int(to[p])) for p in range(len(at)) if to[p] > at[p]]
                self._span = (done, int((to - at).sum()))
                at, done = to, done + self._span[1]
                drafts = [(np.array(self._shelves[p].rows[low:high]), self._shelves[p].requests) for p, low, high in parts]
                yield [(p, rows) for (p, _, _), rows in zip(parts, featuring.rows_of(drafts), strict=True)]

    def _passing(self, read: int, total: int) -> None:
        done, rows = self._span
        self._progress("making", done + rows * read // max(total, 1), self.found.rows)

    def _drafted(self, accepted: Accepted, partition: int, number: int) -> _Shelf:
        def offered(*wanted: np.ndarray) -> Offers:
            offers = Offers.unknown(len(wanted[0]))
            if self._served is not None:
                offers = self._served.offers(wanted, accepted.requests, partition, len(self._ends))
            if self._ours is not None:
                offers = replace(offers, ours=self._ours.hold(partition, wanted[0], wanted[1], accepted.requests))
            return offers

        drafts = drafts_of(accepted, self._settings, self._vocabulary, self._what, offered)
        self.found.add(drafts)
        return self._stored(f"{partition}-{number}", drafts.rows, drafts.requests)

    def _joined(self, partition: int, parts: list[_Shelf]) -> _Shelf:
        """The slices of a partition as one."""
        if len(parts) == 1:
            return parts[0]
        rows = np.concatenate([np.empty(0, DRAFT), *(part.rows for part in parts)])
        named = np.repeat(np.cumsum([0, *(len(part.requests) for part in parts)])[:-1], [len(part.rows) for part in parts])
        rows["request"] += np.where(rows["request"] >= 0, named, 0)
        requests = pa.chunked_array([part.requests for part in parts], pa.string()).combine_chunks()
        return self._stored(str(partition), sort_drafts(rows), requests)

    def _stored(self, name: str, rows: np.ndarray, requests: pa.StringArray) -> _Shelf:
        """Both put on disk, and mapped into memory."""
        path = self._directory / name
        with pa.OSFile(f"{path}.arrow", "wb") as sink, pa.ipc.new_file(sink, pa.schema([("request_id", pa.string())])) as writer:
            writer.write_batch(pa.record_batch([requests], ["request_id"]))
        first = np.zeros(len(rows) + 1, np.int64)
        first[1 + first_of(*(rows[name] for name in ("user_id", "as_of", "kind", "head")))] = 1
        np.save(f"{path}.npy", rows)
        np.save(f"{path}.moments.npy", np.cumsum(first))
        mapped = pa.ipc.open_file(pa.memory_map(f"{path}.arrow")).get_batch(0).column(0)
        return _Shelf(np.load(f"{path}.npy", mmap_mode="r"), np.load(f"{path}.moments.npy", mmap_mode="r"), mapped)

    def _span_end(self, at: np.ndarray) -> np.ndarray:
        """Where the next span ends in each partition: all that is known by some time, as late as it may be; more than may be of one time is cut."""
        ready = [shelf.rows["ready"] for shelf in self._shelves]
        starts = [times[low] for times, low in zip(ready, at, strict=True) if low < len(times)]
        low, high = min(starts), max(int(times[-1]) for times in ready if len(times))
        # Half-open: what is known by `low` is one time's, and may be too much.
        while low < high:
            middle = low + (high - low + 1) // 2
            low, high = (middle, high) if self._fits(at, _reached(ready, middle, at)) else (low, middle - 1)
        to = _reached(ready, int(low), at)
        if self._fits(at, to):
            return to
        room = min(self._span_rows, self._span_requests)
        for p in range(len(to)):
            to[p] = min(to[p], at[p] + room)
            room -= int(to[p] - at[p])
        return to

    def _fits(self, at: np.ndarray, to: np.ndarray) -> bool:
        moments = sum(int(s.moments[high] - s.moments[low]) for s, low, high in zip(self._shelves, at, to, strict=True))
        return int((to - at).sum()) <= self._span_rows and moments <= self._span_requests

    def _refuse_without_impressions(self, actions: dict[int, int]) -> None:
        if actions.get(self._vocabulary.actions[IMPRESSION]):
            return
        names = self._vocabulary.action_names()
        held = ", ".join(f"{names[code]} {count:,}" for code, count in sorted(actions.items())) or "no accepted record"
        raise InputError(
            f"log 'actions' in {self._settings.data} holds no impressions ({held}): an example is a pin that was seen, and without them nobody "
            "knows what was seen and not acted on; ingest what was shown as action 'impression' (`tidemark ingest --actions`)"
        )


def _reached(ready: list[np.ndarray], time: int, at: np.ndarray) -> np.ndarray:
    found = np.array([np.searchsorted(times, time, "right") for times in ready], np.int64)
    return np.maximum(found, at)
