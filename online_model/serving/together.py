"""A thread that does together what waits for it.

What takes time waits here, off the event loop, in a queue that is bounded; what comes while some of it is done is done next, all at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from online_model.serving.errors import UnavailableError

Asked = TypeVar("Asked")
Said = TypeVar("Said")

_CLOSE_S = 5.0


@dataclass(frozen=True, eq=False)
class Waiting(Generic[Asked, Said]):
    """What was asked, and where the answer goes."""

    asked: Asked
    answer: Future[Said] = field(default_factory=Future)


class Together(Generic[Asked, Said]):
    """See the module.

    Parameters
    ----------
    name : str
        Of the thread.
    work : callable
        Called in the thread with those that waited, in their order, of which none was cancelled; it sets every answer.
    size : callable
        How much one asks for.
    most_at_once : int
        How much is taken together; a single one may ask for more.
    most_waiting : int
        That may wait; more are refused at once.
    awaited : str
        What they wait for, as refusals name it.
    end : callable, optional
        Called in the thread when it ends.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[list[Waiting[Asked, Said]]], None],
        size: Callable[[Asked], int],
        most_at_once: int,
        most_waiting: int,
        awaited: str,
        end: Callable[[], None] = lambda: None,
    ) -> None:
        self._work, self._size, self._end = work, size, end
        self._most_at_once, self._most_waiting, self._awaited = most_at_once, most_waiting, awaited
        self._queue: SimpleQueue[Waiting[Asked, Said] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._queue.qsize()

    def ask(self, asked: Asked) -> Future[Said]:
        """The answer, in time.

        Raises
        ------
        UnavailableError
            Too many wait already.
        """
        if self.waiting >= self._most_waiting:
            raise UnavailableError(
                f"{self.waiting} requests wait for {self._awaited} already", "ask again later, or serve from more processes"
            )
        one: Waiting[Asked, Said] = Waiting(asked)
        self._queue.put(one)
        return one.answer

    def close(self) -> None:
        """End the thread, after whatever still waits; one that hangs is left to the end of the process."""
        self._queue.put(None)
        self._thread.join(_CLOSE_S)

    # In the thread -------------------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        ended = False
        while not ended and (first := self._queue.get()) is not None:
            batch, size = [first], self._size(first.asked)
            while size < self._most_at_once:
                try:
                    one = self._queue.get_nowait()
                except Empty:
                    break
                if one is None:
                    ended = True
                    break
                batch.append(one)
                size += self._size(one.asked)
            # Those that have waited too long are nobody's any more.
            self._work([one for one in batch if one.answer.set_running_or_notify_cancel()])
        self._end()
