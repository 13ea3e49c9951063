"""The task of the revisits flow: one REVISITS partition → the revisits of its pins.

Its state is a function of each origin's prefix apart: the order in which origins interleave in the log enters nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from rocksdict import WriteBatch

from flows.log import Log, LogBatch
from flows.outputs import REVISITS, take_next
from flows.settings import Settings
from flows.state import tables
from flows.state.actions_task import state_fingerprint
from flows.state.behind import Lanes
from flows.state.task import Task
from flows.vocabulary import Vocabulary

FLOW = "revisits"


@dataclass(frozen=True)
class Taken:
    """What comes next of its origins in some batches, and where that leads.

    Attributes
    ----------
    parts : list of RecordBatch
    records : int
        In all parts.
    applied : dict of int to int
        Origin to its last sequence number, after them.
    watermark : int or None
        Greatest time of a revisit up to their end, ms.
    """

    parts: list[pa.RecordBatch]
    records: int
    applied: dict[int, int]
    watermark: int | None


class RevisitsTask(Task):
    """See the module."""

    def __init__(
        self,
        settings: Settings,
        partition: int,
        vocabulary: Vocabulary,
        source: Log,
        lanes: Lanes | None = None,
        *,
        path: Path | None = None,
    ) -> None:
        super().__init__(settings, FLOW, partition, state_fingerprint(settings, vocabulary), tables.PIN_TABLES, source, {}, lanes, path)

    def _restore(self) -> None:
        self._applied, self._latest = self.store.meta.applied, self.store.meta.watermark

    def _judge(self, batches: list[LogBatch], decoded: object) -> Taken:
        self._applied = dict(self._applied)
        where = f"log '{REVISITS}', partition {self.partition}"
        parts = [take_next(one.records, self._applied, where) for one in batches]
        times = [int(part.column("time").to_numpy().max()) for part in parts if part.num_rows]
        if times:
            self._latest = max([*times, *([self._latest] if self._latest is not None else [])])
        return Taken(parts, sum(part.num_rows for part in parts), self._applied, self._latest)

    def _put(self, taken: Taken, batch: WriteBatch) -> None:
        meta = self.store.meta
        names = ("pin_id", "user_id", "kind", "time", "weight")
        rows = []
        for records in taken.parts:
            self._note_corrections(records)
            rows.append(np.column_stack([records.column(name).to_numpy().astype(np.int64) for name in names]))
        meta.applied, meta.watermark = taken.applied, taken.watermark
        self.store.runs.add(batch, tables.REVISITS.name, np.concatenate(rows))
        self._count("records", taken.records)

    def _place(self) -> object:
        # Not the offset: repeats and the order of origins move it.
        return sorted(self.store.meta.applied.items())

    def _note_corrections(self, records: pa.RecordBatch) -> None:
        """A record of weight 0 begins what a correction takes back and adds, and another one ends it.

        That leaves alone what is too old for any read from then on, so what these tables say of earlier times is not to be read from here.
        What it takes back is here: it must meet it before one of the two expires, or it depended on merges whose pins are known.
        """
        times = records.column("timestamp").to_numpy()[records.column("weight").to_numpy() == 0]
        if len(times):
            meta = self.store.meta
            meta.expired_to = max(meta.expired_to, tables.expiry(self.settings, int(times.max())))
            meta.fold_all = True
