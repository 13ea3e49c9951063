"""A training that was begun and not ended: what was asked for, and of which prefix of the log.

So the same command goes on with it, though the log has grown since. One at a time.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

import orjson

from flows.directories import make_directory, translated
from flows.settings import Settings
from flows.state.task_lock import holding
from online_model.embedding.actions import LogPrefix
from online_model.embedding.version import DIRECTORY
from online_model.registry import durable

_PLAN, _LOCK = "plan.json", "TRAIN"


class Begun:
    """The directory of a training at work.

    Parameters
    ----------
    settings : Settings

    Attributes
    ----------
    checkpoints : Path
    given_up : bool
        Whether `prefix` has found another training that was cut off, and forgotten it.
    """

    def __init__(self, settings: Settings) -> None:
        place = (settings.data / DIRECTORY).absolute()
        self._settings, self._place, self._lock = settings, place / "training", place / _LOCK
        self.checkpoints = self._place / "checkpoints"
        self.given_up = False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock.

        Raises
        ------
        LockedError
            Another training is at work.
        """
        with translated(f"can't write to {self._lock.parent}"):
            make_directory(self._lock.parent)
        with holding(self._lock, lambda who: f"another training in {self._place} is at work ({who}); wait until it is done, or stop it"):
            yield

    def prefix(self, asked: Mapping[str, Any]) -> LogPrefix:
        """That of the training which was begun as asked for, if the log still has it; else all of the log, and what was begun is forgotten."""
        plan, now = self._place / _PLAN, LogPrefix.now(self._settings)
        # One that can't be read is of nothing that could be gone on with.
        with suppress(orjson.JSONDecodeError, KeyError, TypeError):
            content: dict[str, Any] = orjson.loads(durable.read(plan)) if plan.exists() else {"asked": None}
            if content["asked"] == asked:
                prefix = LogPrefix(*(tuple(content["reflects"][name]) for name in ("actions", "corrected_to")))
                if not prefix.beyond(now):
                    return prefix
        self.given_up = self.checkpoints.exists()
        self.end()
        with translated(f"can't write to {self._place}"):
            make_directory(self._place)
            durable.replace(plan, orjson.dumps({"asked": asked, "reflects": asdict(now)}))
        return now

    def end(self) -> None:
        """Nothing is at work any more."""
        with translated(f"can't write to {self._place}"):
            # The plan first: without it, what is left belongs to nothing.
            (self._place / _PLAN).unlink(missing_ok=True)
            if self._place.exists():
                shutil.rmtree(self._place)
