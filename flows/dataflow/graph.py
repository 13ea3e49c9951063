"""The dataflow graph: logs → tasks, for the actions flow, the revisits flow, or both in one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import bytewax.operators as op
from bytewax.dataflow import Dataflow

from flows.dataflow import stopping
from flows.dataflow.plan import Plan
from flows.dataflow.progress import ProgressSink, reporting
from flows.dataflow.source import Ends, LogSource
from flows.dataflow.step import TaskLogic
from flows.decode import Decoder
from flows.errors import DataDirectoryError
from flows.log import LocalLog, Log
from flows.outputs import ACTIONS, DEADLETTERS, LATE, REVISITS
from flows.settings import Settings, load_settings
from flows.state.actions_task import ActionsTask
from flows.state.revisits_task import RevisitsTask
from flows.state.task import Task

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
    if settings.partitions != partitions:
        raise DataDirectoryError(
            f"{settings.data} has {partitions} partitions, the settings say {settings.partitions}; set partitions = {partitions}"
        )
    stopping.listen()
    stopping.stop_without_reader(plan.progress)
    vocabulary = settings.load_vocabulary()
    dataflow = Dataflow("tidemark_" + "_".join(flows))
    for flow in flows:
        ends = None if follow else _ends(settings, flow, flows, until)
        decoder = (lambda: Decoder(vocabulary).decode) if flow == ACTIONS else None
        source = LogSource(lambda flow=flow: _open(settings, flow), partitions, flow, plan, settings.batch_records, ends, decoder)  # type: ignore[misc]
        parts = op.input(f"{flow}_log", dataflow, source)
        applied = op.stateful_batch(f"{flow}_tasks", parts, _logic(settings, flow, plan))
        told = op.map(f"{flow}_applied", applied, lambda item: item[1])
        op.output(f"{flow}_progress", told, ProgressSink(plan.progress))
    return dataflow


def _open(settings: Settings, name: str) -> LocalLog:
    return LocalLog.open(settings.logs, name, settings.partitions, create=name != ACTIONS)


def _ends(settings: Settings, flow: str, flows: Sequence[str], until: tuple[int, ...]) -> Ends:
    """Where the bounded input of a flow ends."""
    if flow == ACTIONS:
        return lambda partition: until[partition]
    if ACTIONS not in flows:
        with _open(settings, REVISITS) as log:
            fixed = log.end_positions()
        return lambda partition: fixed[partition]
    return _RevisitsEnd(settings, until)


class _RevisitsEnd:
    """The end of REVISITS: where it ends once every actions task has applied its input and emptied its outbox."""

    def __init__(self, settings: Settings, until: tuple[int, ...]) -> None:
        self._settings = settings
        self._until = until
        self._ends: list[int] | None = None

    def __call__(self, partition: int) -> int | None:
        if self._ends is None:
            with _open(self._settings, ACTIONS) as actions:
                told = actions.group_positions(ACTIONS)
            if all(told.get(p, 0) >= end for p, end in enumerate(self._until)) or stopping.requested():
                with _open(self._settings, REVISITS) as revisits:
                    self._ends = revisits.end_positions()
        return None if self._ends is None else self._ends[partition]


def _logic(settings: Settings, flow: str, plan: Plan) -> Callable[[None], TaskLogic]:
    vocabulary = settings.load_vocabulary()
    # One handle per log and process: its cache and connections are per thread anyway.
    logs: dict[str, Log] = {}

    def log(name: str) -> Log:
        if name not in logs:
            logs[name] = _open(settings, name)
        return logs[name]

    def make(partition: int) -> Task:
        if flow == REVISITS:
            return RevisitsTask(settings, partition, vocabulary, log(REVISITS))
        return ActionsTask(settings, partition, vocabulary, log(ACTIONS), {name: log(name) for name in (REVISITS, LATE, DEADLETTERS)})

    return lambda state: TaskLogic(flow, make, log(flow), flow, plan.progress)
