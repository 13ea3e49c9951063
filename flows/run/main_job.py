"""The main job: run the flows over a data directory to the end, or follow it, and say what was done."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flows.dataflow.draining import clear_drained
from flows.dataflow.plan import Plan
from flows.errors import SettingsError, StateError
from flows.open_log import open_log
from flows.outputs import ACTIONS, REVISITS
from flows.run.metrics import Metrics
from flows.run.stopping import stopping_on_signals
from flows.run.warm_up import warm_up
from flows.run.workers import Workers
from flows.settings import Settings
from flows.state.lock import run_lock
from flows.state.task import putting_back, task_path

FLOWS = ("all", ACTIONS, REVISITS)


@dataclass(frozen=True)
class Done:
    """What a run has done.

    Attributes
    ----------
    events : int
        Records of ACTIONS applied.
    changes : int
        Records of REVISITS applied; what came twice counts once.
    refused : int
        Of `events`, those that became dead letters.
    seconds : float
        From the first word of a worker to the end: opening of state, all reads, commits and publishing, but not the start of processes.
    total_seconds : float
        With the start of processes.
    stopped : bool
        Ended by a signal, before the end of the input.
    """

    events: int
    changes: int
    refused: int
    seconds: float
    total_seconds: float
    workers: int
    stopped: bool


class Display(Protocol):
    """What a run is shown on."""

    def note(self, line: str) -> None: ...
    def warn(self, line: str) -> None: ...
    def begin(self, flow: str, done: int, total: int | None) -> None: ...
    def advance(self, flow: str, offsets: int, watermark: int | None) -> None: ...


def run_flows(settings: Settings, flow: str, follow: bool, workers: int, display: Display, metrics: Metrics | None = None) -> Done:
    """Run a flow, or all, in worker processes.

    Parameters
    ----------
    flow : str
        One of FLOWS.
    follow : bool
        Until stopped by SIGTERM or Ctrl-C; otherwise up to where the ACTIONS log ends now.
    workers : int
        Processes; each owns the partitions p with p mod workers = its number.
    metrics : Metrics, optional
        Told what workers tell.

    Raises
    ------
    LeftOutError
        All is done but what tasks had to do whose state is damaged.
    """
    if not 1 <= workers <= settings.partitions:
        raise SettingsError(
            f"{workers} workers for {settings.partitions} partitions: give 1 to {settings.partitions}, for a worker owns whole partitions"
        )
    with open_log(settings, ACTIONS) as log, run_lock(settings.state) as lock:
        warm_up(display.note)
        started = time.monotonic()
        until = tuple(log.end_positions())
        clear_drained(log)
        reached = _begin(settings, log.group_positions(ACTIONS), until)
        if flow != REVISITS:
            display.begin(ACTIONS, sum(reached.values()), None if follow else sum(until))
        if flow != ACTIONS:
            display.begin(REVISITS, 0, None)
        totals = {ACTIONS: 0, REVISITS: 0}
        refused = 0
        first_word: list[float] = []
        aside: dict[str, str] = {}

        def listen(message: dict[str, Any]) -> None:
            nonlocal refused
            if not first_word:
                first_word.append(time.monotonic())
            if "line" in message:
                hear(message, aside, metrics)
                # A run that ends says at its end what it has left out.
                (display.warn if follow else display.note)(message["line"])
                return
            if "commit_s" in message:
                if metrics is not None:
                    metrics.commit(message, time.time())
                return
            if metrics is not None:
                metrics.applied(message)
            totals[message["flow"]] += message["records"]
            refused += message["refused"]
            advanced = message["advanced"]
            if message["flow"] == ACTIONS:
                # Where it is, and not how far it has come: group positions are a hint, and may be behind state or before it.
                advanced = message["position"] - reached.get(message["partition"], 0)
                reached[message["partition"]] = message["position"]
            display.advance(message["flow"], advanced, message["watermark"])

        with stopping_on_signals() as stopping:
            running = Workers(settings, flow, Plan(follow=follow, workers=workers, until=until), lock)
            stopping.begin(running)
            running.follow(listen, lambda: None)
        ended = time.monotonic()
    done = Done(totals[ACTIONS], totals[REVISITS], refused, ended - (first_word or [ended])[0], ended - started, workers, running.stopping)
    if aside:
        raise LeftOutError(aside, done)
    return done


def _begin(settings: Settings, positions: Mapping[int, int], until: Sequence[int]) -> dict[int, int]:
    """Where each partition of ACTIONS is taken to begin: one without state does so at the beginning, whatever its group has come to."""
    return {p: min(positions.get(p, 0), end) if task_path(settings, ACTIONS, p).exists() else 0 for p, end in enumerate(until)}


def tasks_of(flow: str) -> tuple[str, ...]:
    """The flows whose tasks a run has, one of FLOWS."""
    return (ACTIONS, REVISITS) if flow == "all" else (flow,)


def hear(message: dict[str, Any], aside: dict[str, str], metrics: Metrics | None) -> None:
    """Note which tasks are set aside, and why."""
    if "aside" in message:
        aside[message["aside"]] = message["why"]
    elif "back" in message:
        aside.pop(message["back"], None)
    if metrics is not None:
        metrics.aside(aside)


class LeftOutError(StateError):
    """A run has left out tasks whose state is damaged.

    Parameters
    ----------
    aside : dict of str to str
        Why, by their names in words.
    done : Done
        What it has done with all others.
    """

    def __init__(self, aside: dict[str, str], done: Done) -> None:
        super().__init__(left_out(aside))
        self.tasks = tuple(sorted(aside))
        self.done = done


def left_out(aside: dict[str, str]) -> str:
    """What to say of tasks that were set aside, at the end."""
    tasks = " and ".join(sorted(aside))
    why = "; ".join(f"{task}: {reason}" for task, reason in sorted(aside.items()))
    return (
        f"{tasks} {'was' if len(aside) == 1 else 'were'} left out, with damaged state; all other tasks have done what there was. "
        f"`{putting_back(*sorted(aside))}` puts back what is damaged ({why})"
    )
