"""The engine over Kafka: one Bytewax worker with both flows, from a topic of JSON to closed, committed, synced state."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import _measure, _outcome, _stream
from benchmarks._tidemark import run_flows
from flows.open_log import open_log
from flows.outputs import ACTIONS
from flows.settings import Settings


class Contestant:
    """See the module."""

    def __init__(self, settings: Settings, scratch: Path) -> None:
        self._settings = replace(settings, data=scratch / "data")
        self._scratch = scratch
        self._last = self._settings
        self.events = 0
        # The whole engine once, in pieces small enough that every kernel is needed: what numba loads is loaded.
        run_flows(replace(_stream.make(scratch / "warm", 2_000, 100, seed=1, partitions=1), batch_records=100))

    def run(self, prefix: str) -> dict[str, Any]:
        """Everything once, into state of its own."""
        shutil.rmtree(self._settings.data, ignore_errors=True)
        self._last = replace(self._settings, kafka_prefix=prefix)
        with open_log(self._last, ACTIONS, read_only=True) as log:
            self.events = sum(log.end_positions())
        return {**run_flows(self._last), "state_bytes": _measure.size_of(self._last.state)}

    def outcome(self) -> _outcome.Outcome:
        """What the last run led to, at the newest event."""
        return _outcome.exported(self._last, self._scratch / "exports")
