"""Rows of a base rolled back to before a position and learned again, with or without a bad span; what differs goes out as the next delta.

Nothing that was put out is taken out of the log: consumers read on, and their rows become the right ones with one delta. A kill anywhere leaves a
course that `tidemark learn` finishes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flows import stopping
from flows.errors import InputError
from flows.examples.store import Examples, positions_at
from online_model.deltas.chain import holds, last_closing
from online_model.learner.course import Course, Span, write_course
from online_model.learner.learner import Learner, Site, course_of
from online_model.registry.bases import Base
from online_model.registry.snapshots import sound

Positions = tuple[int, ...]


@dataclass(frozen=True)
class Rollback:
    """What is to be done, or was.

    Attributes
    ----------
    base : int
    after : int
        The delta whose snapshot learning begins at again; 0: the base itself.
    until : int
        The last delta that was put out; those in between are void.
    begin, end : tuple of int
        Positions of EXAMPLES that are learned again.
    skipped : Span or None
    """

    base: int
    after: int
    until: int
    begin: Positions
    end: Positions
    skipped: Span | None

    @property
    def records(self) -> int:
        """How many are learned again."""
        return sum(self.end) - sum(self.begin)


@dataclass(frozen=True)
class RolledBack:
    """What was done.

    Attributes
    ----------
    plan : Rollback
    records : int
        Passed.
    rows : int
        That differ from what was put out before: those of the delta that says so.
    delta : int
        That one.
    finished : bool
        False: it was stopped, and `tidemark learn` goes on from there.
    """

    plan: Rollback
    records: int
    rows: int
    delta: int
    finished: bool


def positions_of(examples: Examples, wanted: int | Positions) -> Positions:
    """A position of each partition: as given, or where records of a time (ms) begin.

    Raises
    ------
    InputError
        There are other partitions, or the log ends before.
    """
    if isinstance(wanted, int):
        return tuple(positions_at(examples, wanted))
    ends = examples.end_positions()
    if len(wanted) != len(ends):
        raise InputError(
            f"log 'examples' has {len(ends)} partitions, and {len(wanted)} positions are given; give one for each, with commas, or a time"
        )
    for partition, (position, end) in enumerate(zip(wanted, ends, strict=True)):
        if not 0 <= position <= end:
            raise InputError(f"log 'examples', partition {partition} ends at {end}, and position {position} is given")
    return wanted


def plan(site: Site, base: Base, course: Course, to: Positions, skipped: Span | None) -> Rollback:
    """Where learning begins again to be right from positions `to` on: the newest snapshot at or before them, or the base."""
    last = last_closing(site.embeddings, base.number)
    if last is None or all(there <= here for there, here in zip(last.positions, to, strict=True)):
        # All that is learned lies before: there is nothing to take back.
        delta, end = (0, course.begin) if last is None else (last.delta, last.positions)
        return Rollback(base.number, delta, delta, end, end, skipped)
    for snapshot in sound(base):
        point = snapshot.point
        before = all(there <= here for there, here in zip(point.positions, to, strict=True))
        if before and course.usable(point) and point.delta <= last.delta and holds(site.embeddings, point):
            return Rollback(base.number, point.delta, last.delta, point.positions, last.positions, skipped)
    return Rollback(base.number, 0, last.delta, course.begin, last.positions, skipped)


def roll_back(site: Site, course: Course, wanted: Rollback, progress: Callable[[int], None]) -> RolledBack:
    """Learn again. The caller holds the learner's lock of the base.

    Parameters
    ----------
    progress : callable
        Given how many records more were passed.

    Raises
    ------
    LearnerError, DeltaError
    """
    skipped = [wanted.skipped] if wanted.skipped is not None and wanted.skipped not in course.skipped else []
    wanted_course = course.again(wanted.after, wanted.until, skipped)
    write_course(site.models, wanted_course)
    if not wanted.records:
        return RolledBack(wanted, 0, 0, wanted.until, True)
    learner = Learner.open(site, wanted_course)
    batches, records = learner.batches(), 0
    while learner.again and not stopping.requested():
        # Of a history that has ended the last records were learned too, though they make no whole micro-batch.
        ready = batches.next() or batches.next(ended=True)
        if ready is None:
            raise InputError(
                f"log 'examples' ends before positions {','.join(map(str, wanted.end))}, up to which base {wanted.base} was learned on: restore it "
                "(`tidemark replay restore --log examples`)"
            )
        learner.learn(ready)
        records += ready.records
        progress(ready.records)
    last = last_closing(site.embeddings, wanted.base)
    rows = last.rows if last is not None and not learner.again else 0
    return RolledBack(wanted, records, rows, learner.delta, not learner.again)


def course_for(site: Site, number: int) -> tuple[Base, Course]:
    """A base that was learned on, and how.

    Raises
    ------
    InputError
        Nobody has learned on it.
    """
    base = site.registry.base(number)

    def never(base: Base) -> Positions:
        raise InputError(f"base {base.number} was never learned on, so there is nothing to roll back; `tidemark learn` begins")

    return base, course_of(site, number, never)
