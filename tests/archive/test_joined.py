"""The joined log reads as the live log would have, had it kept everything; and what neither has is an error."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flows.archive.writing as writing
from flows.archive.archive import Archive
from flows.archive.joined import JoinedLog
from flows.errors import CorruptionError, LogError, RetentionError
from flows.log import LedgerEntry, LocalLog
from flows.open_log import open_live_log, open_log
from flows.outputs import ACTIONS, DEADLETTERS, LATE, REVISITS
from flows.past import Past
from flows.settings import Settings
from flows.state.actions_task import ActionsTask
from flows.state.revisits_task import RevisitsTask
from tests import driving
from tests.archive.making import Forgetful, MemoryLog, archive_all, archive_one, follow_on, joined, raw, read_all, rows, typed
from tests.archive.test_archiver import a_log
from tests.strategies import random_stream


def archived(tmp_path: Path, count: int = 100, upto: int = 60, begin: int = 40) -> MemoryLog:
    """A log of `count` records that begins at `begin`, and an archive of its first `upto`."""
    archive_all(tmp_path, MemoryLog([follow_on((typed(upto), None, None))]))
    log = MemoryLog([follow_on((typed(upto), None, None), (typed(count - upto, upto), None, None))])
    log.begin = [begin]
    return log


@given(st.data())
def test_any_read_is_what_the_live_log_would_have_said(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    archives = tmp_path_factory.mktemp("archive")
    parts = a_log(data.draw(st.integers(1, 12)), data.draw(st.integers(0, 99))).parts[0]
    whole = MemoryLog([parts])
    end = whole.end_position(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "ROW_GROUP_BYTES", data.draw(st.sampled_from([300, 5_000])))
        patch.setattr(writing, "SEGMENT_BYTES", data.draw(st.sampled_from([3_000, 50_000])))
        archived_parts = data.draw(st.integers(1, len(parts)))
        archive_one(archives, MemoryLog([parts[:archived_parts]]), 0, most=data.draw(st.integers(1, 200)))
    held = parts[archived_parts - 1].end_offset
    live = MemoryLog([parts])
    live.begin = [data.draw(st.integers(0, held))]
    with joined(live, archives) as log:
        assert rows(read_all(log, 0, most=data.draw(st.integers(1, 400)))) == rows(parts)
        for _ in range(5):
            at, most = data.draw(st.integers(0, end)), data.draw(st.integers(1, 50))
            got = log.read(0, at, most)
            assert bool(got) == (at < end)
            if got:
                assert got[0].first_offset == at
                assert at < got[-1].end_offset <= at + most
                wanted = [row for row in rows(parts) if at <= row[0] < got[-1].end_offset]
                assert rows(got) == wanted
            # Retention goes on while it is read.
            live.begin = [data.draw(st.integers(live.begin[0], held))]
            assert log.start_positions() == [0]


def test_the_live_log_is_asked_first(tmp_path: Path) -> None:
    """Whoever keeps up doesn't depend on the archive; nobody who is behind asks the live log in vain each time."""
    live = archived(tmp_path)
    asked: list[int] = []
    real = live.read
    live.read = lambda partition, position, most, **how: asked.append(position) or real(partition, position, most, **how)  # type: ignore[method-assign, func-returns-value]
    log = joined(live, tmp_path)
    for path in (tmp_path / "actions" / "0000").iterdir():
        path.write_bytes(b"damaged")
    assert [row[0] for row in rows(log.read(0, 40, 10))] == list(range(40, 50))
    with pytest.raises(CorruptionError, match="damaged"):
        log.read(0, 39, 10)
    assert asked == [40]


def test_retention_that_goes_on_is_noticed(tmp_path: Path) -> None:
    live = archived(tmp_path, begin=0)
    log = joined(live, tmp_path)
    assert len(rows(log.read(0, 0, 5))) == 5
    live.begin = [50]
    assert [row[0] for row in rows(read_all(log, 0, 5))] == list(range(5, 100))
    live.begin = [61]
    with pytest.raises(RetentionError, match=r"offsets 60 to 60 are missing: the log begins at 61"):
        log.read(0, 60, 5)


def test_segments_that_come_later_are_seen(tmp_path: Path) -> None:
    live = archived(tmp_path, begin=0)
    log = joined(live, tmp_path)
    read_all(log, 0)
    archive_all(tmp_path, live)
    live.begin = [100]
    assert [row[0] for row in rows(read_all(log, 0))] == list(range(100))


def test_a_missing_range_is_an_error_that_names_it(tmp_path: Path) -> None:
    live = archived(tmp_path, count=100, upto=60, begin=70)
    log = joined(live, tmp_path)
    assert log.read(0, 55, 100)[-1].end_offset == 60, "up to where it is missing"
    for position in (60, 65, 69):
        with pytest.raises(RetentionError, match=rf"partition 0: offsets {position} to 69 are missing: the log begins at 70.*{tmp_path}"):
            log.read(0, position, 100)
    assert log.start_positions() == [70]
    assert len(rows(log.read(0, 70, 100))) == 30


def test_a_segment_that_is_gone_is_an_error_that_names_its_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "SEGMENT_BYTES", 1)
    monkeypatch.setattr(writing, "ROW_GROUP_BYTES", 1)
    live = archived(tmp_path, begin=60)
    names = Archive(tmp_path, "actions", 1).segments(0)
    log = joined(live, tmp_path)
    assert len(rows(read_all(log, 0))) == 100
    for k in (10, 11, 30):
        (tmp_path / "actions" / "0000" / str(names[k])).unlink()
    log = joined(live, tmp_path)
    for position, last in ((names[10].start, names[11].end - 1), (names[30].start, names[30].end - 1)):
        with pytest.raises(RetentionError, match=rf"offsets {position} to {last} are missing"):
            read_all(log, 0, position)
    with pytest.raises(RetentionError, match=f"offsets {names[10].start} to"):
        read_all(log, 0)
    assert log.start_positions() == [names[30].end]


