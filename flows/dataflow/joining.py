"""The dataflow of examples: each partition's SERVED and ACTIONS into a task of its own, nothing in between."""

from __future__ import annotations

import gc
from functools import partial

import bytewax.operators as op
from bytewax.dataflow import Dataflow

from flows import stopping
from flows.dataflow.aside import LeftOut
from flows.dataflow.graph import FlowTasks, open_for
from flows.dataflow.looking import Looked, LookingSource
from flows.dataflow.plan import Plan
from flows.dataflow.progress import ProgressSink, reporting, tell_commit
from flows.errors import DataDirectoryError
from flows.examples.record import EXAMPLES
from flows.examples.task import ExamplesTask
from flows.freed_memory import keep_freed_memory
from flows.outputs import ACTIONS, SERVED
from flows.settings import Settings, load_settings
from flows.state.behind import Lanes
from flows.state.task import Task


def build_examples(follow: bool | None = None) -> Dataflow:
    """The dataflow of one worker process.

    Parameters
    ----------
    follow : bool, optional
        Go on for ever; by default what the environment's plan says.
    """
    plan = Plan.from_environment()
    with reporting(plan.progress):
        return _build(load_settings(), plan, plan.follow if follow is None else follow)


def _build(settings: Settings, plan: Plan, follow: bool) -> Dataflow:
    stopping.listen()
    stopping.stop_without_reader(plan.progress)
    keep_freed_memory()
    gc.freeze()
    left_out = LeftOut(plan.progress)
    tasks = ExampleTasks(settings, plan, follow, Lanes.start(partial(tell_commit, plan.progress)), left_out)
    dataflow = Dataflow("tidemark_examples")
    looked = Looked(tasks.reach, follow, tasks.busy, tasks.comes_back, tasks.wanted)
    parts = op.input("examples_logs", dataflow, LookingSource(settings.partitions, plan, looked))
    applied = op.stateful_batch("examples_tasks", parts, tasks.logic)
    told = op.map("examples_applied", applied, lambda item: item[1])
    op.output("examples_progress", told, ProgressSink(plan.progress))
    return dataflow


class ExampleTasks(FlowTasks):
    """The tasks of examples that a process has."""

    def __init__(self, settings: Settings, plan: Plan, follow: bool, lanes: Lanes, left_out: LeftOut) -> None:
        super().__init__(settings, EXAMPLES, plan, follow, lanes, left_out, source=ACTIONS)
        with open_for(settings, ACTIONS) as actions, open_for(settings, SERVED) as served:
            if {actions.partitions, served.partitions} != {settings.partitions}:
                raise DataDirectoryError(
                    f"{settings.data} has {actions.partitions} partitions of '{ACTIONS}' and {served.partitions} of '{SERVED}', the settings say "
                    f"{settings.partitions}; set partitions = {actions.partitions}"
                )
            # Where a bounded run ends; what a process sees first is as good as what another does, for partitions are judged apart.
            until = plan.until or tuple(actions.end_positions())
            self._ends = None if follow else list(zip(until, served.end_positions(), strict=True))

    def reach(self, partition: int) -> int:
        """The sum of the ends of a partition's logs."""
        if self._ends is not None:
            return sum(self._ends[partition])
        return self._log(ACTIONS).end_position(partition) + self._log(SERVED).end_position(partition)

    def _opened(self, partition: int) -> Task:
        ends = self._ends[partition] if self._ends is not None else None
        logs = (self._log(ACTIONS), self._log(SERVED), self._log(EXAMPLES))
        return ExamplesTask(self._settings, partition, self._vocabulary, *logs, self._lanes, ends=ends)
