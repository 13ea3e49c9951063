"""Commits beside the judging of what comes next: threads that do jobs in order, and nothing more once one has failed.

Damage to one task's state is that task's failure alone: it is told to the task, which then does no more, and the jobs of others go on.

A task hands over what it has judged and goes on; compiled loops hold no lock of Python's, and neither does a disk that syncs. What the disk has to do
is gathered over all tasks of a process: to sync eight files at once takes hardly longer than one, and one append holds what eight tasks put out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from flows.errors import StateError
from flows.state.outbox import Outbox, Waiting, append_together, records_in
from flows.state.store import TaskStore

T = TypeVar("T")

Then = Callable[[StateError | None], None]
Synced = Callable[[str, float, int | None], None]
"""Told of a commit that is synced: its flow, seconds since its records were judged, and when the first of them arrived, ms, where that is known."""

RECORDS = 1 << 19
"""Records of jobs that may wait or run: what bounds memory."""
_SYNCS = 8


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
        Of a StateError the task that it comes from must see to that.
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
        except StateError:
            raise
        except BaseException as error:
            self._failure = error
            raise
        finally:
            with self._changed:
                self._records -= records
                self._changed.notify_all()


class Together(Generic[T]):
    """One thread's queue of items; all that have come while it worked are worked on at once, in the order in which they came.

    Parameters
    ----------
    name : str
        Of the thread.
    work : callable
        Takes items; what it raises fails all of them, and all later ones.
    """

    def __init__(self, name: str, work: Callable[[list[T]], None]) -> None:
        self._behind = Behind(name)
        self._work = work
        self._lock = threading.Lock()
        self._gathered: list[T] = []

    def do(self, item: T, records: int = 0) -> Future[None]:
        """Work on an item with others; waits, fails and is bounded as `Behind.do`."""
        with self._lock:
            self._gathered.append(item)
        # Whichever of these jobs comes first takes all; an item is done at the latest with its own.
        return self._behind.do(self._do_gathered, records)

    def _do_gathered(self) -> None:
        with self._lock:
            items, self._gathered = self._gathered, []
        if items:
            self._work(items)


class Lanes:
    """Who commits, who syncs what was written and who publishes what was synced: each beside the others and beside the kernels.

    Attributes
    ----------
    commits : Behind
        Writes commits, one at a time.
    synced : Synced
        Told of each commit, in the thread that syncs.
    """

    def __init__(self, synced: Synced) -> None:
        self.synced = synced
        self.commits = Behind("committing")
        self._syncing: Together[tuple[TaskStore, Then]] = Together("syncing", self._sync)
        self._publishing: Together[tuple[Outbox, list[Waiting]]] = Together("publishing", append_together)
        self._disk = ThreadPoolExecutor(max_workers=_SYNCS, thread_name_prefix="disk")

    @classmethod
    def start(cls, synced: Synced = lambda flow, seconds, arrived: None) -> Lanes:
        """For a process."""
        return cls(synced)

    def sync(self, store: TaskStore, then: Then, records: int) -> Future[None]:
        """Sync all that a store has written by now, then do what must not come before; `records` are those that this holds.

        `then` is given what the sync has found damaged, if it has.
        """
        return self._syncing.do((store, then), records)

    def publish(self, outbox: Outbox, waiting: list[Waiting]) -> Future[None]:
        """Append what an outbox has taken, once it is synced."""
        return self._publishing.do((outbox, waiting), records_in(waiting))

    def _sync(self, written: list[tuple[TaskStore, Then]]) -> None:
        stores = {id(store): store for store, _ in written}
        syncing = {key: self._disk.submit(store.sync) for key, store in stores.items()}
        damage = {key: _damage(done) for key, done in syncing.items()}
        for store, then in written:
            then(damage[id(store)])


def _damage(done: Future[None]) -> StateError | None:
    """What a job has found damaged; raises what else went wrong."""
    try:
        done.result()
    except StateError as error:
        return error
    return None
