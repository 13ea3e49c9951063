"""Pieces go to and come from their place a few at once: a store's answer takes its time, and one core compresses while another writes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Each holds up to PIECE_BYTES a few times over.
_AT_ONCE = 4


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Results in the order of the items, a few of which are worked on, or done and not yet taken, at any time; nothing goes on once this ends.

    Raises
    ------
    Exception
        What the work raised, at its place.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(_AT_ONCE, "checkpoint") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > _AT_ONCE:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
