"""A rebuild, step by step: states made beside the live ones, what they change, and the switch. Each step can be repeated after a kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from flows.corrections.history import History
from flows.corrections.record import EMITTED_SCHEMA, Correction
from flows.errors import CorruptionError, DataDirectoryError
from flows.features import PIN_COUNTERS
from flows.kernels.reads import counters
from flows.kernels.rows import sort_rows
from flows.log import Log
from flows.outputs import ACTIONS, REVISITS
from flows.partition import partition_of
from flows.settings import Settings
from flows.state import tables
from flows.state.actions_task import ActionsTask, topics_in
from flows.state.behind import Lanes
from flows.state.task import Task, task_path
from flows.state.view import TaskView
from flows.vocabulary import Vocabulary
from replay.place import Place
from replay.realtime import first_time, realtime
from replay.rebuild.difference import Difference, State, bounds, difference, moved, rows_moved, state_of
from replay.rebuild.draft import Draft
from replay.rebuild.gone_out import gone_out
from replay.rebuild.plan import Part, Plan, Workplace
from replay.tasks import TaskName

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Built:
    """What making the states took.

    Attributes
    ----------
    replayed : int
        Offsets of logs gone through.
    seconds : float
    event_ms : int
        Event time that this covered, of the task where it is most.
    """

    replayed: int
    seconds: float
    event_ms: int

    @property
    def realtime(self) -> float:
        """How many times as fast as it happened."""
        return realtime(self.event_ms, self.seconds)


class Rebuild:
    """A rebuild that was planned.

    Parameters
    ----------
    settings : Settings
    vocabulary : Vocabulary
    logs : mapping of name to Log
        ACTIONS, REVISITS, with their archives.
    workplace : Workplace
    plan : Plan
    corrections : mapping of int to Correction, optional
        By partition; without it, as the workplace has them.
    """

    def __init__(
        self,
        settings: Settings,
        vocabulary: Vocabulary,
        logs: Mapping[str, Log],
        workplace: Workplace,
        plan: Plan,
        corrections: Mapping[int, Correction] | None = None,
    ) -> None:
        self.plan = plan
        self._corrections = corrections
        self._settings = settings
        self._vocabulary = vocabulary
        self._logs = logs
        self.lanes = Lanes.start()
        self._workplace = workplace
        histories = History.every(settings)
        self.drafts = {part.task: self._draft(part, histories) for part in plan.parts}

    def _draft(self, part: Part, histories: Sequence[History]) -> Draft:
        if self._corrections is None:
            correction = self._workplace.correction(part)
        else:
            correction = self._corrections.get(part.partition) if part.flow == ACTIONS else None
        history = History()
        if correction is not None:
            before = [c for c in histories[part.partition].corrections if c.generation < self.plan.generation]
            history = History([*before, correction])
        return Draft(self._settings, self._vocabulary, part.task, self._workplace.directory, history, self._logs)

    def to_replay(self, place: Place) -> dict[TaskName, tuple[int, int]]:
        """Of each task: the position of the checkpoint that it begins from, and the end of its log."""
        found = {}
        for part in self.plan.parts:
            self.drafts[part.task].live_path()
            manifest = self.drafts[part.task].base(place, part.before)
            found[part.task] = (manifest.position if manifest is not None else 0, self._logs[part.flow].end_position(part.partition))
        return found

    def build(self, place: Place, progress: Progress) -> Built:
        """Make every state, up to where the live one is now; what an earlier attempt has made is gone on with."""
        began, replayed, longest = time.monotonic(), 0, 0
        for part in self.plan.parts:
            draft = self.drafts[part.task]
            view = TaskView(draft.live_path())
            position = view.meta.position if view.meta is not None else 0
            view.close()
            draft.begin(place, draft.base(place, part.before))
            task = draft.open(self.lanes)
            try:
                before, mark = task.position, task.watermark
                _refuse_behind(part, position, task)
                if before < position:
                    progress(before)
                    draft.catch_up(task, position, progress)
                    replayed += position - before
                    first = mark if mark is not None else first_time(self._settings, self._vocabulary, self._logs[part.flow], part.task)
                    if first is not None and task.watermark is not None:
                        longest = max(longest, task.watermark - first)
            finally:
                # Also on Ctrl-C: what is committed is gone on with.
                task.close()
        return Built(replayed, time.monotonic() - began, longest)

    def compare(self, progress: Progress) -> Difference:
        """What the new states say differently, each at the live one's position, pins included."""
        found, emitted, as_of = Difference(), [np.empty((0, tables.REVISITS.columns), np.int64)], self.as_of()
        before = tables.expiry(self._settings, as_of)
        for part in self.plan.parts:
            draft = self.drafts[part.task]
            view = TaskView(draft.live_path())
            task = draft.open(self.lanes)
            try:
                meta = view.meta
                if meta is None:
                    continue
                _refuse_behind(part, meta.position, task)
                if meta.position > task.position:
                    draft.catch_up(task, meta.position, progress)
                old, new = state_of(self._settings, self._vocabulary, view, self._logs[part.flow]), self._new(task)
                found.add(difference(old, new, before, as_of))
                if part.flow == ACTIONS:
                    emitted.append(self._moved(part, old, new, before))
            finally:
                task.close()
                view.close()
        found.add(self._pins(np.concatenate(emitted), as_of))
        return found

    def as_of(self) -> int:
        """The greatest event time that any task has accepted: when features are compared."""
        marks = [0]
        for partition in range(self._settings.partitions):
            path = task_path(self._settings, ACTIONS, partition)
            if (path / "CURRENT").exists():
                view = TaskView(path)
                marks.append(view.meta.watermark if view.meta is not None and view.meta.watermark is not None else 0)
                view.close()
        return max(marks)

    def emitted(self, part: Part, task: Task, as_of: int) -> pa.RecordBatch:
        """What goes out to REVISITS at the position where both the live state and the new one are.

        Parameters
        ----------
        as_of : int
            As of `as_of`: revisits that no read at or after it needs are left as they are. Some task may have forgotten them, and another not.
        """
        view = TaskView(self.drafts[part.task].live_path())
        try:
            old = state_of(self._settings, self._vocabulary, view, self._logs[part.flow])
            rows = self._moved(part, old, self._new(task), tables.expiry(self._settings, as_of), settled=True)
        finally:
            view.close()
        return emissions(rows, self._settings.partitions)

    def _moved(self, part: Part, old: State, new: State, before: int, settled: bool = False) -> np.ndarray:
        """By how much pins have to be told otherwise: int64[n, 5], rows of tables.REVISITS of users.

        Where events are corrected, what the live state says has gone out. Where a task is made anew nothing of it is trusted.

        Parameters
        ----------
        settled : bool
            All that the live task has put out is in the log.
        """
        if part.before is None:
            return moved(old, new, before)
        went = gone_out(self._logs[REVISITS], part.partition, old.meta.sequences[REVISITS])
        if went is None:
            if settled:
                raise CorruptionError(
                    f"log '{REVISITS}' lacks the end of what {part.task} has put out: `tidemark replay verify` says how to restore it"
                )
            # Of a run that is about to put it out.
            return moved(old, new, before)
        return rows_moved(went, new, before)

    def _new(self, task: Task) -> State:
        labels = task.labels() if isinstance(task, ActionsTask) else np.empty((0, tables.LABELS.columns), np.int64)
        return State(task.store.runs, replace(task.store.meta, manifest=task.store.runs.manifest), labels, topics_in(task.store))

    def _pins(self, rows: np.ndarray, as_of: int) -> Difference:
        """What pins will say differently once they have what tasks of users put out: rows of a user's table."""
        found = Difference()
        rows = sort_rows(np.ascontiguousarray(rows[:, [1, 0, 2, 3, 4]]), tables.REVISITS.keys)
        homes = partition_of(np.ascontiguousarray(rows[:, 0]), self._settings.partitions)
        for partition in np.unique(homes).tolist():
            own = rows[homes == partition]
            pins = np.unique(own[:, 0])
            found.entities["pins"] = found.entities.get("pins", 0) + len(pins)
            path = task_path(self._settings, REVISITS, partition)
            view = TaskView(path) if (path / "CURRENT").exists() else None
            held = np.empty((0, tables.REVISITS.columns), np.int64)
            if view is not None and view.meta is not None:
                held = view.runs.rows_of(tables.REVISITS, view.meta.manifest.get(tables.REVISITS.name, []), pins)
            values = []
            for some in (held, np.concatenate([held, own])):
                folded = tables.REVISITS.fold(sort_rows(np.ascontiguousarray(some), tables.REVISITS.keys))  # type: ignore[misc]
                values.append(counters(folded, bounds(folded, pins), as_of)[0])
            found.note("pin", pins, PIN_COUNTERS, *values)
            if view is not None:
                view.close()
        return found


