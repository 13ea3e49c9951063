"""The archiver of a partition: each record in one segment, once, wherever it is killed; and never two at one place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flows.archive.lock
import flows.archive.writing as writing
from flows.archive.archive import Archive, missing
from flows.archive.names import DRAFT
from flows.archive.task import OVERLAP, ArchiverTask, begin
from flows.errors import DataDirectoryError, LockedError, LogError, RetentionError, StorageFullError
from flows.log import LogBatch
from tests.archive.making import MemoryLog, archive_all, archive_one, follow_on, raw, rows, typed


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.archive.lock, "GRACE_S", 0.0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "ROW_GROUP_BYTES", 2_000)
    monkeypatch.setattr(writing, "SEGMENT_BYTES", 6_000)


def a_log(count: int = 40, seed: int = 0) -> MemoryLog:
    """Typed and raw stretches with holes and shared offsets."""
    rng = np.random.default_rng(seed)
    parts: list[LogBatch] = []
    for k in range(count):
        n = int(rng.integers(0, 40))
        at = parts[-1].end_offset if parts else 0
        records = typed(n, k * 100) if k // 8 % 2 else raw([rng.bytes(int(rng.integers(0, 60))) for _ in range(n)], k * 100)
        if n == 0:
            parts.append(LogBatch(0, at, at + 2, raw([]), np.empty(0, np.int64)))
        elif rng.random() < 0.4:
            offsets = at + np.sort(rng.integers(0, 2 * n, n))
            parts.append(LogBatch(0, at, int(offsets[-1]) + int(rng.integers(1, 4)), records, offsets))
        else:
            parts.append(LogBatch(0, at, at + n, records))
    return MemoryLog([parts])


def check_whole(archives: Path, log: MemoryLog) -> None:
    archive, end = Archive(archives, log.name, 1), log.end_position(0)
    assert archive.covered(0) == [(0, end)]
    got, at = [], 0
    while at < end:
        got += archive.read(0, at, 97)
        at = got[-1].end_offset
    assert rows(got) == rows(log.parts[0])
    assert sorted(os.listdir(archives / log.name / "0000")) == [str(s) for s in archive.segments(0)]


# Killed anywhere -----------------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is gone: nothing after it happens."""


