"""Two logs of a partition come as one sequence, whatever is read when."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.examples.heartbeats import arrival_before, beat
from flows.examples.interleaving import Merger, Side
from flows.kernels.layout import NEVER
from flows.log import LocalLog, LogBatch
from flows.outputs import ACTIONS, SERVED
from flows.served_versions import heartbeat
from tests.oracles.examples import merged

STAMPS = st.lists(st.integers(0, 12), max_size=25)


class Fake:
    """A log of one partition that may grow. Several records may have one offset, and offsets may have holes, as Kafka's do."""

    def __init__(self, name: str, stamps: list[int], offsets: list[int] | None = None) -> None:
        self.name = name
        self._stamps, self._offsets = stamps, offsets if offsets is not None else list(range(len(stamps)))
        self._plain = offsets is None
        self.end = 0

    def end_position(self, partition: int) -> int:
        return self.end

    def read(self, partition: int, position: int, most: int) -> list[LogBatch]:
        rows = [i for i, offset in enumerate(self._offsets) if position <= offset < self.end][:most]
        if not rows:
            return [LogBatch(0, position, self.end, _records([]), np.empty(0, np.int64))] if position < self.end else []
        last = max(i for i, offset in enumerate(self._offsets) if offset == self._offsets[rows[-1]])
        rows = list(range(rows[0], last + 1))
        offsets = None if self._plain else np.array([self._offsets[i] for i in rows])
        return [LogBatch(0, position, self._offsets[rows[-1]] + 1, _records([self._stamps[i] for i in rows]), offsets)]


def _records(stamps: list[int]) -> pa.RecordBatch:
    return pa.record_batch({"timestamp": pa.array(stamps, pa.int64())})


def taken(merger: Merger, most: int) -> list[tuple[int, int, int]]:
    """(arrival, input, offset) of all that a merger gives, and that its stretches fit together."""
    out: list[tuple[int, int, int]] = []
    while (stretch := merger.next(most)) is not None:
        actions = np.concatenate([np.empty(0, np.int64), *(b.offsets_of_records() for b in stretch.actions)]).tolist()
        served = np.concatenate([np.empty(0, np.int64), *(b.offsets_of_records() for b in stretch.served)]).tolist()
        parts = [(int(place), 1, int(a), o) for place, a, o in zip(stretch.place, stretch.served_arrival, served, strict=True)]
        parts += [(i, 2, int(a), o) for i, (a, o) in enumerate(zip(stretch.action_arrival, actions, strict=True))]
        out += [(arrival, 2 - kind, offset) for _, kind, arrival, offset in sorted(parts, key=lambda p: (p[0], p[1]))]
        assert all(stretch.before[0] <= o < stretch.after[0] for o in actions)
        assert all(stretch.before[1] <= o < stretch.after[1] for o in served)
    return out


def expected(actions: list[int], served: list[int]) -> list[tuple[int, int, int]]:
    logs = [[{"timestamp": stamp} for stamp in stamps] for stamps in (actions, served)]
    return [(record["arrival"], record["input"], record["place"]) for record in merged(*logs)]


@given(STAMPS, STAMPS, st.data())
def test_merged_as_by_one_who_knows_all(actions: list[int], served: list[int], data: st.DataObject) -> None:
    logs = Fake(ACTIONS, actions), Fake(SERVED, served)
    sizes = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)))
    merger = Merger(Side(logs[0], 0, 0, -int(NEVER), sizes[0]), Side(logs[1], 0, 0, -int(NEVER), sizes[1]))  # type: ignore[arg-type]
    out: list[tuple[int, int, int]] = []
    looks = data.draw(st.integers(1, 6))
    for look in range(looks):
        # What each has at a time is any prefix, and in the end all.
        for log, stamps in zip(logs, (actions, served), strict=True):
            log.end = len(stamps) if look == looks - 1 else data.draw(st.integers(log.end, len(stamps)))
        out += taken(merger, sizes[2])
        assert out == expected(actions[: logs[0].end], served[: logs[1].end])
    assert out == expected(actions, served)


@given(STAMPS, STAMPS, st.lists(st.integers(0, 2), min_size=25, max_size=25), st.integers(1, 5))
def test_records_of_one_offset_stay_together(actions: list[int], served: list[int], steps: list[int], most: int) -> None:
    offsets = np.cumsum(steps)[: len(actions)].tolist()
    logs = Fake(ACTIONS, actions, offsets), Fake(SERVED, served)
    logs[0].end, logs[1].end = (offsets[-1] + 2 if offsets else 0), len(served)
    merger = Merger(Side(logs[0], 0, 0, -int(NEVER), 3), Side(logs[1], 0, 0, -int(NEVER), 3))  # type: ignore[arg-type]
    cuts = []
    out = []
    while (stretch := merger.next(most)) is not None:
        cuts.append(stretch.after[0])
        out += [o for b in stretch.actions for o in b.offsets_of_records().tolist()]
        assert (np.diff(stretch.action_arrival) >= 0).all()
    assert out == offsets[: len(out)]
    assert not set(out) & set(offsets[len(out) :])


def test_what_is_closed_comes_whole() -> None:
    """A start goes again through what was committed: nothing else comes, so nothing is waited for."""
    logs = Fake(ACTIONS, [5, 1, 9]), Fake(SERVED, [4])
    logs[0].end, logs[1].end = 3, 1
    sides = [Side(log, 0, 0, -int(NEVER), 2, log.end, closed=True) for log in logs]  # type: ignore[arg-type]
    assert taken(Merger(*sides), 10) == [(4, 1, 0), (5, 0, 0), (5, 0, 1), (9, 0, 2)]


# Heartbeats -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stamps", [[5], [9, 3], [3, 1 << 50, 7, 8], [-5]])
def test_the_arrival_of_the_last_record(tmp_path: Path, stamps: list[int]) -> None:
    with LocalLog.open(tmp_path, ACTIONS, 1, create=True) as log:
        assert arrival_before(log, 0, 0) is None
        for at, stamp in enumerate(stamps):
            log.append([(0, _records([stamp]))])
            assert arrival_before(log, 0, at + 1) == max(stamps[: at + 1])


def test_a_heartbeat_where_actions_have_moved_on_and_nothing_where_nothing_moves(tmp_path: Path) -> None:
    with LocalLog.open(tmp_path, ACTIONS, 2, create=True) as actions, LocalLog.open(tmp_path, SERVED, 2, create=True) as served:
        since = beat(actions, served, [0, 0])
        assert served.end_positions() == [0, 0]
        actions.append([(0, _records([7, 5])), (1, _records([3]))])
        served.append([(1, heartbeat(3))])
        since = beat(actions, served, since)
        assert served.end_positions() == [1, 1]
        assert served.read(0, 0, 1)[0].records.column("timestamp").to_pylist() == [7]
        # A second server that begins now has nothing to add.
        assert beat(actions, served, [0, 0]) == since
        assert beat(actions, served, since) == since == [2, 1]
        assert served.end_positions() == [1, 1]
        actions.append([(1, _records([2]))])
        beat(actions, served, since)
        assert served.end_positions() == [1, 1]
        actions.append([(1, _records([4]))])
        beat(actions, served, since)
        assert served.end_positions() == [1, 2]
