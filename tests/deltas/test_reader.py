"""Whatever befalls the log, a reader takes just what comes next, says by name what is wrong with the rest, heals, and then has the right rows."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.archive.archive import Archive
from flows.archive.run import run_archiver
from flows.errors import CorruptionError
from flows.outputs import EMBEDDINGS
from flows.run.display import LiveDisplay
from flows.settings import Settings
from online_model.deltas.chain import closings
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
from online_model.deltas.reader import DeltaReader
from online_model.deltas.record import EMBEDDING_SCHEMA, Kind, Rows, batches_of, closing_of
from online_model.deltas.table_rows import TableRows, applied, tables_of
from online_model.deltas.writer import DeltaWriter
from online_model.registry.bases import Base
from online_model.registry.registry import Registry
from online_model.registry.snapshots import sound
from tests.deltas.making import Learner, MemoryLog, embeddings, rows_of, world
from tests.oracles import deltas as naive
from tests.registry.making import publish, registry_in

NAMES: dict[str, type[DeltaError]] = {
    "other base": OtherBaseError,
    "duplicate": DuplicateError,
    "reordered": ReorderedError,
    "gap": GapError,
    "forked": ForkedError,
    "damaged": DamagedDeltaError,
}
Item = tuple[naive.Seen, list[pa.RecordBatch]]


def item(learner: Learner, number: int) -> Item:
    closing = learner.made[number - 1].closing
    return naive.Seen(learner.base.number, number, True, closing.previous, closing.digest), learner.batches(number)


def changed(batch: pa.RecordBatch, name: str, row: int, value: object) -> pa.RecordBatch:
    values = batch.column(name).to_pylist()
    values[row] = value
    at = batch.schema.names.index(name)
    return batch.set_column(at, batch.schema.field(name), pa.array(values, batch.schema.field(name).type))


def spoiled(learner: Learner, number: int, how: int) -> Item:
    """A delta that is not what was put out."""
    seen, batches = item(learner, number)
    rows = learner.made[number - 1].rows
    there = np.flatnonzero(~rows.deleted)
    if how == 0 and len(there):
        at = int(there[0])
        weights = batches[0].column("weights")[at].as_py()
        batches = [changed(batches[0], "weights", at, [weights[0] + 1, *weights[1:]]), batches[1]]
    elif how == 1 and len(rows):
        batches = [batches[0].slice(0, len(rows) - 1), batches[1]]
    elif how == 2 and len(rows):
        batches = [changed(batches[0], "id", 0, 1 << 40), batches[1]]
    elif how == 3 and len(rows) > 1:
        batches = [batches[0].slice(0, 1), batches[0].slice(2), batches[1]]
    else:
        batches = [*batches[:-1], changed(batches[-1], "newest_event_time", 0, 77)]
    return replace(seen, sound=False), batches


def forked(learner: Learner, number: int) -> Item:
    """What another learner put out as that number."""
    made = learner.made[number - 1]
    closing = closing_of(1, number, made.rows, made.closing.positions, 1, 1, "ab" * 16)
    return naive.Seen(1, number, True, closing.previous, closing.digest), batches_of(made.rows, closing)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    """Faults: what, of which delta, and a detail."""
    kinds = ("lost", "doubled", "later again", "swapped", "foreign", "beside", "spoiled", "forked", "unclosed")
    return draw(st.lists(st.tuples(st.sampled_from(kinds), st.integers(1, 8), st.integers(0, 4)), max_size=3))


def befallen(learner: Learner, others: dict[str, Learner], faults: list[tuple[str, int, int]], deltas: int) -> list[Item]:
    items = [item(learner, number) for number in range(1, deltas + 1)]
    for what, number, detail in faults:
        at = min(number, len(items)) - 1
        if at < 0:
            continue
        own = items[at][0].base == 1 and items[at][0].number
        if what == "lost":
            del items[at]
        elif what == "doubled":
            items.insert(at + 1, items[at])
        elif what == "later again":
            items.insert(min(at + 1 + detail, len(items)), items[at])
        elif what == "swapped" and at + 1 < len(items):
            items[at], items[at + 1] = items[at + 1], items[at]
        elif what in ("foreign", "beside"):
            items.insert(at, item(others[what], 1 + detail))
        elif what == "spoiled" and own:
            items[at] = spoiled(learner, own, detail)
        elif what == "forked" and own:
            items[at] = forked(learner, own)
        elif what == "unclosed" and own:
            # A log that was cut in the middle of it, and went on.
            seen, batches = items[at]
            items[at] = (seen, [*(batch.slice(0, detail) for batch in batches[:-1]), *batches])
    return items


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Registry, list[Base]]:
    registry = registry_in(tmp_path_factory.mktemp("shared"))
    return registry, [publish(registry, seed) for seed in (1, 2, 3)]


@given(histories(), st.sampled_from([1, 2, 5, 65_536]), st.integers(0, 1_000))
@settings(max_examples=60)
def test_whatever_befalls_the_log(shared: tuple[Registry, list[Base]], faults: list[tuple[str, int, int]], most: int, seed: int) -> None:
    registry, bases = shared
    learner, log = Learner(bases[0], seed), MemoryLog()
    shutil.rmtree(learner.base.path / "snapshots", ignore_errors=True)
    others = {"foreign": Learner(bases[1]), "beside": Learner(bases[2])}
    for one in (learner, *others.values()):
        for _ in range(8):
            one.learn()
    items = befallen(learner, others, faults, 6)
    wanted = naive.verdicts([seen for seen, _ in items], 1, learner.base.digest, {3})
    for _, batches in items:
        log.append([(0, batch) for batch in batches])
    start = registry.start_for(learner.base, 0)
    reader, tables = DeltaReader(log, start, lambda: {3}), tables_of(registry.load(start)[1])
    got: list[str] = []
    refused: DeltaError | None = None
    while refused is None and reader._at < log.end_position(0):
        try:
            deltas = reader.read(most)
        except DeltaError as error:
            refused = error
            continue
        for delta in deltas:
            tables = applied(tables, delta)
            got.append("taken")
            # Of each that is shown, all and nothing else.
            assert rows_of(tables) == learner.made[delta.closing.delta - 1].after
    assert len(got) == wanted.count("taken")
    if wanted and wanted[-1] in NAMES:
        assert type(refused) is NAMES[wanted[-1]]
    else:
        assert refused is None
    at = reader.delta
    if refused is not None:
        # It is refused again and again, and what was there stays.
        with pytest.raises(type(refused)):
            reader.read(most)
        with pytest.raises(NoSnapshotError):
            reader.heal(sound(learner.base))
        assert reader.delta == at
        # The learner makes one, and goes on.
        learner.snapshot(6, _put(log, learner, 6))
        point, states = reader.heal(sound(learner.base))
        tables = tables_of(states)
        assert rows_of(tables) == learner.made[5].after
        assert (point.delta, reader.delta) == (6, 6)
    elif at < 6:
        # Deltas at the end are lost, which nobody can see yet.
        for number in range(at + 1, 7):
            _put(log, learner, number)
    for number in (7, 8):
        _put(log, learner, number)
    while reader.position < log.end_position(0):
        for delta in reader.read(most):
            tables = applied(tables, delta)
    # As whoever was never interrupted.
    assert rows_of(tables) == learner.made[7].after
    assert (reader.delta, reader.digest) == (8, learner.digest)


def _put(log: Any, learner: Learner, number: int) -> int:
    return log.append([(0, batch) for batch in learner.batches(number)])[-1][2]


def test_what_was_never_closed_is_no_delta(tmp_path: Path) -> None:
    """A log that was cut in the middle of one, which its learner then put out again; read in any pieces."""
    registry, learner, log = world(tmp_path)
    with log:
        learner.learn(30)
        whole = learner.batches(1)
        assert whole[0].num_rows > 5
        log.append([(0, whole[0].slice(0, 3))])
        log.append([(0, batch) for batch in (whole[0].slice(0, 2), *whole)])
        for most in (1, 2, 4, 65_536):
            start = registry.start_for(learner.base, 0)
            reader, found = DeltaReader(log, start), []
            while reader.position < log.end_position(0):
                found += reader.read(most)
            assert [delta.closing.delta for delta in found] == [1]
            assert rows_of(applied(tables_of(registry.load(start)[1]), found[0])) == learner.made[0].after


def test_offsets_without_records_are_passed(tmp_path: Path) -> None:
    """Kafka has one behind each transaction, and a read may find nothing else."""
    registry, learner, _ = world(tmp_path)
    log = MemoryLog()
    reader = DeltaReader(log, registry.start_for(learner.base, 0))
    for number in (1, 2):
        learner.learn()
        log.skip()
        assert reader.read() == []
        assert reader.read_to == log.end_position(0)
        log.append([(0, batch) for batch in learner.batches(number)])
        log.skip()
        assert [delta.closing.delta for delta in reader.read()] == [number]
        assert [one.delta for one in closings(log, 1)] == list(range(number, 0, -1))


def test_a_position_behind_the_end_is_told(tmp_path: Path) -> None:
    registry, learner, log = world(tmp_path)
    with log:
        for number in (1, 2, 3):
            learner.learn()
            end = _put(log, learner, number)
            learner.snapshot(number, end)
        start = replace(registry.start_for(learner.base, end), position=end + 50)
        reader = DeltaReader(log, start)
        with pytest.raises(LostDeltasError, match="lies behind its end"):
            reader.read()
        point, _ = reader.heal(sound(learner.base))
        assert point.delta == 3
        assert reader.read() == []


def test_a_snapshot_of_another_history_heals_nobody(tmp_path: Path) -> None:
    """The log was made anew: what lies there is not what the snapshot is of."""
    registry, learner, log = world(tmp_path)
    with log:
        learner.learn()
        learner.learn()
        other = Learner(learner.base, seed=4)
        other.learn()
        other.learn()
        for number in (1, 2):
            end = _put(log, other, number)
        learner.snapshot(2, end)
        reader = DeltaReader(log, registry.start_for(learner.base, 0))
        with pytest.raises(NoSnapshotError):
            reader.heal(sound(learner.base))
        assert [delta.closing.delta for delta in reader.read()] == [1, 2]


STRANGE: dict[str, Callable[[pa.RecordBatch], pa.RecordBatch]] = {
    "other columns": lambda b: b.select(["base", "delta"]),
    "no number": lambda b: changed(b, "delta", 0, None),
    "no table of ours": lambda b: changed(b, "table", 0, 9),
    "no weights": lambda b: changed(b, "weights", 0, None),
    "a longer row": lambda b: changed(b, "weights", 0, [1.0] * 9),
    "another kind": lambda b: changed(b, "kind", 0, int(Kind.DELETED)),
    "closed twice": lambda b: changed(b, "kind", 0, int(Kind.CLOSED)),
}


@pytest.mark.parametrize("what", STRANGE)
def test_strange_records_are_refused(what: str, tmp_path: Path) -> None:
    registry, learner, log = world(tmp_path)
    learner.seed = next(seed for seed in range(99) if not Learner(learner.base, seed).learn().rows.deleted[:1].any())
    learner.learn(30)
    batches = learner.batches(1)
    assert len(learner.made[0].rows) > 2
    assert not learner.made[0].rows.deleted[0]
    with log:
        log.append([(0, STRANGE[what](batches[0])), *((0, batch) for batch in batches[1:])])
        reader = DeltaReader(log, registry.start_for(learner.base, 0))
        with pytest.raises((DamagedDeltaError, GapError, ForkedError)):
            reader.read()
        assert reader.delta == 0


def test_rows_of_another_length_are_refused(tmp_path: Path) -> None:
    """They are what was put out, by whoever learns another model."""
    registry, learner, log = world(tmp_path)
    with log:
        writer = DeltaWriter.open(log, 1, learner.base.digest)
        writer.append(Rows.of({"pin": (np.array([1]), np.ones((1, 9), np.float32))}, {}, 9), (1,), 1, 1)
        start = registry.start_for(learner.base, 0)
        with pytest.raises(DamagedDeltaError, match="rows of 9 numbers"):
            DeltaReader(log, start, dimension=4).read()


def test_rows_that_are_not_sorted_are_refused(tmp_path: Path) -> None:
    registry, learner, log = world(tmp_path)
    rows = Rows.of({"pin": (np.array([1, 2]), np.ones((2, 4), np.float32))}, {}, 4)
    turned = Rows(rows.table, rows.ids[::-1], rows.deleted, rows.weights)
    with log:
        DeltaWriter.open(log, 1, learner.base.digest).append(turned, (1,), 1, 1)
        with pytest.raises(DamagedDeltaError):
            DeltaReader(log, registry.start_for(learner.base, 0)).read()


def test_what_is_damaged_in_the_file_is_refused_and_healed(tmp_path: Path) -> None:
    registry, learner, log = world(tmp_path)
    with log:
        ends = []
        for number in (1, 2, 3, 4):
            learner.learn()
            ends.append(_put(log, learner, number))
        learner.snapshot(3, ends[2])
    with sqlite3.connect(tmp_path / "logs" / "embeddings.db") as connection:
        connection.execute("UPDATE batches SET crc = crc + 1 WHERE end_offset = ?", (ends[1],))
    connection.close()
    with embeddings(tmp_path) as log:
        reader = DeltaReader(log, registry.start_for(learner.base, 0))
        with pytest.raises(CorruptionError):
            while True:
                reader.read(1)
        assert reader.delta == 1
        point, _ = reader.heal(sound(learner.base))
        assert point.delta == 3
        assert [delta.closing.delta for delta in reader.read()] == [4]


def test_out_of_the_archive_they_are_the_same(tmp_path: Path) -> None:
    registry, learner, log = world(tmp_path)
    with log:
        for number in range(1, 6):
            learner.learn(20)
            _put(log, learner, number)
    with LiveDisplay(quiet=True) as display:
        run_archiver(Settings(data=tmp_path, partitions=2), [EMBEDDINGS], False, 1, None, False, display)
    shutil.rmtree(tmp_path / "logs")
    archive = Archive(tmp_path / "archive", EMBEDDINGS, 2)
    found = archive.read(0, 0, 1 << 20)
    assert all(batch.records.schema.types == EMBEDDING_SCHEMA.types for batch in found)
    with embeddings(tmp_path) as empty:
        for batch in found:
            empty.append([(0, batch.records)])
        start = registry.start_for(learner.base, 0)
        reader, tables = DeltaReader(empty, start), tables_of(registry.load(start)[1])
        for delta in reader.read():
            tables = applied(tables, delta)
        assert rows_of(tables) == learner.made[4].after


def test_rows_of_a_table() -> None:
    default = np.array([9, 9], np.float32)
    table = TableRows(np.empty(0, np.int64), np.empty((0, 2), np.float32), default)
    assert table.gather(np.array([1, 2])).tolist() == [[9, 9], [9, 9]]
    one = table.applied(np.array([2, 5]), np.array([[1, 2], [3, 4]], np.float32), np.array([7]))
    two = one.applied(np.array([5]), np.array([[5, 6]], np.float32), np.array([2]))
    assert one.gather(np.array([5, 2, 7])).tolist() == [[3, 4], [1, 2], [9, 9]]
    assert two.gather(np.array([5, 2])).tolist() == [[5, 6], [9, 9]]
    assert two.applied(np.empty(0, np.int64), np.empty((0, 0), np.float32), np.empty(0, np.int64)) is two