class Fault:
    """Kills at the nth of the steps that touch the disk: before it, after it, in the middle of a write, or with the power, after it.

    Without power, a file that nobody has synced loses its end.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, how: str) -> None:
        self.left, self.how = at, how
        self.synced: set[int] = set()
        for owner, name in ((os, "rename"), (os, "fsync"), (writing._Summed, "write"), (writing._Summed, "close"), (Path, "unlink")):
            monkeypatch.setattr(owner, name, self._dying(getattr(owner, name), name))

    def _dying(self, step: Callable[..., Any], name: str) -> Callable[..., Any]:
        def do(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Killed
            if name == "fsync" and (self.left > 0 or self.how in ("after", "power")):
                self.synced.add(os.fstat(args[0]).st_ino)
            if self.left > 0:
                return step(*args, **kwargs)
            self.left = -1
            if self.how in ("after", "power"):
                step(*args, **kwargs)
            elif self.how == "torn" and name == "write":
                args[0]._file.write(bytes(args[1])[: len(args[1]) // 2])
                args[0]._file.flush()
            raise Killed

        return do


def run_until_killed(archives: Path, log: MemoryLog, monkeypatch: pytest.MonkeyPatch, at: int, how: str) -> bool:
    """Archive; whether it was killed. As after a kill, the lock is gone and files are as they were."""
    with monkeypatch.context() as patch:
        fault = Fault(patch, at, how)
        task = None
        position = begin(archives, log, 0)
        try:
            task = ArchiverTask(archives, log.name, 0, 1)
            task.catch_up(position)
            while batches := log.read(0, position, 60):
                task.apply(batches)
                position = batches[-1].end_offset
            task.close()
        except Killed:
            pass
    if task is not None and task._lock is not None:
        if task._writer is not None and task._writer._file is not None:
            task._writer._file.abandon()
        os.close(task._lock)
    elif task is None:
        # It was killed while it opened: the descriptor is nobody's.
        release(archives / log.name / "0000")
    if how == "power":
        for path in (archives / log.name / "0000").glob("*"):
            if path.stat().st_ino not in fault.synced:
                os.truncate(path, path.stat().st_size // 2)
    return fault.left < 0


def release(directory: Path) -> None:
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{descriptor}") == str(directory):
                os.close(int(descriptor))
        except OSError:
            continue


@pytest.mark.parametrize("how", ["before", "after", "torn", "power"])
def test_killed_at_any_step_it_goes_on_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None, how: str) -> None:
    log = a_log(12)
    end = log.end_position(0)
    clean = tmp_path / "clean"
    archive_all(clean, log, most=60)
    check_whole(clean, log)
    for at in range(1, 10_000):
        archives = tmp_path / str(at)
        killed = run_until_killed(archives, log, monkeypatch, at, how)
        archive = Archive(archives, log.name, 1)
        # What is there is a prefix, sound to the last byte, and stays as it is.
        covered = archive.covered(0)
        assert covered == [] or (len(covered) == 1 and covered[0][0] == 0)
        position, got = 0, []
        while batches := archive.read(0, position, 1_000):
            got += batches
            position = batches[-1].end_offset
        assert position == archive.end(0)
        assert rows(got) == [row for row in rows(log.parts[0]) if row[0] < position]
        before = {path: path.stat() for path in (archives / log.name / "0000").glob("*.parquet")}
        if not killed:
            assert position == end
            break
        archive_all(archives, log, most=60)
        check_whole(archives, log)
        assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in before} == {
            path: (status.st_ino, status.st_mtime_ns) for path, status in before.items()
        }
    assert at > 30, "too few steps to be a test"


def test_killed_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None) -> None:
    log = a_log(60, seed=1)
    rng = np.random.default_rng(5)
    kills = 0
    while run_until_killed(tmp_path, log, monkeypatch, int(rng.integers(1, 40)), str(rng.choice(["before", "after", "torn"]))):
        kills += 1
        assert kills < 1_000
    check_whole(tmp_path, log)
    assert kills > 3


def test_a_torn_draft_is_removed_and_nobody_reads_it(tmp_path: Path) -> None:
    log = a_log()
    (tmp_path / "actions" / "0000").mkdir(parents=True)
    (tmp_path / "actions" / "0000" / DRAFT).write_bytes(b"PAR1 and then nothing")
    assert Archive(tmp_path, "actions", 1).read(0, 0, 10) == []
    archive_all(tmp_path, log)
    check_whole(tmp_path, log)


# What is archived when -----------------------------------------------------------------------------------------------------------------


@given(st.data())
def test_any_cut_of_reads_and_runs_gives_the_same_records(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    archives = tmp_path_factory.mktemp("archive")
    whole = a_log(data.draw(st.integers(1, 12)), data.draw(st.integers(0, 99))).parts[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "ROW_GROUP_BYTES", data.draw(st.sampled_from([500, 5_000])))
        patch.setattr(writing, "SEGMENT_BYTES", data.draw(st.sampled_from([3_000, 50_000])))
        for upto in sorted({*data.draw(st.lists(st.integers(0, len(whole)), max_size=2)), len(whole)}):
            log = MemoryLog([whole[:upto]])
            if upto:
                new = archive_one(archives, log, 0, most=data.draw(st.integers(1, 200)))
                assert archive_one(archives, log, 0) == 0, "what is archived is not archived again"
                assert new >= 0
    check_whole(archives, log)


def test_what_was_archived_is_never_written_again(tmp_path: Path) -> None:
    log = a_log()
    half = MemoryLog([log.parts[0][:20]])
    archive_all(tmp_path, half)
    [first] = (tmp_path / "actions" / "0000").iterdir()
    before = first.stat()
    archive_all(tmp_path, log)
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    check_whole(tmp_path, log)


def test_holes_that_deletions_have_made_are_filled_exactly(tmp_path: Path, small: None) -> None:
    log = a_log(120, seed=2)
    archive_all(tmp_path, log)
    archive = Archive(tmp_path, "actions", 1)
    names = archive.segments(0)
    assert len(names) > 6
    for k in (0, 2, 3, len(names) - 1):
        (tmp_path / "actions" / "0000" / str(names[k])).unlink()
    gone = [(0, names[0].end), (names[2].start, names[3].end), (names[-1].start, names[-1].end)]
    assert missing(archive.covered(0), 0, log.end_position(0)) == gone
    archive_all(tmp_path, log, most=77)
    check_whole(tmp_path, log)
    assert {names[i] for i in range(len(names)) if i not in (0, 2, 3, len(names) - 1)} <= set(archive.segments(0))


def test_a_run_reads_little_of_what_is_archived(tmp_path: Path) -> None:
    log = MemoryLog([follow_on((typed(5_000), None, None))])
    archive_all(tmp_path, log)
    log.append([(0, typed(10))])
    assert begin(tmp_path, log, 0) == 5_000 - OVERLAP
    assert archive_all(tmp_path, log) == 10
    check_whole(tmp_path, log)


def test_a_segment_that_has_waited_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = MemoryLog([follow_on((typed(10), None, None))])
    now = [100.0]
    monkeypatch.setattr("flows.archive.task.time.monotonic", lambda: now[0])
    task = ArchiverTask(tmp_path, "actions", 0, 1, max_delay_s=60)
    assert task.settled()
    task.apply(log.read(0, 0, 4))
    now[0] += 59
    task.apply(log.read(0, 4, 4))
    assert not task.settled()
    assert (task.position, Archive(tmp_path, "actions", 1).covered(0)) == (0, [])
    now[0] += 2
    assert task.settled()
    assert (task.position, Archive(tmp_path, "actions", 1).covered(0)) == (8, [(0, 8)])
    task.apply(log.read(0, 8, 4))
    assert not task.settled()
    task.close()
    check_whole(tmp_path, log)


# What is refused -----------------------------------------------------------------------------------------------------------------------


def test_two_archivers_of_one_partition_are_refused(tmp_path: Path) -> None:
    task = ArchiverTask(tmp_path, "actions", 0, 2)
    other = ArchiverTask(tmp_path, "actions", 1, 2)
    with pytest.raises(LockedError, match="being written by another"):
        ArchiverTask(tmp_path, "actions", 0, 2)
    task.close()
    ArchiverTask(tmp_path, "actions", 0, 2).close()
    other.close()


def test_what_retention_took_before_it_was_archived_is_an_error_unless_it_is_left(tmp_path: Path) -> None:
    log = a_log()
    archive_all(tmp_path, MemoryLog([log.parts[0][:10]]))
    had = log.parts[0][9].end_offset
    log.begin = [log.parts[0][20].first_offset]
    with pytest.raises(RetentionError, match=rf"offsets {had} to {log.begin[0] - 1} are lost.*--leave-gap"):
        archive_all(tmp_path, log)
    archive_all(tmp_path, log, leave_gap=True)
    archive = Archive(tmp_path, "actions", 1)
    assert archive.covered(0) == [(0, had), (log.begin[0], log.end_position(0))]
    # From then on it is as it is.
    log.append([(0, raw([b"x"]))])
    archive_all(tmp_path, log)
    assert archive.covered(0) == [(0, had), (log.begin[0], log.end_position(0))]


def test_an_archive_may_begin_where_the_log_does(tmp_path: Path) -> None:
    log = a_log()
    log.begin = [log.parts[0][20].first_offset]
    archive_all(tmp_path, log)
    assert Archive(tmp_path, "actions", 1).covered(0) == [(log.begin[0], log.end_position(0))]


def test_a_log_that_is_another_is_refused(tmp_path: Path) -> None:
    log = MemoryLog([follow_on((typed(100), None, None))])
    archive_all(tmp_path, log)
    with pytest.raises(LogError, match=r"ends at 99, but its archive .* goes on to 100"):
        archive_all(tmp_path, MemoryLog([follow_on((typed(99), None, None))]))
    for other in (follow_on((typed(200, 1), None, None)), follow_on((typed(99), None, None), (typed(50), None, None))):
        before = Archive(tmp_path, "actions", 1).segments(0)
        with pytest.raises(LogError, match=r"from offset (36|99) on the archive .* doesn't hold what the log holds"):
            archive_all(tmp_path, MemoryLog([other]))
        assert Archive(tmp_path, "actions", 1).segments(0) == before
    # Other cuts and other dictionaries of the same records are the same.
    archive_all(
        tmp_path,
        MemoryLog([[b.between(k, k + 1) for k in range(100) for b in log.parts[0]] + follow_on((typed(3), None, None), start=100)]),
    )
    assert Archive(tmp_path, "actions", 1).covered(0) == [(0, 103)]


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None) -> None:
    log = a_log()
    with monkeypatch.context() as patch:
        written = [0]

        def write(self: Any, data: Any, real: Any = writing._Summed.write) -> Any:
            written[0] += len(data)
            if written[0] > 9_000:
                raise OSError(28, "No space left on device")
            return real(self, data)

        patch.setattr(writing._Summed, "write", write)
        with pytest.raises(StorageFullError, match=r"No space left.*free some space"):
            archive_all(tmp_path, log)
    assert DRAFT not in os.listdir(tmp_path / "actions" / "0000")
    assert 0 < Archive(tmp_path, "actions", 1).end(0) < log.end_position(0)
    archive_all(tmp_path, log)
    check_whole(tmp_path, log)


def test_a_place_that_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirectoryError):
        archive_all(tmp_path / "file", a_log())


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=6), st.integers(0, 50), st.integers(0, 50))
def test_missing_and_covered_make_up_the_whole(spans: list[tuple[int, int]], start: int, end: int) -> None:
    covered: list[tuple[int, int]] = []
    for gap, length in spans:
        low = (covered[-1][1] if covered else 0) + gap
        covered.append((low, low + length))
    inside = {x for low, high in covered for x in range(low, high)}
    got = missing(covered, start, end)
    assert [x for low, high in got for x in range(low, high)] == [x for x in range(start, end) if x not in inside]
    assert all(low < high for low, high in got)
