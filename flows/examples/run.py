"""The job of the examples flow: worker processes that join what both logs have, or on and on; and where its tasks stand."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flows.dataflow.plan import Plan
from flows.directories import sync, translated
from flows.errors import DataDirectoryError, LogError, SettingsError, StateError
from flows.examples.heartbeats import beat
from flows.examples.record import EXAMPLES
from flows.open_log import log_exists, open_log
from flows.outputs import ACTIONS, SERVED
from flows.run.main_job import Display, hear, left_out
from flows.run.metrics import Metrics
from flows.run.standing import Standing, inputs
from flows.run.stopping import stopping_on_signals
from flows.run.warm_up import warm_up
from flows.run.workers import Workers
from flows.settings import Settings
from flows.state.handover import task_taken
from flows.state.lock import run_lock
from flows.told_positions import gone, tell_none, told_positions

FLOW = "examples/flow"


@dataclass(frozen=True)
class Stands:
    """Where a task stands.

    Attributes
    ----------
    position, end : int
        In ACTIONS, and where that ends.
    served_position, served_end : int
        In SERVED.
    watermark : int or None
        Greatest accepted event time, ms.
    counts : dict of str to int
        Records by what became of them.
    problem : str or None
        Why its state can't be read; then it stands nowhere.
    """

    partition: int
    position: int
    end: int
    served_position: int
    served_end: int
    watermark: int | None
    counts: dict[str, int]
    problem: str | None = None

    @property
    def waits_for(self) -> str | None:
        """The log that has to come further before what lies in the other can be joined; None: there is nothing, or it can be."""
        behind, served_behind = self.position < self.end, self.served_position < self.served_end
        return None if behind == served_behind or self.problem is not None else SERVED if behind else ACTIONS


@dataclass(frozen=True)
class Made:
    """What a run has made.

    Attributes
    ----------
    records : int
        Of both logs, joined.
    examples, positives, finals : int
        Records of EXAMPLES put out.
    waiting : int
        Offsets of both logs that wait for the other log's time to pass.
    seconds : float
        From the first word of a worker to the end.
    stopped : bool
        Ended by a signal.
    """

    records: int
    examples: int
    positives: int
    finals: int
    waiting: int
    seconds: float
    workers: int
    stopped: bool


def stands(settings: Settings) -> list[Stands]:
    """Where each partition's task stands; at the beginning where there is none."""
    problems: dict[str, str] = {}
    standing = Standing(settings, (EXAMPLES,), lambda what, error: problems.update({what: str(error)}), patient=True)
    try:
        metas = standing.look()
    finally:
        standing.close()
    # A log that can't be read is no damage of a task.
    for name in inputs(EXAMPLES):
        if name in problems:
            raise LogError(problems[name])
    for (_, partition), why in standing.aside.items():
        problems.setdefault(f"{EXAMPLES}/{partition}", why)
    for (_, partition), reached in told_positions(settings, {EXAMPLES: ACTIONS}).items():
        if reached and (EXAMPLES, partition) not in metas:
            problems.setdefault(f"{EXAMPLES}/{partition}", gone(settings, EXAMPLES, partition, reached))
    out = []
    for partition in range(settings.partitions):
        ends = [standing.ends.get(name, [0] * settings.partitions)[partition] for name in (ACTIONS, SERVED)]
        meta = metas.get((EXAMPLES, partition))
        served = meta.inputs[SERVED][0] if meta is not None and meta.inputs else 0
        position, watermark, counts = (meta.position, meta.watermark, meta.counts) if meta is not None else (0, None, {})
        out.append(Stands(partition, position, ends[0], served, ends[1], watermark, counts, problems.get(f"{EXAMPLES}/{partition}")))
    return out


