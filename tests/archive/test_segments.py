"""A segment gives back exactly what it was given, whatever that is, and a damaged one is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import flows.archive.writing as writing
from flows.archive.archive import Archive
from flows.archive.names import SegmentName, new_checksum, partition_directory
from flows.archive.segment import Segment
from flows.errors import CorruptionError
from flows.events import EVENT_SCHEMA
from flows.log import LogBatch
from flows.outputs import DEADLETTER_SCHEMA, LATE_SCHEMA, REVISIT_SCHEMA
from tests.archive.making import MemoryLog, archive_all, follow_on, raw, rows, typed


def nulls(schema: pa.Schema, count: int = 3) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.nulls(count, field.type) for field in schema], schema=schema)


def values(schema: pa.Schema) -> pa.RecordBatch:
    made = {"int": lambda t: pa.array([-1, 0, 5]).cast(t), "dict": lambda t: pa.array(["a", None, "é"]).dictionary_encode()}
    other = {"string": ["", None, "x" * 9], "binary": [b"\xff", b"", None]}
    columns = [next((make(t) for kind, make in made.items() if str(t).startswith(kind)), None) for t in schema.types]
    return pa.RecordBatch.from_arrays(
        [pa.array(other[str(t)], t) if c is None else c for c, t in zip(columns, schema.types, strict=True)], schema=schema
    )


IN_COLUMNS: dict[str, list[LogBatch]] = {
    "raw": follow_on((raw([b'{"a":1}', None, b"", b"\xff\xfe"]), None, None)),
    "typed": follow_on((typed(7), None, None), (typed(3, 7), None, None), (typed(1), None, None)),
    "events": follow_on((nulls(EVENT_SCHEMA), None, None), (values(EVENT_SCHEMA), None, None)),
    "revisits": follow_on((values(REVISIT_SCHEMA), None, None)),
    "late": follow_on((values(LATE_SCHEMA), None, None), (nulls(LATE_SCHEMA), None, None)),
    "dead letters": follow_on((values(DEADLETTER_SCHEMA), None, None)),
    "holes": follow_on((raw([b"a", b"b", b"c"]), [0, 2, 4], 6), (raw([b"d"]), [9], 12), (raw([]), [], 20), (raw([b"e"]), None, None)),
    "a hole at the start": follow_on((raw([]), [], 5), (typed(2), None, None)),
    "a hole at the end": follow_on((typed(2), None, None), (raw([]), [], 5)),
    "shared offsets": follow_on((typed(5), [0, 0, 0, 1, 1], None), (typed(4), [7] * 4, 9)),
    "as many holes as there are shared": follow_on((typed(3), [0, 0, 2], None)),
    "not from 0": follow_on((typed(3), None, None), start=1_000_000_000_000),
    "huge": follow_on((raw([bytes(1 << 20), b"x", np.random.default_rng(0).bytes(1 << 20)]), None, None)),
    "no numbers": follow_on((pa.record_batch({"x": pa.array([float("nan"), -0.0, None, float("inf")])}), None, None)),
    "odd names": follow_on((pa.record_batch({"a.b": [1], "a": [2], "é \n": [3], "timestamp": ["no time"]}), None, None)),
    "large and unsigned": follow_on(
        (pa.record_batch([pa.array([2**64 - 1], pa.uint64()), pa.array(["x"], pa.large_string())], names=["u", "s"]), None, None)
    ),
    "metadata": follow_on(
        (
            pa.record_batch([pa.array([1])], schema=pa.schema([pa.field("a", pa.int64(), metadata={"k": "v"})], metadata={"m": "w"})),
            None,
            None,
        )
    ),
}
_PAIRS = pa.array([[1, 2], None, []])
IN_BATCHES: dict[str, list[LogBatch]] = {
    "two kinds taking turns": follow_on(*((typed(2, k) if k % 2 else raw([b"x", None], k), None, None) for k in range(40))),
    "two kinds with holes": follow_on((raw([]), [], 3), (typed(2), [3, 3], 9), (raw([b"x", b"y"]), [10, 12], 15), (raw([]), [], 30)),
    "lists": follow_on((pa.record_batch({"a": _PAIRS}), None, None)),
    "structs": follow_on((pa.record_batch({"a": [{"b": 1}, {"b": None}]}), None, None)),
    "times and decimals": follow_on((pa.record_batch({"t": [datetime(2026, 1, 1, tzinfo=UTC)], "d": [Decimal("1.50")]}), None, None)),
    "a small dictionary": follow_on(
        (pa.record_batch({"a": pa.array(["x", "y"]).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string()))}), None, None)
    ),
    "a dictionary with a null": follow_on(
        (pa.record_batch({"a": pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int32()), pa.array(["x", None]))}), None, None)
    ),
    "one name twice": follow_on((pa.RecordBatch.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), None, None)),
    "no name": follow_on((pa.RecordBatch.from_arrays([pa.array([1])], names=[""]), None, None)),
    "our own name": follow_on((pa.record_batch({"log_offset": [5]}), None, None)),
    "null where none may be": follow_on(
        (pa.RecordBatch.from_arrays([pa.array([None, 1])], schema=pa.schema([pa.field("a", pa.int64(), nullable=False)])), None, None)
    ),
    "nothing": follow_on((raw([]), [], 5), (raw([]), [], 7)),
}


@pytest.mark.parametrize("name", [*IN_COLUMNS, *IN_BATCHES])
@pytest.mark.parametrize("group", [1, 50, 8 << 20])
def test_what_is_archived_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, group: int) -> None:
    monkeypatch.setattr(writing, "ROW_GROUP_BYTES", group)
    batches = (IN_COLUMNS | IN_BATCHES)[name]
    start, end = batches[0].first_offset, batches[-1].end_offset
    log = MemoryLog([[LogBatch(0, 0, start, raw([]), np.empty(0, np.int64)), *batches] if start else batches])
    log.begin = [start]
    archive_all(tmp_path, log)
    archive = Archive(tmp_path, "actions", 1)
    assert archive.covered(0) == [(start, end)]
    for most in (1, 3, 1 << 30):
        got: list[LogBatch] = []
        at = start
        while at < end:
            got += archive.read(0, at, most)
            assert got[-1].end_offset > at
            at = got[-1].end_offset
        assert [b.first_offset for b in got] == [start, *(b.end_offset for b in got[:-1])]
        assert rows(got) == rows(batches)
        assert {b.records.schema for b in got if b.records.num_rows} == {b.records.schema for b in batches if b.records.num_rows}
    assert archive.read(0, end, 5) == []
    if group > 50:
        [segment] = archive.segments(0)
        assert Segment(partition_directory(tmp_path, "actions", 0), segment, "actions", 0).info.columns == (name in IN_COLUMNS)


def test_a_text_that_is_none_is_kept(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 2, [None, pa.array([0, 2, 3], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfea")])
    log = MemoryLog([follow_on((pa.record_batch({"s": bad}), None, None))])
    archive_all(tmp_path, log)
    [batch] = Archive(tmp_path, "actions", 1).read(0, 0, 9)
    assert batch.records.column(0).view(pa.binary()).to_pylist() == [b"\xff\xfe", b"a"]


def test_columns_can_be_queried_by_anyone(tmp_path: Path) -> None:
    archive_all(tmp_path, MemoryLog([follow_on((typed(5), None, None), (typed(2, 5), [9, 9], None))]))
    [path] = (tmp_path / "actions" / "0000").iterdir()
    table = pq.read_table(path)
    assert table.column_names == ["n", "word", "timestamp", "log_offset"]
    assert table.column("log_offset").to_pylist() == [0, 1, 2, 3, 4, 9, 9]
    assert table.column("n").to_pylist() == list(range(7))


def test_another_kind_of_record_begins_a_segment_once_there_is_something_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "ROW_GROUP_BYTES", 1_000)
    log = MemoryLog(
        [follow_on((typed(500), None, None), (raw([b"x"] * 500), None, None), (typed(3), None, None), (raw([b"y"]), None, None))]
    )
    archive_all(tmp_path, log)
    archive = Archive(tmp_path, "actions", 1)
    assert archive.covered(0) == [(0, 1_004)]
    assert [(s.start, s.end) for s in archive.segments(0)] == [(0, 500), (500, 1_000), (1_000, 1_004)]
    assert rows(archive.read(0, 0, 9_999)) == rows(log.parts[0])


def test_kinds_that_take_turns_make_no_segment_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "ROW_GROUP_BYTES", 10_000)
    monkeypatch.setattr(writing, "SEGMENT_BYTES", 50_000)
    log = MemoryLog([follow_on(*((typed(20) if k % 2 else raw([b"x" * 50] * 20), None, None) for k in range(200)))])
    archive_all(tmp_path, log, most=50)
    archive = Archive(tmp_path, "actions", 1)
    size = sum(b.records.nbytes for b in log.parts[0])
    assert size / 100_000 < len(archive.segments(0)) < size / 40_000
    assert rows(archive.read(0, 0, 9_999)) == rows(log.parts[0])


def test_a_read_decodes_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "ROW_GROUP_BYTES", 1_000)
    archive_all(tmp_path, MemoryLog([follow_on(*((typed(10, k * 10), None, None) for k in range(100)))]))
    archive = Archive(tmp_path, "actions", 1)
    decoded: list[int] = []
    monkeypatch.setattr(Segment, "read", lambda self, at, read=Segment.read: decoded.append(at) or read(self, at))  # type: ignore[func-returns-value]
    got = []
    for at in range(500, 600):
        got += archive.read(0, at, 1)
    assert [row[0] for row in rows(got)] == list(range(500, 600))
    assert len(decoded) <= 12, "a row group is decoded once, however small the reads"


def test_reads_end_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import flows.archive.archive

    monkeypatch.setattr(writing, "ROW_GROUP_BYTES", 5_000)
    monkeypatch.setattr(flows.archive.archive, "READ_BYTES", 20_000)
    log = MemoryLog([follow_on((raw([bytes([i]) * 1_000 for i in range(100)]), None, None))])
    archive_all(tmp_path, log)
    got = Archive(tmp_path, "actions", 1).read(0, 0, 1_000)
    assert 20_000 <= sum(b.records.nbytes for b in got) <= 30_000


# Damage --------------------------------------------------------------------------------------------------------------------------------


def flip(place: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(place * (len(content) - 1))] ^= 0x10
        path.write_bytes(content)

    return damage


def cut(bytes_: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[:bytes_])


def renamed(**changes: object) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        name = SegmentName.parse(path.name)
        assert name is not None
        path.rename(path.with_name(str(SegmentName(**(name.__dict__ | changes)))))  # type: ignore[arg-type]

    return damage


def from_elsewhere(log: str, partition: int) -> Callable[[Path], None]:
    """The same offsets of another partition or log, under its right checksum."""

    def damage(path: Path) -> None:
        [other] = partition_directory(path.parents[2], log, partition).iterdir()
        path.unlink()
        shutil.copy(other, path.parent / other.name)

    return damage


def another_parquet(path: Path) -> None:
    """Somebody else's file under a right name."""
    name = SegmentName.parse(path.name)
    assert name is not None
    pq.write_table(pa.table({"n": [1]}), path)
    checksum = new_checksum()
    checksum.update(path.read_bytes())
    path.rename(path.with_name(str(SegmentName(name.start, name.end, checksum.hexdigest()))))


