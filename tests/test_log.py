"""The embedded log: what is read is what was committed, whole, in order, or a clear error."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import flows.log_file
from flows.errors import CorruptionError, DataDirectoryError, LockedError, LogError, StorageFullError, TidemarkError
from flows.log import LedgerConflictError, LedgerEntry, LocalLog

SCHEMA = pa.schema([("n", pa.int64()), ("word", pa.dictionary(pa.int32(), pa.string())), ("timestamp", pa.int64())])


def batch(start: int, count: int, timestamps: list[int | None] | None = None) -> pa.RecordBatch:
    numbers = np.arange(start, start + count)
    words = pa.DictionaryArray.from_arrays(pa.array((numbers % 3).astype(np.int32)), pa.array(["a", "b", "c"]))
    stamps = pa.array(numbers * 10 if timestamps is None else timestamps, pa.int64())
    return pa.record_batch([pa.array(numbers), words, stamps], schema=SCHEMA)


def numbers(log: LocalLog, partition: int, position: int = 0, max_records: int = 1 << 40) -> list[int]:
    out: list[int] = []
    for part in log.read(partition, position, max_records):
        assert part.first_offset == position + len(out)
        assert part.end_offset - part.first_offset == part.records.num_rows > 0
        assert part.partition == partition
        out += part.records.column("n").to_pylist()
    return out


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LocalLog]:
    with LocalLog.open(tmp_path, "actions", 3, create=True) as log:
        yield log


def damage(log: LocalLog, statement: str) -> None:
    """Change the file behind the log's back, as a fault would."""
    connection = sqlite3.connect(log.path)
    with connection:
        connection.execute(statement)
    connection.close()


def test_append_returns_offsets_and_read_gives_records_back(log: LocalLog) -> None:
    spans = log.append([(0, batch(0, 5)), (2, batch(100, 2)), (0, batch(5, 3)), (1, batch(0, 0))])
    assert spans == [(0, 0, 5), (2, 0, 2), (0, 5, 8), (1, 0, 0)]
    assert log.append([(0, batch(8, 2))]) == [(0, 8, 10)]
    assert log.end_positions() == [10, 0, 2]
    assert log.start_positions() == [0, 0, 0]
    assert [log.end_position(p) for p in range(3)] == [10, 0, 2]
    assert numbers(log, 0) == list(range(10))
    assert numbers(log, 2) == [100, 101]
    assert log.read(1, 0, 10) == []
    first = log.read(0, 0, 5)[0].records
    assert first.equals(batch(0, 5))
    assert first.schema.equals(SCHEMA)


@pytest.mark.parametrize("fresh", [False, True])
def test_every_position_and_length(log: LocalLog, fresh: bool) -> None:
    for start, count in ((0, 4), (4, 1), (5, 7)):
        log.append([(0, batch(start, count))])
    for position in range(13):
        for most in range(14):
            reader = LocalLog.open(log.path.parent, "actions", read_only=True) if fresh else log
            assert numbers(reader, 0, position, most) == list(range(position, min(position + most, 12)))
            if fresh:
                reader.close()


def test_small_reads_in_order_and_back_again(log: LocalLog) -> None:
    log.append([(0, batch(0, 50)), (1, batch(0, 50))])
    for _ in range(2):
        position = 0
        while position < 50:
            assert numbers(log, 0, position, 7) == list(range(position, min(position + 7, 50)))
            assert numbers(log, 1, position, 3) == list(range(position, min(position + 3, 50)))
            position += 7


def test_at_the_end_whatever_is_appended_next_is_found(log: LocalLog) -> None:
    """By this connection, another thread's or another process's: a read at the end asks only whether anything has been committed since."""

    def by_another_thread() -> None:
        log.append([(1, batch(1, 1))])

    def by_another_log() -> None:
        with LocalLog.open(log.path.parent, "actions") as other:
            other.append([(1, batch(2, 1))])

    for i, append in enumerate((lambda: log.append([(1, batch(0, 1))]), by_another_thread, by_another_log)):
        assert numbers(log, 1, i) == numbers(log, 1, i) == []
        # Nothing new here, though somebody has committed.
        log.append([(0, batch(0, 1))])
        assert numbers(log, 1, i) == []
        thread = threading.Thread(target=append)
        (thread.start(), thread.join()) if append is by_another_thread else append()
        assert numbers(log, 1, i) == [i]
    with pytest.raises(LogError, match="outside 0 to 3"):
        log.read(1, 4, 1)


