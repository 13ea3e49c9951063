"""Micro-batches made ready by a process of its own, so that reading and learning do not wait for one another's turn at Python's lock.

What is learned is the same to the byte. PyTorch's data loader has workers too, but they hand over each array under a descriptor of its own, cut at no
position, and need torch, which takes a second to load and 350 MB.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from multiprocessing import Pipe

from online_model.learner.errors import LearnerError
from online_model.learner.reading import Ready
from online_model.learner.reading_process import Asked
from online_model.learner.ring import Ring, memory

SLOTS = 8
# Slots are given back so many at once, or each would wake the other process.
_GIVEN_BACK = 4
# What a record takes at most where each is of a request of its own: a sequence of 100 actions of 29 bytes, counters, IDs.
_RECORD_BYTES = 4_096
_MOST_BYTES = 64 << 20
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Apart:
    """A process that makes micro-batches ready, as `online_model.learner.ahead.Ahead` has it.

    Parameters
    ----------
    asked : Asked
    slot_bytes : int, optional
        Of shared memory for a micro-batch; one that is larger goes through a pipe. Never changes a result.

    Attributes
    ----------
    process_id : int

    Raises
    ------
    LearnerError
        The process can't be started.
    """

    def __init__(self, asked: Asked, slot_bytes: int | None = None) -> None:
        if slot_bytes is None:
            slot_bytes = min(asked.course.config.batch_rows * _RECORD_BYTES, _MOST_BYTES)
        self._used: list[int] = []
        self._ended = False
        try:
            with ExitStack() as kept, ExitStack() as given:
                self._connection, theirs = Pipe()
                kept.callback(self._connection.close)
                given.callback(theirs.close)
                held = memory(SLOTS * slot_bytes)
                given.callback(os.close, held)
                self._ring = Ring(held, SLOTS, slot_bytes)
                self._process = _started(theirs.fileno(), held)
                kept.pop_all()
        except OSError as error:
            need = "more open files (`ulimit -n`)" if error.errno in (errno.EMFILE, errno.ENFILE) else "one more process, and memory for it"
            raise LearnerError(f"learner: a process that reads examples can't be started ({error}); let this user have {need}") from error
        self.process_id = self._process.pid
        self._waiting = select.poll()
        self._waiting.register(self._connection.fileno(), select.POLLIN)
        with suppress(ConnectionError):  # that it has ended is told by `get`
            self._connection.send((asked, SLOTS, slot_bytes))

    def get(self, timeout_s: float) -> Ready | None:
        """The next one; None if there is none within so long, or none at all any more (`ended`). The one before is no longer good.

        Raises
        ------
        TidemarkError
            What reading has met.
        LearnerError
            The process has ended.
        """
        if self._ended:
            return None
        try:
            if len(self._used) == _GIVEN_BACK:
                self._connection.send(self._used)
                self._used = []
            if not self._waiting.poll(timeout_s * 1000):
                return None
            found = self._connection.recv()
        except (EOFError, OSError) as error:
            # A message that ends in its middle is a plain OSError: it was killed while it wrote.
            self._ended = True
            raise LearnerError(self._how_it_ended()) from error
        if isinstance(found, tuple):
            self._used.append(found[0])
            ready: Ready = self._ring.unpack(found)
            return ready
        self._ended = True
        if found is not None:
            raise found
        return None

    @property
    def ended(self) -> bool:
        """Whether all that was there when reading came to the end has been given."""
        return self._ended

    def close(self) -> None:
        """Stop reading; what is ready and was not asked for is dropped."""
        self._ended = True
        self._connection.close()
        # It only reads, so it has nothing to lose, and it may be waiting for brokers.
        self._process.kill()
        self._process.wait()

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        if code < 0:
            how, why = f"by signal {-code} ({signal.strsignal(-code)})", "look for what ends it: too little memory, as a rule"
        else:
            how, why = f"with code {code}", "what it has written above says why"
        return (
            f"learner: the process that reads examples has ended {how}; run the same command again, it goes on at the last snapshot. "
            f"If it happens again, {why}"
        )


def _started(connection: int, held: int) -> subprocess.Popen[bytes]:
    # Who learns takes the signals and closes the connection; the process that reads is born with them blocked, so that none comes too early.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "online_model.learner.reading_process", str(connection), str(held)],
            pass_fds=(connection, held),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
