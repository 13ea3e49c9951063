"""Micro-batches that are made ready several at once come one by one, and what is wrong comes behind those before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flows.errors import CorruptionError, InputError, TidemarkError
from flows.examples.record import EXAMPLES
from flows.examples.rows import ExampleRows, batch_of
from flows.log import LocalLog
from online_model.learner.course import Course
from online_model.learner.reading import Batches, Ready
from tests.learner.test_step import model
from tests.learner.world import CONFIG, rows_for

ROWS = 100


def rows_in_order() -> ExampleRows:
    rows = rows_for(n=300)[0].take(np.arange(ROWS))
    # All of one day, so that batches are whole.
    return replace(rows, ready_time=1_700_006_400_000 + np.arange(ROWS))


def batches_of(log: LocalLog, read_records: int = ROWS) -> Iterator[Ready]:
    config = replace(CONFIG, batch_ms=86_400_000)
    batches = Batches(log, (0,), model(), Course(1, "", config, {}, (0,), rows_in_order().fingerprints[0]), read_records)
    while (ready := batches.next(ended=True)) is not None:
        yield ready
    assert batches.next(ended=True) is None


def test_each_is_the_next_of_the_sequence(tmp_path: Path) -> None:
    with closing(LocalLog.open(tmp_path, EXAMPLES, 1, create=True)) as log:
        log.append([(0, batch_of(rows_in_order(), 0, 0, 0))])
        found = list(batches_of(log))
        assert [one.positions for one in found] == [(min(16 * i, ROWS),) for i in range(1, 8)]
        assert sum(one.records for one in found) == ROWS
        assert [one.batch.features.pin_id.tolist() for one in found] == [one.batch.features.pin_id.tolist() for one in batches_of(log, 7)]


@pytest.mark.parametrize("bad", [0, 15, 16, 50, 99])
@pytest.mark.parametrize("read", [9, ROWS])
def test_what_is_wrong_comes_behind_the_batches_before(tmp_path: Path, bad: int, read: int) -> None:
    rows = rows_in_order()
    counters = rows.pin_counters.copy()
    counters[bad] = -1
    kind = np.zeros_like(rows.kind)
    with closing(LocalLog.open(tmp_path, EXAMPLES, 1, create=True)) as log:
        log.append([(0, batch_of(replace(rows, pin_counters=counters, kind=kind), 0, 0, 0))])
        found, error = until_wrong(batches_of(log, read))
        assert isinstance(error, InputError)
        assert [one.positions for one in found] == [(16 * i,) for i in range(1, bad // 16 + 1)]


def test_so_does_a_record_that_is_lost(tmp_path: Path) -> None:
    rows = rows_in_order()
    with closing(LocalLog.open(tmp_path, EXAMPLES, 1, create=True)) as log:
        log.append([(0, batch_of(rows.take(np.arange(48)), 0, 0, 0)), (0, batch_of(rows.take(np.arange(50, ROWS)), 0, 0, 50))])
        found, error = until_wrong(batches_of(log, 16))
        assert isinstance(error, CorruptionError)
        # The last whole batch may still be followed by a record of its time.
        assert [one.positions for one in found] in ([(16,), (32,)], [(16,), (32,), (48,)])


def until_wrong(batches: Iterator[Ready]) -> tuple[list[Ready], TidemarkError | None]:
    found = []
    try:
        for ready in batches:
            found.append(ready)
    except TidemarkError as error:
        return found, error
    return found, None
