"""A data directory with its logs open, to drive tasks by hand."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from flows.log import LocalLog
from flows.outputs import ACTIONS, DEADLETTERS, LATE, REVISITS
from flows.settings import Settings
from flows.state.actions_task import ActionsTask
from flows.state.behind import Lanes
from flows.state.revisits_task import RevisitsTask
from flows.state.task import Task
from tests import driving


class House:
    """The logs hold the stream `events`; tasks are opened and closed by the test."""

    def __init__(
        self, path: Path, events: pd.DataFrame, partitions: int = 1, seed: int = 0, lanes: Lanes | None = None, **settings: int
    ) -> None:
        self.lanes = lanes
        self.settings = Settings(data=path, partitions=partitions, **settings)
        self.vocabulary = self.settings.load_vocabulary()
        driving.write(self.settings, events, np.random.default_rng(seed))
        self.logs: dict[str, LocalLog] = {name: driving.open_log(self.settings, name) for name in (ACTIONS, REVISITS, LATE, DEADLETTERS)}

    def open(self, flow: str = ACTIONS, partition: int = 0, **settings: int) -> Task:
        changed = Settings(**{**self.settings.__dict__, **settings})
        if flow == ACTIONS:
            outputs = {name: self.logs[name] for name in (REVISITS, LATE, DEADLETTERS)}
            return ActionsTask(changed, partition, self.vocabulary, self.logs[ACTIONS], outputs, self.lanes)
        return RevisitsTask(changed, partition, self.vocabulary, self.logs[REVISITS], self.lanes)

    def feed(self, task: Task, sizes: Sequence[int] = ()) -> Task:
        """Apply the rest of the task's log, in commits of these sizes, the last one again and again."""
        end = task.source.end_position(task.partition)
        left = list(sizes) or [end]
        while task.reached < end:
            size = left.pop(0) if len(left) > 1 else left[0]
            task.apply(task.source.read(task.partition, task.reached, max(1, size)))
        return task

    def finish(self, sizes: Sequence[int] = ()) -> dict[str, str]:
        """Run everything to the end, closed; digests by task."""
        digests = {}
        for flow in (ACTIONS, REVISITS):
            for partition in range(self.settings.partitions):
                task = self.feed(self.open(flow, partition), sizes)
                digests[f"{flow}-{partition}"] = task.digest()
                task.close()
        return digests

    def wipe_state(self) -> None:
        shutil.rmtree(self.settings.state)

    def close(self) -> None:
        for log in self.logs.values():
            log.close()
