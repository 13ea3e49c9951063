"""Where progress goes: JSON lines on a file descriptor that `tidemark run` reads; nowhere without one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

import orjson
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from flows.errors import TidemarkError


@dataclass(frozen=True)
class Applied:
    """What a task has just done: the item downstream of the step.

    Attributes
    ----------
    position : int
        Next offset to judge.
    advanced : int
        How far that has moved; Kafka's offsets have holes, and may hold several records.
    records : int
        How many of them were taken: repeats are not.
    refused : int
        How many of those became dead letters.
    watermark : int or None
        Greatest event time judged, ms; its commit may be under way.
    working_set : int
        Bytes of memory of its working set.
    """

    flow: str
    partition: int
    position: int
    advanced: int
    records: int
    refused: int
    watermark: int | None
    working_set: int


def tell(descriptor: int | None, message: dict[str, object]) -> None:
    """Write one line. A reader that has gone must not stop the flow."""
    if descriptor is None:
        return
    with suppress(OSError):
        os.write(descriptor, orjson.dumps(message) + b"\n")


def tell_commit(descriptor: int | None, flow: str, seconds: float, arrived: int | None) -> None:
    """Tell of a commit that is synced, for metrics; see `flows.state.behind.Synced`."""
    tell(descriptor, {"flow": flow, "commit_s": seconds, "arrived": arrived})


@contextmanager
def reporting(descriptor: int | None) -> Iterator[None]:
    """Tell an error with a message for the user before it ends the process."""
    try:
        yield
    except TidemarkError as error:
        tell(descriptor, {"error": str(error), "exit_code": error.exit_code})
        raise


class ProgressSink(DynamicSink[Applied]):
    """Tells what tasks have applied.

    Parameters
    ----------
    descriptor : int or None
    """

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Partition:
        return _Partition(self._descriptor)


class _Partition(StatelessSinkPartition[Applied]):
    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def write_batch(self, items: list[Applied]) -> None:
        for item in items:
            tell(self._descriptor, asdict(item))
