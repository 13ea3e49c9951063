"""How far tasks have come by what they have told their logs: what is known of one whose state is gone."""

from __future__ import annotations

from collections.abc import Mapping

from flows.examples.record import EXAMPLES
from flows.log import Log
from flows.open_log import log_exists, open_live_log
from flows.settings import Settings
from flows.state.task import putting_back, task_path


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


def gone(settings: Settings, flow: str, partition: int, position: int) -> str:
    """What is said of a task that had a state and has none."""
    path = task_path(settings, flow, partition)
    if (path / "CURRENT").exists():
        # A database of which all files with rows are gone opens as an empty one.
        run = "tidemark examples run" if flow == EXAMPLES else "tidemark run"
        return f"state {path} has lost all its commits, though the task has been at position {position}: `{run}` goes through the log again"
    again = putting_back(f"{flow}/{partition}")
    return f"state {path} is gone, though the task has been at position {position}; put the task back with `{again}`"
