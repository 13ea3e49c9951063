"""A task whose input is corrected now and then: what it does so that its state and what it puts out follow the corrections.

A correction took effect at a position. What went out before follows the corrections before it; at that position, what it changed goes out at once;
what goes out after follows it. So a task that goes through its log again, from a state before that position, puts out nothing until it is there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rocksdict import WriteBatch

from flows.corrections.history import History
from flows.corrections.record import Correction, Made
from flows.errors import MAKE_ANEW, CorruptionError, StateError
from flows.log import LedgerEntry, Log, LogBatch
from flows.open_log import open_log
from flows.outputs import CORRECTIONS, REVISIT_SCHEMA, REVISITS
from flows.settings import Settings
from flows.state.behind import Lanes
from flows.state.runs import Table
from flows.state.task import Task

HELD, RECORDED = "corrected", "recorded"
"""What the ledger of REVISITS tells of a task: that the log has held what went out before a correction, which one that was made anew lacks; and that
a correction has been recorded, so that a log of corrections without it has lost it."""


def told_of(revisits: Log, what: str, partition: int) -> int:
    """The newest correction of which the ledger tells HELD or RECORDED, 0 for none."""
    entry = revisits.ledger_entry(f"{what} {partition}")
    return entry.done if entry is not None else 0


def tell(revisits: Log, what: tuple[str, ...], partition: int, generation: int) -> None:
    """Have the ledger tell HELD, RECORDED or both of a correction."""
    entries = [LedgerEntry(f"{each} {partition}", generation, previous=told_of(revisits, each, partition)) for each in what]
    revisits.append([], ledger=[entry for entry in entries if entry.previous != generation])


def refuse_lost(history: History, revisits: Log, partition: int) -> None:
    """Refuse to go by a history that lacks a correction: what it took out would come back without a word.

    Raises
    ------
    CorruptionError
    """
    known = told_of(revisits, RECORDED, partition)
    if known > history.generation:
        raise CorruptionError(
            f"log '{CORRECTIONS}', partition {partition}, ends with correction {history.generation}, and correction {known} was made: it has lost "
            f"records; put them back first, by `tidemark replay restore --log {CORRECTIONS}` from its archive, or from a copy"
        )


class CorrectedTask(Task):
    """See the module, and Task.

    Parameters
    ----------
    history : History
        Corrections of the task's partition; the last may be one that has not taken effect yet, of a state that is being made beside the task's own.
    """

    def __init__(
        self,
        settings: Settings,
        flow: str,
        partition: int,
        fingerprint: str,
        tables: Sequence[Table],
        source: Log,
        outputs: Mapping[str, Log],
        lanes: Lanes | None,
        *,
        path: Path | None,
        history: History,
    ) -> None:
        self._history = history
        super().__init__(settings, flow, partition, fingerprint, tables, source, outputs, lanes, path)

    @property
    def muted(self) -> bool:
        """Whether nothing goes out, because what a correction has changed goes out later, at once."""
        return self.store.meta.corrected_to > self.store.meta.generation

    def _refuse_outdated(self) -> None:
        """Refuse a state that newer corrections have made wrong, or one that knows more of them than there are."""
        meta, history = self.store.meta, self._history
        right = history.right_up_to(meta.corrected_to)
        if meta.position > right:
            raise StateError(
                f"state {self.store.path} is at position {meta.position} and knows the corrections up to {meta.corrected_to} of "
                f"{history.generation}, which change records from offset {right} on: put the task back with `tidemark replay restore`"
            )
        if meta.corrected_to > history.generation:
            raise StateError(
                f"state {self.store.path} reflects correction {meta.corrected_to}, but log '{CORRECTIONS}', partition {self.partition}, ends with "
                f"{history.generation}: the log has lost records; restore it from a copy"
            )
        newest = history.corrections[-1].made if history.corrections else None
        if newest is not None and newest.position is not None and meta.generation < newest.generation and meta.position > newest.position:
            raise StateError(
                f"state {self.store.path} is at position {meta.position} and has put out nothing of correction {newest.generation}, which took "
                f"effect at {newest.position}: put the task back with `tidemark replay restore`"
            )

    def _restore(self) -> None:
        """Take note of corrections that are newer than the state."""
        meta, history = self.store.meta, self._history
        if meta.corrected_to == history.generation:
            return
        went_out, meta.corrected_to = not self.muted, history.generation
        if went_out and meta.position:
            # From here on nothing goes out: a start must not count what it judges again from before.
            batch = self.store.batch()
            self._anchor_here(batch)
            self.store.commit(batch)

    def _check_outbox(self) -> None:
        if self.muted and self._history.last().made.position is None:
            # Of a state that is made beside the task's own nothing goes out.
            return
        refuse_lost(self._history, self.outbox.log(REVISITS), self.partition)
        if not self.muted:
            super()._check_outbox()
        elif not self._is_there():
            self._begin_anew()

    def _is_there(self) -> bool:
        """Whether what this task put out before the newest correction is still there."""
        before = self._history.last().made.sequences[REVISITS]
        log = self.outbox.log(REVISITS)
        ends = log.end_positions()
        whole = all(end >= n for end, n in zip(ends, before, strict=True)) if log.dense else any(ends) or not any(before)
        return whole and told_of(log, HELD, self.partition) > 0

    def _begin_anew(self) -> None:
        """All goes out again, into logs that were made anew: as it is with every correction in force."""
        if self.position:
            raise StateError(
                f"log '{REVISITS}' lacks what task {self.partition} put out before correction {self._history.generation}; restore the log from a "
                f"copy, or {MAKE_ANEW}"
            )
        none = {name: [0] * len(numbers) for name, numbers in self.store.meta.sequences.items()}
        number = self._history.generation + 1
        made = Made(
            number, "logs made anew", position=0, sequences=none, sequences_after=none, first=0, made_at=time.time_ns() // 1_000_000
        )
        correction = Correction(made)
        with open_log(self.settings, CORRECTIONS) as log:
            log.append([(self.partition, batch) for batch in correction.to_records()])
        self._history = History([*self._history.corrections, correction])
        self.store.meta.corrected_to = number

    def _parts(self, batches: Sequence[LogBatch]) -> Iterator[list[LogBatch]]:
        at = self._history.last().made.position if self.muted else None
        for part in super()._parts(batches):
            if at is None or not part[0].first_offset < at < part[-1].end_offset:
                yield part
                continue
            yield [batch.between(0, at) for batch in part if batch.first_offset < at]
            yield [batch.between(at, batch.end_offset) for batch in part if batch.end_offset > at]

    def _pass(self) -> None:
        """Where the newest correction took effect: put out what it changed."""
        if not self.muted or self._history.last().made.position != self.reached:
            return
        self.settle()
        correction = self._history.last()
        meta, batch = self.store.meta, self.store.batch()
        self.outbox.delete_published(batch)
        meta.generation = correction.generation
        meta.sequences = {name: list(numbers) for name, numbers in correction.made.sequences.items()}
        emitted = correction.emitted
        columns: dict[str, Any] = {name: emitted.column(name).to_numpy() for name in emitted.schema.names}
        columns["timestamp"] = np.full(len(emitted), correction.made.time)
        self._put_out(batch, REVISITS, columns.pop("destination"), columns, REVISIT_SCHEMA)
        if meta.sequences != correction.made.sequences_after:
            raise StateError(
                f"log '{CORRECTIONS}', partition {self.partition}: what correction {correction.generation} puts out is not as many as it says"
            )
        self.outbox.check()
        self._anchor_here(batch)
        # Before the commit: after it nobody would come by here again.
        tell(self.outbox.log(REVISITS), (HELD, RECORDED), self.partition, correction.generation)
        self.store.commit(batch)
        self.outbox.publish()

    def _put_out(
        self, batch: WriteBatch, name: str, destinations: np.ndarray, columns: Mapping[str, pa.Array | np.ndarray], schema: pa.Schema
    ) -> None:
        """As `Outbox.put`, where something goes out."""
        if not self.muted:
            self.outbox.put(batch, name, destinations, columns, schema)

    def _anchor_here(self, batch: WriteBatch) -> None:
        """Save what is kept in memory."""
        raise NotImplementedError