DAMAGES: dict[str, Callable[[Path], None]] = {
    **{f"a bit at {place}": flip(place) for place in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)},
    **{f"cut to {size}": cut(size) for size in (0, 3, 100, -1)},
    "more at the end": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "another checksum": renamed(checksum="0" * 32),
    "a name that ends later": renamed(end=150),
    "a name that ends earlier": renamed(end=99),
    "another partition's": from_elsewhere("actions", 1),
    "another log's": from_elsewhere("late", 0),
    "another's": another_parquet,
}


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Path, MemoryLog]:
    """An archive of two partitions and another log with equal records, and the log."""
    log = MemoryLog([follow_on((typed(100), None, None)), follow_on((typed(100), None, None), partition=1)])
    archive_all(tmp_path, log)
    archive_all(tmp_path, MemoryLog(log.parts, name="late"))
    return tmp_path, log


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_with_what_to_do(damaged: tuple[Path, MemoryLog], name: str) -> None:
    archives, _ = damaged
    [path] = (archives / "actions" / "0000").iterdir()
    assert Archive(archives, "actions", 2).read(0, 5, 1), "it was read, and found sound, before"
    DAMAGES[name](path)
    with pytest.raises(
        CorruptionError, match=r"archive segment .*/actions/0000/.*parquet is damaged: .*; delete it, and `tidemark archive run`"
    ):
        Archive(archives, "actions", 2).read(0, 5, 1)
    assert len(rows(Archive(archives, "actions", 2).read(1, 0, 100))) == 100


