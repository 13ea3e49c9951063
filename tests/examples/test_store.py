"""Examples are read back by ranges of positions, each once, and merged into one sequence that no read size changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.errors import CorruptionError, DataDirectoryError, FingerprintError, LogError
from flows.examples.export import write_examples
from flows.examples.files import ExampleDirectory, file_of, writer_of
from flows.examples.joining import cut, joined
from flows.examples.merging import Merged, MergedBatch
from flows.examples.record import EXAMPLES, HEADS, Kind
from flows.examples.rows import ExampleRows, batch_of, heartbeats_at
from flows.examples.store import Examples, final_rows, positions_at
from flows.log import LocalLog, LogBatch
from flows.vocabulary import Vocabulary
from tests.examples.test_rows import made, values_of

PARTITIONS = 3


def rows_in_order(seed: int, n: int, latest: int = 400) -> ExampleRows:
    """Any rows, as one partition has them; many of one time."""
    rows = made(seed, n, max(1, n // 4))
    return replace(rows, ready_time=np.sort(np.random.default_rng(seed).integers(0, latest, n)))


class Site:
    """A log with rows of each partition, and the same as lists."""

    def __init__(self, directory: Path, seed: int, sizes: tuple[int, ...] = (90, 0, 140)) -> None:
        self.rows = [rows_in_order(seed * 10 + p, n) for p, n in enumerate(sizes)]
        self.log = LocalLog.open(directory, EXAMPLES, len(sizes), create=True)
        self.rng = np.random.default_rng(seed)
        self.written = [0] * len(sizes)

    def write(self, share: float = 1.0, repeats: bool = False) -> None:
        """Append up to a share of each partition's rows, in pieces; a kill makes its task put out again what it has put out already."""
        for p, rows in enumerate(self.rows):
            until = int(len(rows) * share)
            while self.written[p] < until:
                low = self.written[p]
                if repeats and self.rng.random() < 0.5:
                    low = max(0, low - int(self.rng.integers(0, 6)))
                high = min(until, self.written[p] + int(self.rng.integers(1, 30)))
                self.log.append([(p, batch_of(rows.take(np.arange(low, high)), 0, p, low))])
                self.written[p] = high

    def final(self) -> list[ExampleRows]:
        return [rows.take(rows.kind == Kind.FINAL) for rows in self.rows]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, 1)
    with made.log:
        yield made


def everything(parts: Iterator[ExampleRows] | list[ExampleRows]) -> dict[str, list]:
    parts = [part for part in parts if len(part)]
    return values_of(joined(parts)) if parts else {}


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize(("chunk", "read"), [(1000, 1000), (7, 13), (1, 5)])
def test_final_rows_of_all(site: Site, chunk: int, read: int, repeats: bool) -> None:
    site.write(repeats=repeats)
    parts = list(final_rows(site.log, chunk_rows=chunk, read_records=read))
    assert everything(parts) == everything(site.final())
    assert {len(part) for part in parts[:-1]} <= {chunk}


@pytest.mark.parametrize("repeats", [False, True])
def test_ranges_that_follow_each_other_hold_each_row_once(site: Site, repeats: bool) -> None:
    site.write(repeats=repeats)
    ends = site.log.end_positions()
    for _ in range(5):
        cuts = [sorted(site.rng.integers(0, end + 1, 2).tolist()) for end in ends]
        bounds = [[0] * PARTITIONS, [c[0] for c in cuts], [c[1] for c in cuts], ends]
        parts = [part for low, high in pairwise(bounds) for part in final_rows(site.log, low, high, read_records=9)]
        found = everything(parts)
        wanted = everything(site.final())
        order = lambda values: sorted(zip(*values.values(), strict=True))  # noqa: E731
        assert order(found) == order(wanted)


def test_ranges_by_time(site: Site) -> None:
    site.write()
    for time in (-1, 0, 17, 200, 399, 1000):
        cut_at = positions_at(site.log, time)
        before = everything(final_rows(site.log, None, cut_at))
        assert before == everything([rows.take(rows.ready_time < time) for rows in site.final()])


def test_a_range_that_is_none(site: Site) -> None:
    site.write()
    with pytest.raises(LogError, match="no range of"):
        list(final_rows(site.log, None, [91, 0, 0]))
    with pytest.raises(LogError, match="no range of"):
        list(final_rows(site.log, [5, 0, 0], [4, 0, 0]))
    with pytest.raises(LogError, match="3 partitions"):
        list(final_rows(site.log, [0], [1]))


