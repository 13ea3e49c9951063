"""The dataflow that archives logs: each log's partitions into segments of their own, nothing in between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

import bytewax.operators as op
from bytewax.dataflow import Dataflow

from flows import stopping
from flows.archive.names import ARCHIVER
from flows.archive.task import ArchiverTask, begin
from flows.dataflow.aside import Holding, LeftOut
from flows.dataflow.lifecycle import Lifecycle
from flows.dataflow.plan import Plan
from flows.dataflow.progress import ProgressSink, reporting
from flows.dataflow.source import LogSource
from flows.dataflow.step import TaskLogic
from flows.freed_memory import return_freed_memory
from flows.log import Log
from flows.open_log import open_live_log
from flows.settings import Settings, load_settings

# Records of an item; what a process holds of a partition is about this and a row group.
READ_RECORDS = 65_536
# Its files say what there was up to minutes ago: each of up to 64 partitions, asked more often than this, would be a load on its own.
_GATHER_S = 0.5


def build_archiver(logs: Sequence[str], follow: bool | None = None, max_delay_s: float | None = None, leave_gap: bool = False) -> Dataflow:
    """The dataflow of one worker process.

    Parameters
    ----------
    logs : sequence of str
        Names of logs that are there.
    follow : bool, optional
        Go on for ever; by default what the environment's plan says.
    max_delay_s : float, optional
        Publish a segment that has been open for so long.
    leave_gap : bool
        Go on beyond what a log has lost.
    """
    plan = Plan.from_environment()
    with reporting(plan.progress):
        return _build(logs, load_settings(), plan, plan.follow if follow is None else follow, max_delay_s, leave_gap)


def _build(logs: Sequence[str], settings: Settings, plan: Plan, follow: bool, max_delay_s: float | None, leave_gap: bool) -> Dataflow:
    stopping.listen()
    return_freed_memory()
    stopping.stop_without_reader(plan.progress)
    dataflow = Dataflow("tidemark_archiver")
    for name in logs:
        with open_live_log(settings, name) as log:
            partitions, until = log.partitions, tuple(log.end_positions())
        source = LogSource(
            partial(open_live_log, settings, name),
            partitions,
            partial(begin, settings.archives, leave_gap=leave_gap),
            plan,
            READ_RECORDS,
            None if follow else until.__getitem__,
            # What is read needs no decoding, but it is read beside the writing.
            lambda partition: lambda *records: None,
            gather_s=_GATHER_S if follow else None,
        )
        parts = op.input(f"{name}_log", dataflow, source)
        applied = op.stateful_batch(f"{name}_archiver", parts, _logic(settings, name, partitions, plan, max_delay_s))
        told = op.map(f"{name}_archived", applied, lambda item: item[1])
        op.output(f"{name}_progress", told, ProgressSink(plan.progress))
    return dataflow


def _logic(settings: Settings, name: str, partitions: int, plan: Plan, max_delay_s: float | None) -> Callable[[None], TaskLogic]:
    opened: list[Log] = []
    opening = threading.Lock()

    def log() -> Log:
        with opening:
            if not opened:
                opened.append(open_live_log(settings, name))
            return opened[0]

    lifecycle, left_out = Lifecycle(log, ARCHIVER, None), LeftOut(plan.progress)

    def hold(partition: int) -> Holding:
        make = partial(ArchiverTask, settings.archives, name, partition, partitions, max_delay_s)
        return Holding(f"archive of {name}/{partition}", partition, make, lifecycle, left_out)

    return lambda state: TaskLogic(name, hold, lifecycle, plan.progress)
