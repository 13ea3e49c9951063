"""A correction in its log: whole through any number of messages, none too large for a broker; one that is not whole is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from flows.corrections.history import History
from flows.corrections.record import EMITTED_SCHEMA, Correction, Made, read_corrections
from flows.errors import CorruptionError
from flows.events import EVENT_SCHEMA
from flows.log import LocalLog
from flows.outputs import CORRECTIONS

MESSAGE_BYTES = 1 << 20


def events(n: int, seed: int) -> pa.RecordBatch:
    """Corrected events, most of whose bytes are texts that all differ and can't be compressed."""
    rng = np.random.default_rng(seed)
    columns = []
    for field in EVENT_SCHEMA:
        if pa.types.is_integer(field.type) or pa.types.is_timestamp(field.type):
            columns.append(pa.array(rng.integers(0, 100, n)).cast(field.type))
        else:
            columns.append(pa.array([rng.bytes(400).hex() for _ in range(n)]).cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=EVENT_SCHEMA)


def correction(number: int, n: int, seed: int = 0) -> Correction:
    places = np.arange(n, dtype=np.int64)
    emitted = pa.RecordBatch.from_arrays([pa.array(places).cast(field.type, safe=False) for field in EMITTED_SCHEMA], schema=EMITTED_SCHEMA)
    made = Made(number, "a test", position=n, first=0, undoes=(3, 4))
    return Correction(made, places * 2, places, places * 2 + 1, places, events(n, seed), places[:7], places[:7], emitted)


@pytest.fixture
def log(tmp_path: Path) -> LocalLog:
    return LocalLog.open(tmp_path, CORRECTIONS, 2, create=True)


@pytest.mark.parametrize("n", [0, 1, 700, 20_000])
def test_it_comes_back_as_it_was_and_no_message_is_too_large(n: int, log: LocalLog) -> None:
    made = [correction(5, n, 1), correction(8, 3, 2)]
    with log:
        for one in made:
            records = one.to_records()
            assert max(batch.nbytes for batch in records) < MESSAGE_BYTES
            log.append([(1, batch) for batch in records])
        found = read_corrections(log, 1)
        assert [one.made for one in found] == [one.made for one in made]
        for got, want in zip(found, made, strict=True):
            for name in ("excluded", "excluded_clock", "patched", "patched_clock", "pinned", "pinned_clock"):
                assert np.array_equal(getattr(got, name), getattr(want, name)), name
            assert got.emitted.equals(want.emitted)
            assert got.events.to_pylist() == want.events.to_pylist()
        assert read_corrections(log, 0) == []


def test_a_log_that_has_lost_its_beginning_is_refused(log: LocalLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its first corrections took out would come back."""
    with log:
        log.append([(0, batch) for batch in correction(1, 3).to_records()])
        assert History.read(log, 0).generation == 1
        monkeypatch.setattr(log, "start_positions", lambda: [1, 0])
        with pytest.raises(CorruptionError, match="begins at offset 1"):
            History.read(log, 0)


def test_a_state_is_right_up_to_where_a_correction_that_it_lacks_makes_a_difference() -> None:
    history = History([Correction(Made(1, "a", first=70)), Correction(Made(2, "b", first=50)), Correction(Made(3, "undo", undoes=(1,)))])
    endless = np.iinfo(np.int64).max
    assert [history.right_up_to(known) for known in range(4)] == [50, 50, 70, endless]
    # One that says something of no record changes nothing by itself.
    assert History([Correction(Made(1, "none"))]).right_up_to(0) == endless
    # Made anew: whatever is from behind there is not trusted.
    assert History([Correction(Made(1, "made anew", first=0))]).right_up_to(0) == 0
