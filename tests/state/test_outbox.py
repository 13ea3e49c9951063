"""The outbox: a record leaves with the commit that caused it, at least once, in order; a reader counts it once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from flows.errors import DataDirectoryError, StorageFullError
from flows.log import LedgerConflictError, LedgerEntry, LocalLog
from flows.outputs import REVISIT_SCHEMA, take_next
from flows.state import outbox, tables
from flows.state.outbox import Outbox
from flows.state.store import TaskStore


@pytest.fixture
def logs(tmp_path: Path) -> dict[str, LocalLog]:
    return {name: LocalLog.open(tmp_path, name, 3, create=True) for name in ("b", "a")}


def opened(tmp_path: Path, logs: dict[str, LocalLog]) -> tuple[TaskStore, Outbox]:
    store = TaskStore(tmp_path / "state", "actions", 5, "f", tables.PIN_TABLES)
    return store, Outbox(store, logs)


def put(outbox: Outbox, store: TaskStore, name: str, destinations: list[int], first: int) -> None:
    """Add records that carry first, first + 1, … as their pins, and commit."""
    n = len(destinations)
    batch = store.batch()
    outbox.delete_published(batch)
    columns = {"timestamp": np.arange(n), "pin_id": np.arange(first, first + n), "user_id": np.arange(n), "time": np.arange(n)}
    columns |= {"kind": np.zeros(n, np.int8), "weight": np.ones(n, np.int8)}
    outbox.put(batch, name, np.array(destinations, np.int32), columns, REVISIT_SCHEMA)
    store.commit(batch)


def pins(log: LocalLog, partition: int, once: bool = True) -> list[int]:
    applied: dict[int, int] = {}
    out = []
    for part in log.read(partition, 0, 1_000):
        assert part.records.schema.equals(REVISIT_SCHEMA)
        assert set(part.records.column("origin").to_pylist()) == {5}
        records = take_next(part.records, applied, "") if once else part.records
        out += records.column("pin_id").to_pylist()
    return out


def test_records_keep_their_order_by_destination(tmp_path: Path, logs: dict[str, LocalLog]) -> None:
    store, outbox = opened(tmp_path, logs)
    put(outbox, store, "a", [2, 0, 2, 2, 0], 10)
    put(outbox, store, "b", [1], 20)
    put(outbox, store, "a", [0, 2], 30)
    put(outbox, store, "a", [], 0)
    assert outbox.publish() == 8
    assert outbox.publish() == 0
    assert [pins(logs["a"], p) for p in range(3)] == [[11, 14, 30], [], [10, 12, 13, 31]]
    assert pins(logs["b"], 1) == [20]
    assert store.meta.sequences == {"b": [0, 1, 0], "a": [3, 0, 4]}
    store.close()


def test_a_kill_before_publishing_loses_nothing(tmp_path: Path, logs: dict[str, LocalLog]) -> None:
    store, outbox = opened(tmp_path, logs)
    put(outbox, store, "a", [0, 1, 0], 10)
    put(outbox, store, "a", [0], 13)
    store.close()
    store, outbox = opened(tmp_path, logs)
    assert outbox.publish() == 4
    assert [pins(logs["a"], p, once=False) for p in range(2)] == [[10, 12, 13], [11]]
    store.close()


def test_a_kill_after_publishing_repeats_and_readers_take_each_once(tmp_path: Path, logs: dict[str, LocalLog]) -> None:
    first = 0
    for _ in range(4):
        store, outbox = opened(tmp_path, logs)
        outbox.publish()
        put(outbox, store, "a", [0, 0], first)
        first += 2
        outbox.publish()
        store.close()
    assert pins(logs["a"], 0, once=False) == [0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7]
    assert pins(logs["a"], 0) == list(range(8))


def test_what_was_published_goes_with_the_next_commit(tmp_path: Path, logs: dict[str, LocalLog]) -> None:
    store, outbox = opened(tmp_path, logs)
    put(outbox, store, "a", [0, 1], 0)
    outbox.publish()
    assert len(store.prefixed(b"O")) == 2
    batch = store.batch()
    assert outbox.delete_published(batch)
    store.commit(batch)
    assert store.prefixed(b"O") == []
    assert not outbox.delete_published(store.batch())
    store.close()
    store, outbox = opened(tmp_path, logs)
    assert outbox.publish() == 0
    put(outbox, store, "a", [0], 9)
    outbox.publish()
    assert pins(logs["a"], 0) == [0, 9]
    store.close()


def test_what_a_log_refuses_stays_and_goes_out_later(tmp_path: Path, logs: dict[str, LocalLog]) -> None:
    class Full(LocalLog):
        def append(self, batches: object, *, ledger: object = None) -> list[tuple[int, int, int]]:
            raise StorageFullError("full")

    full = Full.open(tmp_path, "a", 3)
    store = TaskStore(tmp_path / "state", "actions", 5, "f", tables.PIN_TABLES)
    outbox = Outbox(store, {"b": logs["b"], "a": full})
    put(outbox, store, "a", [0], 7)
    with pytest.raises(StorageFullError):
        outbox.publish()
    store.close()
    store, outbox = opened(tmp_path, logs)
    outbox.publish()
    assert pins(logs["a"], 0, once=False) == [7]
    store.close()


def test_columns_may_be_of_any_integer_type(tmp_path: Path, logs: dict[str, LocalLog]) -> None:
    store, outbox = opened(tmp_path, logs)
    batch = store.batch()
    columns = {name: pa.array([1, 2], pa.int64()) for name in ("timestamp", "pin_id", "user_id", "time", "kind", "weight")}
    outbox.put(batch, "a", np.array([1, 1]), columns, REVISIT_SCHEMA)
    store.commit(batch)
    outbox.publish()
    assert pins(logs["a"], 1) == [1, 2]
    store.close()


class Contested(LocalLog):
    """A log whose first appends are refused, as a topic does while another's transaction is under way."""

    refusals = 3

    def append(self, batches, *, ledger=None):  # type: ignore[no-untyped-def]
        if ledger is not None and self.refusals:
            self.refusals -= 1
            raise LedgerConflictError("another process is appending")
        return super().append(batches, ledger=ledger)