def test_an_archive_beyond_the_logs_end_is_refused(tmp_path: Path) -> None:
    archived(tmp_path)
    with pytest.raises(
        LogError, match=r"partition 0, ends at 59, but its archive in .* goes on to 60: the log has lost records, or was made anew"
    ):
        joined(MemoryLog([follow_on((typed(59), None, None))]), tmp_path)


def test_positions_outside_are_the_live_logs_to_refuse(tmp_path: Path) -> None:
    log = joined(archived(tmp_path), tmp_path)
    assert log.read(0, 100, 5) == []
    for partition, position in ((0, 101), (0, -1)):
        with pytest.raises(LogError):
            log.read(partition, position, 5)


def test_the_rest_is_the_live_logs(tmp_path: Path) -> None:
    live = archived(tmp_path)
    log = joined(live, tmp_path)
    assert (log.name, log.partitions, log.dense) == ("actions", 1, False)
    assert log.append([(0, typed(2))]) == [(0, 100, 102)]
    assert (log.end_positions(), log.end_position(0)) == ([102], 102)
    assert log.ledger_entry("k") == LedgerEntry("k", 1)
    log.commit_group("g", {0: 5})
    assert log.group_positions("g") == live.group_positions("g") == {0: 5}
    log.close()
    log.close()
    assert live.closed


def test_times_before_the_live_log_are_found_in_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "SEGMENT_BYTES", 200)
    monkeypatch.setattr(writing, "ROW_GROUP_BYTES", 100)
    stamps = [5, 3, None, 9, 9, 1, 12, 12, 30, 7, 31]
    records = pa.record_batch({"n": list(range(11)), "timestamp": pa.array(stamps, pa.int64())})
    whole = MemoryLog([follow_on((raw([b"x"], 2), None, None), (records, None, None), (pa.record_batch({"n": [1]}), None, None))])
    archive_all(tmp_path, MemoryLog([whole.parts[0][:2]]))
    for begin in range(13):
        live = MemoryLog(whole.parts)
        live.begin = [begin]
        log = joined(live, tmp_path)
        for time in range(-1, 33):
            assert log.position_for_time(0, time) == whole.position_for_time(0, time), (begin, time)


def test_who_opens_a_log_gets_its_archive(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data", partitions=1, archive=tmp_path / "far")
    with LocalLog.open(settings.logs, ACTIONS, 1, create=True) as log:
        log.append([(0, typed(10))])
    with open_log(settings, ACTIONS) as log:
        assert isinstance(log, LocalLog)
    with open_live_log(settings, ACTIONS) as live:
        archive_all(settings.archives, live)
    with open_log(settings, ACTIONS, read_only=True) as log:
        assert isinstance(log, JoinedLog)
        assert len(rows(read_all(log, 0))) == 10
    (settings.logs / "actions.db").unlink()
    with pytest.raises(LogError, match="ends at 0, but its archive"):
        open_log(settings, ACTIONS, create=True)


# State ---------------------------------------------------------------------------------------------------------------------------------


def test_state_from_the_archive_is_state_from_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests, dead letters and the past, with a beginning that only the archive has, read in other cuts."""
    monkeypatch.setattr(writing, "ROW_GROUP_BYTES", 8_000)
    monkeypatch.setattr(writing, "SEGMENT_BYTES", 30_000)
    rng = np.random.default_rng(7)
    settings = Settings(data=tmp_path / "data", partitions=2, batch_records=1_000, anchor_records=300)
    driving.write(settings, random_stream(7, 4_000, partitions=2, users=300, pins=400, days=60), rng)
    want = driving.apply(settings, rng)
    archives = settings.archives
    for name in (ACTIONS, REVISITS, LATE, DEADLETTERS):
        with open_live_log(settings, name) as log:
            archive_all(archives, log, most=700)
    again = Settings(**{**settings.__dict__, "data": tmp_path / "again", "batch_records": 333})
    shutil.copytree(settings.logs, again.logs)
    vocabulary = again.load_vocabulary()
    got = {}
    for flow in (ACTIONS, REVISITS):
        if flow == ACTIONS:
            # Its outputs are made anew.
            for name in (REVISITS, LATE, DEADLETTERS):
                (again.logs / f"{name}.db").unlink()
        outputs = {name: driving.open_log(again, name) for name in (REVISITS, LATE, DEADLETTERS)}
        with LocalLog.open(settings.logs, flow) as whole:
            ends = whole.end_positions()
            source = joined(Forgetful(whole, [end * 2 // 3 for end in ends]), archives)
            for partition in range(2):
                task = (
                    ActionsTask(again, partition, vocabulary, source, outputs)
                    if flow == ACTIONS
                    else RevisitsTask(again, partition, vocabulary, source)
                )
                while task.position < ends[partition]:
                    task.apply(source.read(partition, task.position, int(rng.integers(1, 500))))
                got[f"{flow}-{partition}"] = task.digest()
                if flow == ACTIONS:
                    # As of a time in between: the same kernels over the joined log, up to a position.
                    times = [
                        Past(settings, vocabulary, lambda log=log: log).users(partition, ends[partition] // 2, 2**62)
                        for log in (source, whole)
                    ]
                    assert times[0].watermark == times[1].watermark
                    assert all(
                        np.array_equal(getattr(times[0], n), getattr(times[1], n)) for n in ("sequences", "revisits", "labels", "tiles")
                    )
                task.close()
        for output in outputs.values():
            output.close()
    assert got == want
