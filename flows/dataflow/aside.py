"""A task may leave a run, and come back, while all others go on.

It is handed over where somebody wants to replace its state (`flows.state.handover`), and set aside where its state turns out damaged: then nothing
more is written to it. What arrives meanwhile is dropped, not kept: the log has it, and the task reads it there when it comes back.
"""

from __future__ import annotations

import gc
import math
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from flows import stopping
from flows.dataflow.lifecycle import Keeper, Lifecycle
from flows.dataflow.progress import tell
from flows.errors import LockedError, StateError
from flows.state import set_aside
from flows.state.task import putting_back
from flows.state.task_lock import is_wanted, last_held

# Seconds. How often it is looked whether somebody wants the task, at most; and whether whoever has it is done.
_LOOK, _LOOK_AWAY = 0.5, 0.2
# A task that was set aside is opened again after so long, then after twice that, and so on; at once after somebody had it.
_PAUSE, _LONGEST_PAUSE = 5.0, 60.0
# Whoever has the lock and never asked for the task (a digest) has it for moments.
_LOCKED_PATIENCE = 60.0


class LeftOut:
    """The tasks of a process that are set aside. Whoever follows the run is told of each, and ends it with an error; where nobody does, this does.

    Parameters
    ----------
    progress : int or None
        Who follows it.
    """

    def __init__(self, progress: int | None) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._open = 0
        self._why: dict[str, StateError] = {}

    def say(self, line: str, **message: object) -> None:
        """Tell a line for people, with what goes with it."""
        if self._progress is None:
            print(f"tidemark: {line}", file=sys.stderr, flush=True)
        tell(self._progress, {**message, "line": line})

    def begin(self) -> None:
        """A task is to be opened, and `end` will be called once."""
        with self._lock:
            self._open += 1

    def add(self, name: str, why: StateError) -> None:
        """A task is set aside."""
        with self._lock:
            before = self._why.get(name)
            # The words alone: frames of an error hold the task's database, and with it the lock that whoever restores the task needs.
            self._why[name] = StateError(str(why))
        # It is opened again and again.
        if before is None or str(before) != str(why):
            line = f"{name} is set aside, its state is damaged, and all other tasks go on; `{putting_back(name)}` puts it back ({why})"
            self.say(line, aside=name, why=str(why))

    def remove(self, name: str) -> None:
        """A task is there again."""
        with self._lock:
            self._why.pop(name, None)

    def end(self) -> None:
        """A task has ended; raises, after the last, if any is left out and nobody has been told."""
        with self._lock:
            self._open -= 1
            if self._open == 0 and self._why and self._progress is None:
                raise StateError("; ".join(f"{name} was left out: {why}" for name, why in sorted(self._why.items())))


