"""The corrections of one ACTIONS partition, as a task must follow them: which are in force, which state they leave right, what goes out when.

A task's state reflects the log up to its position and all corrections up to a number (`Meta.corrected_to`); what it put out follows those up to
another (`Meta.generation`). The two differ where a task goes again through what lies before a correction's position: nothing goes out there, for
what the correction changed went out at that position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.corrections.overlay import Overlay
from flows.corrections.record import EMITTED_SCHEMA, Correction, read_corrections
from flows.decode import Decoder
from flows.log import Log
from flows.open_log import log_exists, open_log
from flows.outputs import CORRECTIONS
from flows.settings import Settings


@dataclass(frozen=True)
class GoneOut:
    """What a reader has of a task, by how many of its records it has applied.

    Attributes
    ----------
    corrected_to : int
        It has what went out because of records before `position`, as this correction makes it,
    position : int
    left : int
        as many of those that came after,
    emitted : RecordBatch
        and of a newer correction these, EMITTED_SCHEMA.
    """

    corrected_to: int
    position: int
    left: int
    emitted: pa.RecordBatch


class History:
    """See the module.

    Parameters
    ----------
    corrections : sequence of Correction
        Of one partition, in the order in which they were made.
    """

    def __init__(self, corrections: Sequence[Correction] = ()) -> None:
        self.corrections = tuple(corrections)

    @classmethod
    def of(cls, settings: Settings, partition: int) -> History:
        """As the CORRECTIONS log has it now."""
        if not log_exists(settings, CORRECTIONS):
            return cls()
        with open_log(settings, CORRECTIONS, read_only=True) as log:
            return cls.read(log, partition)

    @classmethod
    def every(cls, settings: Settings) -> list[History]:
        """Of all partitions, as the CORRECTIONS log has them now."""
        if not log_exists(settings, CORRECTIONS):
            return [cls() for _ in range(settings.partitions)]
        with open_log(settings, CORRECTIONS, read_only=True) as log:
            return [cls.read(log, partition) for partition in range(settings.partitions)]

    @classmethod
    def read(cls, log: Log, partition: int) -> History:
        """The same, of an open log."""
        return cls(read_corrections(log, partition))

    @property
    def generation(self) -> int:
        """Number of the newest correction, 0 without any."""
        return self.corrections[-1].generation if self.corrections else 0

    def last(self) -> Correction:
        """The newest correction, of which there must be one."""
        return self.corrections[-1]

    def in_force(self, corrected_to: int) -> list[Correction]:
        """What counted when a correction was the newest."""
        found: list[Correction] = []
        undone: set[int] = set()
        # The newest first: what is undone undoes nothing.
        for c in reversed([c for c in self.corrections if c.generation <= corrected_to]):
            if c.generation not in undone:
                found.append(c)
                undone.update(c.made.undoes)
        return found[::-1]

    def overlay(self, corrected_to: int, decoder: Decoder) -> Overlay | None:
        """What they make of decoded records; None if nothing."""
        changing = [c for c in self.in_force(corrected_to) if len(c.places())]
        return Overlay(changing, decoder) if changing else None

    def right_up_to(self, corrected_to: int) -> int:
        """Up to which position a state that reflects an earlier correction is right now: the first offset at which it makes a difference."""
        then, now = self.in_force(corrected_to), self.in_force(self.generation)
        numbers = {c.generation for c in then} ^ {c.generation for c in now}
        firsts = (c.made.first for c in self.corrections if c.generation in numbers)
        return min((first for first in firsts if first is not None), default=int(np.iinfo(np.int64).max))

    def gone_out(self, log: str, destination: int, applied: int) -> GoneOut:
        """What the first `applied` records of this partition's task in a partition of a log are."""
        older = [0, *(c.generation for c in self.corrections)]
        for c, before in zip(reversed(self.corrections), reversed(older[:-1]), strict=True):
            if c.made.position is None:
                continue
            first, end = c.made.sequences[log][destination], c.made.sequences_after[log][destination]
            if applied >= end:
                return GoneOut(c.generation, c.made.position, applied - end, c.emitted.slice(0, 0))
            if applied > first:
                emitted = c.emitted.filter(pc.equal(c.emitted.column("destination"), destination))
                return GoneOut(before, c.made.position, 0, emitted.slice(0, applied - first))
        return GoneOut(0, 0, applied, pa.RecordBatch.from_pylist([], schema=EMITTED_SCHEMA))