def test_other_fingerprints_are_refused(tmp_path: Path) -> None:
    rows = rows_in_order(1, 40)
    other = replace(rows_in_order(2, 40), fingerprints=("g",), ready_time=np.sort(rows.ready_time) + 400)
    with LocalLog.open(tmp_path, EXAMPLES, 1, create=True) as log:
        log.append([(0, batch_of(rows, 0, 0, 0)), (0, batch_of(other, 0, 0, 40))])
        assert everything(final_rows(log, [0], [40], "f")) == everything(final_rows(log, [0], [40]))
        assert everything(final_rows(log, [40], [80], "g"))
        with pytest.raises(FingerprintError, match="fingerprint g, and f is wanted"):
            list(final_rows(log, [0], None, "f"))
        with pytest.raises(FingerprintError, match="fingerprint g after f"):
            list(final_rows(log))
        with pytest.raises(FingerprintError, match="fingerprint g after f"):
            list(batches_of(Merged(log, [0], 10), ended=True))


def test_what_is_lost_or_none_of_examples(tmp_path: Path) -> None:
    rows = rows_in_order(1, 40)
    with LocalLog.open(tmp_path / "a", EXAMPLES, 1, create=True) as log:
        log.append([(0, batch_of(rows.take(np.arange(0, 10)), 0, 0, 0)), (0, batch_of(rows.take(np.arange(20, 40)), 0, 0, 20))])
        with pytest.raises(CorruptionError, match="record 10 of origin 0 is missing"):
            list(final_rows(log))
    with LocalLog.open(tmp_path / "b", EXAMPLES, 1, create=True) as log:
        log.append([(0, pa.record_batch([pa.array([1])], ["timestamp"]))])
        with pytest.raises(CorruptionError, match="none of EXAMPLES"):
            list(final_rows(log))


# Merged ------------------------------------------------------------------------------------------------------------------------------------------


def batches_of(merged: Merged, ended: bool = False) -> Iterator[MergedBatch]:
    while (batch := merged.next(ended)) is not None:
        yield batch


def sequence(site: Site) -> dict[str, list]:
    """All rows by (ready_time, partition, offset), naively."""
    whole = joined([rows for rows in site.rows if len(rows)])
    where = [(int(t), p, i) for p, rows in enumerate(site.rows) for i, t in enumerate(rows.ready_time.tolist())]
    return values_of(whole.take(np.array(sorted(range(len(where)), key=where.__getitem__))))


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize(("batch", "read"), [(1000, 1000), (16, 7), (1, 50), (33, 1)])
def test_merged_is_sorted_whatever_is_read_at_once(site: Site, batch: int, read: int, repeats: bool) -> None:
    site.write(repeats=repeats)
    found = list(batches_of(Merged(site.log, [0] * PARTITIONS, batch, read_records=read), ended=True))
    assert values_of(joined([one.rows for one in found])) == sequence(site)
    assert {len(one) for one in found[:-1]} <= {batch}
    for p, end in enumerate(site.log.end_positions()):
        assert found[-1].positions[p] == (end if site.written[p] else 0)


@pytest.mark.parametrize("seed", range(4))
def test_merged_while_it_is_written_and_continued_anywhere(seed: int, tmp_path: Path) -> None:
    site = Site(tmp_path, seed, (60, 50, 80))
    with site.log:
        merged = Merged(site.log, [0, 0, 0], 8, read_records=int(site.rng.integers(1, 40)))
        found: list[MergedBatch] = []
        for share in (0.1, 0.3, 0.35, 0.7, 1.0):
            site.write(share, repeats=True)
            found += batches_of(merged)
            # Nothing that may still be preceded has been handed on.
            lowest = min(int(rows.ready_time[done - 1]) for rows, done in zip(site.rows, site.written, strict=True))
            assert all(int(one.rows.ready_time[-1]) <= lowest for one in found)
            if site.rng.random() < 0.6:
                merged = Merged(site.log, found[-1].positions if found else [0, 0, 0], 8, read_records=int(site.rng.integers(1, 40)))
        assert len(found) > 3
        found += batches_of(merged, ended=True)
    assert values_of(joined([one.rows for one in found])) == sequence(site)
    assert {len(one) for one in found[:-1]} == {8}


