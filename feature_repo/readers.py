"""One reader per data directory and process, of task state or of Redis, and reads under one catch-up with the writers.

Values that belong together (views of one request, and the positions that go with them) must come from one catch-up, or they would
reflect different log prefixes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from flows.errors import MovedOnError, SettingsError
from flows.settings import Settings

if TYPE_CHECKING:
    from flows.answers import EntityReader

T = TypeVar("T")


@dataclass
class SharedReader:
    """A reader, the lock that its users take turns with, and names for the codes in its rows.

    Attributes
    ----------
    reader : EntityReader
        Of task state, or of Redis. To be used with `lock` held: a catch-up in another thread would move it on between two reads.
    settings : Settings
        What it was opened with.
    held : bool
        Somebody reads under a catch-up.
    """

    reader: EntityReader
    settings: Settings
    lock: threading.RLock = field(default_factory=threading.RLock)
    held: bool = False

    @cached_property
    def action_names(self) -> npt.NDArray[np.object_]:
        """Names of actions by code; None where a code has none."""
        return _by_code(self.settings.load_vocabulary().action_names())

    @cached_property
    def surface_names(self) -> npt.NDArray[np.object_]:
        """Names of surfaces by code; None where a code has none."""
        return _by_code(self.settings.load_vocabulary().surface_names())


@dataclass(frozen=True)
class CaughtUp:
    """Task state, or what Redis holds of it, as of one catch-up with the writers.

    Attributes
    ----------
    shared : SharedReader
        The reader; held by this thread.
    """

    shared: SharedReader

    @cached_property
    def default_as_of(self) -> int | None:
        """The as_of of a read that names none; None where nothing was accepted yet."""
        return self.shared.reader.default_as_of()

    @cached_property
    def positions(self) -> dict[str, Any]:
        """What the values reflect: the committed position of every task, by flow."""
        return self.shared.reader.positions()


# The settings that decide values; the others never change a result.
_DECIDING = ("partitions", "allowed_lateness_ms", "dedup_horizon_ms", "clock_skew_ms", "vocabulary")

# By process too: a RocksDB handle doesn't survive a fork (`feast serve` forks its workers), and closing the parent's would harm the parent.
_readers: dict[tuple[int, Path, str | None, str], SharedReader] = {}
_opening = threading.Lock()
# Reads that find a task written meanwhile: the second time all that they ask for is taken at once, unless another thread comes in between.
_ATTEMPTS = 5
_current: ContextVar[CaughtUp | None] = ContextVar("caught_up", default=None)


def shared_reader(settings: Settings) -> SharedReader:
    """The reader of a data directory, opened once per process.

    Raises
    ------
    SettingsError
        If it is open with settings under which features mean something else.
    """
    key = os.getpid(), settings.data.resolve(), settings.online, settings.online_prefix
    with _opening:
        shared = _readers.get(key)
        if shared is None:
            shared = _readers[key] = SharedReader(_open(settings), settings)
    for name in _DECIDING:
        held, wanted = getattr(shared.settings, name), getattr(settings, name)
        if held != wanted:
            raise SettingsError(
                f"data directory {settings.data} is open in this process with {name} {held}, not {wanted}; "
                "use one, or call feature_repo.readers.close_readers() before"
            )
    return shared


@contextmanager
def caught_up(settings: Settings) -> Iterator[CaughtUp]:
    """Catch up with the writers once, for all reads within; within another of the same data directory, that one holds.

    Yields
    ------
    CaughtUp
        The reader, its default as_of and its positions.

    Raises
    ------
    RuntimeError
        If a coroutine awaits within it and another one of the same thread comes in: that would wait for itself.
    """
    shared = shared_reader(settings)
    outer = _current.get()
    if outer is not None and outer.shared is shared:
        yield outer
        return
    with shared.lock:
        if shared.held:
            raise RuntimeError("a catch-up with task state must not span an await; read in a thread, or leave the context before")
        shared.reader.refresh()
        here = CaughtUp(shared)
        token = _current.set(here)
        shared.held = True
        try:
            yield here
        finally:
            shared.held = False
            _current.reset(token)


def read_together(settings: Settings, read: Callable[[CaughtUp], T]) -> T:
    """What a function reads under one catch-up, or under that of the context; read again where Redis was written meanwhile.

    Raises
    ------
    MovedOnError
        Within a catch-up that is not its own: what was read in it before can't be read again here.
    """
    for _ in range(_ATTEMPTS - 1):
        outer = _current.get()
        try:
            with caught_up(settings) as caught:
                return read(caught)
        except MovedOnError:
            if outer is not None and outer is caught:
                raise
    with caught_up(settings) as caught:
        return read(caught)


def close_readers() -> None:
    """Close every reader of this process."""
    with _opening:
        for key in [key for key in _readers if key[0] == os.getpid()]:
            shared = _readers.pop(key)
            with shared.lock:
                shared.reader.close()


def _by_code(names: dict[int, str]) -> npt.NDArray[np.object_]:
    table = np.full(256, None, object)
    table[list(names)] = list(names.values())
    return table


def _open(settings: Settings) -> EntityReader:
    # Not at the top: `feast apply` and `feast ui` need no state, and shall start without what reads it.
    from flows.open_reader import open_reader

    return open_reader(settings)
