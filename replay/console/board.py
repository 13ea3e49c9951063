"""The board: what all sections say now, put together at most once a second however many look, and read only while somebody does.

Each section has a thread of its own, so that one that waits for brokers or a store holds up none of the others. What can't be read is said in its
place, with what was last known.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from flows.errors import TidemarkError

_log = logging.getLogger(__name__)

Said = TypeVar("Said")
SaidNow = TypeVar("SaidNow", covariant=True)

_EACH_S = 1.0
# Whoever looks waits no longer for sections that are slow; they are told as they were.
_PATIENCE_S = 1.5
# A look that is under way for longer than this is told: what was known last must not pass for what is so now.
SILENT_S = 15.0
# For all sections together.
_CLOSE_S = 2.0


class Section(Protocol[SaidNow]):
    """One part of the console. It is called by one thread at a time."""

    every_s: float
    """So long what it says holds."""

    def look(self) -> SaidNow:
        """What it says now.

        Raises
        ------
        TidemarkError
            It can't be read.
        """

    def close(self) -> None:
        """Release all that is open."""


@dataclass(frozen=True)
class Told(Generic[Said]):
    """What a section has said.

    Attributes
    ----------
    said : Said or None
        The last that could be read; None: nothing yet.
    looked_at : int or None
        When that was, ms.
    problem : str or None
        Why it can't be read now.
    """

    said: Said | None
    looked_at: int | None
    problem: str | None


class Kept(Generic[Said]):
    """A section, its thread, and what it has said last.

    Parameters
    ----------
    name : str
    section : Section
    clock : callable
        Seconds.
    """

    def __init__(self, name: str, section: Section[Said], clock: Callable[[], float]) -> None:
        self._name, self._section, self._clock = name, section, clock
        self._looking: Future[None] | None = None
        self._began, self._due_at = clock(), 0.0
        self._told: Told[Said] = Told(None, None, None)
        self._asked: SimpleQueue[Future[None] | None] = SimpleQueue()
        # A read that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"console-{name}", daemon=True)
        self._thread.start()

    def begin(self) -> Future[None] | None:
        """Have it look again, if that is due; what is under way, None where there is nothing to wait for."""
        if self._looking is not None and not self._looking.done():
            return self._looking
        if self._clock() < self._due_at:
            return None
        self._began, self._looking = self._clock(), Future()
        self._asked.put(self._looking)
        return self._looking

    def told(self) -> Told[Said]:
        """What it has said last, and whether it is silent now."""
        silent = self._clock() - self._began
        if self._looking is None or self._looking.done() or silent < SILENT_S:
            return self._told
        since = datetime.fromtimestamp(time.time() - silent, UTC)
        return replace(
            self._told, problem=f"no answer since {since:%H:%M:%S} UTC; the disk, the brokers or the store that it reads may be away"
        )

    def end(self) -> None:
        """Have it released, after what it is at."""
        self._asked.put(None)

    def join(self, seconds: float) -> None:
        """Wait until it is released; what hangs in a read is left to the end of the process."""
        self._thread.join(seconds)

    # In the thread -------------------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (asked := self._asked.get()) is not None:
            self._look()
            asked.set_result(None)
        self._section.close()

    def _look(self) -> None:
        began = self._clock()
        try:
            self._told = Told(self._section.look(), time.time_ns() // 1_000_000, None)
        except TidemarkError as error:
            self._told = replace(self._told, problem=str(error))
        except Exception as error:
            _log.exception("the console's section '%s' has failed in a way that nobody has foreseen", self._name)
            problem = f"it can't be read: {type(error).__name__}; see what the server has written to its standard error"
            self._told = replace(self._told, problem=problem)
        # One that is slow to say is asked the more seldom, so that looking never takes more than a third of a core.
        self._due_at = self._clock() + max(self._section.every_s, 2 * (self._clock() - began))


class Board:
    """All sections.

    Parameters
    ----------
    sections : mapping of str to Section
    pack : callable
        What is told, made of what each section has told: called in the event loop.
    clock : callable
        Seconds.
    """

    def __init__(
        self,
        sections: Mapping[str, Section[Any]],
        pack: Callable[[Mapping[str, Told[Any]]], bytes],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kept = {name: Kept(name, section, clock) for name, section in sections.items()}
        self._pack, self._clock = pack, clock
        self._one = asyncio.Lock()
        self._packed: bytes | None = None
        self._packed_at = 0.0

    async def told(self) -> bytes:
        """What all of them say, as JSON."""
        async with self._one:
            if self._packed is None or self._clock() - self._packed_at >= _EACH_S:
                looking = [found for kept in self._kept.values() if (found := kept.begin()) is not None]
                if looking:
                    await asyncio.wait([asyncio.ensure_future(_done(one)) for one in looking], timeout=_PATIENCE_S)
                self._packed = self._pack({name: kept.told() for name, kept in self._kept.items()})
                self._packed_at = self._clock()
            return self._packed

    def close(self) -> None:
        """Release all of them."""
        for kept in self._kept.values():
            kept.end()
        until = time.monotonic() + _CLOSE_S
        for kept in self._kept.values():
            kept.join(max(0.0, until - time.monotonic()))


async def _done(looking: Future[None]) -> None:
    # Shielded: who goes away, or waits no longer, ends nobody's look.
    await asyncio.shield(asyncio.wrap_future(looking))