def test_a_damaged_segment_that_is_deleted_is_made_anew(damaged: tuple[Path, MemoryLog]) -> None:
    archives, log = damaged
    [path] = (archives / "actions" / "0000").iterdir()
    content = path.read_bytes()
    flip(0.5)(path)
    with pytest.raises(CorruptionError, match="checksum"):
        archive_all(archives, log)
    path.unlink()
    assert archive_all(archives, log) == 100
    assert path.read_bytes() == content


def test_segments_that_hold_the_same_offsets_are_refused(damaged: tuple[Path, MemoryLog]) -> None:
    archives, log = damaged
    [path] = (archives / "actions" / "0000").iterdir()
    shutil.copy(path, path.with_name(str(SegmentName(50, 120, "0" * 32))))
    for call in (lambda: Archive(archives, "actions", 2).read(0, 5, 1), lambda: archive_all(archives, log)):
        with pytest.raises(CorruptionError, match="hold the same offsets"):
            call()


@pytest.mark.parametrize(
    "name", ["x", "", "1-2-3.parquet", f"{5:020d}-{5:020d}-{'0' * 32}.parquet", f"{0:020d}-{5:020d}-{'0' * 32}.parquet.tmp"]
)
def test_what_names_no_segment(name: str) -> None:
    assert SegmentName.parse(name) is None


def test_names_sort_as_offsets_do() -> None:
    names = [SegmentName(a, b, "f" * 32) for a, b in ((0, 9), (9, 10), (10, 10**12), (10**12, 2**62))]
    assert sorted(map(str, names)) == [str(n) for n in names]
    assert [SegmentName.parse(str(n)) for n in names] == names
