"""Each delta is put out once, whatever kills its learner, and by one learner."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_model.deltas import record
from online_model.deltas.chain import closings, holds, last_closing
from online_model.deltas.errors import DivergedError, LostDeltasError, SecondLearnerError
from online_model.deltas.reader import DeltaReader
from online_model.deltas.record import Rows
from online_model.deltas.table_rows import applied, tables_of
from online_model.deltas.writer import DeltaWriter, fence, origin
from online_model.registry.bases import Base
from online_model.registry.errors import DraftError
from online_model.registry.registry import Registry
from online_model.registry.snapshots import Point
from tests.deltas.making import D, Learned, Learner, MemoryLog, embeddings, rows_of, world
from tests.registry.making import publish


def put(writer: DeltaWriter, learned: Learned) -> Point:
    closing = learned.closing
    return writer.append(learned.rows, closing.positions, closing.newest_event_time, closing.ready_time).point()


def read_all(registry: Registry, learner: Learner, log: Any, most: int = 65_536) -> list[int]:
    """Numbers of all deltas; the rows behind each are those that were learned."""
    start = registry.start_for(learner.base, 0)
    reader, tables, numbers = DeltaReader(log, start), tables_of(registry.load(start)[1]), []
    end = log.end_position(0)
    while reader._at < end:
        for delta in reader.read(most):
            tables = applied(tables, delta)
            numbers.append(delta.closing.delta)
            assert rows_of(tables) == learner.made[delta.closing.delta - 1].after
    return numbers


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Registry, Base]:
    registry, learner, log = world(tmp_path_factory.mktemp("shared"))
    log.close()
    return registry, learner.base


@given(st.lists(st.lists(st.booleans(), max_size=4), max_size=8), st.sampled_from([1, 3, 65_536]))
@settings(max_examples=60)
def test_any_kills(shared: tuple[Registry, Base], lives: list[list[bool]], most: int) -> None:
    """A learner is killed before it puts a delta out, or after, before its checkpoint says so; it learns on from its checkpoint.

    A life is, of each delta that is put out in it, whether there is a checkpoint behind it.
    """
    registry, learner, log = shared[0], Learner(shared[1]), MemoryLog()
    checkpoint = origin(learner.base.number, learner.base.digest, 0)
    for life in lives:
        writer = DeltaWriter.open(log, learner.base.number, learner.base.digest, checkpoint)
        at = checkpoint.delta
        for checkpointed in life:
            learned = learner.made[at] if at < len(learner.made) else learner.learn()
            if writer.due is not None:
                assert writer.due.positions == learned.closing.positions
            point = put(writer, learned)
            at += 1
            if checkpointed:
                checkpoint = point
    assert read_all(registry, learner, log, most) == list(range(1, len(learner.made) + 1))


def test_what_is_put_out_again_must_be_the_same(tmp_path: Path) -> None:
    _, learner, log = world(tmp_path)
    with log:
        begin = origin(learner.base.number, learner.base.digest, 0)
        writer = DeltaWriter.open(log, learner.base.number, learner.base.digest, begin)
        for _ in range(3):
            put(writer, learner.learn())
        end = log.end_position(0)
        again = DeltaWriter.open(log, learner.base.number, learner.base.digest, begin)
        put(again, learner.made[0])
        other = learner.made[1]
        weights = other.rows.weights.copy()
        weights[~other.rows.deleted] += np.float32(1e-7)
        rows = Rows(other.rows.table, other.rows.ids, other.rows.deleted, weights)
        assert weights.tobytes() != other.rows.weights.tobytes()
        with pytest.raises(DivergedError, match="delta 2 of base 1 was put out before"):
            again.append(rows, other.closing.positions, other.closing.newest_event_time, other.closing.ready_time)
        with pytest.raises(DivergedError, match="positions"):
            again.append(other.rows, (9, 9), other.closing.newest_event_time, other.closing.ready_time)
        # All rows anew, behind what there is: the way out.
        assert log.end_position(0) == end
        anew = DeltaWriter.open(log, learner.base.number, learner.base.digest)
        assert anew.delta == 3
        assert anew.append(rows, (9, 9), 5, 5).delta == 4


def test_a_second_learner_is_refused(tmp_path: Path) -> None:
    registry, learner, log = world(tmp_path)
    with log, embeddings(tmp_path) as same_log:
        one = DeltaWriter.open(log, learner.base.number, learner.base.digest)
        two = DeltaWriter.open(same_log, learner.base.number, learner.base.digest)
        put(one, learner.learn())
        second = learner.learn()
        with pytest.raises(SecondLearnerError, match="another learner has put out deltas of base 1"):
            put(two, second)
        put(one, second)
        assert read_all(registry, learner, log) == [1, 2]


def test_a_fence_ends_a_learner(tmp_path: Path) -> None:
    _, learner, log = world(tmp_path)
    with log:
        writer = DeltaWriter.open(log, learner.base.number, learner.base.digest)
        put(writer, learner.learn())
        end = fence(log, learner.base.number)
        assert end == log.end_position(0)
        with pytest.raises(SecondLearnerError):
            put(writer, learner.learn())
        assert log.end_position(0) == end
        # Whoever is to go on may: after a rollback.
        put(DeltaWriter.open(log, learner.base.number, learner.base.digest), learner.made[1])


def test_each_base_has_numbers_of_its_own(tmp_path: Path) -> None:
    registry, learner, log = world(tmp_path)
    other = Learner(publish(registry, 2))
    with log:
        writers = {one.base.number: DeltaWriter.open(log, one.base.number, one.base.digest) for one in (learner, other)}
        for one in (learner, other, learner, learner, other):
            put(writers[one.base.number], one.learn())
        assert [c.delta for c in closings(log, 1)] == [3, 2, 1]
        assert [c.delta for c in closings(log, 2)] == [2, 1]
        last = last_closing(log, 1)
        assert last is not None
        assert holds(log, last.point())
        assert not holds(log, Point(1, last.delta, "0" * 32, last.position, (), 0))
        assert not holds(log, Point(1, last.delta, last.digest, last.position - 1, (), 0))
        assert not holds(log, Point(1, last.delta, last.digest, last.position + 10_000, (), 0))


def test_a_log_that_lost_its_end_is_told(tmp_path: Path) -> None:
    _, learner, log = world(tmp_path)
    with log:
        writer = DeltaWriter.open(log, learner.base.number, learner.base.digest)
        for _ in range(2):
            put(writer, learner.learn())
    shutil.copytree(tmp_path / "logs", tmp_path / "copy")
    with embeddings(tmp_path) as log:
        point = put(DeltaWriter.open(log, learner.base.number, learner.base.digest), learner.learn())
    shutil.rmtree(tmp_path / "logs")
    os.rename(tmp_path / "copy", tmp_path / "logs")
    with embeddings(tmp_path) as log:
        with pytest.raises(LostDeltasError, match="doesn't hold delta 3 of base 1"):
            DeltaWriter.open(log, learner.base.number, learner.base.digest, point)
        # It went on, and is another now.
        put(DeltaWriter.open(log, learner.base.number, learner.base.digest), Learner(learner.base, 5, learner.made[:2]).learn(9))
        with pytest.raises(LostDeltasError):
            DeltaWriter.open(log, learner.base.number, learner.base.digest, point)


@pytest.mark.parametrize("size", [1, 200, 4 << 20])
def test_a_large_delta_is_of_many_batches(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "_BATCH_BYTES", size)
    registry, learner, log = world(tmp_path)
    with log:
        writer = DeltaWriter.open(log, learner.base.number, learner.base.digest)
        for most in (25, 0, 30):
            put(writer, learner.learn(most))
        for step in (1, 7, 1000):
            assert read_all(registry, learner, log, step) == [1, 2, 3]


def test_rows_that_are_none_are_refused() -> None:
    ids, rows = np.array([3, 1]), np.ones((2, D), np.float32)
    sorted_rows = Rows.of({"pin": (ids, rows)}, {"user": np.array([7])}, D)
    assert (sorted_rows.table.tolist(), sorted_rows.ids.tolist()) == ([0, 1, 1], [7, 1, 3])
    with pytest.raises(DraftError, match="twice"):
        Rows.of({"pin": (ids, rows)}, {"pin": np.array([1])}, D)
    with pytest.raises(DraftError, match="should be"):
        Rows.of({"pin": (ids, rows[:, :2])}, {}, D)
    with pytest.raises(DraftError, match="no numbers"):
        Rows.of({"pin": (ids, rows * np.nan)}, {}, D)
    assert len(Rows.of({}, {}, D)) == 0
