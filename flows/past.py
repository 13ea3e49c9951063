"""Features at a time that state no longer answers: the same kernels over the log, up to the committed position and no further.

Decisions (accepted, late, which save gets a revisit) are those of the whole prefix, as the stream made them; only then are events after `as_of`
left out. Nothing here reads task state but its positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from flows.corrections.history import History
from flows.errors import CorruptionError
from flows.kernels.layout import ACCEPTED, LABEL_COLUMNS, NEVER, TILE_COLUMNS
from flows.kernels.reads import REVISIT_COLUMNS, SEQUENCE_COLUMNS
from flows.kernels.rows import fold_sequences, merge_rows, sort_rows
from flows.log import Log, read_before
from flows.outputs import REVISITS
from flows.partition import partition_of
from flows.settings import DAY_MS, HOUR_MS, Settings
from flows.state import tables
from flows.state.actions_task import Judge, JudgedBatch
from flows.state.runs import Table
from flows.vocabulary import Vocabulary

# Of what a correction puts out, in the order of a pin's table.
_PIN_COLUMNS = ("pin_id", "user_id", "kind", "time", "weight")
# Rows gathered before they are folded together.
_GATHER = 1 << 19


@dataclass(frozen=True)
class PastUsers:
    """What one ACTIONS partition says of users and topics at a time; rows sorted and folded as in state.

    Attributes
    ----------
    sequences, revisits, labels, tiles : int64[n, columns]
        `labels` and `tiles` as of the time: a first revisit after it is none.
    watermark : int or None
        Greatest accepted event_time at or before the time.
    topics : dict of int to str
    """

    sequences: np.ndarray
    revisits: np.ndarray
    labels: np.ndarray
    tiles: np.ndarray
    watermark: int | None
    topics: dict[int, str]


class Past:
    """Runs the kernels over the log.

    Parameters
    ----------
    settings, vocabulary
        As of the flows.
    log : callable
        Gives the ACTIONS log; asked when it is needed, for that may be never.
    progress : callable, optional
        Called with the number of records just read.
    """

    def __init__(
        self, settings: Settings, vocabulary: Vocabulary, log: Callable[[], Log], progress: Callable[[int], None] | None = None
    ) -> None:
        self._settings = settings
        self._vocabulary = vocabulary
        self._log = log
        self._progress = progress

    def users(
        self,
        partition: int,
        position: int,
        as_of: int,
        user_ids: np.ndarray | None = None,
        corrected_to: int | None = None,
        every_label: bool = False,
    ) -> PastUsers:
        """State of a partition's users and topics at `as_of`, from its first `position` records.

        Parameters
        ----------
        user_ids : int64[n], optional
            Only rows of these users are kept; tiles are of all saves, always.
        corrected_to : int, optional
            The newest correction that counts; all, without it.
        every_label : bool
            Labels of all saves, whichever users are asked for.
        """
        judge = Judge(self._settings, self._vocabulary, partition, corrected_to=corrected_to)
        sequences, revisits, labels, tiles = map(_Gathered, (tables.SEQUENCES, tables.REVISITS, tables.LABELS, tables.TILES))
        watermark: int | None = None

        def save(rows: np.ndarray) -> None:
            # Of each save there is one row, ever: so tiles are added up as they come, and not of all saves together.
            known = labels_at(rows, as_of)
            tiles.add(tiles_of(known))
            labels.add(known if user_ids is None or every_label else known[np.isin(known[:, 0], user_ids)])

        for done in self._judged(judge, partition, position):
            rows = done.sequence_rows(judge.impression)
            rows = rows[rows[:, SEQUENCE_COLUMNS.index("event_time")] <= as_of]
            changes = done.revisit_rows()
            changes = changes[changes[:, REVISIT_COLUMNS.index("time")] <= as_of]
            if user_ids is not None:
                rows, changes = rows[np.isin(rows[:, 0], user_ids)], changes[np.isin(changes[:, 0], user_ids)]
            sequences.add(rows)
            revisits.add(changes)
            save(done.judged.labels)
            times = done.columns.event_time[done.judged.status == ACCEPTED]
            times = times[times <= as_of]
            if len(times):
                watermark = max(int(times.max()), watermark if watermark is not None else -(2**62))
        for rows in judge.working_set.open_labels_in_parts():
            save(rows)
        return PastUsers(sequences.rows(), revisits.rows(), labels.rows(), tiles.rows(), watermark, judge.decoder.topics)

    def pins(self, positions: list[int], applied: list[dict[int, int]], as_of: int, pin_ids: np.ndarray | None = None) -> list[np.ndarray]:
        """Revisit rows of pins at `as_of`, one array per partition of REVISITS.

        Parameters
        ----------
        positions : list of int
            Committed position of each actions task.
        applied : list of dict
            Of each revisits task: origin → last sequence number applied. Later changes are left out.
        """
        gathered = [_Gathered(tables.REVISITS) for _ in applied]
        wanted = set(range(len(applied))) if pin_ids is None else set(partition_of(np.asarray(pin_ids, np.int64), len(applied)).tolist())
        for origin, position in enumerate(positions):
            history = History.of(self._settings, origin)
            spans = {
                destination: history.gone_out(REVISITS, destination, applied[destination].get(origin, -1) + 1) for destination in wanted
            }
            for number in sorted({span.corrected_to for span in spans.values()}):
                judge = Judge(self._settings, self._vocabulary, origin, history, number)
                chosen = {destination: span for destination, span in spans.items() if span.corrected_to == number}
                left = {destination: span.left for destination, span in chosen.items()}
                for done in self._judged(judge, origin, position):
                    changes = done.judged.changes
                    offsets = done.offsets[changes[:, 5]]
                    destinations = partition_of(np.ascontiguousarray(changes[:, 0]), len(applied))
                    for destination, span in chosen.items():
                        mine = destinations == destination
                        taken = mine & (offsets < span.position)
                        behind = np.flatnonzero(mine & ~taken)[: left[destination]]
                        taken[behind] = True
                        left[destination] -= len(behind)
                        gathered[destination].add(_pin_rows(changes[taken][:, [0, 1, 3, 2, 4]], as_of, pin_ids))
            for destination, span in spans.items():
                emitted = [span.emitted.column(name).to_numpy().astype(np.int64) for name in _PIN_COLUMNS]
                gathered[destination].add(_pin_rows(np.column_stack(emitted), as_of, pin_ids))
        return [part.rows() for part in gathered]

    def _judged(self, judge: Judge, partition: int, position: int) -> Iterator[JudgedBatch]:
        at, log = 0, self._log()
        while at < position:
            batches = read_before(log, position, partition, at, self._settings.batch_records)
            if not batches:
                raise CorruptionError(
                    f"log '{log.name}', partition {partition}, ends at {at}, but its state is at position {position}: "
                    "the log has lost records; restore the log"
                )
            yield judge.judge(batches)
            if self._progress is not None:
                self._progress(batches[-1].end_offset - at)
            at = batches[-1].end_offset


def _pin_rows(rows: np.ndarray, as_of: int, pin_ids: np.ndarray | None) -> np.ndarray:
    """Of rows of a pin's table those that are asked for."""
    rows = rows[rows[:, 3] <= as_of]
    return rows if pin_ids is None else rows[np.isin(rows[:, 0], pin_ids)]