def _refuse_behind(part: Part, position: int, task: Task) -> None:
    if position < task.position:
        raise DataDirectoryError(
            f"{part.task}: its live state is at position {position}, behind the new one at {task.position}; `tidemark run` first, then --resume"
        )


def emissions(rows: np.ndarray, partitions: int) -> pa.RecordBatch:
    """Changed weights of users' revisits as records that pins can apply, EMITTED_SCHEMA; before and after those of a partition goes one of weight 0.

    They say where a correction begins and ends (see `flows.state.revisits_task`).

    Parameters
    ----------
    rows : int64[n, 5]
        Of tables.REVISITS, of users.
    """
    weight = rows[:, 4]
    times = np.abs(weight)
    rows, sign = np.repeat(rows, times, axis=0), np.repeat(np.sign(weight), times)
    every, none = np.arange(partitions), np.zeros((partitions, rows.shape[1]), np.int64)
    destinations = np.concatenate([every, partition_of(np.ascontiguousarray(rows[:, 1]), partitions), every])
    rows, sign = np.concatenate([none, rows, none]), np.concatenate([none[:, 0], sign, none[:, 0]])
    columns = [destinations, rows[:, 1], rows[:, 0], rows[:, 3], rows[:, 2].astype(np.int8), sign.astype(np.int8)]
    return pa.RecordBatch.from_arrays([pa.array(c, f.type) for c, f in zip(columns, EMITTED_SCHEMA, strict=True)], schema=EMITTED_SCHEMA)


def numbered(sequences: Mapping[str, list[int]], emitted: pa.RecordBatch) -> dict[str, list[int]]:
    """A task's numbers after it has put something out."""
    counts = np.bincount(emitted.column("destination").to_numpy(), minlength=len(sequences[REVISITS]))
    return {**{name: list(n) for name, n in sequences.items()}, REVISITS: (np.array(sequences[REVISITS]) + counts).tolist()}


def taking_effect(
    correction: Correction, position: int, sequences: Mapping[str, list[int]], emitted: pa.RecordBatch, as_of: int
) -> Correction:
    """A correction as it is recorded, now that it is known where it takes effect."""
    made = replace(
        correction.made,
        position=position,
        sequences={name: list(n) for name, n in sequences.items()},
        sequences_after=numbered(sequences, emitted),
        time=as_of,
    )
    return replace(correction, made=made, emitted=emitted)