def test_a_large_batch_is_stored_in_pieces(log: LocalLog) -> None:
    assert log.append([(0, batch(0, 150_000))]) == [(0, 0, 150_000)]
    assert [b.first_offset for b in log.read(0, 0, 1 << 30)] == [0, 65_536, 131_072]
    assert numbers(log, 0, 65_530, 12) == list(range(65_530, 65_542))


def test_large_records_are_stored_and_read_by_their_bytes(log: LocalLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.log, "MAX_STORED_BYTES", 10_000)
    monkeypatch.setattr(flows.log, "READ_BYTES", 30_000)
    values = [bytes([i]) * 1_000 for i in range(100)]
    log.append([(0, pa.record_batch({"value": pa.array(values, pa.binary())}))])
    got: list[bytes] = []
    while batches := log.read(0, len(got), 1_000):
        assert all(b.records.num_rows <= 10 for b in batches)
        assert sum(b.records.num_rows for b in batches) <= 40
        got += [value for b in batches for value in b.records.column("value").to_pylist()]
    assert got == values
    assert log.read(0, 5, 7)[-1].end_offset == 12


def test_slices_of_a_taken_batch_are_stored_alone(log: LocalLog) -> None:
    whole = batch(0, 60_000)
    log.append([(0, whole.slice(10, 2))])
    assert log.read(0, 0, 9)[0].records.to_pylist() == whole.slice(10, 2).to_pylist()
    connection = sqlite3.connect(log.path)
    assert connection.execute("SELECT length(bytes) FROM batches").fetchone()[0] < 4096
    connection.close()


def test_position_outside_the_log(log: LocalLog) -> None:
    log.append([(0, batch(0, 5))])
    assert log.read(0, 5, 10) == []
    for position in (6, -1, 2**70):
        with pytest.raises(LogError, match="lies outside 0 to 5"):
            log.read(0, position, 10)
    for call in (lambda: log.read(3, 0, 1), lambda: log.end_position(-1), lambda: log.append([(3, batch(0, 1))])):
        with pytest.raises(LogError, match="there is no partition"):
            call()
    assert log.end_positions() == [5, 0, 0]


# Damage ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE batches SET bytes = CAST(substr(bytes, 1, length(bytes) - 9) AS BLOB) WHERE end_offset = 10",  # torn
        "UPDATE batches SET bytes = CAST(substr(bytes, 1, 300) || x'ff' || substr(bytes, 302) AS BLOB) WHERE end_offset = 10",
        "UPDATE batches SET bytes = x'' WHERE end_offset = 10",
        "UPDATE batches SET bytes = 'text' WHERE end_offset = 10",
        "UPDATE batches SET crc = crc + 1 WHERE end_offset = 10",
        "UPDATE batches SET records = 'six' WHERE end_offset = 10",
        "UPDATE batches SET max_timestamp = 7 WHERE end_offset = 10",
        "UPDATE batches SET first_offset = 4 WHERE end_offset = 10",
        "UPDATE batches SET first_offset = 'five' WHERE end_offset = 10",
        "UPDATE batches SET bytes = (SELECT bytes FROM batches WHERE end_offset = 5) WHERE end_offset = 10",
    ],
)
def test_a_corrupt_batch_is_named(log: LocalLog, statement: str) -> None:
    for start in (0, 5, 10):
        log.append([(1, batch(start, 5))])
    damage(log, statement)
    assert numbers(log, 1, 0, 5) == [0, 1, 2, 3, 4]
    with pytest.raises(
        CorruptionError, match=r"log 'actions', partition 1, offsets ([45] to 9|that are damaged too, 'five' and 10): .*corrupt.*restore"
    ):
        log.read(1, 0, 11)
    with pytest.raises(CorruptionError):
        log.read(1, 5, 1)


