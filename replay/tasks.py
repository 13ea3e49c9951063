"""Which tasks a command is about."""

from __future__ import annotations

from dataclasses import dataclass

from flows.errors import SettingsError
from flows.examples.record import EXAMPLES
from flows.outputs import ACTIONS, REVISITS
from flows.settings import Settings
from flows.state.task import putting_back

FLOWS = (ACTIONS, REVISITS)


@dataclass(frozen=True, order=True)
class TaskName:
    """A flow's task of one partition; ``actions/3`` in words."""

    flow: str
    partition: int

    def __str__(self) -> str:
        return f"{self.flow}/{self.partition}"


def every(settings: Settings) -> list[TaskName]:
    """All tasks of a data directory."""
    return [TaskName(flow, partition) for flow in FLOWS for partition in range(settings.partitions)]


def named(settings: Settings, names: tuple[str, ...]) -> list[TaskName]:
    """Tasks by what a user calls them: ``actions/3``, or ``actions`` for all of a flow.

    Raises
    ------
    SettingsError
        There is no such task.
    """
    found: list[TaskName] = []
    for name in names:
        matching = [task for task in every(settings) if name in (str(task), task.flow)]
        if not matching and name.partition("/")[0] == EXAMPLES:
            raise SettingsError(f"tasks of examples have no checkpoints: `{putting_back(name)}` has '{name}' made anew from the logs")
        if not matching:
            raise SettingsError(
                f"there is no task '{name}'; tasks are {FLOWS[0]}/0 to {FLOWS[-1]}/{settings.partitions - 1}, or a whole flow by its name"
            )
        found += [task for task in matching if task not in found]
    return sorted(found)
