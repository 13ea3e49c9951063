"""Drives corrections in this process: a data directory, what is asked of it, and the stream as the oracle then sees it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from flows.log import Log
from flows.open_log import open_log
from flows.outputs import ACTIONS, REVISITS
from flows.settings import Settings
from replay.place import Place
from replay.rebuild.difference import Difference
from replay.rebuild.plan import Workplace
from replay.rebuild.rebuild import Rebuild
from replay.rebuild.request import Request, plan
from replay.rebuild.switch import Switch
from replay.tasks import TaskName
from tests import agreement, driving
from tests.oracles.decide import decide


@dataclass
class Site:
    """A data directory whose log holds `events`, by and by."""

    settings: Settings
    events: pd.DataFrame
    rng: np.random.Generator
    written: int = 0
    checked: int = 0
    lines: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, directory: Path, events: pd.DataFrame, seed: int, partitions: int = 2, most: int = 60) -> Site:
        rng = np.random.default_rng(seed)
        settings = Settings(
            data=directory / "data", partitions=partitions, batch_records=max(1, most), anchor_records=int(rng.integers(1, 4 * most))
        )
        return cls(settings, events.reset_index(drop=True), rng)

    def write(self, share: float) -> None:
        """Append up to a share of the stream, and run the flows over it, killed now and then."""
        until = int(len(self.events) * share)
        driving.write(self.settings, self.events.iloc[self.written : until], self.rng)
        self.written = until
        self.run()

    def run(self) -> dict[str, str]:
        return driving.apply(self.settings, self.rng, 0.1, 60)

    @property
    def known(self) -> pd.DataFrame:
        return self.events.iloc[: self.written]

    def check(self, corrected: pd.DataFrame, times: list[int], directory: Path) -> None:
        """What is exported at some times is what the oracle makes of a stream."""
        decided = decide(corrected.iloc[: self.written], partitions=self.settings.partitions)
        for time in times:
            # A pin may have forgotten revisits of more than 90 days ago that no longer count: it stays known, or doesn't become known.
            agreement.check(driving.exported(self.settings, time, directory), decided, time, quiet_pins=False)

    def rebuild(self, request: Request, between: Callable[[], None] = lambda: None) -> Difference:
        """Plan, build, compare, switch; then pins apply what went out."""
        with ExitStack() as stack:
            logs: dict[str, Log] = {name: stack.enter_context(open_log(self.settings, name, create=True)) for name in (ACTIONS, REVISITS)}
            vocabulary, workplace, place = (
                self.settings.load_vocabulary(),
                Workplace.of(self.settings),
                Place(self.settings.checkpoint_place),
            )
            planned, corrections, _ = plan(self.settings, vocabulary, logs, request, lambda n: None)
            if not planned.parts:
                return Difference()
            workplace.begin(planned, corrections)
            rebuild = Rebuild(self.settings, vocabulary, logs, workplace, planned)
            rebuild.build(place, lambda n: None)
            between()
            difference = rebuild.compare(lambda n: None)
            Switch(self.settings, vocabulary, rebuild, workplace).make(lambda n: None)
        self.run()
        return difference

    def tasks(self) -> tuple[TaskName, ...]:
        return tuple(TaskName(ACTIONS, partition) for partition in range(self.settings.partitions))


def excluded(events: pd.DataFrame, mask: np.ndarray) -> pd.DataFrame:
    """A stream some of whose records don't count."""
    return events.assign(bad=events["bad"] | mask)


def excluded_as_it_was(events: pd.DataFrame, mask: np.ndarray, partitions: int, until: int) -> pd.DataFrame:
    """The same, where the watermark moves as it did."""
    accepted = (decide(events.iloc[:until], partitions=partitions)["status"].reindex(events.index) == "accepted").to_numpy()
    keys = set(zip(events["user_id"][mask], events["event_id"][mask], strict=True))
    # Others of the same event, which may become accepted, move it as they did too.
    same = np.array([key in keys for key in zip(events["user_id"], events["event_id"], strict=True)]) & ~events["bad"].to_numpy()
    same &= np.arange(len(events)) < until
    clock = pd.array(np.where(accepted, events["event_time"], -(2**62)), dtype="Int64")
    clock[~same] = pd.NA
    return excluded(events, mask).assign(clock=clock)
