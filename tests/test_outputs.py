"""A reader of another task's output applies each record once: repeats are left out, a gap is an error, other origins don't matter."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.errors import CorruptionError
from flows.events import RAW_SCHEMA
from flows.outputs import DEADLETTER_SCHEMA, LATE_SCHEMA, REVISIT_SCHEMA, take_next


def records(*pairs: tuple[int, int]) -> pa.RecordBatch:
    """Records of (origin, sequence)."""
    origins, sequences = np.array(pairs, np.int64).reshape(-1, 2).T
    return pa.RecordBatch.from_arrays([pa.array(origins.astype(np.int32)), pa.array(sequences)], names=["origin", "sequence"])


def taken(batch: pa.RecordBatch, applied: dict[int, int]) -> list[tuple[int, int]]:
    out = take_next(batch, applied, "log 'revisits', partition 2")
    return list(zip(out.column("origin").to_pylist(), out.column("sequence").to_pylist(), strict=True))


def test_what_comes_next_is_taken_and_remembered() -> None:
    applied: dict[int, int] = {}
    assert taken(records((0, 0), (0, 1), (7, 0)), applied) == [(0, 0), (0, 1), (7, 0)]
    assert applied == {0: 1, 7: 0}
    assert taken(records((0, 1), (0, 2), (7, 0)), applied) == [(0, 2)]
    assert applied == {0: 2, 7: 0}
    assert taken(records((0, 0), (7, 0)), applied) == []
    assert taken(records(), applied) == []
    assert applied == {0: 2, 7: 0}


def test_nothing_is_copied_where_all_is_new() -> None:
    batch = records((0, 0), (1, 0))
    assert take_next(batch, {}, "") is batch


@pytest.mark.parametrize(
    ("applied", "pairs", "missing"),
    [
        ({}, [(0, 1)], 0),
        ({0: 4}, [(0, 6)], 5),
        ({}, [(0, 0), (0, 2)], 1),
        ({0: 2}, [(0, 0), (0, 1), (0, 4)], 3),
        ({0: 9}, [(0, 9), (1, 0), (0, 11)], 10),
    ],
)
def test_a_gap_is_an_error_that_names_what_is_missing(applied: dict[int, int], pairs: list[tuple[int, int]], missing: int) -> None:
    with pytest.raises(CorruptionError, match=rf"log 'revisits', partition 2: record {missing} of origin 0 is missing; restore the log"):
        taken(records(*pairs), applied)


@given(st.lists(st.integers(0, 2), max_size=30), st.data())
def test_however_records_repeat_and_interleave_each_is_taken_once(origins: list[int], data: st.DataObject) -> None:
    """A writer sends its records in order; after a crash it goes back to one it has sent before, and on from there."""
    ends = {o: origins.count(o) for o in range(3)}
    at = dict.fromkeys(range(3), 0)
    log: list[tuple[int, int]] = []
    for origin in origins:
        if at[origin] < ends[origin]:
            log.append((origin, at[origin]))
            at[origin] += 1
        if data.draw(st.booleans()):
            at[origin] = data.draw(st.integers(0, at[origin]))
    for origin, end in ends.items():
        log += [(origin, s) for s in range(at[origin], end)]
    applied: dict[int, int] = {}
    got, place = [], 0
    while place < len(log):
        size = data.draw(st.integers(1, 8))
        got += taken(records(*log[place : place + size]), applied)
        place += size
    for origin, end in ends.items():
        assert [s for o, s in got if o == origin] == list(range(end))
        assert applied.get(origin, -1) == end - 1
    # The whole log at once, or read again from its start, makes no difference.
    assert taken(records(*log), {}) == got
    assert taken(records(*log), applied) == []


@pytest.mark.parametrize("schema", [REVISIT_SCHEMA, LATE_SCHEMA, DEADLETTER_SCHEMA])
def test_every_output_says_where_it_comes_from(schema: pa.Schema) -> None:
    assert schema.names[:4] == ["generation", "origin", "sequence", "timestamp"]


def test_no_records_of_any_columns_are_none() -> None:
    applied = {3: 7}
    none = pa.RecordBatch.from_pylist([], RAW_SCHEMA)
    assert take_next(none, applied, "here").num_rows == 0
    assert applied == {3: 7}
