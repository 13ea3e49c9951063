"""A thread with a reader of its own: whatever waits for it is read together, under one catch-up.

A reader is for one thread at a time, and a read blocks. What comes while a read goes on is answered by the next one, so that many requests at once
cost few catch-ups. A reader that has failed is opened anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeAlias

from flows.answers import EntityReader
from flows.errors import StateError, TidemarkError
from online_model.serving.answer import Answer, Ask, catch_up
from online_model.serving.errors import UnavailableError
from online_model.serving.together import Together, Waiting

_log = logging.getLogger(__name__)

# Of one read; a single request may ask for more.
_MOST_ENTITIES = 4_096
# Whoever comes so soon after a failure is told of it at once: a store that is down, or state that is damaged, is not asked by each request.
_PAUSE_S = 0.2

_Waiting: TypeAlias = "Waiting[Ask, Answer]"


class Lane:
    """A reader in a thread.

    Parameters
    ----------
    name : str
    open_reader : callable
        Called in the thread.
    most_waiting : int
        Requests that may wait; more are refused at once.
    """

    def __init__(self, name: str, open_reader: Callable[[], EntityReader], most_waiting: int) -> None:
        self.name = name
        self.trouble: TidemarkError | None = None
        self._open = open_reader
        self._reader: EntityReader | None = None
        self._again_at = 0.0
        self._together: Together[Ask, Answer] = Together(
            f"reading-{name}", self._work, lambda ask: ask.entities, _MOST_ENTITIES, most_waiting, "the store", self._drop
        )

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return self._together.waiting

    def read(self, ask: Ask) -> Future[Answer]:
        """What the store says, in time; the future fails with a TidemarkError.

        Raises
        ------
        UnavailableError
            Too many wait already.
        """
        return self._together.ask(ask)

    def close(self) -> None:
        """Release the reader; one that hangs in a read is left to the end of the process."""
        self._together.close()

    # In the thread -------------------------------------------------------------------------------------------------------------------

    def _work(self, waiting: list[_Waiting]) -> None:
        times: dict[int | None, list[_Waiting]] = {}
        for one in waiting:
            times.setdefault(one.asked.as_of, []).append(one)
        for together in times.values():
            self._answer(together)

    def _answer(self, together: list[_Waiting]) -> None:
        if self.trouble is not None and time.monotonic() < self._again_at:
            for one in together:
                one.answer.set_exception(self.trouble)
            return
        opened = self._reader is not None
        try:
            if self._reader is None:
                self._reader = self._open()
                opened = True
            answers = catch_up(self._reader, [one.asked for one in together])
        except StateError as error:
            self._answer_beside(together, error)
            return
        except Exception as error:
            # Of a time that can't be read any more others need hear nothing: they have asked for another.
            self._fail(together, error, pause=not opened or together[0].asked.as_of is None)
            return
        self.trouble = None
        for one, answer in zip(together, answers, strict=True):
            one.answer.set_result(answer)

    def _answer_beside(self, together: list[_Waiting], error: StateError) -> None:
        """Answer beside the damaged state of a task: whoever asks for nothing of it, gets what they ask for."""
        if len(together) > 1:
            for one in together:
                self._answer([one])
        else:
            self.trouble = None
            together[0].answer.set_exception(error)

    def _fail(self, together: list[_Waiting], error: Exception, pause: bool) -> None:
        if not isinstance(error, TidemarkError):
            _log.exception("a read has failed in a way that nobody has foreseen")
            error = UnavailableError(f"a read has failed: {type(error).__name__}", "see what the server has written to its standard error")
        if pause:
            self.trouble = error
            self._again_at = time.monotonic() + _PAUSE_S
        self._drop()
        for one in together:
            one.answer.set_exception(error)

    def _drop(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            try:
                reader.close()
            except Exception as error:
                # What it held is released or gone; the next one says what is wrong.
                _log.debug("a reader that is not used any more could not be closed: %s", error)