def labels_at(labels: np.ndarray, as_of: int) -> np.ndarray:
    """Label rows of saves at or before a time, with first revisits after it taken for none."""
    rows = labels[labels[:, LABEL_COLUMNS.index("save_time")] <= as_of].copy()
    for name in ("first_impression", "first_click"):
        column = rows[:, LABEL_COLUMNS.index(name)]
        column[column > as_of] = NEVER
    return rows


def tiles_of(labels: np.ndarray) -> np.ndarray:
    """Topic tiles of label rows: what the stream has added up."""
    topic, time, click = (labels[:, LABEL_COLUMNS.index(name)] for name in ("topic", "save_time", "first_click"))
    named = topic != 0
    clicked = named & (click != NEVER)
    tiles = np.zeros((int(named.sum() + clicked.sum()), len(TILE_COLUMNS)), np.int64)
    tiles[:, 0] = np.concatenate([topic[named], topic[clicked]])
    tiles[int(named.sum()) :, 1] = 1 + (click[clicked] - time[clicked]) // DAY_MS
    tiles[:, 2] = np.concatenate([time[named], time[clicked]]) // HOUR_MS
    tiles[:, 3] = 1
    return _folded(tables.TILES, [tiles])


class _Gathered:
    """Rows of a table, folded together now and then so that what is held stays near what is kept."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._parts: list[np.ndarray] = []
        self._size = 0

    def add(self, rows: np.ndarray) -> None:
        if len(rows):
            self._parts.append(sort_rows(np.ascontiguousarray(rows), self._table.keys))
            self._size += len(rows)
            if self._size > _GATHER:
                kept = self.rows()
                # Rows that folding keeps count once; only what comes next may fill the room.
                self._parts, self._size = [kept], 0

    def rows(self) -> np.ndarray:
        if not self._parts:
            return np.empty((0, self._table.columns), np.int64)
        merged = merge_rows(self._parts, self._table.keys)
        if self._table is tables.SEQUENCES:
            return fold_sequences(merged)
        return self._table.fold(merged) if self._table.fold is not None else merged


def _folded(table: Table, parts: list[np.ndarray]) -> np.ndarray:
    gathered = _Gathered(table)
    for part in parts:
        gathered.add(part)
    return gathered.rows()
