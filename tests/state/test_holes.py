"""Offsets with holes, as Kafka's transactions leave them: a position counts offsets, a read counts records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.log import LocalLog, LogBatch
from flows.outputs import ACTIONS
from flows.past import Past
from flows.state.task import Task
from tests.state.house import House
from tests.strategies import adversarial


class Holed:
    """A log over another: its record i lies at offset 2i, and at 2i + 1 lies what no reader sees."""

    dense = False

    def __init__(self, log: LocalLog) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def read(self, partition: int, position: int, max_records: int, *, exact: bool = True) -> list[LogBatch]:
        first = (position + 1) // 2
        out = []
        for batch in self._log.read(partition, min(first, self._log.end_position(partition)), max_records):
            offsets = 2 * np.arange(batch.first_offset, batch.end_offset)
            out.append(LogBatch(partition, position, int(offsets[-1]) + 1, batch.records, offsets))
            position = out[-1].end_offset
        # What a consumer skips at the end it has skipped.
        end = self.end_position(partition)
        return out or (
            [LogBatch(partition, position, end, self._log.read(partition, 0, 1)[0].records.slice(0, 0))] if position < end else []
        )

    def end_position(self, partition: int) -> int:
        return 2 * self._log.end_position(partition)

    def end_positions(self) -> list[int]:
        return [2 * end for end in self._log.end_positions()]


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(tmp_path, adversarial(20, 150, partitions=1), anchor_records=40, batch_records=7)
    house.logs[ACTIONS] = Holed(house.logs[ACTIONS])  # type: ignore[assignment]
    return house


def digest(task: Task) -> str:
    try:
        return task.digest()
    finally:
        task.close()


def test_killed_anywhere_a_task_starts_and_ends_the_same(house: House) -> None:
    want = digest(house.feed(house.open(), [1_000]))
    house.wipe_state()
    task = house.open()
    end = house.logs[ACTIONS].end_position(0)
    while task.reached < end:
        task.apply(house.logs[ACTIONS].read(0, task.reached, 5))
        # Most of the time the working set was saved some records ago.
        task.abandon()
        task = house.open()
    assert digest(task) == want
    house.close()


def test_a_read_of_the_past_takes_nothing_after_the_position(house: House) -> None:
    holed = house.logs[ACTIONS]
    plain = LocalLog.open(house.settings.logs, ACTIONS, read_only=True)
    # The position lies before a hole, and there is more behind it.
    for records in (7, 40, 61):
        got, want = (
            Past(house.settings, house.vocabulary, lambda log=log: log).users(0, position, 2**61)
            for log, position in ((holed, 2 * records), (plain, records))
        )
        assert got.watermark == want.watermark
        # The fourth column of a sequence holds the offset.
        assert np.array_equal(np.delete(got.sequences, 3, 1), np.delete(want.sequences, 3, 1))
        for name in ("revisits", "labels", "tiles"):
            assert np.array_equal(getattr(got, name), getattr(want, name)), name
    plain.close()
    house.close()
