"""What folded rows say at a time, against naive readings of unfolded ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.features import PIN_COUNTERS, TOPIC_STATS
from flows.kernels.reads import counters, group_bounds, newest, topic_statistics
from flows.kernels.rows import CUT, OFFSET_SHIFT, SEQUENCE_CODES, fold_sequences, fold_sums, merge_rows, sort_rows

HOUR, DAY = 3_600_000, 86_400_000
LENGTH, KEPT = 2, 3
FAR = [-(2**70), -(2**63), -(2**62), -1, 2**62, 2**63 - 1, 2**70]


def times_around(*anchors: int) -> st.SearchStrategy[int]:
    """Times next to the edges of windows."""
    return st.sampled_from(anchors).flatmap(lambda a: st.sampled_from([a - 1, a, a + 1])).map(lambda t: max(t, 0))


def test_bounds() -> None:
    assert group_bounds(np.array([], np.int64)).tolist() == [0]
    assert group_bounds(np.array([3])).tolist() == [0, 1]
    assert group_bounds(np.array([1, 1, 2, 5, 5, 5])).tolist() == [0, 2, 3, 6]


# Sequences -------------------------------------------------------------------------------------------------------------------------------


def sequence(entity: int, time: int, offset: int) -> list[int]:
    return [entity, time, 0, offset << OFFSET_SHIFT, offset, 0]


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9), st.integers(0, 2)), min_size=1, max_size=24),
    st.integers(-1, 10) | st.sampled_from(FAR),
)
def test_newest_says_exact_only_when_it_is(drawn: list[tuple[int, int, int]], as_of: int) -> None:
    """Rows of three runs, each folded to KEPT rows; read LENGTH of them at a time."""
    rows = np.array([sequence(entity, time, offset) for offset, (entity, time, _) in enumerate(drawn)], np.int64)
    run = np.array([r for *_, r in drawn])
    keys = SEQUENCE_CODES + 1
    merged = merge_rows([fold_sequences(sort_rows(rows[run == i], keys), KEPT) for i in range(3)], keys)
    bounds = group_bounds(merged[:, 0])
    index, offsets, exact = newest(merged, bounds, as_of, LENGTH)
    for e, entity in enumerate(np.unique(rows[:, 0])):
        of = sorted(rows[(rows[:, 0] == entity) & (rows[:, 1] <= as_of)].tolist(), reverse=True)
        got = merged[index[offsets[e] : offsets[e + 1]]]
        got[:, SEQUENCE_CODES] &= ~CUT
        if exact[e]:
            assert got.tolist() == of[:LENGTH]
        if as_of >= rows[rows[:, 0] == entity, 1].max():
            assert exact[e], "the newest are always there"
        if (np.bincount(run[rows[:, 0] == entity]) <= KEPT).all():
            assert exact[e], "nothing was cut off"


def test_a_mark_above_the_time_is_no_less_a_mark() -> None:
    """An older run fills the sequence, but newer rows that a later one has cut off belong before its rows."""
    keys = SEQUENCE_CODES + 1
    old = np.array([sequence(1, time, time) for time in range(10)], np.int64)
    new = fold_sequences(np.array([sequence(1, time, time) for time in range(10, 30)], np.int64), 10)
    rows = merge_rows([old, new], keys)
    assert newest(rows, group_bounds(rows[:, 0]), 15, 5)[2].tolist() == [False]
    assert newest(rows, group_bounds(rows[:, 0]), 29, 10)[2].tolist() == [True]
    assert newest(rows, group_bounds(rows[:, 0]), 29, 11)[2].tolist() == [False]


# Counters --------------------------------------------------------------------------------------------------------------------------------

Revisit = tuple[int, int, int, int]  # entity, other, kind, time


def counted(revisits: list[Revisit], as_of: int) -> dict[str, int]:
    """The counters of one entity by the words of docs/semantics.md."""
    out = {}
    for scope in ("all", "rp"):
        for kind in ("impression", "click"):
            for days in (7, 30, 90):
                inside = [
                    other
                    for _, other, code, time in revisits
                    if (code & 1) == (kind == "click")
                    and (scope == "all" or code & 2)
                    and time <= as_of
                    and (time // HOUR + 1) * HOUR > as_of - days * DAY
                ]
                out[f"revisits_{kind}_{scope}_{days}d_count"] = len(inside)
                out[f"revisits_{kind}_{scope}_{days}d_users"] = len(set(inside))
    return out


AS_OF = 200 * DAY + HOUR // 2
EDGES = [AS_OF, *(AS_OF - days * DAY + add for days in (7, 30, 90) for add in (0, -HOUR // 2, HOUR // 2, -HOUR))]


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3), times_around(0, *EDGES)), min_size=1, max_size=40),
    times_around(AS_OF, AS_OF - HOUR // 2) | st.sampled_from(FAR),
)
def test_counters_are_naive_counts(revisits: list[Revisit], as_of: int) -> None:
    rows = fold_sums(sort_rows(np.array([[*r, 1] for r in revisits], np.int64), 4), 4)
    values, present = counters(rows, group_bounds(rows[:, 0]), as_of)
    for e, entity in enumerate(sorted({r[0] for r in revisits})):
        of = [r for r in revisits if r[0] == entity]
        assert dict(zip(PIN_COUNTERS, values[e].tolist(), strict=True)) == counted(of, as_of)
        assert present[e] == any(time <= as_of for *_, time in of)


# Topics ----------------------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 2), times_around(0, *EDGES), st.none() | st.integers(0, 6)), min_size=1, max_size=30))
def test_topic_statistics_are_naive_ones(drawn: list[tuple[int, int, int | None]]) -> None:
    drawn = [(topic, min(time, AS_OF), age) for topic, time, age in drawn]
    tiles = [[topic, 0, time // HOUR, 1] for topic, time, _ in drawn]
    tiles += [[topic, 1 + age, time // HOUR, 1] for topic, time, age in drawn if age is not None]
    rows = fold_sums(sort_rows(np.array(tiles, np.int64), 3), 3)
    values = topic_statistics(rows, group_bounds(rows[:, 0]), AS_OF)
    for e, topic in enumerate(sorted({t for t, *_ in drawn})):
        want: list[float] = []
        for days in (7, 30, 90):
            ages = [age for t, time, age in drawn if t == topic and (time // HOUR + 1) * HOUR > AS_OF - days * DAY]
            clicked = [age for age in ages if age is not None]
            late = [age for age in clicked if 3 <= age <= 6]
            want += [
                len(ages),
                len(clicked),
                len(late),
                len(clicked) / len(ages) if ages else 0,
                len(late) / len(clicked) if clicked else 0,
            ]
        assert values[e].tolist() == want
    assert values.shape[1] == len(TOPIC_STATS)


@pytest.mark.parametrize("as_of", FAR)
def test_nothing_is_read_at_no_time(as_of: int) -> None:
    empty = np.empty((0, 5), np.int64)
    assert counters(empty, group_bounds(empty[:, 0]), as_of)[0].shape == (0, 24)
    assert newest(np.empty((0, 6), np.int64), np.zeros(1, np.int64), as_of)[0].shape == (0,)
    assert topic_statistics(np.empty((0, 4), np.int64), np.zeros(1, np.int64), as_of).shape == (0, 15)