@pytest.mark.parametrize(("statement", "missing"), [("end_offset = 5", 0), ("end_offset = 10", 5), ("end_offset = 15", 10)])
def test_a_missing_batch_is_an_error_never_a_skip(log: LocalLog, statement: str, missing: int) -> None:
    for start in (0, 5, 10):
        log.append([(0, batch(start, 5))])
    damage(log, f"DELETE FROM batches WHERE {statement}")
    with pytest.raises(CorruptionError, match=f"partition 0: records from offset {missing} on are missing"):
        log.read(0, 0, 100)
    with pytest.raises(CorruptionError, match=f"from offset {missing + 2} on are missing"):
        log.read(0, missing + 2, 1)


def test_a_batch_moved_to_another_offset_or_partition_is_found(log: LocalLog) -> None:
    log.append([(0, batch(0, 5)), (1, batch(0, 5))])
    damage(log, "DELETE FROM batches WHERE partition = 0")
    damage(log, "UPDATE batches SET partition = 0")
    with pytest.raises(CorruptionError):
        log.read(0, 0, 5)


def test_overwritten_pages_are_corruption(tmp_path: Path) -> None:
    with LocalLog.open(tmp_path, "x", 1, create=True) as log:
        log.append([(0, batch(0, 60_000))])
    content = bytearray(log.path.read_bytes())
    for at in range(65_536, len(content), 65_536):
        content[at : at + 512] = os.urandom(512)
    log.path.write_bytes(content)
    with pytest.raises(CorruptionError):  # noqa: SIM117
        with LocalLog.open(tmp_path, "x") as log:
            log.read(0, 0, 1 << 20)


@pytest.mark.parametrize("content", [b"", b"not a database, by any means" * 100])
def test_a_file_that_is_no_log(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.db").write_bytes(content)
    with pytest.raises(CorruptionError, match=r"x\.db"):
        LocalLog.open(tmp_path, "x")


# Opening ---------------------------------------------------------------------------------------------------------------------------


def test_the_number_of_partitions_is_fixed(log: LocalLog) -> None:
    directory = log.path.parent
    assert LocalLog.open(directory, "actions").partitions == 3
    assert LocalLog.open(directory, "actions", 3, create=True).partitions == 3
    with pytest.raises(DataDirectoryError, match="made with 3 partitions, but the settings say 8"):
        LocalLog.open(directory, "actions", 8, create=True)


def test_format_is_checked(log: LocalLog) -> None:
    damage(log, "UPDATE meta SET value = '99' WHERE key = 'format'")
    with pytest.raises(DataDirectoryError, match="format 99"):
        LocalLog.open(log.path.parent, "actions")


def test_opening_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataDirectoryError, match="there is no log 'x'"):
        LocalLog.open(tmp_path, "x")
    with pytest.raises(LogError, match="number of partitions"):
        LocalLog.open(tmp_path, "x", create=True)
    with pytest.raises(LogError, match="can't name a log"):
        LocalLog.open(tmp_path, "../x", 1, create=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirectoryError):
        LocalLog.open(tmp_path / "file", "x", 1, create=True)


def test_strange_directory_names(tmp_path: Path) -> None:
    with LocalLog.open(tmp_path / "a b?mode=memory#%41é", "x", 1, create=True) as log:
        log.append([(0, batch(0, 1))])
        assert log.path.exists()


def test_read_only(log: LocalLog) -> None:
    log.append([(0, batch(0, 3))])
    with LocalLog.open(log.path.parent, "actions", read_only=True) as reader:
        assert numbers(reader, 0) == [0, 1, 2]
        for call in (lambda: reader.append([(0, batch(3, 1))]), lambda: reader.commit_group("g", {0: 1})):
            with pytest.raises(LogError, match="read only"):
                call()


def test_closed(log: LocalLog) -> None:
    log.close()
    log.close()
    with pytest.raises(LogError, match="closed"):
        log.end_positions()


# Times, groups, ledger -------------------------------------------------------------------------------------------------------------


