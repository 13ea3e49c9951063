"""The working sets that a task of examples saves now and then, sealed, and how its actions are judged from there on.

Whoever only looks at a state reads them through a view; nothing here writes.
"""

from __future__ import annotations

from flows.errors import CorruptionError, StateError
from flows.features import fingerprint
from flows.kernels.actions import WorkingSet
from flows.kernels.examples import JoinSet
from flows.log import Log, read_before
from flows.settings import Settings
from flows.state.actions_task import Judge, state_fingerprint
from flows.state.anchor import Parts
from flows.state.meta import Meta
from flows.state.store import TaskStore
from flows.state.view import TaskView
from flows.vocabulary import Vocabulary

# Of what is stored and put out; a change of its meaning is a new number.
_FORMAT = "examples 2"
ANEW = "`tidemark examples restore` has it made anew from the logs"


def examples_fingerprint(settings: Settings, vocabulary: Vocabulary) -> str:
    """The fingerprint of everything that decides what a task of examples knows."""
    return fingerprint(state_fingerprint(settings, vocabulary), _FORMAT)


def parts_of(judging: WorkingSet, joining: JoinSet) -> Parts:
    """What is saved of both working sets, as `saved_sets` reads it."""
    parts = judging.parts()
    return [sum(map(len, parts)).to_bytes(8, "big"), *parts, *joining.parts()]


def saved_sets(state: TaskStore | TaskView, meta: Meta) -> tuple[memoryview, memoryview] | None:
    """The working sets of judging and of joining that were saved last; None before the first time.

    Raises
    ------
    StateError
        They are not what was written.
    """
    if not meta.anchor_inputs:
        return None
    if (data := state.saved()) is None:
        raise StateError(f"state {state.path}: the working sets saved at position {meta.anchor} are not what was written; {ANEW}")
    split = 8 + int.from_bytes(data[:8], "big")
    return data[8:split], data[split:]


def resumed_judge(settings: Settings, vocabulary: Vocabulary, view: TaskView, meta: Meta, actions: Log) -> Judge:
    """A judge that has judged the actions up to a state's position: from the saved working set on, as a start does.

    Raises
    ------
    StateError
        What was saved is not what was written.
    CorruptionError
        The log lacks actions that the state reflects.
    """
    judge = Judge(settings, vocabulary, meta.partition, corrected_to=meta.corrected_to)
    if (sets := saved_sets(view, meta)) is not None:
        judge.working_set.restore(sets[0])
    del sets
    at = meta.anchor
    while at < meta.position:
        batches = read_before(actions, meta.position, meta.partition, at, settings.batch_records)
        if not batches:
            raise CorruptionError(
                f"state {view.path} is at position {meta.position}, but log '{actions.name}', partition {meta.partition}, ends at {at}: "
                "the log has lost records; restore the log"
            )
        judge.judge(batches)
        at = batches[-1].end_offset
    return judge