@pytest.mark.parametrize("seed", range(6))
def test_batches_end_with_the_span_of_time_that_their_rows_are_of(seed: int, tmp_path: Path) -> None:
    site = Site(tmp_path, seed, (60, 50, 80))
    most, span = (8, 20, 1000)[seed % 3], (7, 40)[seed % 2]
    expected: list[list[int]] = []
    for t in map(int, sequence(site)["ready_time"]):
        if not expected or expected[-1][0] // span != t // span or len(expected[-1]) == most:
            expected.append([])
        expected[-1].append(t)
    with site.log:
        found: list[MergedBatch] = []
        merged = Merged(site.log, [0, 0, 0], most, read_records=int(site.rng.integers(1, 40)), span_ms=span)
        for share in (0.1, 0.3, 0.35, 0.7, 0.9, 1.0):
            site.write(share, repeats=True)
            found += batches_of(merged)
            assert [one.rows.ready_time.tolist() for one in found] == expected[: len(found)]
            lowest = min(int(rows.ready_time[done - 1]) for rows, done in zip(site.rows, site.written, strict=True))
            # What is whole waits for nobody.
            assert sum(map(len, found)) >= sum(len(one) for one in expected if one[0] // span < lowest // span)
            if site.rng.random() < 0.5:
                merged = Merged(
                    site.log, found[-1].positions if found else [0, 0, 0], most, read_records=int(site.rng.integers(1, 40)), span_ms=span
                )
        found += batches_of(merged, ended=True)
    assert [one.rows.ready_time.tolist() for one in found] == expected
    assert values_of(joined([one.rows for one in found])) == sequence(site)


def test_an_idle_partition_holds_the_others_until_it_is_told_that_time_goes_on(tmp_path: Path) -> None:
    rows = rows_in_order(3, 20, latest=100)
    with LocalLog.open(tmp_path, EXAMPLES, 2, create=True) as log:
        log.append([(0, batch_of(rows, 0, 0, 0))])
        merged = Merged(log, [0, 0], 4)
        assert merged.next() is None
        beat = heartbeats_at(np.array([50]))
        log.append([(1, batch_of(beat, 0, 1, 0))])
        found = list(batches_of(merged))
        assert sum(map(len, found)) == np.count_nonzero(rows.ready_time <= 50) // 4 * 4
        assert all((one.partition == 0).all() for one in found)


class AsMessages:
    """A log as a topic has it: what was appended together has one offset, and each second offset holds nothing."""

    dense = False

    def __init__(self, log: LocalLog) -> None:
        self._log, self.partitions = log, log.partitions

    def _whole(self, partition: int) -> list[LogBatch]:
        appended = self._log.read(partition, 0, self._log.end_position(partition)) if self._log.end_position(partition) else []
        return [LogBatch(partition, 2 * i, 2 * i + 2, one.records, np.full(one.records.num_rows, 2 * i)) for i, one in enumerate(appended)]

    def end_position(self, partition: int) -> int:
        return 2 * len(self._whole(partition))

    def end_positions(self) -> list[int]:
        return [self.end_position(p) for p in range(self.partitions)]

    def position_for_time(self, partition: int, timestamp_ms: int) -> int:
        late = (one.first_offset for one in self._whole(partition) if one.records.column("timestamp")[-1].as_py() >= timestamp_ms)
        return next(late, self.end_position(partition))

    def read(self, partition: int, position: int, max_records: int, *, exact: bool = True) -> list[LogBatch]:
        stop = position + max_records
        found = [one for one in self._whole(partition) if one.end_offset > position and one.first_offset < stop]
        return [one.between(position, stop) for one in found]

    def messages(self) -> list[tuple[int, int, int, list[int]]]:
        """Of each that holds rows for the first time: time of its last one, partition, offset, and their numbers in the partition; in order."""
        found = []
        for p in range(self.partitions):
            seen = 0
            for batch in self._whole(p):
                numbers = batch.records.column("sequence").to_pylist()
                new = [i for i, number in enumerate(numbers) if number >= seen]
                if new:
                    seen = numbers[-1] + 1
                    time = batch.records.column("timestamp")[new[-1]].as_py()
                    found.append((time, p, batch.first_offset, [numbers[i] for i in new]))
        return sorted(found)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("span", [None, 7, 40])
@pytest.mark.parametrize("seed", range(4))
def test_rows_of_one_offset_go_together_and_positions_lie_between_offsets(seed: int, span: int | None, tmp_path: Path) -> None:
    """Wherever it goes on, nothing is left out and nothing comes twice: a batch that ended within a message could not say where."""
    site, most = Site(tmp_path, seed, (60, 50, 80)), (8, 16, 1000)[seed % 3]
    with site.log:
        topic = AsMessages(site.log)
        found: list[MergedBatch] = []
        merged = Merged(topic, [0, 0, 0], most, read_records=int(site.rng.integers(1, 40)), span_ms=span)
        for share in (0.1, 0.3, 0.35, 0.7, 0.9, 1.0):
            site.write(share, repeats=True)
            found += batches_of(merged)
            if site.rng.random() < 0.7:
                begin = found[-1].positions if found else [0, 0, 0]
                merged = Merged(topic, begin, most, read_records=int(site.rng.integers(1, 40)), span_ms=span)
        found += batches_of(merged, ended=True)
        messages = topic.messages()
        at_once = [len(one) for one in batches_of(Merged(topic, [0, 0, 0], most, span_ms=span), ended=True)]
    rows = [site.rows[p].take(np.array(numbers)) for _, p, _, numbers in messages]
    assert values_of(joined([one.rows for one in found])) == values_of(joined(rows))
    where = [(p, offset) for _, p, offset, numbers in messages for _ in numbers]
    assert [(int(p), int(offset)) for one in found for p, offset in zip(one.partition, one.offset, strict=True)] == where
    last = [set(zip(one.partition.tolist(), one.offset.tolist(), strict=True)) for one in found]
    assert not any(before & after for before, after in pairwise(last))
    assert all(len(one) <= most or len(of) == 1 for one, of in zip(found, last, strict=True))
    # As they were cut by whoever has read all of it from the beginning.
    assert [len(one) for one in found] == at_once


@pytest.mark.parametrize("read", [1, 3, 1_000])
def test_positions_go_on_behind_heartbeats(tmp_path: Path, read: int) -> None:
    """As far as a function of the log allows: those before the last row's time, whatever was read."""
    rows = rows_in_order(3, 4)
    with LocalLog.open(tmp_path, EXAMPLES, 2, create=True) as log:
        log.append([(0, batch_of(replace(rows, ready_time=np.array([10, 20, 30, 40])), 0, 0, 0))])
        log.append([(1, batch_of(heartbeats_at(np.array([5, 15, 30, 60])), 0, 1, 0))])
        merged = Merged(log, [0, 0], 1, read_records=read)
        assert [one.positions for one in batches_of(merged)] == [[1, 1], [2, 2], [3, 2], [4, 3]]
        assert [one.positions for one in batches_of(Merged(log, [2, 2], 1, read_records=read))] == [[3, 2], [4, 3]]


def test_a_heartbeat_goes_with_the_rows_of_its_message(tmp_path: Path) -> None:
    """A position behind it lies behind them, so it waits for their time: else who goes on there would leave them out."""
    rows = rows_in_order(3, 5)

    def at(numbers: list[int], times: list[int]) -> ExampleRows:
        return replace(rows.take(np.array(numbers)), ready_time=np.array(times))

    with LocalLog.open(tmp_path, EXAMPLES, 2, create=True) as log:
        for number, time in enumerate((10, 20, 40)):
            log.append([(0, batch_of(at([number], [time]), 0, 0, number))])
        log.append([(1, batch_of(joined([heartbeats_at(np.array([5])), at([3], [30])]), 0, 1, 0))])
        log.append([(1, batch_of(joined([heartbeats_at(np.array([35])), at([4], [50])]), 0, 1, 2))])
        topic = AsMessages(log)
        whole = list(batches_of(Merged(topic, [0, 0], 1), ended=True))
        assert [one.ready_time.tolist() for one in whole] == [[10], [20], [30], [40], [50]]
        for i, one in enumerate(whole):
            behind = list(batches_of(Merged(topic, one.positions, 1), ended=True))
            assert [other.ready_time.tolist() for other in behind] == [other.ready_time.tolist() for other in whole[i + 1 :]]


class Marked(AsMessages):
    """As a topic of transactions: behind what was appended together there is an offset without a record, which a read may find alone."""

    def read(self, partition: int, position: int, max_records: int, *, exact: bool = True) -> list[LogBatch]:
        found = []
        for one in super().read(partition, position, max_records, exact=exact):
            between = one.first_offset // 2 * 2 + 1
            if one.first_offset < between:
                found.append(one.between(position, between))
            if between < one.end_offset:
                found.append(LogBatch(partition, between, one.end_offset, pa.record_batch({}), np.empty(0, np.int64)))
        return found


@pytest.mark.parametrize("read", [1, 2, 3, 1_000])
def test_offsets_without_records_are_passed_over(site: Site, read: int) -> None:
    site.write()
    topic = Marked(site.log)
    assert everything(list(final_rows(topic, read_records=read))) == everything(site.final())
    found = list(batches_of(Merged(topic, [0] * PARTITIONS, 16, read_records=read), ended=True))
    assert sorted(values_of(joined([one.rows for one in found]))["request_id"]) == sorted(sequence(site)["request_id"])
    assert [one.positions for one in found][-1] == [topic.end_position(p) and topic.end_position(p) - 1 for p in range(PARTITIONS)]


def test_two_makers_of_examples_are_noticed(tmp_path: Path) -> None:
    rows = rows_in_order(3, 20)
    with LocalLog.open(tmp_path, EXAMPLES, 1, create=True) as log:
        log.append([(0, batch_of(rows, 0, -1, 0)), (0, batch_of(rows, 0, 0, 0))])
        assert everything(final_rows(log))
        with pytest.raises(CorruptionError, match="two makers"):
            list(batches_of(Merged(log, [0], 5), ended=True))


# Files -------------------------------------------------------------------------------------------------------------------------------------------


def test_files_read_like_the_log(site: Site, tmp_path: Path) -> None:
    site.write()
    directory = tmp_path / "files"
    directory.mkdir()
    for p, rows in enumerate(site.rows):
        with closing(writer_of(directory / file_of(p), {})) as writer:
            for low in range(0, len(rows), 37):
                writer.write_batch(batch_of(rows.take(np.arange(low, min(low + 37, len(rows)))), 0, p, low))
    with closing(ExampleDirectory(directory)) as files:
        assert files.end_positions() == site.log.end_positions()
        both: list[Examples] = [files, site.log]
        for time in (-5, 0, 123, 399, 400):
            assert len({tuple(positions_at(one, time)) for one in both}) == 1
        low, high = [11, 0, 40], [80, 0, 120]
        assert everything(final_rows(files, low, high, read_records=20)) == everything(final_rows(site.log, low, high))
        found = list(batches_of(Merged(files, [0] * PARTITIONS, 16, read_records=20), ended=True))
        assert values_of(joined([one.rows for one in found])) == sequence(site)
    (directory / file_of(1)).unlink()
    with pytest.raises(DataDirectoryError, match=r"examples-0000.parquet, and one more for each"):
        ExampleDirectory(directory)
    pq.write_table(pa.table({"a": [1]}), directory / file_of(1))
    with pytest.raises(CorruptionError, match="other columns"):
        ExampleDirectory(directory)
    (directory / file_of(1)).write_bytes(b"PAR1")
    with pytest.raises(CorruptionError, match="can't be read as Parquet"):
        ExampleDirectory(directory)


def test_the_table_says_what_rows_say(tmp_path: Path) -> None:
    rows = rows_in_order(4, 60)
    assert write_examples(tmp_path / "out.parquet", cut(iter([rows]), 25), Vocabulary()) == 60
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    surfaces = Vocabulary().surface_names()
    for i, row in enumerate(table):
        assert (row["user_id"], row["pin_id"], row["ready_time"]) == (rows.user_id[i], rows.pin_id[i], rows.ready_time[i])
        assert row["surface"] == (surfaces[int(rows.surface[i])] if rows.surface[i] >= 0 else None)
        assert row["topic"] == (rows.topics[rows.topic[i]] if rows.topic[i] >= 0 else None)
        assert [row[f"label_{head}"] for head in HEADS] == [None if label < 0 else bool(label) for label in rows.labels[i].tolist()]
        assert row["slot"] == (int(rows.slot[i]) if rows.slot[i] >= 0 else None)
        assert (row["propensity"] is None) == bool(np.isnan(rows.propensity[i]))
        of = rows.request[i]
        actions = rows.users.sequence[rows.users.offsets[of] : rows.users.offsets[of + 1]]
        assert row["sequence_pin_id"] == actions["pin_id"].tolist()
        assert [value for name, value in row.items() if name.startswith("user_revisits")] == rows.users.counters[of].tolist()
        assert [value for name, value in row.items() if name.startswith("pin_revisits")] == rows.pin_counters[i].tolist()
