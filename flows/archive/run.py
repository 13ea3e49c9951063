"""The archiver's job: worker processes that bring the archive up to where the logs end, or on and on."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flows.archive.archive import Archive
from flows.archive.lock import locked
from flows.dataflow.plan import Plan
from flows.errors import SettingsError
from flows.open_log import log_exists, open_live_log
from flows.outputs import ACTIONS, LOGS
from flows.run.main_job import Display
from flows.run.stopping import stopping_on_signals
from flows.run.workers import Workers
from flows.settings import Settings

FLOW = "archiver"


@dataclass(frozen=True)
class Archived:
    """What a run has archived.

    Attributes
    ----------
    records : dict of str to int
        By log.
    seconds : float
        From the first word of a worker to the end.
    stopped : bool
        Ended by a signal.
    """

    records: dict[str, int]
    seconds: float
    workers: int
    stopped: bool


def run_archiver(
    settings: Settings, logs: Sequence[str], follow: bool, workers: int, max_delay_s: float, leave_gap: bool, display: Display
) -> Archived:
    """Archive logs in worker processes.

    Parameters
    ----------
    logs : sequence of str
        Which; without any all that are there (all that there may be, if it follows them).
    follow : bool
        Until stopped by SIGTERM or Ctrl-C; otherwise up to where the logs end now.
    workers : int
        Processes; each owns the partitions p with p mod workers = its number.
    max_delay_s : float
        With `follow`: publish a segment that has been open for so long.
    leave_gap : bool
        Go on beyond what a log has lost by its retention.

    Raises
    ------
    DataDirectoryError
        A log that was named isn't there, or none is.
    LockedError
        Another archiver is at work.
    RetentionError
        A log has lost what the archive lacks.
    WorkerError
        A worker failed; what was published is safe.
    """
    if not 1 <= workers <= settings.partitions:
        raise SettingsError(
            f"{workers} workers for {settings.partitions} partitions: give 1 to {settings.partitions}, for a worker owns whole partitions"
        )
    # ACTIONS is looked for in any case unless others were named: without it there is nothing to archive.
    names = list(logs) or [name for name in LOGS if follow or name == ACTIONS or log_exists(settings, name)]
    before: dict[str, int] = {}
    ends: dict[str, int] = {}
    for name in names:
        with open_live_log(settings, name, create=follow and not logs and name != ACTIONS) as log:
            archive = Archive(settings.archives, name, log.partitions)
            starts, until = log.start_positions(), log.end_positions()
            ends[name] = sum(until)
            before[name] = sum(min(max(archive.end(p), starts[p]), until[p]) for p in range(log.partitions))
    lock = locked(settings.archives)
    try:
        for name in names:
            display.begin(name, before[name], None if follow else ends[name])
        records = dict.fromkeys(names, 0)
        reached: dict[tuple[str, int], int] = {}
        first_word: list[float] = []

        def listen(message: dict[str, Any]) -> None:
            if not first_word:
                first_word.append(time.monotonic())
            name, partition, position = message["flow"], message["partition"], message["position"]
            records[name] += message["records"]
            # The first word of a partition says where it stands; what lies before that was there.
            display.advance(name, position - reached.get((name, partition), position), None)
            reached[name, partition] = position

        with stopping_on_signals() as stopping:
            given = {"logs": tuple(names), "max_delay_s": max_delay_s if follow else None, "leave_gap": leave_gap}
            running = Workers(settings, FLOW, Plan(follow=follow, workers=workers), lock, given)
            stopping.begin(running)
            running.follow(listen, lambda: None)
    finally:
        os.close(lock)
    ended = time.monotonic()
    return Archived(records, ended - (first_word or [ended])[0], workers, running.stopping)
