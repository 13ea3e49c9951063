"""The task of the revisits flow: one REVISITS partition → the revisits of its pins.

Its state is a function of each origin's prefix apart: the order in which origins interleave in the log enters nothing.
"""

from __future__ import annotations

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

    def _judge(self, batches: list[LogBatch], decoded: object) -> list[LogBatch]:
        return batches

    def _put(self, batches: list[LogBatch], batch: WriteBatch) -> None:
        meta = self.store.meta
        where = f"log '{REVISITS}', partition {self.partition}"
        parts = []
        for one in batches:
            records = take_next(one.records, meta.applied, where)
            self._note_corrections(records)
            names = ("pin_id", "user_id", "kind", "time", "weight")
            parts.append(np.column_stack([records.column(name).to_numpy().astype(np.int64) for name in names]))
        rows = np.concatenate(parts)
        if len(rows):
            meta.watermark = max(int(rows[:, 3].max()), meta.watermark if meta.watermark is not None else -(2**62))
        self.store.runs.add(batch, tables.REVISITS.name, rows)
        self._count("records", len(rows))

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