def run_examples(
    settings: Settings, follow: bool, workers: int, display: Display, ended: bool = False, metrics: Metrics | None = None
) -> Made:
    """Join what was served, seen and done, in worker processes.

    Parameters
    ----------
    follow : bool
        Until stopped by SIGTERM or Ctrl-C; otherwise what both logs have now.
    workers : int
        Processes; each owns the partitions p with p mod workers = its number.
    ended : bool
        Nothing more is served that was there before the newest action: say so in SERVED, by heartbeats.
    metrics : Metrics, optional
        Told what workers tell.

    Raises
    ------
    DataDirectoryError
        There is no log of what was served.
    StateError
        All is done but what tasks had to do whose state is damaged: they were left out.
    """
    if not 1 <= workers <= settings.partitions:
        raise SettingsError(
            f"{workers} workers for {settings.partitions} partitions: give 1 to {settings.partitions}, for a worker owns whole partitions"
        )
    if not follow and not log_exists(settings, SERVED):
        raise DataDirectoryError(
            f"nothing has been served from {settings.data}: there is no log '{SERVED}' in {settings.logs}; `tidemark serve` makes one, or follow it"
        )
    before = _totals(settings)
    with run_lock(settings.state / EXAMPLES, f"the examples of {settings.data}") as lock, open_log(settings, ACTIONS) as actions:
        warm_up(display.note)
        if ended:
            with open_log(settings, SERVED, create=True) as served:
                beat(actions, served, [0] * settings.partitions)
        started = time.monotonic()
        until = tuple(actions.end_positions())
        standing = stands(settings)
        display.begin(
            EXAMPLES,
            sum(one.position + one.served_position for one in standing),
            None if follow else sum(until) + sum(one.served_end for one in standing),
        )
        records = 0
        reached = {one.partition: one.position + one.served_position for one in standing}
        first_word: list[float] = []
        aside: dict[str, str] = {}

        def listen(message: dict[str, Any]) -> None:
            nonlocal records
            if not first_word:
                first_word.append(time.monotonic())
            if "line" in message:
                hear(message, aside, metrics)
                (display.warn if follow else display.note)(message["line"])
                return
            if "commit_s" in message:
                if metrics is not None:
                    metrics.commit(message, time.time())
                return
            if metrics is not None:
                metrics.applied(message)
            records += message["records"]
            partition = message["partition"]
            display.advance(EXAMPLES, max(0, message["position"] - reached[partition]), message["watermark"])
            reached[partition] = max(reached[partition], message["position"])

        with stopping_on_signals() as stopping:
            running = Workers(settings, FLOW, Plan(follow=follow, workers=workers, until=until), lock)
            stopping.begin(running)
            running.follow(listen, lambda: None)
        ended_at = time.monotonic()
    if aside:
        raise StateError(left_out(aside))
    after = _totals(settings)
    made = {name: after[name] - before[name] for name in after}
    waiting = sum(one.end - one.position + one.served_end - one.served_position for one in stands(settings) if one.problem is None)
    seconds = ended_at - (first_word or [started])[0]
    return Made(records, made["examples"], made["positives"], made["finals"], waiting, seconds, workers, running.stopping)


def put_away(settings: Settings, partitions: Sequence[int]) -> list[str]:
    """Have tasks made anew from the logs; returns the names of those that had state, which lies beside from now on.

    Raises
    ------
    LockedError
        Another command is at a task, or a run doesn't let go of it.
    DataDirectoryError
        There is no such partition; or the logs don't go back to their beginning, so that nothing could be made anew.
    """
    for partition in partitions:
        if partition >= settings.partitions:
            raise SettingsError(f"there is no partition {partition}; partitions are 0 to {settings.partitions - 1}")
    for name in (ACTIONS, SERVED):
        if not log_exists(settings, name):
            raise DataDirectoryError(f"there is no log '{name}' in {settings.logs}: without it, nothing can be made anew")
        with open_log(settings, name, read_only=True) as log:
            starts = log.start_positions()
        if gone := [partition for partition in partitions if starts[partition]]:
            raise DataDirectoryError(
                f"log '{name}', partition {gone[0]}, begins at {starts[gone[0]]}: what it has lost would be missing from examples; bring back its "
                "archive first (`tidemark archive status`)"
            )
    done = []
    for partition in partitions:
        with task_taken(settings, EXAMPLES, partition) as path:
            if path.exists():
                old = path.with_name(path.name + ".replaced")
                with translated(f"state {path}: can't be put away"):
                    shutil.rmtree(old, ignore_errors=True)
                    path.rename(old)
                    sync(path.parent)
                done.append(f"{EXAMPLES}/{partition}")
            with open_log(settings, ACTIONS) as log:
                tell_none(settings, log, EXAMPLES, partition)
    return done


def _totals(settings: Settings) -> dict[str, int]:
    counts = [one.counts for one in stands(settings)]
    return {
        "examples": sum(of.get("examples", 0) for of in counts),
        "positives": sum(n for of in counts for name, n in of.items() if name.startswith("positive.")),
        "finals": sum(of.get("finals", 0) + of.get("revisit_finals", 0) for of in counts),
    }
