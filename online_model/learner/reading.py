"""The micro-batches of a base's learner, in order.

Which records make a batch follows from the log alone. Imports no torch: a process that only reads does without it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flows.errors import InputError, TidemarkError
from flows.examples.merging import Merged, MergedBatch
from flows.examples.picked import Picked
from flows.examples.record import EXAMPLES
from flows.examples.store import READ_RECORDS, Examples
from online_model.learner.course import Course
from online_model.learner.prepared import Prepared, prepare
from online_model.model.config import ModelConfig

if TYPE_CHECKING:
    # Loads Feast; few rankers take user embeddings.
    from online_model.model.served_vectors import ServedVectors

# Micro-batches that are made ready at once, where there are so many. Begun with one, for somebody waits for the first.
_TOGETHER = 4


@dataclass(frozen=True, eq=False)
class Ready:
    """A micro-batch.

    Attributes
    ----------
    batch : Prepared
    positions : tuple of int
        Of EXAMPLES, behind it.
    records, skipped : int
        All of it, and those that the course leaves out.
    first_ready, last_ready : int
        When its first and last record became known, ms.
    """

    batch: Prepared
    positions: tuple[int, ...]
    records: int
    skipped: int
    first_ready: int
    last_ready: int


def between(begin: tuple[int, ...], end: tuple[int, ...]) -> str:
    """Where some records of EXAMPLES lie, for messages: as `tidemark replay learner --skip` takes it."""
    return f"log '{EXAMPLES}', positions {' to '.join(','.join(map(str, positions)) for positions in (begin, end))}"


class Batches:
    """Micro-batches from a position on.

    Parameters
    ----------
    examples : Examples
    positions : sequence of int
    model : ModelConfig
    course : Course
    read_records : int
        Never changes a result.
    vectors : ServedVectors, optional
        For a ranker that takes user embeddings.
    """

    def __init__(
        self,
        examples: Examples,
        positions: tuple[int, ...],
        model: ModelConfig,
        course: Course,
        read_records: int = READ_RECORDS,
        vectors: ServedVectors | None = None,
    ) -> None:
        config = course.config
        self._merged = Merged(examples, positions, config.batch_rows, course.fingerprint, read_records, config.batch_ms)
        self._model, self._course, self._vectors = model, course, vectors
        self._positions = tuple(positions)
        self._ready: deque[Ready] = deque()
        self._together = 1
        self._failed: TidemarkError | None = None

    def next(self, ended: bool = False) -> Ready | None:
        """The next one; None if there is none yet. `ended`: no record will follow those that are there now.

        Raises
        ------
        FingerprintError, CorruptionError, InputError, RetentionError
        """
        if not self._ready and self._failed is None:
            self._more(ended)
        if self._ready:
            return self._ready.popleft()
        if self._failed is not None:
            raise self._failed
        return None

    def _more(self, ended: bool) -> None:
        """Make several ready, for that takes little longer than one; what goes wrong is raised behind those before."""
        found: list[MergedBatch] = []
        try:
            while len(found) < self._together and (merged := self._merged.next(ended)) is not None:
                found.append(merged)
        except TidemarkError as error:
            self._failed = error
        self._together = min(2 * self._together, _TOGETHER)
        try:
            self._ready.extend(self._made(found))
        except TidemarkError:
            self._one_by_one(found)
        if found:
            self._positions = tuple(found[-1].positions)

    def _one_by_one(self, found: list[MergedBatch]) -> None:
        """Until the one that can't be made ready, which is named by where it lies."""
        before = self._positions
        for one in found:
            try:
                self._ready.extend(self._made([one]))
            except InputError as error:
                self._failed = InputError(f"{between(before, tuple(one.positions))}: {error}")
                self._failed.__cause__ = error
                return
            except TidemarkError as error:
                self._failed = error
                return
            before = tuple(one.positions)

    def _made(self, found: list[MergedBatch]) -> list[Ready]:
        if not found:
            return []
        picked = [self._kept(one) for one in found]
        made = prepare(picked, self._model, self._course.config, self._vectors)
        return [
            Ready(batch, tuple(one.positions), len(one), len(one) - len(kept), int(one.ready_time[0]), int(one.ready_time[-1]))
            for batch, one, kept in zip(made, found, picked, strict=True)
        ]

    def _kept(self, merged: MergedBatch) -> Picked:
        """What the course doesn't leave out."""
        kept = np.ones(len(merged), np.bool_)
        for span in self._course.skipped:
            kept &= ~span.holds(merged.partition, merged.offset)
        return merged.picked if kept.all() else merged.picked.some(kept)
