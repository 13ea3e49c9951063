"""The task of the examples flow: what one partition's users were served, saw and did → their examples.

It reads SERVED and ACTIONS itself, merged by arrival, judges actions as the stream does, and commits state, outbox and both positions at once. Its
working sets are saved only now and then (the anchor); a start takes the last ones and runs the kernels over the records since.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rocksdict import WriteBatch

from flows.corrections.history import History
from flows.errors import CorruptionError, DataDirectoryError, StateError
from flows.examples.candidates import Kept, ServedStore, keys_of, pieces_of
from flows.examples.handover import backfilled
from flows.examples.interleaving import Merger, Side, Stretch
from flows.examples.making import make_rows
from flows.examples.record import EXAMPLE_SCHEMA, EXAMPLES, HEADS
from flows.examples.rows import ExampleRows, batch_of
from flows.examples.saved import ANEW, examples_fingerprint, parts_of, saved_sets
from flows.examples.steps import groups_of, judged_steps, served_steps
from flows.kernels.examples import Joined, JoinSet
from flows.kernels.joining import (
    FINAL,
    FINAL_REVISIT,
    HEARTBEAT,
    NEGATIVE,
    POSITIVE,
    X_HEAD,
    X_KIND,
    X_PIN,
    X_READY,
    X_SAVE_ID,
    X_SAVE_TIME,
    X_USER,
)
from flows.kernels.layout import NEVER
from flows.log import Log, LogBatch
from flows.outputs import SERVED
from flows.settings import Settings
from flows.state.actions_task import TOPIC, Judge, topics_in
from flows.state.anchor import Parts
from flows.state.behind import Lanes
from flows.state.task import Since, Task
from flows.vocabulary import OWN_PROFILE, Vocabulary

FLOW = EXAMPLES
# Records of a stretch: what it leads to carries features, some KiB of each request.
_ACTIONS, _SERVED = 16_384, 2_048
# Records of EXAMPLES in a batch of their own, with the features of their requests.
_TOGETHER = 8_192


@dataclass(frozen=True)
class Found:
    """What a stretch has led to.

    Attributes
    ----------
    rows : ExampleRows or None
        What goes out.
    kept : Kept
        What is written of served records.
    counts : dict of str to int
    topics : dict of int to str
        Names that state doesn't know yet.
    served : (int, int)
        Position in SERVED, and arrival there.
    watermark : int or None
    records : int
        Of both inputs.
    saved : sequence of bytes or None
        The working sets after the stretch, if it is time to save them.
    """

    rows: ExampleRows | None
    kept: Kept
    counts: dict[str, int]
    topics: dict[int, str]
    served: tuple[int, int]
    watermark: int | None
    records: int
    saved: Parts | None


class ExamplesTask(Task):
    """See the module, and Task.

    Parameters
    ----------
    actions, served, examples : Log
    ends : (int, int), optional
        Where ACTIONS and SERVED are read to; without it wherever they end.

    Attributes
    ----------
    reached : int
        The sum of the two logs' ends up to which it has looked: all that can be taken of them is judged.
    """

    def __init__(
        self,
        settings: Settings,
        partition: int,
        vocabulary: Vocabulary,
        actions: Log,
        served: Log,
        examples: Log,
        lanes: Lanes | None = None,
        *,
        ends: tuple[int, int] | None = None,
        history: History | None = None,
        path: Path | None = None,
    ) -> None:
        self._served_log = served
        self._vocabulary = vocabulary
        self._history = history if history is not None else History.of(settings, partition)
        self._ends: tuple[int, int] | tuple[None, None] = ends if ends is not None else (None, None)
        self._unsaved = 0
        # What was backfilled stays ahead of what goes out: nothing of it became known earlier.
        self._backfilled = backfilled(examples, partition)
        self._join = JoinSet(settings.allowed_lateness_ms, self._backfilled.until)
        mark = examples_fingerprint(settings, vocabulary)
        super().__init__(settings, FLOW, partition, mark, (), actions, {EXAMPLES: examples}, lanes, path)

    # Reading -----------------------------------------------------------------------------------------------------------------------

    @property
    def working_set_bytes(self) -> int:
        return self._judging.working_set.size + self._join.size

    def apply(self, batches: Sequence[LogBatch], decoded: Any = None) -> int:
        """Take the next stretch that both logs have, whatever is given: it reads by itself. Returns how many records it has."""
        return self._step()

    def catch_up(self, position: int) -> int:
        """Take the next stretch, if there is one; `position` is the sum of the two logs' ends."""
        records = self._step()
        if not records:
            self.reached = max(self.reached, position)
        return records

    def _step(self) -> int:
        stretch = self._merger.next(min(_ACTIONS, self.settings.batch_records))
        if stretch is None:
            return 0
        # What the commit before writes is read for this one.
        if self._written is not None:
            self._written.result()
        found = self._advance(stretch, again=False)
        if self._lanes is None:
            self._commit(found, stretch.after[0])
        else:
            self._written = self._lanes.commits.do(partial(self._commit_behind, found, stretch.after[0], Since()), found.records)
        self.seen = found.watermark
        return found.records

    def _advance(self, stretch: Stretch, again: bool) -> Found:
        """Judge and join a stretch; `again`: it was committed before, and nothing is made of it."""
        working_set = self._judging.working_set
        before = int(NEVER) * -1 if working_set.watermark is None else working_set.watermark
        actions, judged = judged_steps(self._judging, self._outcomes, self._vocabulary.surfaces[OWN_PROFILE], stretch)
        where = f"log '{SERVED}', partition {self.partition}"
        served, records, heartbeats = served_steps(stretch, where)
        groups, users, requests = groups_of(actions, served)
        keys = keys_of(users, requests)
        stored, of = self._store.candidates(keys, stretch.before)
        joined = self._join.join(actions, served, groups(stored, of), before)
        kept = Kept()
        topics = {int(t) for t in np.unique(actions.topic[actions.request != 0])} - {0} - self._topics.keys()
        self._topics |= (new := {t: self._judging.decoder.topics[t] for t in topics})
        rows, due = None, False
        # Records, not offsets: a message of Kafka holds up to thousands of them.
        n = len(actions.user) + len(served.place)
        self._unsaved += n
        counts = {name: n for name, n in joined.counts.items() if n} | {"served": records.num_rows, "heartbeats": heartbeats}
        self._emitted += len(joined.out)
        if not again:
            kept.candidates += _changed(keys, joined)
            leads = np.diff(served.first) > 0
            pieces = pieces_of(records, served.arrival[leads], served.user[leads], served.request[leads])
            self._store.add(pieces)
            if len(joined.out):
                rows = self._rows(joined.out, judged.judged.labels if judged is not None else np.empty((0, 8), np.int64), where)
                counts |= _counted(joined.out)
            due = self._unsaved >= self.settings.anchor_records
            if due:
                self._unsaved = 0
                self._store.expire(working_set.watermark, self.settings.allowed_lateness_ms, kept, sparing=len(pieces))
            kept.pieces += pieces
        reached = (stretch.after[1], stretch.served_reached)
        return Found(rows, kept, counts, new, reached, working_set.watermark, n, self._working_sets() if due else None)

    def _rows(self, out: np.ndarray, left: np.ndarray, where: str) -> ExampleRows:
        if self._backfilled.until is not None:
            out[:, X_READY] = np.maximum(out[:, X_READY], self._backfilled.until)
        later = np.flatnonzero(out[:, X_KIND] == FINAL_REVISIT)
        revisited = np.zeros(len(out), np.bool_)
        wanted = np.ascontiguousarray(out[later][:, [X_USER, X_PIN, X_SAVE_TIME, X_SAVE_ID]])
        revisited[later] = self._judging.working_set.revisited(wanted, left)
        return make_rows(out, revisited, self._store, self._vocabulary.surfaces, self._topics, where)

    # Committing --------------------------------------------------------------------------------------------------------------------

    def _put(self, judged: Found, batch: WriteBatch) -> None:
        judged.kept.put(batch)
        for topic, name in judged.topics.items():
            batch.put(TOPIC + topic.to_bytes(8, "big", signed=True), name.encode())
        for name, n in judged.counts.items():
            self._count(name, n)
        rows = judged.rows
        for at in range(0, len(rows) if rows is not None else 0, _TOGETHER):
            assert rows is not None
            some = rows.take(np.arange(at, min(at + _TOGETHER, len(rows))))
            records = batch_of(some, 0, 0, 0)
            # Where they come from, and their numbers, the outbox says.
            columns = {name: records.column(name) for name in records.schema.names if name not in ("generation", "origin", "sequence")}
            self.outbox.put(batch, EXAMPLES, np.full(len(some), self.partition), columns, EXAMPLE_SCHEMA)

    def _moved(self, judged: Found, batch: WriteBatch) -> None:
        meta = self.store.meta
        meta.watermark = judged.watermark
        meta.inputs = {SERVED: list(judged.served)}
        if judged.saved is not None:
            self._put_anchor(batch, judged.saved)

    def _anchor(self, batch: WriteBatch) -> bool:
        meta = self.store.meta
        if not meta.inputs or (meta.position == meta.anchor and meta.inputs == meta.anchor_inputs):
            return False
        kept = Kept()
        self._store.expire(meta.watermark, self.settings.allowed_lateness_ms, kept)
        kept.put(batch)
        self._put_anchor(batch, self._working_sets())
        return True

    def _put_anchor(self, batch: WriteBatch, sets: Parts) -> None:
        meta = self.store.meta
        meta.anchor, meta.anchor_inputs = meta.position, {name: list(place) for name, place in meta.inputs.items()}
        meta.anchor_sequences = {name: list(numbers) for name, numbers in meta.sequences.items()}
        self.store.save(batch, sets)

    def _working_sets(self) -> Parts:
        return parts_of(self._judging.working_set, self._join)

    # Starting ----------------------------------------------------------------------------------------------------------------------

    def _restore(self) -> None:
        meta = self.store.meta
        if not meta.inputs:
            # Which corrections count is decided once: what has gone out follows them, and nothing takes it back.
            meta.corrected_to = meta.generation = self._history.generation
        if meta.corrected_to > self._history.generation:
            raise StateError(
                f"state {self.store.path} reflects correction {meta.corrected_to}, but log 'corrections', partition {self.partition}, ends with "
                f"{self._history.generation}: the log has lost records; restore it from a copy"
            )
        position, served = meta.position, meta.inputs.get(SERVED, [0, -int(NEVER)])
        end = self._served_log.end_position(self.partition)
        if served[0] > end:
            raise CorruptionError(
                f"state {self.store.path} is at position {served[0]} of log '{SERVED}', partition {self.partition}, which ends at {end}: "
                "the log has lost records; restore it"
            )
        self._judging = Judge(self.settings, self._vocabulary, self.partition, self._history, meta.corrected_to, examples=True)
        self._outcomes = [self._vocabulary.actions[name] for name in HEADS[:-1]]
        self._topics = topics_in(self.store)
        self._store = ServedStore(self.store)
        self._emitted = 0
        anchor = meta.anchor_inputs.get(SERVED, [0, -int(NEVER)])
        self._restore_anchor()
        emitted = sum(meta.anchor_sequences.get(EXAMPLES, [0]))
        arrival = self._judging.working_set.arrival
        merger = Merger(
            Side(self.source, self.partition, meta.anchor, -int(NEVER) if arrival is None else arrival, _ACTIONS, position, closed=True),
            Side(self._served_log, self.partition, anchor[0], anchor[1], _SERVED, served[0], closed=True),
        )
        while (stretch := merger.next(_ACTIONS)) is not None:
            self._advance(stretch, again=True)
        if self._judging.working_set.watermark != meta.watermark or emitted + self._emitted != sum(meta.sequences[EXAMPLES]):
            raise StateError(
                f"state {self.store.path}: going through logs '{self.source.name}' and '{SERVED}', partition {self.partition}, again from positions "
                f"{meta.anchor} and {anchor[0]} does not lead to the committed state; a log or the state was altered: {ANEW}"
            )
        arrival = self._judging.working_set.arrival
        self._merger = Merger(
            Side(self.source, self.partition, position, -int(NEVER) if arrival is None else arrival, _ACTIONS, self._ends[0]),
            Side(self._served_log, self.partition, served[0], served[1], _SERVED, self._ends[1]),
        )

    def _check_outbox(self) -> None:
        super()._check_outbox()
        log = self.outbox.log(EXAMPLES)
        start = max(log.start_positions()[self.partition], self._backfilled.records)
        found = log.read(self.partition, start, 1) if log.end_position(self.partition) > start else []
        made = {
            number
            for batch in found
            for number, origin in zip(*(batch.records.column(name).to_pylist() for name in ("generation", "origin")), strict=True)
            if origin >= 0  # what was backfilled is of no generation
        }
        if made - {self.store.meta.generation}:
            raise DataDirectoryError(
                f"log '{EXAMPLES}', partition {self.partition}, was made under correction {min(made)}, and state {self.store.path} reflects "
                f"correction {self.store.meta.generation}: move the log away, run `tidemark examples restore`, and `tidemark examples run` makes "
                "both anew"
            )

    def _restore_anchor(self) -> None:
        if (sets := saved_sets(self.store, self.store.meta)) is not None:
            self._judging.working_set.restore(sets[0])
            self._join.restore(sets[1])

    # What it knows -----------------------------------------------------------------------------------------------------------------

    def _place(self) -> object:
        return (self.store.meta.position, sorted(self.store.meta.inputs.items()))

    def _digest_more(self, total: hashlib.blake2b) -> None:
        total.update(self._judging.working_set.canonical())
        total.update(self._join.to_bytes())
        watermark = self._judging.working_set.watermark
        total.update(self._store.unexpired(-int(NEVER) if watermark is None else watermark, self.settings.allowed_lateness_ms).tobytes())


def _changed(keys: list[bytes], joined: Joined) -> list[tuple[bytes, np.ndarray]]:
    """The candidates of each request of which some have changed, in the order in which they were served."""
    order = np.argsort(joined.of_entry, kind="stable")
    entries, bounds = joined.entries[order], np.searchsorted(joined.of_entry[order], np.arange(len(keys) + 1))
    return [(keys[group], entries[bounds[group] : bounds[group + 1]]) for group in np.flatnonzero(joined.dirty).tolist()]


def _counted(out: np.ndarray) -> dict[str, int]:
    """Records of EXAMPLES by what they are."""
    kind = out[:, X_KIND]
    by_head = np.bincount(out[kind == POSITIVE, X_HEAD], minlength=len(HEADS)).tolist()
    counts = {
        "examples": int((kind == NEGATIVE).sum()),
        "finals": int((kind == FINAL).sum()),
        "revisit_finals": int((kind == FINAL_REVISIT).sum()),
        "heartbeats_out": int((kind == HEARTBEAT).sum()),
    }
    return counts | {f"positive.{head}": n for head, n in zip(HEADS, by_head, strict=True)}
