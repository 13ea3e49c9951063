"""The process that makes micro-batches ready for a learner; not to be called by hand: `online_model.learner.apart` starts it.

It writes into the memory that it was given alone, and ends at once when nobody learns any more, which its connection tells. Imports no torch.
"""

from __future__ import annotations

import os
import pickle
import select
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from flows.examples.store import Examples
from online_model.learner.course import Course
from online_model.learner.reading import Batches, Ready
from online_model.learner.ring import Ring
from online_model.model.config import ModelConfig

if TYPE_CHECKING:
    # Loads Feast; few rankers take user embeddings.
    from online_model.model.served_vectors import ServedVectors

_LOOK_S = 0.05
# Between looks for a free slot, while batches wait. Not woken by who learns: the kernel would put this process onto that one's core.
_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.008


@dataclass(frozen=True)
class Asked:
    """What to make ready.

    Attributes
    ----------
    opened : callable
        Opens EXAMPLES, in this process.
    positions : tuple of int
        From where on.
    model : ModelConfig
    course : Course
    follow, ended : bool
        Whether to look again and again where nothing is there yet; whether no record will follow those that are there.
    vectors : ServedVectors, optional
        For a ranker that takes user embeddings; nobody has looked at it yet.
    """

    opened: Callable[[], Examples]
    positions: tuple[int, ...]
    model: ModelConfig
    course: Course
    follow: bool
    ended: bool
    vectors: ServedVectors | None = None


class _HasGoneError(Exception):
    """Nobody learns any more. Not one of the errors that reading meets, brokers that have gone among them."""


class _Learner:
    """Who learns, at the other end of a connection: takes batches, and gives slots back."""

    def __init__(self, connection: Connection, ring: Ring) -> None:
        self._connection, self._ring = connection, ring
        self._free = list(range(ring.slots))

    def take(self, ready: Ready) -> None:
        """Hand a batch over, as soon as a slot is free."""
        pause = _PAUSE_S
        while True:
            if self._given_back(0):
                continue
            if self._free:
                break
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        packed = self._ring.pack(ready, self._free.pop())
        with _there():
            self._connection.send(packed)

    def wait(self) -> None:
        """A little; that it has gone is told at once."""
        self._given_back(_LOOK_S)

    def told_last(self, what: BaseException | None) -> None:
        """That there is nothing any more, or what went wrong; then until it has gone."""
        with _there():
            self._connection.send(what)
        while True:
            self._given_back(None)

    def _given_back(self, wait_s: float | None) -> bool:
        """Whether slots came back within so long; None: however long it takes."""
        with _there():
            if not self._connection.poll(wait_s):
                return False
            self._free += self._connection.recv()
        return True


@contextmanager
def _there() -> Iterator[None]:
    """While one speaks with who learns."""
    try:
        yield
    except (EOFError, OSError) as error:
        raise _HasGoneError from error


def serve(connection: Connection, memory: int) -> None:
    """Make batches ready until nobody wants them, or nobody is there any more."""
    with suppress(_HasGoneError):
        _serve(connection, memory)


def _serve(connection: Connection, memory: int) -> None:
    with _there():
        asked, slots, slot_bytes = connection.recv()
    learner = _Learner(connection, Ring(memory, slots, slot_bytes))
    # What is mapped needs it no longer, and nobody shall open it by it.
    os.close(memory)
    with _told(learner), closing(asked.opened()) as examples:
        batches = Batches(examples, asked.positions, asked.model, asked.course, vectors=asked.vectors)
        while (ready := batches.next(asked.ended)) is not None or asked.follow:
            if ready is not None:
                learner.take(ready)
            else:
                learner.wait()
    learner.told_last(None)


@contextmanager
def _told(learner: _Learner) -> Iterator[None]:
    """Whoever learns is told what reading has met."""
    try:
        yield
    except _HasGoneError:
        raise
    except Exception as error:
        learner.told_last(sendable(error))


def sendable(error: Exception) -> Exception:
    """An error as another process can have it: causes do not go over, and are told as a note."""
    error.add_note("".join(traceback.format_exception(error)).rstrip())
    with suppress(Exception):
        pickle.loads(pickle.dumps(error))
        return error
    told = RuntimeError(f"{type(error).__name__}: {error}")
    told.add_note(error.__notes__[-1])
    return told


def _end_with(descriptor: int) -> None:
    """End this process, whatever it is waiting for, once a connection has no other end."""
    poll = select.poll()
    poll.register(descriptor, 0)  # nothing but the end is told
    poll.poll()
    os._exit(0)


if __name__ == "__main__":
    connection = Connection(int(sys.argv[1]))
    threading.Thread(target=_end_with, args=(connection.fileno(),), name="awaiting-the-learners-end", daemon=True).start()
    serve(connection, int(sys.argv[2]))
