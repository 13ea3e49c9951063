"""What one worker process is to do: which partitions are its own, where its input ends, whom it tells how far it is.

`tidemark run` hands this over in environment variables, so that the flows stay ordinary Bytewax flows that `python -m bytewax.run` takes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from flows.errors import SettingsError
from flows.settings import ENVIRONMENT_PREFIX

FOLLOW, WORKER, WORKERS, UNTIL, PROGRESS = (ENVIRONMENT_PREFIX + name for name in ("FOLLOW", "WORKER", "WORKERS", "UNTIL", "PROGRESS"))


@dataclass(frozen=True)
class Plan:
    """A worker's part.

    Attributes
    ----------
    follow : bool
        Go on reading for ever; otherwise up to where the logs end now (or `until`).
    worker, workers : int
        Own partitions p with p mod workers = worker.
    until : tuple of int or None
        End of each ACTIONS partition, fixed once for all workers.
    progress : int or None
        File descriptor to which progress goes, one JSON object a line.
    """

    follow: bool = False
    worker: int = 0
    workers: int = 1
    until: tuple[int, ...] | None = None
    progress: int | None = None

    def owns(self, partition: int) -> bool:
        """Whether a partition is this worker's."""
        return partition % self.workers == self.worker

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Plan:
        """Read the variables; without any: all partitions, up to the present end."""
        try:
            until = environment.get(UNTIL)
            progress = environment.get(PROGRESS)
            return cls(
                follow=environment.get(FOLLOW, "") not in ("", "0"),
                worker=int(environment.get(WORKER, "0")),
                workers=int(environment.get(WORKERS, "1")),
                until=tuple(orjson.loads(until)) if until else None,
                progress=int(progress) if progress else None,
            )
        except ValueError as error:
            raise SettingsError(f"{FOLLOW}, {WORKER}, {WORKERS}, {UNTIL} or {PROGRESS} can't be read: {error}") from error

    def to_environment(self) -> dict[str, str]:
        """The variables that `from_environment` reads."""
        out = {FOLLOW: "1" if self.follow else "0", WORKER: str(self.worker), WORKERS: str(self.workers)}
        if self.until is not None:
            out[UNTIL] = orjson.dumps(self.until).decode()
        if self.progress is not None:
            out[PROGRESS] = str(self.progress)
        return out
