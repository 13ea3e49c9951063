"""Where the engine's time goes: the seconds spent in each of its steps, less those of the steps inside it, and how many of them on a core.

What runs in other threads goes on beside the rest and is told apart: it may cost nothing, or keep Python's lock from the main thread.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Self

import numpy as np

from flows import log
from flows.decode import Decoder
from flows.kernels.actions import WorkingSet
from flows.state import actions_task, outbox, revisits_task, runs, store

# Piece, owner, attribute. One that is no more is left out: this only looks on.
_BESIDE = ", in another thread"
_STEPS: tuple[tuple[str, Any, str], ...] = (
    ("log read", log.LocalLog, "read"),
    ("log append", log.LocalLog, "append"),
    ("log group positions", log.LocalLog, "commit_group"),
    ("log group positions", log.LocalLog, "group_positions"),
    ("decode", Decoder, "decode"),
    ("judge", WorkingSet, "judge"),
    ("sequence rows", actions_task.JudgedBatch, "sequence_rows"),
    ("sort", runs, "sort_rows"),
    ("put runs", runs.Runs, "add"),
    ("merge runs", runs.Runs, "merge"),
    ("outbox put", outbox.Outbox, "put"),
    ("outbox publish", outbox.Outbox, "publish"),
    ("take from REVISITS", revisits_task.RevisitsTask, "_put"),
    ("save working set", WorkingSet, "to_bytes"),
    ("write commit", store.TaskStore, "write"),
    ("sync", store.TaskStore, "sync"),
    ("open state", store.TaskStore, "__init__"),
    ("close state", store.TaskStore, "close"),
    ("actions task, rest", actions_task.ActionsTask, "_put"),
)


class Pieces:
    """Wraps the steps for as long as it is entered."""

    def __init__(self) -> None:
        self._spent: defaultdict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
        self._of_thread = threading.local()
        self._kept: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Self:
        for name, owner, attribute in _STEPS:
            step = getattr(owner, attribute, None)
            if step is not None:
                self._kept.append((owner, attribute, step))
                setattr(owner, attribute, self._timed(name, step))
        return self

    def __exit__(self, *_: object) -> None:
        for owner, attribute, step in reversed(self._kept):
            setattr(owner, attribute, step)

    def spent(self, seconds: float, cpu_seconds: float) -> dict[str, dict[str, float]]:
        """Of each piece, greatest first; and what of the whole run none of them is. Threads of RocksDB's own are in no piece."""
        known = dict(sorted(self._spent.items(), key=lambda item: -item[1][0]))
        of_main = sum((spent for name, spent in known.items() if not name.endswith(_BESIDE)), np.zeros(2))
        known["Bytewax and the rest"] = np.array([seconds, cpu_seconds]) - of_main
        return {name: {"seconds": round(float(spent[0]), 4), "cpu_seconds": round(float(spent[1]), 4)} for name, spent in known.items()}

    def _timed(self, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(step)
        def timed(*arguments: Any, **options: Any) -> Any:
            inside = self._of_thread.__dict__.setdefault("inside", [])
            inside.append(np.zeros(2))
            started = _now()
            try:
                return step(*arguments, **options)
            finally:
                took = _now() - started
                here = name if threading.current_thread() is threading.main_thread() else name + _BESIDE
                self._spent[here] += took - inside.pop()
                if inside:
                    inside[-1] += took

        return timed


def _now() -> np.ndarray:
    return np.array([time.perf_counter(), time.thread_time()])
