"""`JoinedLog`: a log whose past may lie in the archive alone. Everything that reads from a position on reads this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import pyarrow as pa

from flows.archive.archive import Archive, missing
from flows.errors import LogError, RetentionError
from flows.log import LedgerEntry, Log, LogBatch


class JoinedLog:
    """A live log, and its archive for what the live log no longer has.

    A read begins at exactly the position asked for: in the live log where that still has it, so that an archive that lags, or is damaged, is
    nothing to a flow that keeps up; otherwise in the archive, which ends a read where it ends. What neither has is an error.

    Parameters
    ----------
    live : Log
        Appends, the ledger and groups are its alone.
    archive : Archive
    place : str
        Where the archive is, for messages.

    Raises
    ------
    LogError
        The archive goes on beyond the end of the live log.
    """

    def __init__(self, live: Log, archive: Archive, place: str) -> None:
        self.name, self.partitions, self.dense = live.name, live.partitions, live.dense
        self._live, self._archive, self._place = live, archive, place
        # The archive is asked first: what it has by then, the log had before.
        archived = [archive.end(partition) for partition in range(live.partitions)]
        for partition, (held, end) in enumerate(zip(archived, live.end_positions(), strict=True)):
            refuse_beyond(self.name, partition, end, held, place)
        self._starts = live.start_positions()

    # Reading -------------------------------------------------------------------------------------------------------------------------------

    def read(self, partition: int, position: int, max_records: int, *, exact: bool = True) -> list[LogBatch]:
        """Records from exactly `position` on, at most `max_records`, without a gap; [] at the end.

        Raises
        ------
        RetentionError
            Neither has `position`.
        CorruptionError
            A segment that is needed is damaged.
        LogError
            As of the live log.
        """
        if not (0 <= partition < self.partitions and 0 <= position < self._starts[partition]):
            try:
                return self._live.read(partition, position, max_records, exact=exact)
            except RetentionError:
                start = self._live.start_positions()[partition]
                if position >= start:
                    raise
                self._starts[partition] = start
        batches = self._archive.read(partition, position, max_records)
        if not batches and max_records > 0:
            raise self._lacks(partition, position)
        return batches

    def _lacks(self, partition: int, position: int) -> RetentionError:
        start = self._starts[partition]
        # Without any: it was archived this moment, and is there the next time.
        low, high = next(iter(missing(self._archive.covered(partition), position, start)), (position, position + 1))
        return RetentionError(
            f"log '{self.name}', partition {partition}: offsets {low} to {high - 1} are missing: the log begins at {start} by its retention, "
            f"and the archive in {self._place} doesn't have them; put their segments back from a copy (`tidemark archive status` shows what is there)"
        )

    def expect_appends(self) -> None:
        """That appends will come."""
        self._live.expect_appends()

    def expect(self, partition: int, position: int) -> None:
        """That a read will begin here soon."""
        if position >= self._starts[partition]:
            self._live.expect(partition, position)

    def start_positions(self) -> list[int]:
        """The first offset of every partition from which on nothing is missing."""
        self._starts = self._live.start_positions()
        return [self._begins(partition, start) for partition, start in enumerate(self._starts)]

    def _begins(self, partition: int, live: int) -> int:
        return next((low for low, high in self._archive.covered(partition) if low < live <= high), live)

    def end_positions(self) -> list[int]:
        """The next offset of every partition."""
        return self._live.end_positions()

    def end_position(self, partition: int) -> int:
        """The next offset of one partition."""
        return self._live.end_position(partition)

    def position_for_time(self, partition: int, timestamp_ms: int) -> int:
        """The first offset whose record has a timestamp of at least `timestamp_ms`, else the end; archived records count."""
        live = self._live.position_for_time(partition, timestamp_ms)
        found = self._archive.position_for_time(partition, timestamp_ms, self._live.start_positions()[partition])
        return live if found is None else found

    # The live log's ------------------------------------------------------------------------------------------------------------------------

    def append(
        self, batches: Sequence[tuple[int, pa.RecordBatch]], *, ledger: LedgerEntry | Sequence[LedgerEntry] | None = None
    ) -> list[tuple[int, int, int]]:
        """Append to the live log."""
        return self._live.append(batches, ledger=ledger)

    def ledger_entry(self, key: str) -> LedgerEntry | None:
        """The live log's ledger."""
        return self._live.ledger_entry(key)

    def commit_group(self, group: str, positions: Mapping[int, int]) -> None:
        """Commit positions to the live log."""
        self._live.commit_group(group, positions)

    def group_positions(self, group: str) -> dict[int, int]:
        """Positions that the live log knows."""
        return self._live.group_positions(group)

    def close(self) -> None:
        """Close both; a second call does nothing."""
        self._archive.close()
        self._live.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def refuse_beyond(log: str, partition: int, end: int, archived: int, place: str) -> None:
    """Refuse a log that ends before its archive does: it has lost records, or is another log of that name.

    Raises
    ------
    LogError
    """
    if archived > end:
        raise LogError(
            f"log '{log}', partition {partition}, ends at {end}, but its archive in {place} goes on to {archived}: the log has lost records, or "
            f"was made anew; restore it (`tidemark replay restore --log {log}`), or, if it is meant to be another, set `archive` to another "
            f"directory or delete {place}/{log}"
        )