@pytest.mark.parametrize("theirs", ["f", "g", None])
def test_two_that_claim_a_log_at_once(tmp_path: Path, theirs: str | None) -> None:
    log = Contested.open(tmp_path, "a", 3, create=True)
    if theirs is not None:
        # Committed while ours was refused.
        other = TaskStore(tmp_path / "other", "actions", 4, theirs, tables.PIN_TABLES)
        records = pa.RecordBatch.from_pydict({"value": [b"x"]})
        before = LocalLog.open(tmp_path, "a", 3)
        entry = log.ledger_entry

        def meanwhile(key: str) -> LedgerEntry | None:
            if log.refusals == 1 and entry(key) is None:
                Outbox(other, {"a": before}).check()
                before.append([(0, records)])
            return entry(key)

        log.ledger_entry = meanwhile  # type: ignore[method-assign]
    _, outbox = opened(tmp_path, {"a": log})
    if theirs == "g":
        with pytest.raises(DataDirectoryError, match="other features"):
            outbox.check()
    else:
        outbox.check()


def test_what_is_put_out_together_may_be_larger_than_arrow_allows(
    tmp_path: Path, logs: dict[str, LocalLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of texts and bytes one batch holds 2 GiB at most; what waits of a destination may be more."""
    monkeypatch.setattr(outbox, "_TOGETHER_BYTES", 1_000)
    joined: list[int] = []
    concat = pa.concat_batches

    def noted(parts: list[pa.RecordBatch]) -> pa.RecordBatch:
        joined.append(sum(part.nbytes for part in parts))
        return concat(parts)

    monkeypatch.setattr(outbox.pa, "concat_batches", noted)
    parts = [pa.record_batch({"raw": pa.array([bytes([i]) * 300], pa.binary())}) for i in range(20)]
    found = list(outbox._together(parts))
    assert [value for batch in found for value in batch.column("raw").to_pylist()] == [bytes([i]) * 300 for i in range(20)]
    assert 1 < len(found) < 20
    assert max(joined) <= 1_000
    large = [pa.record_batch({"raw": pa.array([b"x" * 5_000], pa.binary())})] * 3
    assert list(outbox._together(large)) == large
