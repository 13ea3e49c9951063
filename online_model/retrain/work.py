"""Where a retrain stands, on disk: its plan, the training's checkpoints, the draft, what the gate said. Each is whole or not there.

A retrain that was killed goes on by its own plan, so that it ends as it would have. Another plan never takes over what it finds.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import orjson

from flows.directories import make_directory, translated
from flows.errors import CorruptionError
from flows.state.task_lock import holding
from online_model.registry import durable
from online_model.registry.manifest import digest_of
from online_model.registry.registry import Registry

_PLAN = "plan.json"


class Work:
    """The directory of the retrain that is at work, retrain/ beside the bases.

    Parameters
    ----------
    registry : Registry
    """

    def __init__(self, registry: Registry) -> None:
        self.directory = registry.directory / "retrain"
        self.checkpoints, self.draft = self.directory / "checkpoints", self.directory / "draft"
        self._lock = registry.directory / "RETRAIN"

    def alone(self) -> AbstractContextManager[None]:
        """Hold the lock: one retrain at a time.

        Raises
        ------
        LockedError
            Another is at work.
        """
        return holding(
            self._lock, lambda who: f"another retrain of {self.directory.parent} is at work ({who}); wait until it is done, or stop it"
        )

    def plan(self) -> dict[str, Any] | None:
        """Of the retrain that was begun and not ended; None if there is none."""
        return self.read(_PLAN) if (self.directory / _PLAN).exists() else None

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Forget what was begun before, and begin another."""
        self.end()
        with translated(f"retrain's directory {self.directory}"):
            make_directory(self.directory.absolute())
        self.write(_PLAN, plan)

    def end(self) -> None:
        """Nothing is at work any more."""
        with translated(f"retrain's directory {self.directory}"):
            # The plan first: without it, what is left belongs to nothing.
            (self.directory / _PLAN).unlink(missing_ok=True)
            if self.directory.exists():
                shutil.rmtree(self.directory)

    def has(self, name: str) -> bool:
        """Whether a step has left what it found."""
        return (self.directory / name).exists()

    def write(self, name: str, said: Mapping[str, Any]) -> None:
        """Keep what a step has found; durable."""
        content = orjson.loads(orjson.dumps(said))
        durable.replace(self.directory / name, orjson.dumps({"said": content, "digest": digest_of(content)}))

    def read(self, name: str) -> dict[str, Any]:
        """What a step has found.

        Raises
        ------
        CorruptionError
            It is not what was written.
        """
        path = self.directory / name
        try:
            content = orjson.loads(durable.read(path))
            said = content["said"]
            if content["digest"] != digest_of(said):
                raise ValueError("its digest is another")
            return dict(said)
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptionError(
                f"retrain: {path} is not what was written ({error}); delete {self.directory} and retrain from the beginning"
            ) from error

    def clear_draft(self) -> None:
        """Delete a draft that was not finished."""
        with translated(f"retrain's directory {self.directory}"):
            shutil.rmtree(self.draft, ignore_errors=True)

    def files(self) -> dict[str, str]:
        """The draft's files and their sha256."""
        return {path.name: durable.measure(path)[1] for path in sorted(self.draft.iterdir())} if self.draft.is_dir() else {}
