"""When retrains are due: the times of a cron line in UTC, between two moments; and waiting for them by the clock.

The same line gives the same times to production and to a replay, so a replay retrains exactly where production would have.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED, JobEvent
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from flows import stopping
from flows.errors import SettingsError
from flows.settings import DAY_MS, HOUR_MS

CRON = "0 3 * * MON,THU"
_YEAR_MS = 366 * DAY_MS
_GRACE_S = 6 * 3_600
"""A retrain that could not begin in time still begins if it is late by no more than this."""


_LOOK_S = 1.0


class Schedule:
    """The times of a cron line.

    Parameters
    ----------
    cron : str
        minute, hour, day of the month, month, day of the week (by name), in UTC.

    Raises
    ------
    SettingsError
        It is no such line.
    """

    def __init__(self, cron: str = CRON) -> None:
        parts = cron.split()
        if len(parts) == 5 and re.search("[0-9]", parts[4]):
            # APScheduler counts days of the week from Monday, cron from Sunday.
            raise SettingsError(
                f"schedule '{cron}': give days of the week by name (MON,THU), for their numbers mean different days elsewhere"
            )
        try:
            self.trigger = CronTrigger.from_crontab(cron, timezone=UTC)
        except ValueError as error:
            raise SettingsError(
                f"schedule '{cron}' is no cron line ({error}): give minute, hour, day, month and day of the week, as in '{CRON}'"
            ) from error
        self.cron = cron

    def between(self, after: int, until: int) -> Iterator[int]:
        """Times when a retrain is due, ms, ascending: after ≤ time < until."""
        at = after
        while (due := self.trigger.get_next_fire_time(None, _moment(at))) is not None:
            found = round(due.timestamp() * 1000)
            if found >= until:
                return
            yield found
            at = found + 1

    def latest(self, now: int) -> int | None:
        """The last time before or at a moment, ms; None if none was within a year."""
        # A short look back first: a line may be of every second.
        for span in (60_000, HOUR_MS, DAY_MS, 8 * DAY_MS, 32 * DAY_MS, _YEAR_MS):
            found = list(self.between(now - span, now + 1))
            if found:
                return found[-1]
        return None

    def next(self, now: int) -> int | None:
        """The first time behind a moment, ms."""
        return next(self.between(now + 1, now + 4 * _YEAR_MS), None)


def run_on_schedule(schedule: Schedule, job: Callable[[int], None], missed: Callable[[str], None]) -> None:
    """Do a job at each time of a schedule, one at a time, until the process is asked to stop; what is being done then is waited for.

    Parameters
    ----------
    schedule : Schedule
    job : callable
        Given the time at which it was due, ms. What it raises ends the schedule, and is raised here.
    missed : callable
        Told of each time that was passed over, and why.
    """
    # Everything that it would say is said here, in words for people.
    logging.getLogger("apscheduler").setLevel(logging.CRITICAL)
    scheduler = BackgroundScheduler(timezone=UTC)

    raised: list[BaseException] = []

    def tell(event: JobEvent) -> None:
        if event.code == EVENT_JOB_ERROR:
            raised.append(event.exception)
        elif event.code == EVENT_JOB_MAX_INSTANCES:
            missed("a retrain was due while the one before was still at work; it was passed over, the next one takes its examples too")
        else:
            missed(f"the retrain that was due at {event.scheduled_run_time:%Y-%m-%d %H:%M} could not begin in time; it was passed over")

    def due() -> None:
        at = schedule.latest(time.time_ns() // 1_000_000)
        if at is not None:
            job(at)

    scheduler.add_listener(tell, EVENT_JOB_ERROR | EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES)
    scheduler.add_job(due, schedule.trigger, coalesce=True, max_instances=1, misfire_grace_time=_GRACE_S)
    scheduler.start()
    try:
        while not raised and not stopping.wait(_LOOK_S):
            pass
    finally:
        scheduler.shutdown(wait=True)
    if raised:
        raise raised[0]


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