def test_position_for_time_is_the_first_arrival(log: LocalLog) -> None:
    stamps: list[list[int | None]] = [[5, 3], [4, None, 2], [9, 9, 1], [9], [12, 10, 30]]
    at = 0
    for group in stamps:
        log.append([(0, batch(at, len(group), group))])
        at += len(group)
    flat = [s for group in stamps for s in group]
    arrivals = np.maximum.accumulate([-(2**63) if s is None else s for s in flat])
    for moment in (*range(-1, 32), -(2**70), 2**70):
        expected = next((i for i, arrival in enumerate(arrivals) if arrival >= moment), len(flat))
        assert log.position_for_time(0, moment) == expected, moment
    assert log.position_for_time(1, 0) == 0


def test_position_for_time_without_timestamps(log: LocalLog) -> None:
    plain = pa.record_batch({"n": [1, 2]})
    log.append([(0, plain)])
    assert log.position_for_time(0, 5) == 2
    log.append([(0, batch(0, 2, [7, 8])), (0, plain)])
    assert [log.position_for_time(0, t) for t in (5, 8, 9)] == [2, 3, 6]


def test_groups(log: LocalLog) -> None:
    assert log.group_positions("flow") == {}
    log.commit_group("flow", {0: 5, 2: 7})
    log.commit_group("flow", {0: 9})
    log.commit_group("other", {1: 1})
    assert log.group_positions("flow") == {0: 9, 2: 7}
    with pytest.raises(LogError):
        log.commit_group("flow", {5: 1})


def test_ledger_is_atomic_with_the_append(log: LocalLog) -> None:
    assert log.ledger_entry("file") is None
    log.append([(0, batch(0, 2))], ledger=LedgerEntry("file", 2, 6))
    entry = log.ledger_entry("file")
    assert entry == LedgerEntry("file", 2, 6, previous=2)
    with pytest.raises(LedgerConflictError, match="another process"):
        log.append([(0, batch(2, 2))], ledger=LedgerEntry("file", 4, 6, previous=0))
    # One of several entries conflicts: none is written.
    with pytest.raises(LedgerConflictError):
        log.append([(0, batch(2, 2))], ledger=[LedgerEntry("new", 1), LedgerEntry("file", 4, 6, previous=3)])
    assert (log.end_position(0), log.ledger_entry("new"), log.ledger_entry("file")) == (2, None, entry)
    log.append([], ledger=LedgerEntry("file", 6, 6, previous=2))
    assert log.ledger_entry("file") == LedgerEntry("file", 6, 6, previous=6)


# Faults of the machine -------------------------------------------------------------------------------------------------------------


def test_a_full_disk_appends_nothing_and_loses_nothing(log: LocalLog) -> None:
    log.append([(0, batch(0, 5))])
    connection = log._file.handle().connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StorageFullError, match="disk is full"):
        for k in range(50):
            log.append([(0, batch(k, 1)), (1, batch(k * 60_000, 60_000))], ledger=LedgerEntry(f"k{k}", 1))
    ends = log.end_positions()
    connection.execute(f"PRAGMA max_page_count = {pages + 2000}")
    assert ends[1] % 60_000 == 0
    assert ends[0] - 5 == ends[1] // 60_000
    assert log.ledger_entry(f"k{ends[0] - 5}") is None
    assert len(numbers(log, 0)) == ends[0]
    log.append([(1, batch(0, 60_000))])
    assert log.end_position(1) == ends[1] + 60_000


