"""Corrections: what was served before one is recomputed as it was served then, and a training row follows those that are in force now."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from flows.corrections.history import History
from flows.outputs import ACTIONS, DEADLETTERS, LATE, REVISITS
from flows.reading import FeatureReader
from flows.state.actions_task import ActionsTask
from flows.state.revisits_task import RevisitsTask
from flows.state.task import Task
from replay.rebuild.request import Request
from tests import driving
from tests.oracles.decide import decide
from tests.point_in_time.test_engine import Seen, check, queries_of
from tests.replay.correcting import Site, excluded
from tests.strategies import adversarial


@dataclass
class Watched(Site):
    """A site whose features are read again and again while its tasks move on by a few records each."""

    seen: Seen = field(default_factory=Seen)

    def run(self) -> dict[str, str]:
        moved = True
        while moved:
            moved = False
            for flow in (ACTIONS, REVISITS):
                for partition in self.rng.permutation(self.settings.partitions).tolist():
                    moved |= self._step(flow, partition)
            with FeatureReader(self.settings) as reader:
                self.seen.look(reader, self.events, self.rng)
        return super().run()

    def _step(self, flow: str, partition: int) -> bool:
        outputs = {name: driving.open_log(self.settings, name) for name in (REVISITS, LATE, DEADLETTERS)}
        with driving.open_log(self.settings, flow) as log:
            vocabulary = self.settings.load_vocabulary()
            task: Task = (
                ActionsTask(self.settings, partition, vocabulary, log, outputs)
                if flow == ACTIONS
                else RevisitsTask(self.settings, partition, vocabulary, log)
            )
            end = log.end_position(partition)
            moved = task.reached < end
            if moved:
                task.apply(log.read(partition, task.reached, int(self.rng.integers(1, 12 if flow == REVISITS else 60))))
            task.close()
        for output in outputs.values():
            output.close()
        return moved


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_reads_by_position_across_corrections(seed: int, tmp_path: Path) -> None:
    check_seed(seed, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 23))
def test_reads_by_position_across_corrections_by_many_seeds(seed: int, tmp_path: Path) -> None:
    check_seed(seed, tmp_path)


def check_seed(seed: int, tmp_path: Path) -> None:
    site = Watched.of(tmp_path, adversarial(seed, 200, partitions=2), seed)
    assert isinstance(site, Watched)
    corrected = site.events
    for share, column, value in ((0.4, "action", "save"), (0.6, "surface", "own_profile"), (0.8, "action", "grid_click")):
        site.write(share)
        before = corrected
        time = int(site.known["event_time"].quantile(0.6))
        mask = ((site.events[column] == value) & (site.events["event_time"] > time)).to_numpy() & (
            np.arange(len(site.events)) < site.written
        )
        site.rebuild(Request(site.tasks(), exclude=f"{column} == '{value}' and event_time > {time}"))
        corrected = excluded(corrected, mask)
    newest = {History.of(site.settings, p).generation for p in range(2)}
    if len(newest) == 1:
        site.rebuild(Request(site.tasks(), undo=tuple(newest)))
        corrected = before
    site.write(1.0)
    part = [m for m, p in enumerate(site.seen.positions) if p.corrected_to.max() > 0]
    assert 0 < len(part) < len(site.seen.positions)
    site.seen.check(site.settings, pins_with_zeros=False)
    check(site.settings, decide(corrected, partitions=2), queries_of(corrected, site.rng, 40))
