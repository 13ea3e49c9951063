"""Which tasks a command is about."""

from __future__ import annotations

from dataclasses import dataclass

from flows.errors import SettingsError
from flows.examples.record import EXAMPLES
from flows.examples.saved import examples_fingerprint
from flows.outputs import ACTIONS, REVISITS
from flows.settings import Settings
from flows.state.actions_task import state_fingerprint
from flows.vocabulary import Vocabulary

FLOWS = (ACTIONS, REVISITS)
"""Those of features."""
KEPT = (*FLOWS, EXAMPLES)
"""Those whose state is checked, kept in checkpoints and put back."""


@dataclass(frozen=True, order=True)
class TaskName:
    """A flow's task of one partition; ``actions/3`` in words."""

    flow: str
    partition: int

    def __str__(self) -> str:
        return f"{self.flow}/{self.partition}"

    @property
    def source(self) -> str:
        """The log whose offsets are its positions."""
        return ACTIONS if self.flow == EXAMPLES else self.flow


def mark_of(settings: Settings, vocabulary: Vocabulary, flow: str) -> str:
    """The fingerprint under which a flow's state is made now."""
    return (examples_fingerprint if flow == EXAMPLES else state_fingerprint)(settings, vocabulary)


def every(settings: Settings, flows: tuple[str, ...] = FLOWS) -> list[TaskName]:
    """All tasks of a data directory; of examples, once they have been made there."""
    there = [flow for flow in flows if flow != EXAMPLES or (settings.state / flow).is_dir()]
    return [TaskName(flow, partition) for flow in there for partition in range(settings.partitions)]


def named(settings: Settings, names: tuple[str, ...], flows: tuple[str, ...] = FLOWS) -> list[TaskName]:
    """Tasks by what a user calls them: ``actions/3``, or ``actions`` for all of a flow.

    Raises
    ------
    SettingsError
        There is no such task.
    """
    found: list[TaskName] = []
    for name in names:
        matching = [task for task in every(settings, flows) if name in (str(task), task.flow)]
        if not matching and name.partition("/")[0] == EXAMPLES:
            why = "this command is about features" if EXAMPLES not in flows else f"nothing has been joined in {settings.state} yet"
            raise SettingsError(f"there is no task '{name}' here: {why}; `tidemark examples status` says where examples stand")
        if not matching:
            raise SettingsError(
                f"there is no task '{name}'; tasks are {FLOWS[0]}/0 to {FLOWS[-1]}/{settings.partitions - 1}, or a whole flow by its name"
            )
        found += [task for task in matching if task not in found]
    return sorted(found)
