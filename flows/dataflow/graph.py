"""The dataflow graph: logs → tasks, for the actions flow, the revisits flow, or both in one process."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Sequence
from functools import partial

import bytewax.operators as op
from bytewax.dataflow import Dataflow

from flows import stopping
from flows.corrections.history import History
from flows.dataflow.draining import DRAINED, RevisitsEnd, clear_drained
from flows.dataflow.lifecycle import Lifecycle
from flows.dataflow.memory import keep_freed_memory
from flows.dataflow.plan import Plan
from flows.dataflow.progress import ProgressSink, reporting
from flows.dataflow.source import Ends, LogSource
from flows.dataflow.step import TaskLogic
from flows.dataflow.together import clear_stop, stop_together
from flows.decode import Decoder
from flows.errors import DataDirectoryError
from flows.log import Log
from flows.open_log import log_exists, open_log
from flows.outputs import ACTIONS, CORRECTIONS, DEADLETTERS, LATE, REVISITS
from flows.settings import Settings, load_settings
from flows.state.actions_task import ActionsTask
from flows.state.behind import Lanes
from flows.state.lock import shared_lock
from flows.state.revisits_task import RevisitsTask
from flows.state.task import Task, task_path

FLOWS = (ACTIONS, REVISITS)


def build(flows: Sequence[str], follow: bool | None = None) -> Dataflow:
    """The dataflow of one worker process.

    Parameters
    ----------
    flows : sequence of str
        "actions", "revisits" or both.
    follow : bool, optional
        Go on for ever; by default what the environment's plan says.
    """
    plan = Plan.from_environment()
    with reporting(plan.progress):
        return _build(flows, load_settings(), plan, follow)


def _build(flows: Sequence[str], settings: Settings, plan: Plan, follow: bool | None) -> Dataflow:
    if follow is None:
        follow = plan.follow
    with _open(settings, ACTIONS) as log:
        partitions = log.partitions
        until = plan.until or tuple(log.end_positions())
        if plan.progress is None:
            # Nobody has locked the data directory for this process and those of its cluster.
            with shared_lock(settings.state) as first:
                # Whoever starts several processes that know nothing of each other has cleared it before the first.
                if first and plan.until is None and not follow:
                    clear_drained(log)
                if first:
                    clear_stop(log)
    if settings.partitions != partitions:
        raise DataDirectoryError(
            f"{settings.data} has {partitions} partitions, the settings say {settings.partitions}; set partitions = {partitions}"
        )
    stopping.listen()
    stopping.stop_without_reader(plan.progress)
    if plan.progress is None:
        stop_together(partial(_open, settings, ACTIONS))
    keep_freed_memory()
    # What is loaded by now stays: the collector need not walk through it each time.
    gc.freeze()
    vocabulary = settings.load_vocabulary()
    lanes = Lanes.start()
    dataflow = Dataflow("tidemark_" + "_".join(flows))
    for flow in flows:
        ends = None if follow else _ends(settings, flow, flows, until)
        decoder = (lambda partition: Decoder(vocabulary, (partition, partitions)).decode) if flow == ACTIONS else None
        tasks: dict[int, Task] = {}
        opened, begin, busy = partial(_open, settings, flow), partial(_begin, settings, flow), partial(_busy, tasks)
        source = LogSource(opened, partitions, begin, plan, settings.batch_records, ends, decoder, busy)
        parts = op.input(f"{flow}_log", dataflow, source)
        applied = op.stateful_batch(f"{flow}_tasks", parts, _logic(settings, flow, plan, lanes, tasks))
        told = op.map(f"{flow}_applied", applied, lambda item: item[1])
        op.output(f"{flow}_progress", told, ProgressSink(plan.progress))
    return dataflow


def _open(settings: Settings, name: str) -> Log:
    return open_log(settings, name, create=name != ACTIONS)


def _begin(settings: Settings, flow: str, log: Log, partition: int) -> int:
    """Where a consumer group has come to; what has no state yet begins at the beginning."""
    return log.group_positions(flow).get(partition, 0) if task_path(settings, flow, partition).exists() else 0


def _ends(settings: Settings, flow: str, flows: Sequence[str], until: tuple[int, ...]) -> Ends:
    """Where the bounded input of a flow ends."""
    if flow == ACTIONS:
        return lambda partition: until[partition]
    if ACTIONS not in flows:
        with _open(settings, REVISITS) as log:
            fixed = log.end_positions()
        return lambda partition: fixed[partition]
    return RevisitsEnd(lambda: _open(settings, ACTIONS), lambda: _open(settings, REVISITS), until)


def _busy(tasks: dict[int, Task], partition: int) -> bool:
    """Whether a task is behind with its commits; one of another process is not known, and never waited for."""
    task = tasks.get(partition)
    return task is not None and task.busy()


def _logic(settings: Settings, flow: str, plan: Plan, lanes: Lanes, tasks: dict[int, Task]) -> Callable[[None], TaskLogic]:
    vocabulary = settings.load_vocabulary()
    # One of each log per process: its cache and connections are per thread anyway.
    logs: dict[str, Log] = {}
    opening = threading.Lock()

    def log(name: str) -> Log:
        with opening:
            if name not in logs:
                logs[name] = _open(settings, name)
            return logs[name]

    def make(partition: int) -> Task:
        tasks[partition] = task = opened(partition)
        return task

    def opened(partition: int) -> Task:
        if flow == REVISITS:
            return RevisitsTask(settings, partition, vocabulary, log(REVISITS), lanes)
        outputs = {name: log(name) for name in (REVISITS, LATE, DEADLETTERS)}
        history = History.read(log(CORRECTIONS), partition) if log_exists(settings, CORRECTIONS) else History()
        return ActionsTask(settings, partition, vocabulary, log(ACTIONS), outputs, lanes, history=history)

    lifecycle = Lifecycle(lambda: log(flow), flow, DRAINED if flow == ACTIONS else None)
    return lambda state: TaskLogic(flow, make, lifecycle, plan.progress)
