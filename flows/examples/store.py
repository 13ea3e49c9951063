"""The offline store of examples: final rows of a range of positions, out of the log joined with its archive, or out of files.

A row enters once: what a task has put out again after a kill is passed over, wherever a range begins. Rows whose features were made under other
definitions are refused, for a model would take them for its own; it never mixes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from flows.errors import CorruptionError, DataDirectoryError, FingerprintError, LogError
from flows.examples.joining import cut
from flows.examples.record import EXAMPLE_SCHEMA, EXAMPLES, Kind, is_of_examples
from flows.examples.rows import ExampleRows, rows_of
from flows.log import LogBatch
from flows.open_log import log_exists, open_log
from flows.outputs import take_next
from flows.settings import Settings

READ_RECORDS = 8_192
"""Records that are decoded together: some 25 MB at most."""
CHUNK_ROWS = 65_536


class Examples(Protocol):
    """What is read here: the log EXAMPLES, or `flows.examples.files.ExampleDirectory`."""

    partitions: int
    dense: bool

    def end_positions(self) -> list[int]: ...
    def end_position(self, partition: int) -> int: ...
    def position_for_time(self, partition: int, timestamp_ms: int) -> int: ...
    def read(self, partition: int, position: int, max_records: int, *, exact: bool = True) -> list[LogBatch]: ...
    def close(self) -> None: ...


def open_examples(settings: Settings) -> Examples:
    """The log EXAMPLES of a data directory, with what its archive has.

    Raises
    ------
    DataDirectoryError
        There is none: nothing has made examples here.
    """
    if not log_exists(settings, EXAMPLES):
        raise DataDirectoryError(f"there is no log '{EXAMPLES}' in {settings.logs}; `tidemark backfill` makes one of a history")
    return open_log(settings, EXAMPLES, read_only=True)


def positions_at(examples: Examples, time: int) -> list[int]:
    """Of each partition, the position of the first record that became known at a time or later: cuts by time, ms."""
    return [examples.position_for_time(partition, time) for partition in range(examples.partitions)]


def final_rows(
    examples: Examples,
    begin: Sequence[int] | None = None,
    end: Sequence[int] | None = None,
    fingerprint: str | Fingerprints | None = None,
    chunk_rows: int = CHUNK_ROWS,
    read_records: int = READ_RECORDS,
) -> Iterator[ExampleRows]:
    """Final rows of the positions [begin, end), by partition and offset, in chunks.

    Parameters
    ----------
    examples : Examples
    begin, end : sequence of int, optional
        A position of each partition; by default all that is there.
    fingerprint : str or Fingerprints, optional
        What features must have been made under, as a rule `flows.state.actions_task.state_fingerprint`; without it any, but all of one.
    chunk_rows : int
        Rows of each chunk but the last.
    read_records : int
        Records decoded together. Never changes a result.

    Raises
    ------
    FingerprintError
        A row is of other definitions or settings.
    CorruptionError
        Records are missing, or are none of EXAMPLES'.
    LogError
        A range ends beyond the log.
    """
    lows = list(begin) if begin is not None else [0] * examples.partitions
    highs = list(end) if end is not None else examples.end_positions()
    _check_range(examples, lows, highs)
    yield from cut(_final(examples, lows, highs, Fingerprints.of(fingerprint), read_records), chunk_rows)


def _final(
    examples: Examples, lows: Sequence[int], highs: Sequence[int], checked: Fingerprints, read_records: int
) -> Iterator[ExampleRows]:
    for partition, (low, high) in enumerate(zip(lows, highs, strict=True)):
        for stretch in Once(examples, partition, low, read_records).until(high):
            rows = stretch.rows.take(stretch.rows.kind == Kind.FINAL)
            checked.check(rows, partition)
            yield rows


class Stretch:
    """Records that were read together.

    Parameters
    ----------
    rows : ExampleRows
        n of them, without heartbeats.
    offset : int64[n]
        Several may have one, as those of a message of Kafka do.
    time : int64[n]
        When all records of that offset had become known, ms: a position lies behind all of them or before, so they go together.
    end : int
        The position behind them.
    watermark : int
        The latest one's time, ms.
    heartbeats : int64[m, 2]
        Time, as above, and offset of each.
    """

    def __init__(self, rows: ExampleRows, offset: np.ndarray, time: np.ndarray, end: int, watermark: int, heartbeats: np.ndarray) -> None:
        self.rows, self.offset, self.time, self.end = rows, offset, time, end
        self.watermark, self.heartbeats = watermark, heartbeats


class Once:
    """Records of a partition from a position on, each once: repeats are passed over.

    Parameters
    ----------
    examples : Examples
    partition, position : int
    read_records : int
    """

    def __init__(self, examples: Examples, partition: int, position: int, read_records: int = READ_RECORDS) -> None:
        self._examples, self._partition, self.position = examples, partition, position
        self._read_records = read_records
        self._where = f"log '{EXAMPLES}', partition {partition}"
        self._applied: dict[int, int] | None = None

    def read(self, end: int | None = None) -> Stretch | None:
        """The next records, before a position; None if there are none now."""
        if self._applied is None:
            self._applied = self._applied_before(self.position)
        high = self._examples.end_position(self._partition) if end is None else end
        while True:
            if self.position >= high:
                return None
            batches = self._batches(high)
            if any(batch.records.num_rows for batch in batches):
                break
            self.position = batches[-1].end_offset
        offsets = np.concatenate([batch.offsets_of_records() for batch in batches])
        records = self._table(batches)
        times = records.column("timestamp").to_numpy()
        kept = take_next(records.append_column("offset", pa.array(offsets)), self._applied, self._where)
        rows = rows_of(kept.select(EXAMPLE_SCHEMA.names).to_batches(), self._where)
        self.position = batches[-1].end_offset
        # It says no more than that time has gone on.
        known = rows.kind < Kind.HEARTBEAT
        offset = kept.column("offset").to_numpy()
        time = rows.ready_time[np.searchsorted(offset, offset, "right") - 1]
        heartbeats = np.column_stack([time, offset])[~known]
        if not known.all():
            rows, offset, time = rows.take(known), offset[known], time[known]
        return Stretch(rows, offset, time, self.position, int(times.max()), heartbeats)

    def until(self, end: int) -> Iterator[Stretch]:
        """All stretches before a position."""
        while (stretch := self.read(end)) is not None:
            yield stretch

    def _batches(self, high: int) -> list[LogBatch]:
        batches = self._examples.read(self._partition, self.position, min(self._read_records, high - self.position))
        batches = [batch.between(self.position, high) for batch in batches if batch.first_offset < high]
        if not batches:
            raise CorruptionError(f"{self._where}: records from offset {self.position} on are missing; restore the log")
        return batches

    def _table(self, batches: list[LogBatch]) -> pa.Table:
        # Others are offsets without records, as behind each transaction of Kafka.
        batches = [batch for batch in batches if batch.records.num_rows]
        for batch in batches:
            if not is_of_examples(batch.records):
                raise CorruptionError(f"{self._where}: holds records that are none of EXAMPLES'; find out what else has written there")
        return pa.Table.from_batches([batch.records.replace_schema_metadata(None) for batch in batches], EXAMPLE_SCHEMA)

    def _applied_before(self, position: int) -> dict[int, int]:
        """The last number of each origin before a position.

        Where an origin's last number is as far from its first as their records are, what lies between is its own, and none of it is a repeat: so it
        is of a backfill, and of the join after it. Otherwise all are looked at.
        """
        applied: dict[int, int] = {}
        at = position if self._examples.dense else 0
        while at > 0:
            origin, sequence = self._numbered(at - 1)
            begin = at - 1 - sequence
            if begin < 0 or origin in applied or self._numbered(begin) != (origin, 0):
                break
            applied[origin], at = sequence, begin
        if at == 0 and (applied or position == 0):
            return applied
        before = Once(self._examples, self._partition, 0, self._read_records)
        for _ in before.until(position):
            pass
        return before._applied or {}

    def _numbered(self, position: int) -> tuple[int, int]:
        """Origin and number of the record at a position."""
        records = self._examples.read(self._partition, position, 1)[0].records
        origin, sequence = (int(records.column(name)[0].as_py()) for name in ("origin", "sequence"))
        return origin, sequence


class Fingerprints:
    """Refuses rows that are of other definitions than the wanted ones, or of several.

    Parameters
    ----------
    wanted : str or None
        None: that of the first row.
    """

    def __init__(self, wanted: str | None) -> None:
        self._wanted, self._given = wanted, wanted is not None

    @classmethod
    def of(cls, wanted: str | Fingerprints | None) -> Fingerprints:
        """One that was given, or one that refuses all but this."""
        return wanted if isinstance(wanted, Fingerprints) else cls(wanted)

    def check(self, rows: ExampleRows, partition: int) -> None:
        """Look at some rows.

        Raises
        ------
        FingerprintError
        """
        for code in np.unique(rows.fingerprint).tolist():
            found = rows.fingerprints[code] if code >= 0 else "none"
            if self._wanted is None:
                self._wanted = found
            if found == self._wanted:
                continue
            where = f"log '{EXAMPLES}', partition {partition}: an example that became known at {int(rows.ready_time[rows.fingerprint == code][0])}"
            if self._given:
                raise FingerprintError(
                    f"{where} has features of other definitions or settings (fingerprint {found}, and {self._wanted} is wanted); take a range "
                    "without it, or make the examples anew under these"
                )
            raise FingerprintError(
                f"{where} has features of other definitions or settings than the examples before it (fingerprint {found} after {self._wanted}); a "
                "model can't learn from both, take a range of one"
            )


def _check_range(examples: Examples, lows: Sequence[int], highs: Sequence[int]) -> None:
    ends = examples.end_positions()
    if not len(lows) == len(highs) == len(ends):
        raise LogError(f"log '{EXAMPLES}' has {len(ends)} partitions, and {len(lows)} and {len(highs)} positions were given")
    for partition, (low, high, end) in enumerate(zip(lows, highs, ends, strict=True)):
        if not 0 <= low <= high <= end:
            raise LogError(f"log '{EXAMPLES}', partition {partition}: positions {low} to {high} are no range of the {end} that are there")
