"""Pins for a user out of the index of an embedding: searched in threads of their own, off the event loop, and what is said of it.

A request has one version's users, pins and index, whole, whatever is switched meanwhile.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from online_model.serving.answer import Answer
from online_model.serving.errors import UnavailableError
from online_model.serving.packing import Packer, Request, one_said

if TYPE_CHECKING:
    from online_model.embedding.retrieval import Retrieved, Retriever


@dataclass(frozen=True, eq=False)
class Sought:
    """A retrieval that is asked for.

    Attributes
    ----------
    user : int
    k : int
    with_known : bool
        Pins of the user's sequence too.
    """

    user: int
    k: int
    with_known: bool


class Retrieving:
    """Searches.

    Parameters
    ----------
    packer : Packer
    threads : int
    most_waiting : int
        Searches that may wait; more are refused at once.
    timeout_s : float
    """

    def __init__(self, packer: Packer, threads: int, most_waiting: int, timeout_s: float) -> None:
        self._packer, self._most_waiting, self._timeout_s = packer, most_waiting, timeout_s
        self._threads = ThreadPoolExecutor(threads, "retrieving")
        self.waiting = 0

    async def search(self, retriever: Retriever, user: int, k: int, known: np.ndarray) -> Retrieved:
        """Pins for a user, without those that they know.

        Raises
        ------
        UnavailableError
            Too much waits, or it takes too long.
        """
        if self.waiting >= self._most_waiting:
            raise UnavailableError(f"{self.waiting} requests wait for the index already", "ask again later, or serve from more processes")
        self.waiting += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self._threads, retriever.retrieve, user, k, known)
        except TimeoutError:
            raise UnavailableError(
                f"the index has not answered within {self._timeout_s:g} s",
                "ask again, or from more servers; --model-timeout is how long it may take",
            ) from None
        finally:
            self.waiting -= 1

    async def answer(self, request: Request, sought: Sought, retriever: Retriever, read: Answer) -> bytes:
        """The body of an answer, of what was read of the user."""
        known = np.empty(0, np.int64) if sought.with_known else np.unique(read.sequences.pin_id)
        found = await self.search(retriever, sought.user, sought.k, known)
        out = {
            **self._packer.head(request, read),
            "user_id": sought.user,
            **one_said(read.user_status),
            "embedding": embedding_said(retriever),
            "source": found.source.value,
            "left_out": len(known),
            "pins": {"pin_id": found.pins, "score": found.score},
        }
        return orjson.dumps(out, option=orjson.OPT_SERIALIZE_NUMPY)

    def close(self) -> None:
        """End the threads; who still waits gets their answer first."""
        self._threads.shutdown()


def embedding_said(retriever: Retriever) -> dict[str, Any]:
    """Which embedding an answer is of: its version, table and index, the time and the positions that its users reflect."""
    table = retriever.table.manifest
    return {
        "version": table.version,
        "table": table.number,
        "index": retriever.pins.manifest.number,
        "as_of": table.as_of,
        "positions": list(table.actions),
    }
