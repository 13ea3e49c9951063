"""The thread in which models score: whatever waits for the same model is scored together.

A model computes for milliseconds and holds up nothing but this thread. Requests wait in a queue that is bounded. Each brings the model that it was
given, so nothing that is switched meanwhile changes it.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from flows.errors import TidemarkError
from online_model.serving.errors import UnavailableError

if TYPE_CHECKING:
    # Not before a model is there: torch takes seconds to load.
    from online_model.serving.candidates import Candidates
    from online_model.serving.model import Model, Scores

_log = logging.getLogger(__name__)

# Scored at once; a single request has fewer.
_MOST_CANDIDATES = 4_096
_CLOSE_S = 5.0


@dataclass(frozen=True, eq=False)
class _Waiting:
    model: Model
    request: Candidates
    scores: Future[Scores] = field(default_factory=Future)


class Scorer:
    """See the module.

    Parameters
    ----------
    threads : int
        That torch computes with.
    most_waiting : int
        Requests that may wait; more are refused at once.
    """

    def __init__(self, threads: int, most_waiting: int) -> None:
        self._threads, self._most_waiting = threads, most_waiting
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._set = False
        self._thread = threading.Thread(target=self._work, name="scoring", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return self._queue.qsize()

    def score(self, model: Model, request: Candidates) -> Future[Scores]:
        """What a model says, in time; the future fails with a TidemarkError.

        Raises
        ------
        UnavailableError
            Too many wait already.
        """
        if self.waiting >= self._most_waiting:
            raise UnavailableError(f"{self.waiting} requests wait for the model already", "ask again later, or serve from more processes")
        one = _Waiting(model, request)
        self._queue.put(one)
        return one.scores

    def close(self) -> None:
        """End the thread; whoever still waits gets their answer first."""
        self._queue.put(None)
        self._thread.join(_CLOSE_S)

    # In the thread -------------------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        ended = False
        while not ended and (first := self._queue.get()) is not None:
            batch, candidates = [first], len(first.request)
            while candidates < _MOST_CANDIDATES:
                try:
                    one = self._queue.get_nowait()
                except Empty:
                    break
                if one is None:
                    ended = True
                    break
                batch.append(one)
                candidates += len(one.request)
            models: dict[int, list[_Waiting]] = {}
            for one in batch:
                if one.scores.set_running_or_notify_cancel():
                    models.setdefault(id(one.model), []).append(one)
            for together in models.values():
                self._score(together)

    def _score(self, together: list[_Waiting]) -> None:
        try:
            self._set_threads()
            scores = together[0].model.score([one.request for one in together])
        except Exception as error:
            if len(together) > 1:
                # Whatever is wrong with one of them is nothing to the others.
                for one in together:
                    self._score([one])
                return
            if not isinstance(error, TidemarkError):
                _log.exception("a model has failed in a way that nobody has foreseen")
                error = UnavailableError(
                    f"the model has failed: {type(error).__name__}", "see what the server has written to its standard error"
                )
            together[0].scores.set_exception(error)
            return
        for one, each in zip(together, scores, strict=True):
            one.scores.set_result(each)

    def _set_threads(self) -> None:
        if not self._set:
            import torch

            # Of this thread, and of whatever else in this process computes with torch, which is nothing.
            torch.set_num_threads(self._threads)
            self._set = True
