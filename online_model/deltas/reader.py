"""A consumer's end of the log: whole deltas of one base, in order, each once, or an error that says what is wrong.

It must never show a part of a delta, skip one that is missing, or take one of another base. What it has shown stays right when it refuses what
follows; `heal` goes on at a snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress

import numpy as np
import pyarrow as pa

from flows.errors import CorruptionError, RetentionError
from flows.log import Log, LogBatch
from online_model.deltas.chain import closings_in, holds
from online_model.deltas.errors import (
    DamagedDeltaError,
    DeltaError,
    DuplicateError,
    ForkedError,
    GapError,
    LostDeltasError,
    NoSnapshotError,
    OtherBaseError,
    ReorderedError,
)
from online_model.deltas.record import (
    EMBEDDING_SCHEMA,
    PARTITION,
    TABLES,
    Closing,
    Delta,
    Kind,
    check_schema,
    closing_at,
    digest_of,
    plain,
    rows_at,
)
from online_model.registry.current import Start
from online_model.registry.snapshots import Point, Snapshot

_NUMBERS = ("timestamp", "base", "delta", "row", "kind", "table", "id", "newest_event_time")
_AHEAD_RECORDS = 65_536


class DeltaReader:
    """Reads the deltas of a base.

    Parameters
    ----------
    log : Log
        EMBEDDINGS.
    start : Start
        What is applied already, and where to go on.
    beside : callable, optional
        Bases whose deltas are passed over, asked when one turns up: `Current.beside`.
    dimension : int, optional
        Length of a row; those of another are refused.

    Attributes
    ----------
    base, delta, digest
        What was shown last.
    position : int
        The offset behind it.
    """

    def __init__(self, log: Log, start: Start, beside: Callable[[], Collection[int]] = frozenset, dimension: int | None = None) -> None:
        self._log, self._beside, self._dimension = log, beside, dimension
        self._go_to(start)

    def _go_to(self, start: Start) -> None:
        self.base, self.delta, self.digest, self.position = start.base, start.delta, start.digest, start.position
        self._settled = start.settled
        # Read, and not yet part of a whole delta.
        self._at = start.position
        self._held: list[pa.RecordBatch] = []
        self._refused: DeltaError | None = None
        self._unreadable = -1

    @property
    def read_to(self) -> int:
        """The offset that it reads on from: behind `position` lies what is no whole delta yet."""
        return self._at

    def read(self, most: int = 65_536) -> list[Delta]:
        """Deltas that are whole by now, of the next records; [] at the end, or where one has not come to its end yet.

        What is sound is given before what comes behind it is refused; what was refused is refused again.

        Parameters
        ----------
        most : int
            Records to read.

        Raises
        ------
        GapError, DuplicateError, ReorderedError, OtherBaseError, ForkedError, DamagedDeltaError, LostDeltasError
        RetentionError, CorruptionError
            The log no longer has the records, or they are damaged in it.
        """
        if self._refused is not None:
            raise self._refused
        if self._at > (end := self._log.end_position(PARTITION)):
            raise self._refuse(
                LostDeltasError(
                    f"{self._where()}: position {self._at} lies behind its end, {end}: it has lost deltas, or was made anew; "
                    "consumers begin again at a snapshot, the learner puts out what is missing",
                    end,
                )
            )
        out: list[Delta] = []
        try:
            batches = self._log.read(PARTITION, self._at, most)
        except (CorruptionError, RetentionError):
            self._unreadable = self._at
            raise
        for batch in batches:
            try:
                self._take(batch, out)
            except DeltaError as error:
                self._refuse(error)
                break
        if self._refused is not None and not out:
            raise self._refused
        return out

    def heal(self, found: Iterable[Snapshot]) -> tuple[Point, dict[str, dict[str, np.ndarray]]]:
        """Go on at the newest snapshot behind what was refused, or at the newest there is if nothing was.

        Parameters
        ----------
        found : iterable of Snapshot
            Sound ones of this base, the newest first: `online_model.registry.snapshots.sound`.

        Returns
        -------
        (Point, dict of str to State)
            Where this goes on, and the rows there, which take the place of all that whoever reads has.

        Raises
        ------
        NoSnapshotError
        """
        refused = self._refused
        # What is behind the end of a log that has lost its end is gone: then an older snapshot is right.
        behind = self._unreadable if refused is None else -1 if isinstance(refused, LostDeltasError) else refused.position
        for snapshot in found:
            if snapshot.point.base == self.base and snapshot.point.position > behind and holds(self._log, snapshot.point):
                # First the rows: without them nothing may be read on.
                states = {table: snapshot.table(table) for table in TABLES}
                self._go_to(snapshot.start(self._settled))
                return snapshot.point, states
        why = f" behind offset {behind}, at which it was refused: {refused}" if refused is not None else ""
        raise NoSnapshotError(
            f"base {self.base} has no sound snapshot{why}; rows stay as they were until its learner makes one", self.position
        )

    def _take(self, batch: LogBatch, out: list[Delta]) -> None:
        """Go through records; those of whole deltas are added to `out`, others are held."""
        records = batch.records
        if not records.num_rows:
            # Offsets without records, as behind each transaction of Kafka: they have no columns to look at.
            self._at = batch.end_offset
            return
        where = self._where(batch.first_offset)
        try:
            check_schema(records, where)
        except CorruptionError as error:
            raise DamagedDeltaError(str(error), batch.first_offset) from error
        if any(records.column(name).null_count for name in _NUMBERS):
            raise DamagedDeltaError(f"{where}: records lack what each must have; restore the log", batch.first_offset)
        offsets = batch.offsets_of_records()
        after = 0
        for i in np.flatnonzero(plain(records, "kind") == Kind.CLOSED).tolist():
            self._hold(records.slice(after, i - after))
            self._close(closing_at(records, i, int(offsets[i]) + 1), batch, out)
            after = i + 1
        self._hold(records.slice(after))
        self._at = batch.end_offset

    def _hold(self, records: pa.RecordBatch) -> None:
        """Keep rows until what closes them. A first row begins anew: what was held was never closed, for a log was cut there."""
        if records.num_rows:
            first = np.flatnonzero(plain(records, "row") == 0)
            if len(first):
                self._held.clear()
                records = records.slice(int(first[-1]))
            self._held.append(records)

    def _close(self, closing: Closing, batch: LogBatch, out: list[Delta]) -> None:
        held, self._held = self._held, []
        at = closing.position - 1
        if closing.base != self.base:
            if at < self._settled or closing.base in self._beside():
                self._passed(closing)
                return
            raise OtherBaseError(
                f"{self._where(at)}: delta {closing.delta} is of base {closing.base}, and this reads base {self.base}; look at what is served now "
                "(`tidemark models show`), and begin with that",
                at,
            )
        if closing.delta != self.delta + 1:
            raise self._out_of_order(closing, at)
        if closing.previous != self.digest:
            raise ForkedError(
                f"{self._where(at)}: delta {closing.delta} of base {self.base} follows another delta {self.delta} ({closing.previous}) than the one "
                f"that was read ({self.digest}): are there two learners, or was the log made anew?",
                at,
            )
        out.append(self._whole(held, closing, at))
        self.delta, self.digest = closing.delta, closing.digest
        self._passed(closing)

    def _passed(self, closing: Closing) -> None:
        self.position = self._at = closing.position

    def _whole(self, held: list[pa.RecordBatch], closing: Closing, at: int) -> Delta:
        # A delta without rows closes nothing of what is held.
        held = held if closing.rows else []
        table = pa.Table.from_batches([one.replace_schema_metadata(None) for one in held] or [_none()])
        records = table.combine_chunks().to_batches(max_chunksize=None)
        together = records[0] if records else _none()
        numbers = plain(together, "row")
        same = (plain(together, "base") == closing.base).all() and (plain(together, "delta") == closing.delta).all()
        where = self._where(at)
        if not same or len(numbers) != closing.rows or not np.array_equal(numbers, np.arange(closing.rows)):
            raise DamagedDeltaError(
                f"{where}: delta {closing.delta} of base {self.base} has {closing.rows:,} rows, of which some are missing; restore the log "
                f"(`tidemark replay restore --log {self._log.name}`), or heal at a snapshot",
                at,
            )
        rows = rows_at(together)
        if rows is None or closing.digest != digest_of(
            closing.base, closing.delta, rows, closing.positions, closing.newest_event_time, closing.ready_time, closing.previous
        ):
            raise DamagedDeltaError(
                f"{where}: delta {closing.delta} of base {self.base} is not what was put out: its digest is another; restore the log "
                f"(`tidemark replay restore --log {self._log.name}`), or heal at a snapshot",
                at,
            )
        if self._dimension is not None and not rows.deleted.all() and rows.weights.shape[1] != self._dimension:
            raise DamagedDeltaError(
                f"{where}: delta {closing.delta} has rows of {rows.weights.shape[1]} numbers, and base {self.base} has rows of {self._dimension}; "
                "whoever put it out learns another model",
                at,
            )
        return Delta(closing, rows)

    def _out_of_order(self, closing: Closing, at: int) -> DeltaError:
        where = f"{self._where(at)}: delta {closing.delta} of base {self.base}"
        if closing.delta <= self.delta:
            return DuplicateError(f"{where} lies there again: {self.delta} was read already; whoever put it out twice must be found", at)
        wanted = self.delta + 1
        if self._comes_later(wanted, closing.position):
            return ReorderedError(f"{where} lies before delta {wanted}; deltas of a base are put out by one learner, in order", at)
        missing = f"{wanted}" if closing.delta == wanted + 1 else f"{wanted} to {closing.delta - 1}"
        return GapError(f"{where} follows delta {self.delta}: {missing} is missing; restore the log, or heal at a snapshot", at)

    def _comes_later(self, delta: int, at: int) -> bool:
        """Whether a delta lies behind an offset."""
        # Where the rest can't be read, it is missing to whoever reads.
        with suppress(CorruptionError, RetentionError):
            while batches := self._log.read(PARTITION, at, _AHEAD_RECORDS):
                if any(one.delta == delta for batch in batches for one in closings_in(batch, self.base, self._log.name)):
                    return True
                at = batches[-1].end_offset
        return False

    def _refuse(self, error: DeltaError) -> DeltaError:
        self._refused = error
        return error

    def _where(self, offset: int | None = None) -> str:
        return f"log '{self._log.name}', partition {PARTITION}" + ("" if offset is None else f", offset {offset}")


def _none() -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], EMBEDDING_SCHEMA)
