"""A learner that is made up: bases with deltas that follow from a seed, and what rows must be behind each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from flows.events import RAW_SCHEMA
from flows.log import LedgerConflictError, LedgerEntry, LocalLog, LogBatch
from flows.outputs import EMBEDDINGS
from online_model.deltas.record import TABLES, Closing, Rows, batches_of, closing_of
from online_model.deltas.table_rows import TableRows
from online_model.registry.bases import Base
from online_model.registry.registry import Registry
from online_model.registry.snapshots import Point, write_snapshot
from tests.oracles import deltas as naive
from tests.registry.making import D, publish, registry_in


@dataclass
class Learned:
    """A delta that was made up, and the rows behind it."""

    rows: Rows
    closing: Closing
    after: naive.Rows


@dataclass
class Learner:
    """Makes up deltas of a base.

    Attributes
    ----------
    made : list of Learned
        Place i: delta i + 1.
    """

    base: Base
    seed: int = 0
    made: list[Learned] = field(default_factory=list)

    def begun(self) -> naive.Rows:
        return rows_of({table: self.base.table(table) for table in TABLES})

    @property
    def digest(self) -> str:
        return self.made[-1].closing.digest if self.made else self.base.digest

    def learn(self, most: int = 4) -> Learned:
        """The next delta."""
        number = len(self.made) + 1
        rng = np.random.default_rng((self.seed, self.base.number, number))
        now = self.made[-1].after if self.made else self.begun()
        changed: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        deleted: dict[str, np.ndarray] = {}
        for table in TABLES:
            ids = rng.permutation(np.arange(-3, 30))[: rng.integers(0, most + 1)].astype(np.int64)
            gone = rng.random(len(ids)) < 0.3
            changed[table] = (ids[~gone], rng.standard_normal((int((~gone).sum()), D)).astype(np.float32))
            deleted[table] = ids[gone]
        rows = Rows.of(changed, deleted, D)
        closing = closing_of(self.base.number, number, rows, (number, 2 * number), 1000 + number, 2000 + number, self.digest)
        plainly = {(table, int(i)): w.tobytes() for table, (ids, weights) in changed.items() for i, w in zip(ids, weights, strict=True)}
        gone_ids = {(table, int(i)) for table, ids in deleted.items() for i in ids}
        self.made.append(Learned(rows, closing, naive.after(now, plainly, gone_ids)))
        return self.made[-1]

    def batches(self, number: int) -> list[pa.RecordBatch]:
        """As a delta is appended."""
        made = self.made[number - 1]
        return batches_of(made.rows, made.closing)

    def snapshot(self, number: int, position: int) -> None:
        """Keep the rows as they are behind a delta, which ends at an offset."""
        made = self.made[number - 1]
        closing = made.closing
        point = Point(closing.base, number, closing.digest, position, closing.positions, closing.newest_event_time)
        write_snapshot(self.base, point, {table: self._state(made.after, table) for table in TABLES})

    def _state(self, rows: naive.Rows, table: str) -> dict[str, np.ndarray]:
        ids = [i for which, i in rows if which == table]
        n = len(ids)
        return {
            "ids": np.array(ids, np.int64),
            "weights": np.frombuffer(b"".join(rows[table, i] for i in ids), "<f4").reshape(n, D),
            "accumulators": np.ones(n, np.float32),
            "counts": np.ones(n, np.int32),
            "last_seen": np.zeros(n, np.int64),
            "default": self.base.table(table)["default"],
        }


def rows_of(tables: Mapping[str, Mapping[str, np.ndarray] | TableRows]) -> naive.Rows:
    """What tables hold, plainly."""
    out: naive.Rows = {}
    for name, table in tables.items():
        ids, weights = (table.ids, table.weights) if isinstance(table, TableRows) else (table["ids"], table["weights"])
        for i, row in zip(ids.tolist(), weights, strict=True):
            assert (name, i) not in out
            out[name, i] = row.tobytes()
    return out


def embeddings(directory: Path) -> LocalLog:
    return LocalLog.open(directory / "logs", EMBEDDINGS, 2, create=True)


class MemoryLog:
    """A log of one partition for who tries many: as `flows.log.Log`, without a disk."""

    name, partitions, dense = "embeddings", 1, True

    def __init__(self) -> None:
        self._batches: list[LogBatch] = []
        self._ledger: dict[str, LedgerEntry] = {}

    def append(self, batches: Sequence[tuple[int, pa.RecordBatch]], *, ledger: LedgerEntry | None = None) -> list[tuple[int, int, int]]:
        if ledger is not None:
            known = self._ledger.get(ledger.key)
            if (known.done if known else 0) != ledger.previous:
                raise LedgerConflictError(ledger.key)
            self._ledger[ledger.key] = replace(ledger, previous=ledger.done)
        spans = []
        for _, batch in batches:
            end = self.end_position(0)
            spans.append((0, end, end + batch.num_rows))
            if batch.num_rows:
                self._batches.append(LogBatch(0, end, end + batch.num_rows, batch))
        return spans

    def skip(self) -> None:
        """An offset without a record, as Kafka has one behind each transaction."""
        end, none = self.end_position(0), pa.RecordBatch.from_pylist([], RAW_SCHEMA)
        self._batches.append(LogBatch(0, end, end + 1, none, np.empty(0, np.int64)))

    def read(self, partition: int, position: int, max_records: int) -> list[LogBatch]:
        stop = min(position + max_records, self.end_position(0))
        return [b.between(position, stop) for b in self._batches if b.end_offset > position and b.first_offset < stop]

    def ledger_entry(self, key: str) -> LedgerEntry | None:
        return self._ledger.get(key)

    def start_positions(self) -> list[int]:
        return [0]

    def end_position(self, partition: int) -> int:
        return self._batches[-1].end_offset if self._batches else 0


def world(directory: Path) -> tuple[Registry, Learner, LocalLog]:
    """A base, its learner, and a log with nothing in it."""
    registry = registry_in(directory)
    return registry, Learner(publish(registry, 1)), embeddings(directory)
