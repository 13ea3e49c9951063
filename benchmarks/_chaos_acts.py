"""Performs the acts of a schedule, and counts what they did to whom."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Protocol

from benchmarks import _chaos_schedule as schedule
from benchmarks._chaos_processes import FailedError, Run
from benchmarks._chaos_schedule import Act
from benchmarks._chaos_site import Site, Watch
from flows.errors import TidemarkError

# A run may find the workers of the one before still at it; it waits for them, says this, and ends.
_STILL_HELD = "is still held by workers of a run that was killed"


def undisturbed(site: Site) -> float:
    """Run what is there to its end; returns how long it took to the first commit, seconds."""
    begun = time.monotonic()
    run = site.run(schedule.RUN, 1)
    try:
        with site.watched() as watch:
            run.await_true(lambda: watch.committed() > 0)
        took = time.monotonic() - begun
        run.await_end()
        if run.codes() != [0]:
            raise FailedError(f"a run that nothing disturbed failed: {run.said()[-2000:]}")
        return took
    finally:
        run.end_all()


class Broker(Protocol):
    """A broker that can be disturbed; see tests/kafka/broker.py."""

    def outage(self, how: str, seconds: float) -> None: ...


class Stage:
    """A site, and what has been done there.

    Parameters
    ----------
    site : Site
    start_s : float
        How long a clean run took to its first commit.
    broker : Broker or None
    """

    def __init__(self, site: Site, start_s: float, broker: Broker | None = None) -> None:
        self._site = site
        self._start_s = start_s
        self._broker = broker
        self._rescaled = 0
        self._previous: Run | None = None
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []

    @property
    def workers(self) -> int:
        """Worker processes of the next run."""
        return schedule.WORKERS[self._rescaled % len(schedule.WORKERS)]

    def perform(self, act: Act) -> None:
        """Perform one act; what goes wrong that no fault explains is noted in `wrong`."""
        self.done["acts"] += 1
        try:
            self._perform(act)
        except (FailedError, TidemarkError) as error:
            self.wrong.append(f"act {act.number}: {error} ({act})")

    def finish(self) -> None:
        """Ingest what is left and run until all is applied."""
        self._site.clock.set(0)
        self._site.feed_all()
        deadline = time.monotonic() + 60
        while True:
            run = self._site.run(schedule.RUN, self.workers)
            try:
                run.await_end()
                if run.codes() == [0]:
                    return
                if _STILL_HELD not in run.said() or time.monotonic() > deadline:
                    raise FailedError(f"the last run, which nothing disturbed, failed: {run.said()[-2000:]}")
            finally:
                run.end_all()

    def _perform(self, act: Act) -> None:
        site = self._site
        self.done["clock_jumps"] += site.clock.set(act.clock_s)
        if act.feed == schedule.KILLED:
            self.done["ingest_kills"] += site.feed_killed(act.share * 2)
        elif act.feed == schedule.BEFORE:
            site.feed()
        if act.engine in (schedule.THREADS, schedule.CLUSTER) and self._previous is not None:
            # They don't know of the lock of `tidemark run`, which waits for the workers of a run that was killed.
            self._previous.await_gone()
        room = act.room if act.kind == schedule.FULL else 0
        run = self._previous = site.run(act.engine, self.workers, act.batch_records, act.anchor_records, room)
        try:
            with site.feeding() if act.feed == schedule.DURING else nullcontext(), site.watched() as watch:
                struck = self._disturb(act, run, watch)
            self._gather(act, run, struck)
        except BaseException:
            run.end_all()
            raise
        if act.awaited:
            run.await_gone()
        run.end()

    def _disturb(self, act: Act, run: Run, watch: Watch) -> bool:
        """Wait for the moment, with what comes half way, and strike; returns whether that hit."""
        if act.kind == schedule.FULL:
            run.await_end()
            return True
        moment = self._moment(act, watch)
        self._await(run, lambda: moment(0.5))
        if act.jump_s != act.clock_s and run.alive():
            self.done["clock_jumps"] += self._site.clock.set(act.jump_s)
        if act.broker and self._broker is not None and run.alive():
            self._broker.outage(act.broker, act.outage_s)
            self.done["broker_faults"] += 1
        self._await(run, lambda: moment(1.0))
        if act.moment == schedule.STOP:
            run.stop()
        run.await_true(lambda: False, act.delay_s)
        if act.pause_s and run.alive():
            self.done["pauses"] += run.pause(act.pause_s)
        if act.kind == schedule.RESCALE and act.drained:
            return run.stop()
        return run.strike(act.victim, act.choice)

    def _await(self, run: Run, moment: Callable[[], bool]) -> None:
        if not run.await_true(moment) and run.alive():
            raise FailedError(f"a run stands still: {run.said()[-2000:]}")

    def _moment(self, act: Act, watch: Watch) -> Callable[[float], bool]:
        """A share of the act's moment → whether it has come."""
        begun, committed, published = time.monotonic(), watch.committed(), watch.published()
        # What is fed meanwhile comes on top.
        waiting = max(1, watch.end() - committed)

        def started(part: float) -> bool:
            return time.monotonic() - begun >= part * act.share * 1.3 * self._start_s

        def ended(part: float) -> bool:
            # It has had the time to look for more.
            return time.monotonic() - begun >= part * self._start_s and watch.committed() >= watch.end()

        def applied(part: float) -> bool:
            return watch.committed() >= committed + max(1, part * act.share * waiting) or ended(part)

        def left(part: float) -> bool:
            # Some seven in a hundred records are late, bad or credited.
            return watch.published() > published + part * act.share * waiting * 0.03 or ended(part)

        return {
            schedule.START: started,
            schedule.COMMIT: applied,
            schedule.PUBLISH: left,
            schedule.END: lambda part: ended(part) if part == 1 else applied(part),
            schedule.STOP: applied,
        }[act.moment]

    def _gather(self, act: Act, run: Run, struck: bool) -> None:
        """Wait for the end, look at what was said, and count."""
        if len(run.members()) and act.engine == schedule.CLUSTER:
            # The other process of a cluster aborts or waits for ever, as Bytewax has it.
            run.strike(schedule.ALL)
        run.await_end()
        codes, said = run.codes(), run.said()
        if "Traceback" in said and act.engine in (schedule.RUN, schedule.FOLLOW):
            self.wrong.append(f"act {act.number}: a traceback: {said[-2000:]} ({act})")
        # Asked to stop before it listened for that: it had begun nothing.
        unheard = codes == [-signal.SIGTERM] and (act.drained or act.moment == schedule.STOP)
        # It may give up while the broker is away, in so many words.
        cut_off = bool(act.broker) and not struck and codes != [0]
        if _STILL_HELD in said or unheard or cut_off:
            self.done["refused"] += 1
        elif act.kind == schedule.FULL:
            self._gather_full(act, codes, said)
        elif act.kind == schedule.RESCALE and act.drained and struck and codes != [0]:
            self.wrong.append(f"act {act.number}: asked to stop, it ended with {codes}: {said[-2000:]} ({act})")
        elif not struck:
            self.done["missed"] += 1
            if any(codes):
                self.wrong.append(f"act {act.number}: unharmed, it ended with {codes}: {said[-2000:]} ({act})")
        elif act.kind == schedule.RESCALE:
            self._rescaled += 1
            self.done["rescales"] += 1
        else:
            self.done["kills"] += 1
            for name in (f"moment {act.moment}", f"victim {act.victim}", f"engine {act.engine}"):
                self.done[name] += 1

    def _gather_full(self, act: Act, codes: list[int], said: str) -> None:
        self.done["full_disks"] += codes != [0]
        if codes != [0] and not said.startswith("tidemark: "):
            self.wrong.append(f"act {act.number}: on a full disk it ended with {codes}: {said[-2000:]} ({act})")
