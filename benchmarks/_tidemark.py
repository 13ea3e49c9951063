"""The engine as it is run: one Bytewax worker with both flows, from a filled ACTIONS log to closed, committed, synced state."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from bytewax.testing import run_main

from benchmarks import _measure, _outcome, _stream
from benchmarks._pieces import Pieces
from flows.dataflow.graph import FLOWS, build
from flows.log import LocalLog
from flows.outputs import ACTIONS
from flows.settings import Settings


class Contestant:
    """See the module. Each `run` has a data directory of its own, whose log is filled before the clock starts."""

    def __init__(self, settings: Settings, scratch: Path) -> None:
        self._settings = settings
        self._scratch = scratch
        self._last = settings
        with LocalLog.open(settings.logs, ACTIONS, read_only=True) as log:
            self.events = sum(log.end_positions())
        # The whole engine once, in pieces small enough that every kernel is needed: what numba loads is loaded.
        run_flows(replace(_stream.make(scratch / "warm", 2_000, 100, seed=1, partitions=1), batch_records=100))

    def run(self, pieces: bool = False) -> dict[str, Any]:
        """Everything once; returns seconds, bytes of state, and if asked what each piece took (all then cost a little more)."""
        self._last = _stream.fresh(self._settings, self._scratch / "data")
        with ExitStack() as stack:
            taken = stack.enter_context(Pieces()) if pieces else None
            spent = run_flows(self._last)
        return {**spent, "state_bytes": _measure.size_of(self._last.state)} | ({"pieces": taken.spent(**spent)} if taken else {})

    def outcome(self) -> _outcome.Outcome:
        """What the last run led to, at the newest event."""
        return _outcome.exported(self._last, self._scratch / "exports")


def run_flows(settings: Settings) -> dict[str, float]:
    """Both flows to the end of their input: seconds and CPU seconds."""
    os.environ.update(settings.environment())
    clock = _measure.Clock()
    run_main(build(FLOWS, follow=False))
    return clock.read()
