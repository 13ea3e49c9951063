"""A Bytewax source that reads nothing: it tells a partition's task how far its logs reach, and the task reads them itself.

For tasks that merge several logs. What such a task has read ahead of another log waits with it, and is no item of a dataflow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from flows import stopping
from flows.dataflow.pace import AT_ONCE, Wait, worked
from flows.dataflow.plan import Plan
from flows.dataflow.progress import reporting
from flows.dataflow.source import POLL, SOON, Busy, Held, Part, Wanted

# Seconds. How often it is looked whether somebody wants the task, and, while logs are followed, whether they have moved: over Kafka that is asked of
# brokers, for each log and partition. What has come meanwhile is merged at once: nobody waits for it who counts in less than seconds.
_LOOK, _FOLLOW = 1.0, 0.25

Reach = Callable[[int], int]
"""Partition → the sum of the ends of its logs."""


@dataclass(frozen=True)
class Looked:
    """What a source's partitions ask.

    Attributes
    ----------
    reach : callable
        Asked again and again while the logs are followed, once where they are not.
    follow : bool
    busy, held, wanted : callable
        As of `LogSource`.
    """

    reach: Reach
    follow: bool
    busy: Busy
    held: Held
    wanted: Wanted


class LookingSource(FixedPartitionedSource[tuple[str, Part], int]):
    """Tells tasks how far their logs reach.

    Parameters
    ----------
    partitions : int
    plan : Plan
    looked : Looked
    """

    def __init__(self, partitions: int, plan: Plan, looked: Looked) -> None:
        self._partitions, self._plan, self._looked = partitions, plan, looked

    def list_parts(self) -> list[str]:
        return [str(p) for p in range(self._partitions) if self._plan.owns(p)]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _Looking:
        return _Looking(int(for_part), self._looked, self._plan.progress)


class _Looking(StatefulSourcePartition[tuple[str, Part], int]):
    def __init__(self, partition: int, looked: Looked, progress: int | None) -> None:
        self._partition, self._looked, self._progress = partition, looked, progress
        self._at: int | None = None
        self._opened = False
        self._wait = Wait()
        self._asked = time.monotonic()

    def next_batch(self) -> Iterable[tuple[str, Part]]:
        with reporting(self._progress):
            items = self._next() if self._wait.over() or stopping.requested() else []
        if items:
            worked()
        return items

    def _next(self) -> list[tuple[str, Part]]:
        if not self._opened:
            self._opened = True
            return self._part(0)
        if stopping.requested():
            raise StopIteration()
        now = time.monotonic()
        if now - self._asked >= _LOOK:
            self._asked = now
            if self._looked.wanted(self._partition):
                return self._part(self._at or 0)
        if self._at is not None and not self._looked.follow:
            if self._looked.held(self._partition):
                self._wait.begin(POLL)
                return []
            raise StopIteration()
        if self._looked.busy(self._partition):
            self._wait.begin(SOON)
            return []
        reach = self._looked.reach(self._partition)
        if reach == self._at:
            self._wait.begin(_FOLLOW)
            return []
        self._at = reach
        if self._looked.follow:
            self._wait.begin(_FOLLOW)
        return self._part(reach)

    def _part(self, reach: int) -> list[tuple[str, Part]]:
        return [(str(self._partition), Part(self._partition, reach))]

    def next_awake(self) -> datetime:
        return AT_ONCE

    def snapshot(self) -> int:
        return self._at or 0
