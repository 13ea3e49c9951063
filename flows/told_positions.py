"""How far tasks have come by what they have told their logs: what is known of one whose state is gone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flows.log import Log
from flows.open_log import log_exists, open_live_log
from flows.settings import Settings


def told_positions(settings: Settings, inputs: Mapping[str, str]) -> dict[tuple[str, int], int]:
    """Position of each task that has told one, of embedded logs; brokers, which may be away, are not asked.

    Parameters
    ----------
    inputs : mapping of str to str
        Flow → the log that its positions are of.
    """
    told: dict[tuple[str, int], int] = {}
    for flow, name in inputs.items() if not settings.kafka else ():
        if log_exists(settings, name):
            with open_live_log(settings, name, read_only=True) as log:
                told |= {(flow, partition): position for partition, position in log.group_positions(flow).items()}
    return told


def tell_none(settings: Settings, log: Log, flow: str, partition: int) -> None:
    """Tell that a task has no state, and is not meant to: it begins anew."""
    if not settings.kafka:
        log.commit_group(flow, {partition: 0})


def gone(path: Path, position: int) -> str:
    """What is said of a task that had a state and has none."""
    if (path / "CURRENT").exists():
        # A database of which all files with rows are gone opens as an empty one.
        return f"state {path} has lost all its commits, though the task has been at position {position}: `tidemark run` goes through the log again"
    return f"state {path} is gone, though the task has been at position {position}; put the task back with `tidemark replay restore`"
