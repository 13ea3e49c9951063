"""Micro-batches made ready while the one before is learned: by a thread, or by a process of its own where there is much to learn.

Which of them changes no result.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

from flows.examples.store import Examples
from online_model.learner.apart import Apart
from online_model.learner.learner import Learner
from online_model.learner.reading import Ready
from online_model.learner.reading_process import Asked

# A process begins in a second, and saves one in so many records.
_MANY_RECORDS = 1 << 20
_AHEAD = 3
_LOOK_S = 0.05


class Ahead(Protocol):
    """Who makes micro-batches ready."""

    @property
    def ended(self) -> bool:
        """Whether all that was there when reading came to the end has been given."""

    def get(self, timeout_s: float) -> Ready | None:
        """The next one; None if there is none within so long, or none at all any more (`ended`). It is good until the next call.

        Raises
        ------
        TidemarkError
            What reading has met.
        """

    def close(self) -> None:
        """Stop reading; what is ready and was not asked for is dropped."""


def ahead_of(learner: Learner, examples: Examples, opened: Callable[[], Examples], follow: bool, ended: bool = False) -> Ahead:
    """What a learner learns next, from where it stands.

    Parameters
    ----------
    learner : Learner
    examples : Examples
        What it reads; for a thread.
    opened : callable
        Opens the same once more, in another process: a function of a module, or a partial of one.
    follow : bool
        Whether to look again and again where nothing is there yet.
    ended : bool
        No record will follow those that are there now.

    Raises
    ------
    LearnerError
        A process can't be started.
    """
    if follow or sum(examples.end_positions()) - sum(learner.positions) >= _MANY_RECORDS:
        return Apart(Asked(opened, learner.positions, learner.model, learner.course, follow, ended, learner.vectors))
    return InThread(partial(learner.batches().next, ended), follow)


class InThread:
    """A thread that makes micro-batches ready: for little, as a process takes a second to begin.

    Parameters
    ----------
    next_ : callable
        `Batches.next`.
    follow : bool
        Whether to look again and again where nothing is there yet.
    """

    def __init__(self, next_: Callable[[], Ready | None], follow: bool) -> None:
        self._next, self._follow = next_, follow
        self._ready: queue.Queue[Ready | BaseException | None] = queue.Queue(_AHEAD)
        self._stopping = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="reading-examples", daemon=True)
        self._thread.start()

    def get(self, timeout_s: float) -> Ready | None:
        """The next one; None if there is none within so long, or none at all any more (`ended`).

        Raises
        ------
        TidemarkError
            What reading has met.
        """
        if self._ended:
            return None
        try:
            found = self._ready.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(found, BaseException):
            self._ended = True
            raise found
        self._ended = found is None
        return found

    @property
    def ended(self) -> bool:
        """Whether all that was there when reading came to the end has been given."""
        return self._ended

    def close(self) -> None:
        """Stop reading; what is ready and was not asked for is dropped."""
        self._stopping.set()
        while self._thread.is_alive():
            with suppress(queue.Empty):
                self._ready.get(timeout=_LOOK_S)
        self._ended = True

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                found = self._next()
                if found is not None:
                    self._put(found)
                elif self._follow:
                    self._stopping.wait(_LOOK_S)
                else:
                    self._put(None)
                    return
        except BaseException as error:  # whoever learns is told
            self._put(error)

    def _put(self, what: Ready | BaseException | None) -> None:
        while not self._stopping.is_set():
            try:
                self._ready.put(what, timeout=_LOOK_S)
                return
            except queue.Full:
                continue
