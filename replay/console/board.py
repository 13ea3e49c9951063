"""The board: what all sections say now, put together at most once a second however many look, and read only while somebody does.

Each section has a thread of its own, so that one that waits for brokers or a store holds up none of the others. What can't be read is said in its
place, with what was last known.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from flows.errors import TidemarkError

_log = logging.getLogger(__name__)

Said = TypeVar("Said")
SaidNow = TypeVar("SaidNow", covariant=True)

_EACH_S = 1.0
# Whoever looks waits no longer for sections that are slow; they are told as they were.
_PATIENCE_S = 1.5


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
    """

    def __init__(self, name: str, section: Section[Said]) -> None:
        self._name, self._section = name, section
        self._thread = ThreadPoolExecutor(1, f"console-{name}")
        self._looking: Future[None] | None = None
        self._due_at = 0.0
        self.told: Told[Said] = Told(None, None, None)

    def begin(self) -> Future[None] | None:
        """Have it look again, if that is due; what is under way, None where there is nothing to wait for."""
        if self._looking is not None and not self._looking.done():
            return self._looking
        if time.monotonic() < self._due_at:
            return None
        self._looking = self._thread.submit(self._look)
        return self._looking

    def close(self) -> None:
        """Release it; what hangs in a read is left to the end of the process."""
        self._thread.submit(self._section.close)
        self._thread.shutdown(wait=False)

    def _look(self) -> None:
        began = time.monotonic()
        try:
            self.told = Told(self._section.look(), time.time_ns() // 1_000_000, None)
        except TidemarkError as error:
            self.told = Told(self.told.said, self.told.looked_at, str(error))
        except Exception as error:
            _log.exception("the console's section '%s' has failed in a way that nobody has foreseen", self._name)
            problem = f"it can't be read: {type(error).__name__}; see what the server has written to its standard error"
            self.told = Told(self.told.said, self.told.looked_at, problem)
        # One that is slow to say is asked the more seldom, so that looking never takes more than a third of a core.
        self._due_at = time.monotonic() + max(self._section.every_s, 2 * (time.monotonic() - began))


class Board:
    """All sections.

    Parameters
    ----------
    sections : mapping of str to Section
    pack : callable
        What is told, made of what each section has told: called in the event loop.
    """

    def __init__(self, sections: Mapping[str, Section[Any]], pack: Callable[[Mapping[str, Told[Any]]], bytes]) -> None:
        self._kept = {name: Kept(name, section) for name, section in sections.items()}
        self._pack = pack
        self._one = asyncio.Lock()
        self._packed: bytes | None = None
        self._packed_at = 0.0

    async def told(self) -> bytes:
        """What all of them say, as JSON."""
        async with self._one:
            if self._packed is None or time.monotonic() - self._packed_at >= _EACH_S:
                looking = [found for kept in self._kept.values() if (found := kept.begin()) is not None]
                if looking:
                    await asyncio.wait([asyncio.ensure_future(_done(one)) for one in looking], timeout=_PATIENCE_S)
                self._packed = self._pack({name: kept.told for name, kept in self._kept.items()})
                self._packed_at = time.monotonic()
            return self._packed

    def close(self) -> None:
        """Release all of them."""
        for kept in self._kept.values():
            kept.close()


async def _done(looking: Future[None]) -> None:
    # Shielded: who goes away, or waits no longer, ends nobody's look.
    await asyncio.shield(asyncio.wrap_future(looking))
