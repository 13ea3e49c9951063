"""The systems of a drill: the flows run over a stream, a stretch at a time, and the reading code that serves from their state in between.

Each has a data directory of its own in the drill's scratch directory. Answers come from the real readers; a mistake is one in what a system
was fed, in its settings, or in how it reads, and is never written into an answer by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import TracebackType

import numpy as np
import pyarrow as pa

from flows.answers import SequenceRows
from flows.log import LocalLog, Log
from flows.outputs import ACTIONS, DEADLETTERS, LATE, REVISITS
from flows.reading import FeatureReader
from flows.settings import Settings
from flows.state.actions_task import ActionsTask, state_fingerprint
from flows.state.revisits_task import RevisitsTask

_READ = 65_536


@dataclass(frozen=True, eq=False)
class Wanted:
    """What requests ask for, all at one time.

    Attributes
    ----------
    as_of : int
        ms.
    users : int64[n]
        One of each request.
    pins : int64[n, k]
    topics : list of str
        One of each request.
    """

    as_of: int
    users: np.ndarray
    pins: np.ndarray
    topics: list[str]


@dataclass(frozen=True, eq=False)
class Answers:
    """What n requests are answered.

    Attributes
    ----------
    sequences : SequenceRows
    user_counters : int64[n, 24]
    user_found : bool[n]
        Whether there is a sequence or a counter.
    pin_counters, pin_found : int64[n, k, 24], bool[n, k]
    topic_stats, topic_found : float64[n, 15], bool[n]
    """

    sequences: SequenceRows
    user_counters: np.ndarray
    user_found: np.ndarray
    pin_counters: np.ndarray
    pin_found: np.ndarray
    topic_stats: np.ndarray
    topic_found: np.ndarray


def answer(reader: FeatureReader, wanted: Wanted, as_of: int | None = None) -> Answers:
    """Ask a reader.

    Parameters
    ----------
    as_of : int, optional
        Instead of the time that is wanted: for who reads at a wrong one.
    """
    time = wanted.as_of if as_of is None else as_of
    sequences = reader.user_sequences(wanted.users, time)
    users = reader.user_counters(wanted.users, time)
    pins = reader.pin_counters(wanted.pins.reshape(-1), time)
    topics = reader.topic_stats(wanted.topics, time)
    return Answers(
        sequences=sequences,
        user_counters=users.values,
        user_found=sequences.found | users.found,
        pin_counters=pins.values.reshape(*wanted.pins.shape, -1),
        pin_found=pins.found.reshape(wanted.pins.shape),
        topic_stats=topics.values,
        topic_found=topics.found,
    )


class System:
    """A stream, its flows, and a reader of their state.

    Parameters
    ----------
    settings : Settings
        Of a data directory that isn't there yet.
    stream : list of Table
        One for each partition.
    """

    def __init__(self, settings: Settings, stream: list[pa.Table]) -> None:
        self.settings = settings
        self.fingerprint = state_fingerprint(settings, settings.load_vocabulary())
        self._stream = stream
        settings.logs.mkdir(parents=True)
        self._logs = {
            name: LocalLog.open(settings.logs, name, settings.partitions, create=True) for name in (ACTIONS, REVISITS, LATE, DEADLETTERS)
        }
        vocabulary = settings.load_vocabulary()
        outputs: dict[str, Log] = {name: self._logs[name] for name in (REVISITS, LATE, DEADLETTERS)}
        partitions = range(settings.partitions)
        self._actions = [ActionsTask(settings, p, vocabulary, self._logs[ACTIONS], outputs) for p in partitions]
        self._revisits = [RevisitsTask(settings, p, vocabulary, self._logs[REVISITS]) for p in partitions]
        self.reader: FeatureReader | None = None

    def __enter__(self) -> System:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.reader is not None:
            self.reader.close()
        for task in (*self._actions, *self._revisits):
            task.close()
        for log in self._logs.values():
            log.close()

    def arrive(self, positions: list[int]) -> None:
        """Append the stream up to these offsets."""
        log = self._logs[ACTIONS]
        for partition, end in enumerate(positions):
            at = log.end_position(partition)
            if end > at:
                rows = self._stream[partition].slice(at, end - at)
                log.append([(partition, batch) for batch in rows.combine_chunks().to_batches(max_chunksize=_READ)])

    def act(self) -> None:
        """Apply what has arrived to users."""
        for task in self._actions:
            end = self._logs[ACTIONS].end_position(task.partition)
            while task.position < end:
                task.apply(self._logs[ACTIONS].read(task.partition, task.position, _READ))

    def revisit(self, share: float = 1.0) -> None:
        """Apply what users have put out to pins; of what is new, a share."""
        for task in self._revisits:
            end = self._logs[REVISITS].end_position(task.partition)
            goal = task.position + round(share * (end - task.position))
            while task.position < goal:
                task.apply(self._logs[REVISITS].read(task.partition, task.position, min(_READ, goal - task.position)))

    def read(self) -> FeatureReader:
        """A reader that has caught up."""
        if self.reader is None:
            self.reader = FeatureReader(self.settings)
        else:
            self.reader.refresh()
        return self.reader


def beside(settings: Settings, name: str, **changed: int) -> Settings:
    """Settings of another system of the same drill."""
    return replace(settings, data=settings.data.with_name(name), **changed)  # type: ignore[arg-type]
