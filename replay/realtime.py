"""How many times as fast as it happened something was replayed: the event time that was gone through, by the clock."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress

from flows.decode import Decoder
from flows.errors import TidemarkError
from flows.log import Log
from flows.outputs import ACTIONS
from flows.settings import Settings
from flows.state.task import task_path
from flows.state.view import TaskView
from flows.vocabulary import Vocabulary
from replay.tasks import TaskName

_LOOK = 1_000


def first_time(settings: Settings, vocabulary: Vocabulary, log: Log, task: TaskName) -> int | None:
    """The event time at which a task's log begins, ms: the least of its first records; None if they have none.

    Parameters
    ----------
    log : Log
        The task's input, with its archive.
    """
    batches = log.read(task.partition, log.start_positions()[task.partition], _LOOK)
    if not batches:
        return None
    if task.flow == ACTIONS:
        columns = Decoder(vocabulary, (task.partition, settings.partitions)).decode(*(batch.records for batch in batches))
        times = columns.event_time[~columns.bad].tolist()
    else:
        # Where a correction begins and ends there is a record of no revisit.
        times = [time for batch in batches for time in batch.records.column("time").to_pylist() if time > 0]
    return min(times, default=None)


def covered(settings: Settings, began: Mapping[TaskName, int | None]) -> int:
    """How much event time tasks have gone through up to where their states are now, ms; of the one where it is most.

    Parameters
    ----------
    began : mapping of TaskName to int or None
        The event time at which each began, None where it had nothing to go through.
    """
    longest = 0
    for task, first in began.items():
        # One that a run has set aside has gone through nothing.
        with suppress(TidemarkError), closing(TaskView(task_path(settings, task.flow, task.partition))) as view:
            if first is not None and view.meta is not None and view.meta.watermark is not None:
                longest = max(longest, view.meta.watermark - first)
    return longest


def realtime(event_ms: int, seconds: float) -> float:
    """Event time over wall time; 0 where either is none."""
    return event_ms / 1000 / seconds if seconds else 0.0