class Holding:
    """A task as a run has it: opening, open, or away.

    Made and used in one thread.

    Parameters
    ----------
    name : str
        Of the task, for people.
    partition : int
    make : callable
        Opens it.
    lifecycle : Lifecycle
    left_out : LeftOut
    path : Path, optional
        Of the task's state, for which others may come.
    follow : bool
        Open it again now and then if it was set aside; otherwise only once somebody has had it.

    Attributes
    ----------
    away : bool
        The task is not there, or is there again and has not caught up yet: it is given no records, for it reads them by itself.
    """

    def __init__(
        self,
        name: str,
        partition: int,
        make: Callable[[], Keeper],
        lifecycle: Lifecycle,
        left_out: LeftOut,
        path: Path | None = None,
        follow: bool = False,
    ) -> None:
        self._name = name
        self._partition = partition
        self._make = make
        self._lifecycle = lifecycle
        self._left_out = left_out
        self._path = path
        self._follow = follow
        left_out.begin()
        if path is not None:
            # Of a run before this.
            set_aside.forget(path)
        self._opening: Future[Keeper] | None = lifecycle.open(make)
        self._leaving: Future[None] | None = None
        self._look_at = 0.0
        self._pause = _PAUSE
        self._again_at = 0.0
        self._locked_since: float | None = None
        self._last_held = 0
        self._said_back = True
        self.away = False

    @property
    def comes_back(self) -> bool:
        """Whether it is away only for as long as somebody else has it."""
        return self.away and self._again_at == 0.0

    def task(self, needed: bool) -> Keeper | None:
        """The task, if it is open; where it is `needed`, its first opening is waited for.

        Raises
        ------
        TidemarkError
            What ends the run: anything but damage to this task's state.
        """
        if self._opening is None:
            self._return_if_due()
            return None
        if not (self._opening.done() or (needed and not self.away)):
            return None
        return self._opened()

    def _opened(self) -> Keeper | None:
        assert self._opening is not None
        try:
            task = self._opening.result()
        except StateError as error:
            self._opening = None
            self._set_aside(error)
            return None
        except LockedError as error:
            self._opening = None
            self._await_holder(error)
            return None
        self._locked_since = None
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK
            if self._wanted():
                self._hand_over(task)
                return None
        if not self._said_back:
            self._said_back = True
            self._left_out.remove(self._name)
            if self._path is not None:
                set_aside.forget(self._path)
            self._left_out.say(f"{self._name} is back, at position {task.position:,}", back=self._name)
        return task

    def caught_up(self) -> None:
        """The task has read what it was not there for."""
        self.away = False
        self._left_out.say(f"{self._name} has caught up")

    def lose(self, error: StateError) -> None:
        """The open task's state is damaged: abandon it."""
        task, self._opening = self._opening, None
        if task is not None:
            self._leaving = self._lifecycle.let_go(self._partition, task.result().abandon)
        self._set_aside(error)

    def end(self, finish: Callable[[Keeper], None], position: int) -> None:
        """The input has ended: do what is left and close the task. One that comes back is waited for, unless the run is to stop; else it is left out.

        Parameters
        ----------
        finish : callable
            Does what is left.
        position : int
            Where the input has ended.
        """
        while (task := self._awaited()) is None and self.comes_back and not stopping.requested():
            time.sleep(_LOOK_AWAY)
        if task is not None:
            try:
                finish(task)
            except StateError as error:
                self.lose(error)
            else:
                self._lifecycle.close(task, lambda error: self._left_out.add(self._name, error))
                self._left_out.end()
                return
        if self._leaving is not None:
            self._settle_leaving()
        if self._path is not None:
            # Another run, of other tasks, may be on after this.
            set_aside.forget(self._path)
        self._lifecycle.leave_out(self._partition, position)
        self._left_out.end()

    def _awaited(self) -> Keeper | None:
        """As `task`, but whatever is under way is waited for, and nobody else gets the task any more."""
        if self._opening is None:
            if self._leaving is not None:
                self._settle_leaving()
            self._return_if_due()
        self._look_at = math.inf if self._opening is not None else self._look_at
        return self._opened() if self._opening is not None else None

    def _hand_over(self, task: Keeper) -> None:
        self._opening = None
        self._leaving = self._lifecycle.let_go(self._partition, task.close)
        self._leave(0.0)
        self._say_taken()

    def _set_aside(self, error: StateError) -> None:
        self._leave(time.monotonic() + self._pause if self._follow else math.inf)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        self._left_out.add(self._name, error)
        if self._path is not None:
            set_aside.note(self._path, str(error))
        _let_go(error)

    def _await_holder(self, error: LockedError) -> None:
        """Somebody has the lock: who wants the task, or who only looks. One that keeps it and never asked for it has the task in another run."""
        if not self._wanted():
            now = time.monotonic()
            self._locked_since = self._locked_since or now
            if not self.away or now - self._locked_since > _LOCKED_PATIENCE:
                raise error
        else:
            self._say_taken()
        self._leave(0.0)

    def _say_taken(self) -> None:
        self._left_out.say(f"{self._name} is in the hands of another command, and all other tasks go on")

    def _wanted(self) -> bool:
        return self._path is not None and is_wanted(self._path)

    def _held(self) -> int:
        return last_held(self._path) if self._path is not None else 0

    def _leave(self, again_at: float) -> None:
        self._again_at = again_at
        self._look_at = 0.0
        self._last_held = self._held()
        self._said_back = False
        self.away = True

    def _return_if_due(self) -> None:
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_AWAY
        if self._leaving is not None:
            if not self._leaving.done():
                return
            self._settle_leaving()
        if self._wanted():
            self._again_at, self._pause = 0.0, _PAUSE
        elif now >= self._again_at or self._last_held != self._held():
            self._again_at = 0.0
            self._opening = self._lifecycle.reopen(self._make)

    def _settle_leaving(self) -> None:
        assert self._leaving is not None
        leaving, self._leaving = self._leaving, None
        try:
            leaving.result()
        except StateError as error:
            self._set_aside(error)


def _let_go(error: BaseException) -> None:
    """Of what the frames of an error and of its causes hold, an open database among it. Cycles among them are looked for seldom here."""
    cause: BaseException | None = error
    while cause is not None:
        cause.__traceback__, cause = None, cause.__cause__ or cause.__context__
    gc.collect()
