"""The job of `tidemark learn`: a learner that follows EXAMPLES, puts out a delta every so often, and moves on to the base that is served.

When deltas are put out and snapshots made, the clock says; what rows are at a position, it never does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from flows import stopping
from flows.errors import LockedError
from flows.examples.store import Examples, open_examples, positions_at
from flows.open_log import open_log
from flows.outputs import EMBEDDINGS
from flows.run.main_job import Display
from flows.settings import Settings
from flows.state.task_lock import holding
from online_model.deltas.chain import holds
from online_model.deltas.errors import SecondLearnerError
from online_model.learner.ahead import Ahead, ahead_of
from online_model.learner.course import path_of
from online_model.learner.learner import Learner, Site, begin_of, course_of
from online_model.learner.metrics import Metrics, Pace, now
from online_model.learner.reading import Ready
from online_model.registry.bases import Base
from online_model.registry.registry import Registry
from online_model.training.epoch import reproducible

FLOW = "learn"
_LOOK_S = 0.2
_KEEP_ALL = 1 << 30


@dataclass(frozen=True)
class Options:
    """How to learn.

    Attributes
    ----------
    follow : bool
        On and on; otherwise what is there.
    ended : bool
        No example will follow that became known before those that are there: the last ones of every partition are learned too.
    base : int or None
        None: the one that is served, and the next one once that is.
    asked : mapping
        Of `LearnerConfig`, by name; the others as they were before.
    begin : int or str or None
        Where a base that was never learned on begins: a time, ms; "start" or "end" of EXAMPLES; None: as its manifest says.
    fingerprint : str or None
        Of the examples, where it is to be another than the base's.
    publish_every_s, snapshot_every_s : float
    keep_snapshots : int
    threads : int
    """

    follow: bool = False
    ended: bool = False
    base: int | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)
    begin: int | str | None = None
    fingerprint: str | None = None
    publish_every_s: float = 20.0
    snapshot_every_s: float = 300.0
    keep_snapshots: int = 3
    threads: int = 1


@dataclass(frozen=True)
class Done:
    """What was learned.

    Attributes
    ----------
    base, delta : int
        The last base, and its last delta.
    deltas : int
        Put out.
    records, examples : int
        Passed, and learned from.
    admitted, expired, users, pins : int
        IDs that have got a row and lost theirs; that have one now.
    waiting : int
        Records that are not learned: they make no micro-batch yet, or an earlier one may still come.
    loss : float or None
        Mean over examples before they were learned from; None: there were none.
    busy_s, seconds : float
        Spent learning, and in all.
    keep_up : float or None
        Records learned in a second of work by those that arrived in one.
    stopped : bool
        By a signal.
    """

    base: int
    delta: int
    deltas: int
    records: int
    examples: int
    admitted: int
    expired: int
    users: int
    pins: int
    waiting: int
    loss: float | None
    busy_s: float
    seconds: float
    keep_up: float | None
    stopped: bool


def learn(settings: Settings, options: Options, display: Display, metrics: Metrics | None = None) -> Done:
    """Learn until all that is there is learned, or, following, until asked to stop.

    Raises
    ------
    NoModelError
        No base is served, and none was named.
    LearnerError, FingerprintError, DeltaError
    LockedError
        Another learner is at work on the base.
    """
    registry = Registry.of(settings)
    # Before logs are looked for: without a base there is nothing to do.
    number = registry.current().base if options.base is None else options.base
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        with (
            closing(open_examples(settings)) as examples,
            open_log(settings, EMBEDDINGS, create=True) as embeddings,
            reproducible(torch.device("cpu")),
        ):
            opened = partial(open_examples, settings)
            run = _Run(Site(registry, examples, embeddings), opened, options, display, metrics or Metrics())
            while (following := run.session(number)) is not None:
                number = following
            return run.done()
    finally:
        torch.set_num_threads(threads)


class _Run:
    """Learners of one base after the other."""

    def __init__(self, site: Site, opened: Callable[[], Examples], options: Options, display: Display, metrics: Metrics) -> None:
        self._site, self._opened, self._options, self._display, self._metrics = site, opened, options, display, metrics
        self._pace = Pace()
        self._began = time.monotonic()
        self._deltas = self._admitted = self._expired = 0
        self._loss = 0.0
        self._learner: Learner | None = None
        self._first_ready: list[int] = []
        display.begin(FLOW, 0, None)

    def session(self, number: int) -> int | None:
        """Learn on a base; the one to go on with, or None at the end."""
        site, options = self._site, self._options
        with ExitStack() as stack:
            lock = path_of(site.models, number).with_suffix(".lock")
            stack.enter_context(
                holding(lock, lambda who: f"base {number} is being learned on by another process ({who}); stop that one first")
            )
            course = course_of(site, number, self._begin, options.asked, options.fingerprint)
            self._announce(number)
            serial = site.registry.current().serial
            learner = self._learner = Learner.open(site, course)
            self._first_ready = []
            if learner.again:
                at = ",".join(map(str, learner.positions))
                self._display.note(f"base {number}: goes on at positions {at}, and learns again what it has put out")
            ahead = ahead_of(learner, site.examples, self._opened, options.follow, options.ended)
            stack.callback(ahead.close)
            try:
                following = self._follow(learner, ahead)
                self._publish(learner)
            except SecondLearnerError:
                # Whoever switches what is served says to the learner of before that it is over.
                now_served = site.registry.current()
                if options.base is not None or now_served.serial == serial:
                    raise
                following = now_served.base
            self._snapshot(learner)
            self._stands(learner)
            return following

    def _follow(self, learner: Learner, ahead: Ahead) -> int | None:
        options = self._options
        publish_at = time.monotonic() + options.publish_every_s
        snapshot_at = time.monotonic() + options.snapshot_every_s
        while not stopping.requested():
            ready = ahead.get(min(_LOOK_S, max(0.0, publish_at - time.monotonic())))
            if ready is not None:
                self._learn(learner, ready)
            elif ahead.ended:
                return None
            if time.monotonic() < publish_at:
                continue
            publish_at = time.monotonic() + options.publish_every_s
            self._publish(learner)
            if time.monotonic() >= snapshot_at:
                snapshot_at = time.monotonic() + options.snapshot_every_s
                self._snapshot(learner)
            self._stands(learner)
            if options.base is None and options.follow and (served := self._site.registry.current().base) != learner.base.number:
                self._display.note(f"base {served} is served now instead of {learner.base.number}")
                return served
        return None

    def done(self) -> Done:
        """What was done in all."""
        learner, pace = self._learner, self._pace
        assert learner is not None
        return Done(
            learner.base.number,
            learner.delta,
            self._deltas,
            pace.records,
            pace.examples,
            self._admitted,
            self._expired,
            len(learner.tables.users),
            len(learner.tables.pins),
            self._waiting(learner),
            self._loss / pace.examples if pace.examples else None,
            pace.busy_s,
            time.monotonic() - self._began,
            pace.keep_up,
            stopping.requested(),
        )

    def _learn(self, learner: Learner, ready: Ready) -> None:
        before, began = learner.delta, time.perf_counter()
        learned = learner.learn(ready)
        self._pace.add(ready, learned, time.perf_counter() - began)
        self._metrics.learned(ready, learned)
        self._admitted += learned.admitted
        self._expired += learned.expired
        self._loss += learned.loss
        # What was put out before was new then.
        self._first_ready = [] if learner.delta != before else [*self._first_ready, ready.first_ready]
        self._display.advance(FLOW, ready.records, ready.last_ready)

    def _publish(self, learner: Learner) -> None:
        if learner.publish() is not None:
            self._deltas += 1
            self._metrics.published(self._first_ready, now())
            self._first_ready = []

    def _snapshot(self, learner: Learner) -> None:
        if learner.snapshot() is not None:
            # Somebody else is changing the registry: the next one will do.
            with suppress(LockedError):
                self._site.registry.sweep(_KEEP_ALL, self._options.keep_snapshots)

    def _stands(self, learner: Learner) -> None:
        self._metrics.stands(learner, self._waiting(learner), self._pace, now())

    def _waiting(self, learner: Learner) -> int:
        return sum(self._site.examples.end_positions()) - sum(learner.positions)

    def _begin(self, base: Base) -> tuple[int, ...]:
        return begin_at(self._site.examples, base, self._options.begin)

    def _announce(self, number: int) -> None:
        """Nobody takes deltas of a base for those of another whose learner has gone wrong."""
        registry, log = self._site.registry, self._site.embeddings
        current = registry.current()
        if current.start_of(number) is None and all(one.base != number for one in current.candidates):
            registry.announce(registry.start_for(registry.base(number), log.end_position(0), lambda snapshot: holds(log, snapshot.point)))


def begin_at(examples: Examples, base: Base, wanted: int | str | None) -> tuple[int, ...]:
    """Positions of EXAMPLES where learning begins; see `Options.begin`."""
    at: dict[str, Callable[[], list[int]]] = {"start": lambda: [0] * examples.partitions, "end": examples.end_positions}
    if wanted is None:
        return begin_of(base, examples.partitions)
    return tuple(at[wanted]() if isinstance(wanted, str) else positions_at(examples, wanted))
