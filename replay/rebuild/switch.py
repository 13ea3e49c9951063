"""The switch: what was rebuilt takes the place of what is live.

One append to CORRECTIONS is the moment. Before it nothing has changed; after it the states that have judged what it changes are wrong, and no run
takes them, until they are replaced: by this, by this again after a kill, or by `tidemark replay restore`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from flows.corrections.history import History
from flows.corrections.record import Correction
from flows.errors import CorruptionError, LockedError
from flows.log import LedgerConflictError, LedgerEntry, Log
from flows.open_log import open_log
from flows.outputs import ACTIONS, CORRECTIONS, DEADLETTERS, LATE, REVISITS
from flows.settings import Settings
from flows.state.actions_task import ActionsTask
from flows.state.corrected_task import HELD, tell
from flows.state.handover import task_taken
from flows.state.task import task_path
from flows.state.task_lock import opened_here
from flows.state.view import TaskView
from flows.vocabulary import Vocabulary
from replay.in_place import put_in_place
from replay.rebuild.plan import Part, Plan, Workplace
from replay.rebuild.rebuild import Rebuild, taking_effect
from replay.rebuild.request import GENERATIONS, newest_in


def recorded(settings: Settings, plan: Plan) -> list[Correction]:
    """What a rebuild has recorded: where that is something, the moment has passed, and what was begun must be ended."""
    made = plan.made()
    return [
        c
        for history in History.every(settings)
        for c in history.corrections
        if (c.made.generation, c.made.made_at, c.made.reason) == (made.generation, made.made_at, made.reason)
    ]


class Switch:
    """See the module.

    Parameters
    ----------
    settings : Settings
    vocabulary : Vocabulary
    rebuild : Rebuild
    workplace : Workplace
    """

    def __init__(self, settings: Settings, vocabulary: Vocabulary, rebuild: Rebuild, workplace: Workplace) -> None:
        self._settings = settings
        self._vocabulary = vocabulary
        self._rebuild = rebuild
        self._workplace = workplace
        self._generation = rebuild.plan.generation

    def make(self, progress: Callable[[int], None]) -> int:
        """Switch every task of the rebuild, and delete what is left of it.

        Returns
        -------
        int
            Records that went out to pins.

        Raises
        ------
        LockedError
            A run doesn't let go of a task, another command has it, or somebody else has corrected something meanwhile.
        """
        with ExitStack() as stack:
            for part in self._rebuild.plan.parts:
                # A live run lets go of them, and takes up what is there afterwards.
                stack.enter_context(opened_here(stack.enter_context(task_taken(self._settings, part.flow, part.partition))))
            logs = {
                name: stack.enter_context(open_log(self._settings, name, create=True)) for name in (ACTIONS, REVISITS, LATE, DEADLETTERS)
            }
            corrections: dict[int, Correction] = {}
            if not recorded(self._settings, self._rebuild.plan):
                as_of = self._rebuild.as_of()
                for part in self._rebuild.plan.parts:
                    made = self._meet(part, logs, as_of, progress)
                    if made is not None:
                        corrections[part.partition] = made
                if corrections:
                    self._record(corrections, logs[REVISITS])
            for part in self._rebuild.plan.parts:
                self._replace(part)
                if part.flow == ACTIONS:
                    # Puts out what the correction changes.
                    self._open(part, logs).close()
        self._workplace.discard()
        return sum(int((c.emitted.column("weight").to_numpy() != 0).sum()) for c in recorded(self._settings, self._rebuild.plan))

    def _open(self, part: Part, logs: dict[str, Log]) -> ActionsTask:
        outputs = {name: logs[name] for name in (REVISITS, LATE, DEADLETTERS)}
        return ActionsTask(self._settings, part.partition, self._vocabulary, logs[ACTIONS], outputs)

    def _meet(self, part: Part, logs: dict[str, Log], as_of: int, progress: Callable[[int], None]) -> Correction | None:
        """Bring the new state to where the live one is, all of whose records are out; what is to be recorded of it."""
        draft = self._rebuild.drafts[part.task]
        if part.flow == ACTIONS:
            live = self._open(part, logs)
            position, sequences = live.position, {name: list(n) for name, n in live.store.meta.sequences.items()}
            live.close()
        else:
            view = TaskView(draft.live_path())
            position, sequences = view.meta.position if view.meta is not None else 0, {}
            view.close()
        task = draft.open(self._rebuild.lanes)
        try:
            draft.catch_up(task, position, progress)
            if part.flow != ACTIONS:
                return None
            return taking_effect(draft.history.last(), position, sequences, self._rebuild.emitted(part, task, as_of), as_of)
        finally:
            task.close()

    def _record(self, corrections: dict[int, Correction], revisits: Log) -> None:
        for partition in corrections:
            tell(revisits, (HELD,), partition, self._generation)
        records = [(partition, batch) for partition, c in sorted(corrections.items()) for batch in c.to_records()]
        with open_log(self._settings, CORRECTIONS, create=True) as log:
            newest = newest_in(log)
            # A task whose logs were made anew has numbered that itself.
            greatest = max(newest, *(History.read(log, partition).generation for partition in corrections))
            try:
                if greatest >= self._generation:
                    raise LedgerConflictError(f"correction {greatest} has been made")
                log.append(records, ledger=LedgerEntry(GENERATIONS, self._generation, previous=newest))
            except LedgerConflictError as error:
                raise LockedError("somebody else has made a correction meanwhile: --discard this rebuild, and begin it again") from error

    def _replace(self, part: Part) -> None:
        new, path = self._rebuild.drafts[part.task].path, task_path(self._settings, part.flow, part.partition)
        if not new.exists():
            if not (path / "CURRENT").exists():
                raise CorruptionError(
                    f"{part.task}: the new state is gone from {new}; `tidemark replay restore --task {part.task}` makes it again"
                )
            # Done before a kill.
            return
        put_in_place(new, path)
