"""Queries of one pass over an entity's rows equal the kernels of an online read over each query's own rows, folded."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flows.kernels import points
from flows.kernels.gathering import indexes, numbered, places, revisit_keys, table_of
from flows.kernels.layout import NEVER
from flows.kernels.points import Entries, Revisits, topics_at
from flows.kernels.reads import counters, group_bounds, newest, topic_statistics
from flows.kernels.rows import fold_sums, sort_rows
from flows.kernels.tracks import Tracks

HOUR, DAY = 3_600_000, 86_400_000
EDGES = [0, 1, HOUR - 1, HOUR, 7 * DAY, 7 * DAY + HOUR - 1, 7 * DAY + HOUR, 30 * DAY + HOUR, 90 * DAY + HOUR, 91 * DAY]


def times(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.maximum(0, rng.choice(EDGES, n) + rng.integers(-1, 2, n) + rng.choice([0, 0, HOUR, DAY], n))


def queries(
    rng: np.random.Generator, n: int, entities: int, streams: int, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Entities, times, marks and limits; half of them as they come about, each after the one before, half in any way."""
    limits = rng.integers(0, most + 1, (n, streams))
    if rng.random() < 0.5:
        limits = np.sort(limits, axis=0)
    return rng.integers(0, entities, n), rng.permutation(times(rng, n)), rng.integers(0, n, n), limits


