"""From a base that passed the gate to one that is served: in shadow it learns what came since its window, then base and rows switch together.

Until that one switch whoever serves has the old base with the old rows. A kill at any instant leaves the old one, or the new one caught up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial

import torch

from flows import stopping
from flows.examples.store import Examples, open_examples
from flows.open_log import open_log
from flows.outputs import EMBEDDINGS
from flows.run.display import moment
from flows.settings import Settings
from flows.state.task_lock import holding
from online_model.deltas.chain import closings, holds
from online_model.deltas.record import PARTITION
from online_model.deltas.writer import fence
from online_model.learner.ahead import ahead_of
from online_model.learner.config import LearnerConfig
from online_model.learner.course import Course, path_of, read_course
from online_model.learner.learner import Learner, Site, begin_of, course_of
from online_model.registry.bases import Base
from online_model.registry.current import Current
from online_model.registry.errors import NoModelError
from online_model.registry.registry import Registry
from online_model.training.epoch import reproducible
from online_model.training.errors import TrainingStoppedError

Told = Callable[[str, int, int], None]
"""Told of a stage how much is done, and of how much."""
DELTA_RECORDS = 262_144
"""After so many records of EXAMPLES a delta is put out and all rows are kept: what a kill loses."""
_WAIT_S = 0.2


@contextmanager
def as_online() -> Iterator[None]:
    """Compute as the online learner does, in one thread; torch's settings as they were afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with reproducible(torch.device("cpu")):
            yield
    finally:
        torch.set_num_threads(threads)


def switch_to(
    settings: Settings,
    registry: Registry,
    base: Base,
    examples: Examples,
    config: LearnerConfig,
    as_of: int,
    told: Told = lambda stage, done, total: None,
) -> Current:
    """Catch up in shadow, and serve the base from now on with the rows that it has come to.

    Parameters
    ----------
    base : Base
        Published, and served to nobody yet.
    examples : Examples
    config : LearnerConfig
        How the base is learned on, now and when it is served.
    as_of : int
        The moment of the switch, ms, as it is remembered.
    told : callable

    Raises
    ------
    TrainingStoppedError
        The process was asked to stop: the old base is served still, and the same call goes on.
    LockedError
        Somebody else learns on the base.
    """
    with open_log(settings, EMBEDDINGS, create=True) as log:
        served = _served(registry)
        if served is not None and all(other.base != base.number for other in served.candidates):
            # Consumers of the base that is served pass over what this one puts out.
            registry.announce(registry.start_for(base, log.end_position(PARTITION), lambda snapshot: False))
        with as_online():
            _catch_up(Site(registry, examples, log), partial(open_examples, settings), base, config, told)
        start = registry.start_for(base, log.end_position(PARTITION), lambda snapshot: holds(log, snapshot.point))
        reason = f"retrained as of {moment(base.manifest.about.made_as_of)}"
        current = registry.switch(start, as_of, reason)
        if served is not None and served.base != base.number:
            # Not before: its learner, once it is refused, goes over to what is served. What it has put out meanwhile is passed over as well.
            settled = fence(log, served.base)
            if next(closings(log, served.base, since=start.settled), None) is not None:
                current = registry.switch(replace(start, settled=settled), as_of, reason)
        return current


def _served(registry: Registry) -> Current | None:
    try:
        return registry.current()
    except NoModelError:
        return None


def _course(site: Site, base: Base, config: LearnerConfig) -> Course:
    """How the base is learned on: as it was begun, if an earlier run of this has begun it."""
    course = course_of(site, base.number, lambda of: begin_of(of, site.examples.partitions))
    return course if read_course(site.models, base.number) is not None else replace(course, config=config)


def _catch_up(site: Site, opened: Callable[[], Examples], base: Base, config: LearnerConfig, told: Told) -> None:
    """Learn all micro-batches that are whole, put out what has changed, and keep all rows as a snapshot."""
    lock = path_of(site.models, base.number).with_suffix(".lock")
    with holding(lock, lambda who: f"base {base.number} is being learned on by another process ({who}); stop that one first"):
        course = _course(site, base, config)
        learner = Learner.open(site, course)
        done, since = 0, 0
        total = sum(site.examples.end_positions()) - sum(learner.positions)
        with closing(ahead_of(learner, site.examples, opened, follow=False)) as ahead:
            while not ahead.ended:
                if stopping.requested():
                    raise TrainingStoppedError("retrain: stopped while the new base was catching up; the same command goes on")
                ready = ahead.get(_WAIT_S)
                if ready is None:
                    continue
                learner.learn(ready)
                done, since = done + ready.records, since + ready.records
                told("catching up", done, total)
                if since >= DELTA_RECORDS:
                    since = 0
                    learner.publish()
                    learner.snapshot()
        learner.publish()
        learner.snapshot()
