"""Keeps what was served: a bounded queue, and a thread that appends all that waits at once.

It must never hold up an answer, and never lose a row silently: a row that finds no room is refused, and whoever serves it all the same counts it.
What an append has failed with (a full disk, brokers that are away) stays in the queue and is appended again once that works; meanwhile the queue
fills.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

from flows.errors import LockedError, StorageFullError, TidemarkError
from flows.log import Log
from flows.open_log import open_log
from flows.outputs import SERVED
from flows.served_rows import Served, batches_of
from flows.settings import Settings
from online_model.serving.metrics import NOT_ENCODED, QUEUE_FULL, STOPPED, Metrics

_log = logging.getLogger(__name__)

# What comes within this time of a row becomes durable with it: an fsync holds up the flows' own.
_LINGER_S = 0.1
_AGAIN_S = 1.0
_APPEND_BYTES = 32 << 20
# Of one batch: a reader of Kafka's messages takes no column of lists that is larger than 8 MiB.
_BATCH_BYTES = 4 << 20
# What errors tell whoever runs a command that ends with them; this goes on by itself.
_RUN_AGAIN = (" and run this again", ", then run this again")
_NO_TIME = "there was no time left for them at the end"


class ServedLog:
    """The writer of SERVED.

    Parameters
    ----------
    settings : Settings
    room_bytes : int
        Memory that rows may take which are not durable yet.
    metrics : Metrics
    """

    def __init__(self, settings: Settings, room_bytes: int, metrics: Metrics) -> None:
        self._settings, self._room, self._metrics = settings, room_bytes, metrics
        self._lock = threading.Condition()
        self._queue: deque[Served] = deque()
        self._bytes = self._rows = 0
        self._lost = self._kept = 0
        self._error: str | None = None
        self._full = False
        # Why, from the first row that finds no room until all that waits is durable.
        self._refusing: str | None = None
        self._why_lost: str | None = None
        self._stop_by: float | None = None
        self._log: Log | None = None
        metrics.watch("served_log_waiting_rows", lambda: self._rows)
        metrics.watch("served_log_waiting_bytes", lambda: self._bytes)
        self._thread = threading.Thread(target=self._work, name="keeping-what-was-served", daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> str | None:
        """Why rows don't become durable, or find no room; None if all is well."""
        if self._error is not None:
            return self._error
        if self._full or not self.has_room():
            return f"rows come faster than log '{SERVED}' takes them, and {self._room >> 20} MiB of them wait"
        return None

    @property
    def lost(self) -> int:
        """Rows that were served and will never be in SERVED."""
        return self._lost

    @property
    def why_lost(self) -> str | None:
        """Why the last of them won't."""
        return self._why_lost

    @property
    def kept(self) -> int:
        """Rows that are durable."""
        return self._kept

    def has_room(self) -> bool:
        """Whether a row would be taken, unless others come before it."""
        return self._bytes < self._room

    def offer(self, one: Served) -> bool:
        """Keep a request's rows; False if there is no room."""
        size = one.nbytes
        with self._lock:
            if self._stop_by is None and self._bytes + size <= self._room:
                self._queue.append(one)
                self._bytes += size
                self._rows += one.records
                self._full = False
                self._lock.notify()
                return True
            self._full = True
            if self._refusing is None and self._stop_by is None:
                self._refusing = self.trouble
                _log.warning("log '%s' has no room for what is served: %s", SERVED, self._refusing)
            return False

    def pass_over(self, one: Served) -> None:
        """Count rows that are served though they find no room."""
        with self._lock:
            self._lose(QUEUE_FULL, one.records, self._refusing or _NO_TIME)

    def close(self, patience_s: float) -> int:
        """Make durable what waits, for so long at most; returns how many rows are lost for good, of all that were served."""
        with self._lock:
            self._stop_by = time.monotonic() + patience_s
            self._lock.notify()
        self._thread.join(patience_s + _AGAIN_S)
        with self._lock:
            # An append that hangs goes on with what it has, and nobody will hear of it.
            if self._rows:
                self._lose(STOPPED, self._rows, self._error or _NO_TIME)
                self._rows = 0
            return self._lost

    # In the thread -------------------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._lock:
                while not self._queue and self._stop_by is None:
                    self._lock.wait()
                if not self._queue:
                    break
                if self._stop_by is None:
                    self._lock.wait_for(lambda: self._stop_by is not None, _LINGER_S)
                taken, size = [], 0
                while self._queue and size < _APPEND_BYTES:
                    taken.append(self._queue.popleft())
                    size += taken[-1].nbytes
            self._keep(taken)
            with self._lock:
                self._bytes -= size
                self._rows = max(0, self._rows - sum(one.records for one in taken))
                # It must not say that it is full once it has emptied, though nothing comes.
                self._full = self._full and bool(self._queue)
                if self._refusing is not None and self._error is None and not self._queue:
                    self._refusing = None
                    _log.warning("log '%s' takes what is served again; rows lost so far: %s", SERVED, self._lost)
        if self._log is not None:
            self._log.close()

    def _keep(self, taken: list[Served]) -> None:
        rows = sum(one.records for one in taken)
        try:
            batches = batches_of(taken, self._settings.partitions, _BATCH_BYTES)
        except Exception:
            _log.exception("%s rows that were served can't be put into records", rows)
            with self._lock:
                self._lose(NOT_ENCODED, rows, "they can't be put into records; see standard error")
            return
        while True:
            began = time.monotonic()
            try:
                if self._log is None:
                    self._log = open_log(self._settings, SERVED, create=True)
                    self._log.expect_appends()
                self._log.append(batches)
            except Exception as error:
                self._fail(error)
            else:
                self._error = None
                self._kept += rows
                self._metrics.kept(rows, time.monotonic() - began)
                return
            with self._lock:
                if self._stop_by is not None and time.monotonic() >= self._stop_by:
                    self._lose(STOPPED, rows, self._error or _NO_TIME)
                    return
                left = _AGAIN_S if self._stop_by is None else min(_AGAIN_S, max(0.0, self._stop_by - time.monotonic()))
                self._lock.wait_for(lambda: False, left)

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, TidemarkError):
            _log.exception("an append to log '%s' has failed in a way that nobody has foreseen", SERVED)
            error = TidemarkError(f"log '{SERVED}': {type(error).__name__}: {error}; see what the server has written to its standard error")
        said = str(error)
        for words in _RUN_AGAIN:
            said = said.removesuffix(words)
        self._error = said
        with self._lock:
            if self._refusing is not None:
                # Rows may have filled the queue before an append could fail.
                self._refusing = said
                self._why_lost = self._why_lost and said
        self._metrics.append_failed()
        if isinstance(error, (StorageFullError, LockedError)):
            return
        log, self._log = self._log, None
        if log is not None:
            try:
                log.close()
            except Exception as closing:
                _log.debug("log '%s' could not be closed: %s", SERVED, closing)

    def _lose(self, reason: str, rows: int, why: str) -> None:
        self._lost += rows
        self._why_lost = why
        self._metrics.dropped(reason, rows)
