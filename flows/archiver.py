"""The archiver, as a Bytewax dataflow: `python -m bytewax.run "flows.archiver:flow(follow=True, max_delay_s=3600)"`."""

from __future__ import annotations

from collections.abc import Sequence

from bytewax.dataflow import Dataflow

from flows.dataflow.archiving import build_archiver
from flows.outputs import LOGS


def flow(logs: Sequence[str] = LOGS, follow: bool | None = None, max_delay_s: float | None = None, leave_gap: bool = False) -> Dataflow:
    """Archives logs that are there; up to their present ends unless it follows."""
    return build_archiver(logs, follow, max_delay_s, leave_gap)