@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(1, 40), st.integers(1, 3))
def test_counters(seed: int, n_rows: int, n_queries: int, streams: int) -> None:
    rng = np.random.default_rng(seed)
    entities = int(rng.integers(1, 4))
    # entity, other, kind, time, weight; each stream numbers its rows.
    rows = np.column_stack(
        [
            rng.integers(0, entities, n_rows),
            rng.integers(0, 3, n_rows),
            rng.integers(0, 4, n_rows),
            times(rng, n_rows),
            rng.choice([1, 1, 1, -1], n_rows),
        ]
    )
    repeated = rng.integers(0, max(n_rows, 1), n_rows // 3)
    rows[: len(repeated), :4] = rows[repeated, :4]
    stream = rng.integers(0, streams, n_rows)
    order = numbered(stream.astype(np.int32), np.zeros(streams, np.int64))
    entity, time, mark, limits = queries(rng, n_queries, entities, streams, n_rows)
    given_rows = np.column_stack([rows[:, 0], rows[:, 1], revisit_keys(rows[:, 3], rows[:, 2]), order, (stream << 1) | (rows[:, 4] > 0)])
    values, found = Revisits(given_rows.astype(np.int64), entities).at(Tracks(entity, time, mark, limits))
    for q in range(n_queries):
        seen = rows[(rows[:, 0] == entity[q]) & (order < limits[mark[q]][stream])]
        folded = fold_sums(sort_rows(np.ascontiguousarray(seen), 4), 4)
        want, present = counters(folded, group_bounds(folded[:, 0]), int(time[q]))
        assert values[q].tolist() == (want[0].tolist() if len(want) else [0] * 24)
        assert found[q] == (bool(present[0]) if len(present) else False)


@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(1, 40), st.integers(1, 3))
def test_topics(seed: int, n_rows: int, n_queries: int, streams: int) -> None:
    """Of saves that come once and first clicks that move: a click is taken back by the row that sets another one."""
    rng = np.random.default_rng(seed)
    entities = int(rng.integers(1, 4))
    saves = {s: times(rng, 1)[0] for s in range(max(1, n_rows // 3))}
    topics = {s: int(rng.integers(0, entities)) for s in saves}
    home = {s: int(rng.integers(0, streams)) for s in saves}
    # Of each stream: (save, first click from there on), by number.
    history: list[list[tuple[int, int]]] = [[] for _ in range(streams)]
    rows = []
    clicks: dict[int, int] = {}
    for _ in range(n_rows):
        s = int(rng.integers(0, len(saves)))
        stream, number = home[s], len(history[home[s]])
        old = clicks.get(s)
        new = NEVER if old is None else saves[s] + int(rng.choice([1, DAY, 3 * DAY, 6 * DAY]))
        if old is not None and old != NEVER:
            rows.append((topics[s], saves[s], old, number, places(stream, np.array([-1]))[0]))
        rows.append((topics[s], saves[s], new, number, places(stream, np.array([1]))[0]))
        clicks[s] = new
        history[stream].append((s, new))
    entity, time, mark, limits = queries(rng, n_queries, entities, streams, n_rows)
    values, found = topics_at(np.array(rows, np.int64).reshape(-1, 5), entities, Tracks(entity, time, mark, limits))
    for q in range(n_queries):
        at: dict[int, int] = {}
        for stream in range(streams):
            at |= dict(history[stream][: limits[mark[q], stream]])
        tiles = []
        for s, click in at.items():
            if topics[s] == entity[q] and saves[s] <= time[q]:
                tiles.append((0, 0, saves[s] // HOUR, 1))
                if click <= time[q]:
                    tiles.append((0, 1 + (click - saves[s]) // DAY, saves[s] // HOUR, 1))
        folded = fold_sums(sort_rows(np.array(tiles, np.int64).reshape(-1, 4), 3), 3)
        assert found[q] == bool(len(tiles))
        want = topic_statistics(folded, group_bounds(folded[:, 0]), int(time[q]))
        assert values[q].tolist() == (want[0].tolist() if len(want) else [0] * 15)


@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(1, 40), st.integers(1, 8))
def test_entries(seed: int, n_rows: int, n_queries: int, length: int) -> None:
    rng = np.random.default_rng(seed)
    entities = int(rng.integers(1, 4))
    order = np.arange(n_rows)
    rows = np.column_stack(
        [
            rng.integers(0, entities, n_rows),
            times(rng, n_rows),
            rng.integers(0, 3, n_rows),
            order << 17,
            rng.integers(0, 9, (n_rows, 2)),
            order,
        ]
    ).astype(np.int64)
    entity, time = rng.integers(0, entities, n_queries), rng.choice([*times(rng, n_queries), -1, 2**62], n_queries)
    limit = rng.integers(0, n_rows + 1, n_queries)
    entries = Entries(rows, entities, entity, time, limit, length)
    cut = int(rng.integers(0, n_queries + 1))
    taken = np.concatenate([entries.of(0, cut), entries.of(cut, n_queries)])
    for q in range(n_queries):
        seen = sort_rows(np.ascontiguousarray(rows[(rows[:, 0] == entity[q]) & (rows[:, 6] < limit[q])]), 6)
        want, _, _ = newest(seen[:, :6], group_bounds(seen[:, 0]), int(time[q]), length)
        assert taken[entries.offsets[q] : entries.offsets[q + 1]].tolist() == seen[want].tolist()


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 6)), max_size=30))
def test_intervals_that_touch_become_one(drawn: list[tuple[int, int]]) -> None:
    starts, ends = np.empty(len(drawn) + 1, np.int64), np.empty(len(drawn) + 1, np.int64)
    size = 0
    for start, length in drawn:
        size = points._with_interval(starts, ends, size, start, start + length)
    covered = sorted({at for start, length in drawn for at in range(start, start + length)})
    assert [at for k in range(size) for at in range(starts[k], ends[k])] == covered
    assert all(ends[k] < starts[k + 1] for k in range(size - 1))


def test_a_hot_entity_is_one_track() -> None:
    """Queries as they come about, of one entity: its rows are looked at once, not once for each."""
    rng = np.random.default_rng(0)
    moment = np.sort(rng.integers(0, 100 * DAY, 10_000))
    tracks = Tracks(np.zeros(10_000, np.int64), moment - 1, np.arange(10_000), moment[:, None] + 1)
    assert len(tracks.bounds) == 2
    # Prefixes by position, of which each covers the one before: the same.
    marks = np.sort(rng.integers(0, 50, 10_000))
    limits = np.cumsum(rng.integers(0, 9, (50, 8)), axis=0)
    assert len(Tracks(np.zeros(10_000, np.int64), moment, marks, limits).bounds) == 2


def test_distinct_ids_have_their_place() -> None:
    ids = np.array([-(2**63), -1, 0, 5, 2**63 - 1])
    assert indexes(table_of(ids), np.array([5, 6, -(2**63), 0])).tolist() == [3, -1, 0, 2]
