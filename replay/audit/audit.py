"""Audits: a sample of each task's live entities, recomputed from the log by the same kernels, against what state says, bit by bit.

Nothing is changed, and nobody has to stop: state is read at one commit, and the log up to the position of that commit (for pins: up to the changes
of each origin that it has applied). What a checksum can't find is found: rows that are whole and wrong.

Held at a time: the sampled rows of one partition's users and of all partitions' pins, 64 bytes for each save of a partition, and what a batch takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from flows.errors import TidemarkError
from flows.log import Log
from flows.outputs import ACTIONS, REVISITS
from flows.past import Past
from flows.settings import Settings
from flows.state.meta import Meta
from flows.state.tables import expiry
from flows.state.task import task_path
from flows.vocabulary import Vocabulary
from replay.audit.compare import Mismatch, differences, told
from replay.audit.listed import list_entities
from replay.audit.said import ENTITIES, PIN, TOPIC, USER, Said, Step, said
from replay.audit.sample import Sample
from replay.tasks import TaskName

# A time that nothing comes after.
_EVER = 2**62
_WATERMARK, _TOPICS = "watermark", "topics"


@dataclass(frozen=True)
class Audited:
    """What became of a task's audit.

    Attributes
    ----------
    task : TaskName
    position : int or None
        That was audited; None without state.
    entities : int
        That state or log has anything of.
    mismatches : list of Mismatch
    problem : str or None
        Why it could not be audited.
    """

    task: TaskName
    position: int | None
    entities: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)
    problem: str | None = None

    @property
    def complete(self) -> bool:
        """Whether there was state, and all of the sample was compared."""
        return self.position is not None and self.problem is None


class Auditor:
    """Audits tasks of a data directory.

    Parameters
    ----------
    settings, vocabulary
        As of the flows.
    logs : mapping of name to Log
        ACTIONS, with its archive, and REVISITS if there is one.
    seed : int
        Of the sample.
    size : int or None
        How many users and topics of each actions task, and pins of each revisits task; None: all.
    step : callable
        Called with numbers of log records, as they are read, and often.
    """

    def __init__(
        self,
        settings: Settings,
        vocabulary: Vocabulary,
        logs: dict[str, Log],
        seed: int,
        size: int | None,
        step: Step = lambda records: None,
    ) -> None:
        self._settings = settings
        self._vocabulary = vocabulary
        self._logs = logs
        self._log = logs[ACTIONS]
        self._seed, self._size, self._step = seed, size, step
        self._past = Past(settings, vocabulary, lambda: self._log, step)

    def to_read(self, tasks: list[TaskName]) -> int:
        """About how many log records an audit of these tasks goes through: users are listed and recomputed, so are pins, of all partitions."""
        ends = self._log.end_positions()
        if any(task.flow == REVISITS for task in tasks):
            listed, pins = sum(ends), sum(ends)
        else:
            listed, pins = sum(ends[task.partition] for task in tasks), 0
        return listed + pins + sum(ends[task.partition] for task in tasks if task.flow == ACTIONS)

    def audit(self, tasks: list[TaskName]) -> Iterator[Audited]:
        """Audit tasks, and say of each what was found, as soon as it is known."""
        pins: dict[int, Said] = {}
        for task in tasks:
            if task.flow == REVISITS:
                found = self._said(task)
                if isinstance(found, Audited):
                    yield found
                else:
                    pins[task.partition] = found
        # Taken after the pins' state was: what that has applied, these cover.
        ends = self._log.end_positions() if pins else []
        chosen = {task.partition: task for task in tasks if task.flow == ACTIONS}
        unlisted: str | None = None
        for partition in range(self._settings.partitions):
            users = self._said(chosen[partition]) if partition in chosen else None
            if isinstance(users, Audited):
                yield users
                users = None
            if users is None and (not pins or unlisted):
                continue
            try:
                self._list(partition, users, pins, ends[partition] if pins else 0)
                if users is not None:
                    yield self._users(chosen[partition], users)
            except TidemarkError as error:
                if pins:
                    unlisted = unlisted or str(error)
                if users is not None:
                    yield Audited(chosen[partition], users.meta.position, problem=str(error))
        yield from self._pins(pins, ends, unlisted)

    def _said(self, task: TaskName) -> Said | Audited:
        try:
            found = said(self._settings, self._vocabulary, task, self._log, self._seed, self._size, self._step)
        except TidemarkError as error:
            return Audited(task, None, problem=str(error))
        if found is not None:
            return found
        reached = self._logs[task.flow].group_positions(task.flow).get(task.partition, 0) if task.flow in self._logs else 0
        gone = f"state is gone from {task_path(self._settings, task.flow, task.partition)}, though the task has been at position {reached}"
        return Audited(task, None, problem=f"{gone}: tidemark replay restore --task {task}" if reached else None)

    def _list(self, partition: int, users: Said | None, pins: dict[int, Said], end: int) -> None:
        end = max(end, users.meta.position if users is not None else 0)
        samples = users.samples if users is not None else {}
        by_home = [pins[home].samples[PIN] if home in pins else None for home in range(self._settings.partitions)]
        list_entities(
            self._settings, self._vocabulary, self._log, partition, end, samples.get(USER), samples.get(TOPIC), by_home, self._step
        )

    def _users(self, task: TaskName, state: Said) -> Audited:
        meta = state.meta
        past = self._past.users(task.partition, meta.position, _EVER, state.samples[USER].ids, meta.corrected_to)
        log = {"sequences": past.sequences, "revisits": past.revisits, "labels": past.labels, "tiles": past.tiles}
        entities, found = self._compared(task, state, log, past.topics)
        if past.watermark != meta.watermark:
            what = f"state's watermark is {meta.watermark}, and the log leads to {past.watermark}"
            row = [{_WATERMARK: meta.watermark}], [{_WATERMARK: past.watermark}]
            found.append(Mismatch(str(task), "task", _WATERMARK, meta.position, *row, 0, what))
        topics = np.unique(_rows_of(past.tiles, state.samples[TOPIC])[:, 0]).tolist()
        names = {topic: past.topics[topic] for topic in topics}
        kept = {topic: name for topic, name in state.topics.items() if topic in state.samples[TOPIC].ids}
        for topic in sorted(topic for topic in names.keys() | kept.keys() if names.get(topic) != kept.get(topic)):
            here, there = kept.get(topic), names.get(topic)
            what = f"state's name of topic {topic} is {here!r}, and the log has {there!r}"
            found.append(
                Mismatch(str(task), f"topic {there or here}", _TOPICS, meta.position, [{"name": here}], [{"name": there}], 0, what)
            )
        return Audited(task, meta.position, entities, found)

    def _pins(self, pins: dict[int, Said], ends: list[int], unlisted: str | None) -> Iterator[Audited]:
        """All pins of all partitions in one pass."""
        tasks = {partition: TaskName(REVISITS, partition) for partition in pins}
        if unlisted is None and pins:
            applied: list[dict[int, int]] = [pins[p].meta.applied if p in pins else {} for p in range(self._settings.partitions)]
            try:
                wanted = np.unique(np.concatenate([state.samples[PIN].ids for state in pins.values()]))
                past = self._past.pins(ends, applied, _EVER, wanted)
                for partition, state in pins.items():
                    yield Audited(
                        tasks[partition], state.meta.position, *self._compared(tasks[partition], state, {"revisits": past[partition]}, {})
                    )
                return
            except TidemarkError as error:
                unlisted = str(error)
        for partition, state in pins.items():
            yield Audited(tasks[partition], state.meta.position, problem=unlisted)

    def _compared(self, task: TaskName, state: Said, log: dict[str, np.ndarray], topics: dict[int, str]) -> tuple[int, list[Mismatch]]:
        """How many entities were compared, and what is not the same."""
        before = _before(self._settings, state.meta)
        found, live = list[Mismatch](), dict[str, list[np.ndarray]]()
        for table, kind in ENTITIES[task.flow].items():
            sample = state.samples[kind]
            here, there = (_rows_of(rows[table.name], sample) for rows in (state.rows, log))
            live.setdefault(kind, []).extend([here[:, 0], there[:, 0]])
            for one in differences(table, here, there, before):
                name = topics.get(one.entity) or state.topics.get(one.entity) or str(one.entity) if kind == TOPIC else str(one.entity)
                found.append(told(str(task), kind, name, table, state.meta.position, one, self._vocabulary))
        return sum(len(np.unique(np.concatenate(ids))) for ids in live.values()), found


def _before(settings: Settings, meta: Meta) -> int:
    return expiry(settings, meta.watermark) if meta.watermark is not None else meta.expired_to


def _rows_of(rows: np.ndarray, sample: Sample) -> np.ndarray:
    return rows[np.isin(rows[:, 0], sample.ids)]