def test_a_lock_that_stays_is_a_clear_error(log: LocalLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.log_file, "BUSY_TIMEOUT_S", 0.05)
    other = sqlite3.connect(log.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with LocalLog.open(log.path.parent, "actions") as waiting:
        with pytest.raises(LockedError, match="write lock"):
            waiting.append([(0, batch(0, 1))])
        assert waiting.end_positions() == [0, 0, 0]  # readers don't wait
    other.execute("ROLLBACK")
    other.close()


def test_a_reader_sees_only_what_is_committed(log: LocalLog) -> None:
    log.append([(0, batch(0, 3))])
    with LocalLog.open(log.path.parent, "actions", read_only=True) as reader:
        with pytest.raises(RuntimeError, match="before"), log._file.transaction("IMMEDIATE") as connection:
            connection.execute("UPDATE ends SET end_offset = 99")
            connection.execute("DELETE FROM batches")
            assert numbers(reader, 0) == [0, 1, 2]
            assert reader.end_position(0) == 3
            raise RuntimeError("before the commit")
        assert numbers(reader, 0) == [0, 1, 2]
        log.append([(0, batch(3, 1))])
        assert numbers(reader, 0) == [0, 1, 2, 3]


def test_no_sqlite_exception_leaks(log: LocalLog) -> None:
    damage(log, "DROP TABLE batches")
    for call in (lambda: log.append([(0, batch(0, 1))]), lambda: log.position_for_time(0, 1)):
        with pytest.raises(TidemarkError):
            call()


# Processes and threads -------------------------------------------------------------------------------------------------------------


def _write(directory: Path, writer: int, appends: int) -> None:
    with LocalLog.open(directory, "shared", 2, create=True) as log:
        for k in range(appends):
            log.append([(p, batch((writer * appends + k) * 10, 10)) for p in range(2)], ledger=LedgerEntry(f"{writer}", k + 1, previous=k))


def test_processes_that_append_at_once_lose_nothing(tmp_path: Path) -> None:
    context = mp.get_context("spawn")
    writers = [context.Process(target=_write, args=(tmp_path / "logs", w, 20)) for w in range(3)]  # they race to make the log, too
    for process in writers:
        process.start()
    for process in writers:
        process.join(60)
        assert process.exitcode == 0
    with LocalLog.open(tmp_path / "logs", "shared") as log:
        for partition in range(2):
            got = numbers(log, partition)
            assert sorted(got) == list(range(600))
            starts = got[::10]
            assert got == [n for s in starts for n in range(s, s + 10)]  # appends don't interleave
            for writer in range(3):
                own = [s for s in starts if s // 200 == writer]
                assert own == sorted(own)
        assert [p.name for p in log.path.parent.iterdir() if "draft" in p.name] == []


_KILLED = """
import sys
from flows.log import LedgerEntry, LocalLog
from tests.test_log import batch
log = LocalLog.open(sys.argv[1], "victim", 2, create=True)
done = 0
while True:
    log.append([(0, batch(done, 1000)), (1, batch(done, 500))], ledger=LedgerEntry("k", done + 1000, previous=done))
    done += 1000
    print(done, flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.013, 0.05])
def test_kill_leaves_a_whole_prefix_with_all_that_was_acknowledged(tmp_path: Path, delay: float) -> None:
    root = Path(__file__).parent.parent
    process = subprocess.Popen([sys.executable, "-c", _KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=root)
    assert process.stdout is not None
    acknowledged = int(process.stdout.readline())
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    lines = process.stdout.read().split("\n")
    process.stdout.close()
    process.wait()
    acknowledged = max([acknowledged, *(int(line) for line in lines[:-1])])
    with LocalLog.open(tmp_path, "victim") as log:
        ends = log.end_positions()
        assert ends[0] in (acknowledged, acknowledged + 1000)
        assert ends[1] * 2 == ends[0]
        entry = log.ledger_entry("k")
        assert entry is not None
        assert entry.done == ends[0]
        assert numbers(log, 0) == list(range(ends[0]))
        assert log.append([(0, batch(0, 1))]) == [(0, ends[0], ends[0] + 1)]


def test_threads_share_a_log(log: LocalLog) -> None:
    failures: list[BaseException] = []

    def work(partition: int) -> None:
        try:
            for k in range(10):
                log.append([(partition, batch(k, 1))])
                assert numbers(log, partition) == list(range(k + 1))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(p,)) for p in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert log.end_positions() == [10, 10, 10]


def test_a_fork_opens_its_own_connection(log: LocalLog) -> None:
    log.append([(0, batch(0, 2))])
    child = os.fork()
    if child == 0:
        status = 1
        try:
            log.append([(0, batch(2, 2))])
            log.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    log.append([(0, batch(4, 2))])
    assert numbers(log, 0) == list(range(6))
