"""Commits beside the judging of what comes next: one thread that does jobs in order, and nothing more once one has failed.

A task hands over what it has judged and goes on; compiled loops hold no lock of Python's, and neither does a disk that syncs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

DEPTH = 2
"""Jobs that may wait or run. More would only hold more in memory."""


class Behind:
    """One thread's queue of jobs, shared by the tasks of a process."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="behind")
        self._room = threading.Semaphore(DEPTH)
        self._failure: BaseException | None = None

    def do(self, job: Callable[[], None]) -> Future[None]:
        """Do a job after those before it; waits while DEPTH others aren't done.

        The future, and every one after it, raises what the first job that failed has raised: a commit that follows a lost one would leave a gap.
        """
        self._room.acquire()
        return self._thread.submit(self._run, job)

    def _run(self, job: Callable[[], None]) -> None:
        try:
            if self._failure is not None:
                raise self._failure
            job()
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self._room.release()
