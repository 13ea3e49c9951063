"""The thread in which models score: whatever waits for the same model is scored together.

A model computes for milliseconds and holds up nothing but this thread. Each request brings the model that it was given, so nothing that is switched
meanwhile changes it.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeAlias

from flows.errors import TidemarkError
from online_model.serving.errors import UnavailableError
from online_model.serving.together import Together, Waiting

if TYPE_CHECKING:
    # Not before a model is there: torch takes seconds to load.
    from online_model.serving.candidates import Candidates
    from online_model.serving.model import Model, Scores

_log = logging.getLogger(__name__)

# Scored at once; a single request has fewer.
_MOST_CANDIDATES = 4_096

_Waiting: TypeAlias = "Waiting[tuple[Model, Candidates], Scores]"


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
        self._threads = threads
        self._set = False
        self._together: Together[tuple[Model, Candidates], Scores] = Together(
            "scoring", self._work, lambda asked: len(asked[1]), _MOST_CANDIDATES, most_waiting, "the model"
        )

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return self._together.waiting

    def score(self, model: Model, request: Candidates) -> Future[Scores]:
        """What a model says, in time; the future fails with a TidemarkError.

        Raises
        ------
        UnavailableError
            Too many wait already.
        """
        return self._together.ask((model, request))

    def close(self) -> None:
        """End the thread; whoever still waits gets their answer first."""
        self._together.close()

    # In the thread -------------------------------------------------------------------------------------------------------------------

    def _work(self, waiting: list[_Waiting]) -> None:
        models: dict[int, list[_Waiting]] = {}
        for one in waiting:
            models.setdefault(id(one.asked[0]), []).append(one)
        for together in models.values():
            self._score(together)

    def _score(self, together: list[_Waiting]) -> None:
        try:
            self._set_threads()
            scores = together[0].asked[0].score([one.asked[1] for one in together])
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
            together[0].answer.set_exception(error)
            return
        for one, each in zip(together, scores, strict=True):
            one.answer.set_result(each)

    def _set_threads(self) -> None:
        if not self._set:
            import torch

            # Of this thread, and of whatever else in this process computes with torch, which is nothing.
            torch.set_num_threads(self._threads)
            self._set = True
