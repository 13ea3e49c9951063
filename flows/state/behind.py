"""Commits beside the judging of what comes next: one thread that does jobs in order, and nothing more once one has failed.

A task hands over what it has judged and goes on; compiled loops hold no lock of Python's, and neither does a disk that syncs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

RECORDS = 1 << 19
"""Records of jobs that may wait or run: what bounds memory."""


class Behind:
    """One thread's queue of jobs, shared by the tasks of a process.

    Parameters
    ----------
    name : str
        Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._changed = threading.Condition()
        self._records = 0
        self._failure: BaseException | None = None

    def do(self, job: Callable[[], None], records: int = 0) -> Future[None]:
        """Do a job after those before it; waits while they hold so many records that this one would make it more than RECORDS.

        The future raises what the first job that failed has raised, and so does every later call: a commit that follows a lost one would leave a gap.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._records or self._records + records <= RECORDS)
            if self._failure is not None:
                raise self._failure
            self._records += records
        return self._thread.submit(self._run, job, records)

    def _run(self, job: Callable[[], None], records: int) -> None:
        try:
            if self._failure is not None:
                raise self._failure
            job()
        except BaseException as error:
            self._failure = error
            raise
        finally:
            with self._changed:
                self._records -= records
                self._changed.notify_all()


@dataclass(frozen=True)
class Lanes:
    """Who commits and who publishes, each beside the other and beside the kernels."""

    commits: Behind
    publishing: Behind

    @classmethod
    def start(cls) -> Lanes:
        """For a process."""
        return cls(Behind("committing"), Behind("publishing"))
