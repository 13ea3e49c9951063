"""The dataflow graph: logs → tasks, for the actions flow, the revisits flow, or both in one process."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Sequence
from functools import partial

import bytewax.operators as op
from bytewax.dataflow import Dataflow

from flows import stopping
from flows.corrections.history import History
from flows.dataflow.aside import Holding, LeftOut
from flows.dataflow.draining import DRAINED, RevisitsEnd, clear_drained
from flows.dataflow.lifecycle import Lifecycle
from flows.dataflow.plan import Plan
from flows.dataflow.progress import ProgressSink, reporting, tell_commit
from flows.dataflow.source import Ends, LogSource
from flows.dataflow.step import TaskLogic
from flows.dataflow.together import clear_stop, stop_together
from flows.decode import Decoder
from flows.errors import DataDirectoryError, TidemarkError, one_line
from flows.freed_memory import keep_freed_memory
from flows.log import Log
from flows.open_log import log_exists, open_log
from flows.outputs import ACTIONS, CORRECTIONS, DEADLETTERS, LATE, REVISITS
from flows.settings import Settings, load_settings
from flows.state.actions_task import ActionsTask
from flows.state.behind import Lanes
from flows.state.lock import shared_lock
from flows.state.revisits_task import RevisitsTask
from flows.state.task import Task, task_path
from flows.state.task_lock import is_wanted

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
    try:
        with reporting(plan.progress):
            return _build(flows, load_settings(), plan, follow)
    except TidemarkError as error:
        # Bytewax's command would show a traceback.
        if getattr(sys.modules["__main__"].__spec__, "name", "") != "bytewax.run":
            raise
        print(f"tidemark: {one_line(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)


def _build(flows: Sequence[str], settings: Settings, plan: Plan, follow: bool | None) -> Dataflow:
    if follow is None:
        follow = plan.follow
    with open_for(settings, ACTIONS) as log:
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
        stop_together(partial(open_for, settings, ACTIONS))
    keep_freed_memory()
    # What is loaded by now stays: the collector need not walk through it each time.
    gc.freeze()
    vocabulary = settings.load_vocabulary()
    lanes = Lanes.start(partial(tell_commit, plan.progress))
    left_out = LeftOut(plan.progress)
    dataflow = Dataflow("tidemark_" + "_".join(flows))
    for flow in flows:
        ends = None if follow else _ends(settings, flow, flows, until)
        decoder = (lambda partition: Decoder(vocabulary, (partition, partitions)).decode) if flow == ACTIONS else None
        tasks = FlowTasks(settings, flow, plan, follow, lanes, left_out)
        opened, begin = partial(open_for, settings, flow), partial(_begin, settings, flow)
        source = LogSource(
            opened, partitions, begin, plan, settings.batch_records, ends, decoder, tasks.busy, tasks.comes_back, tasks.wanted
        )
        parts = op.input(f"{flow}_log", dataflow, source)
        applied = op.stateful_batch(f"{flow}_tasks", parts, tasks.logic)
        told = op.map(f"{flow}_applied", applied, lambda item: item[1])
        op.output(f"{flow}_progress", told, ProgressSink(plan.progress))
    return dataflow


def open_for(settings: Settings, name: str) -> Log:
    """A log of a run: made where none is yet, but for that of the actions."""
    return open_log(settings, name, create=name != ACTIONS)


def _begin(settings: Settings, flow: str, log: Log, partition: int) -> int:
    """Where a consumer group has come to; what has no state yet begins at the beginning."""
    return log.group_positions(flow).get(partition, 0) if task_path(settings, flow, partition).exists() else 0


def _ends(settings: Settings, flow: str, flows: Sequence[str], until: tuple[int, ...]) -> Ends:
    """Where the bounded input of a flow ends."""
    if flow == ACTIONS:
        return lambda partition: until[partition]
    if ACTIONS not in flows:
        with open_for(settings, REVISITS) as log:
            fixed = log.end_positions()
        return lambda partition: fixed[partition]
    return RevisitsEnd(lambda: open_for(settings, ACTIONS), lambda: open_for(settings, REVISITS), until)


class FlowTasks:
    """The tasks of one flow that a process has.

    Parameters
    ----------
    settings : Settings
    flow : str
    plan : Plan
    follow : bool
    lanes : Lanes
    left_out : LeftOut
        Of all flows of the process.
    source : str, optional
        The log in which positions are told, if it isn't named as the flow is.
    """

    def __init__(
        self, settings: Settings, flow: str, plan: Plan, follow: bool, lanes: Lanes, left_out: LeftOut, source: str | None = None
    ) -> None:
        self._settings = settings
        self._flow = flow
        self._plan = plan
        self._follow = follow
        self._lanes = lanes
        self._left_out = left_out
        self._vocabulary = settings.load_vocabulary()
        # One of each log per process: its cache and connections are per thread anyway.
        self._logs: dict[str, Log] = {}
        self._opening = threading.Lock()
        self._tasks: dict[int, Task] = {}
        self._holdings: dict[int, Holding] = {}
        self._lifecycle = Lifecycle(lambda: self._log(source or flow), flow, DRAINED if flow == ACTIONS else None)

    def logic(self, _: None) -> TaskLogic:
        """A step's logic; Bytewax asks for it."""
        return TaskLogic(self._flow, self._hold, self._lifecycle, self._plan.progress)

    def busy(self, partition: int) -> bool:
        """Whether a task is behind with its commits; one of another process is not known, and never waited for."""
        task = self._tasks.get(partition)
        return task is not None and task.busy()

    def comes_back(self, partition: int) -> bool:
        """Whether a task is away for a while; one of another process is not known, and waited for by its own when its input has ended."""
        holding = self._holdings.get(partition)
        return holding is not None and holding.comes_back

    def wanted(self, partition: int) -> bool:
        """Whether somebody wants to have a task, of whatever process."""
        return is_wanted(task_path(self._settings, self._flow, partition))

    def _hold(self, partition: int) -> Holding:
        made, path = partial(self._make, partition), task_path(self._settings, self._flow, partition)
        self._holdings[partition] = holding = Holding(
            f"{self._flow}/{partition}", partition, made, self._lifecycle, self._left_out, path, self._follow
        )
        return holding

    def _make(self, partition: int) -> Task:
        self._tasks.pop(partition, None)
        self._tasks[partition] = task = self._opened(partition)
        return task

    def _opened(self, partition: int) -> Task:
        if self._flow == REVISITS:
            return RevisitsTask(self._settings, partition, self._vocabulary, self._log(REVISITS), self._lanes)
        outputs = {name: self._log(name) for name in (REVISITS, LATE, DEADLETTERS)}
        history = History.read(self._log(CORRECTIONS), partition) if log_exists(self._settings, CORRECTIONS) else History()
        return ActionsTask(self._settings, partition, self._vocabulary, self._log(ACTIONS), outputs, self._lanes, history=history)

    def _log(self, name: str) -> Log:
        with self._opening:
            if name not in self._logs:
                self._logs[name] = open_for(self._settings, name)
            return self._logs[name]
