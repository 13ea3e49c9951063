"""`PointInTime`: features of entities at moments of their own, from the log and its archive alone.

One pass over each ACTIONS partition by the kernels of the stream gives all rows that the entities need, each with what caused it; then every query
takes those of its own prefix and time. It equals, to the last bit, what state said when it stood there; it reads no state, and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from flows.corrections.history import History
from flows.decode import Columns
from flows.errors import CorruptionError, SettingsError
from flows.features import PIN_COUNTERS, TOPIC_STATS
from flows.log import Log, LogBatch, read_before
from flows.open_log import open_log
from flows.outputs import ACTIONS, CORRECTIONS
from flows.point_in_time.asked import Asked, PinsAt, TopicsAt, UsersAt
from flows.point_in_time.collecting import Collector, Pass, Taker
from flows.point_in_time.pins import PinPart, PinsArrived, PinsByPosition, joined_pins
from flows.point_in_time.topics import TopicPart, TopicsArrived, TopicsByPosition, joined_topics
from flows.point_in_time.users import UserPart, Users, joined
from flows.settings import Settings
from flows.state.actions_task import Judge


class PointInTime:
    """Point-in-time reads of one data directory.

    Parameters
    ----------
    settings : Settings
    progress : callable, optional
        Called with how many log records have been read, and of how many.

    Raises
    ------
    DataDirectoryError
        There is no log.
    """

    def __init__(self, settings: Settings, progress: Callable[[int, int], None] | None = None) -> None:
        self.settings = settings
        self.vocabulary = settings.load_vocabulary()
        self._progress = progress
        self._log: Log = open_log(settings, ACTIONS, read_only=True)

    def close(self) -> None:
        """Release all files."""
        self._log.close()

    def __enter__(self) -> PointInTime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def users(self, asked: Asked, sequences: bool = True, counters: bool = True) -> UsersAt:
        """Sequences and counters of users, in the order asked."""
        parts: list[UserPart] = []
        self.run([Users(asked, self.settings.partitions, sequences, counters, parts.append)], asked)
        return joined(parts, len(asked), counters)

    def pins(self, asked: Asked) -> PinsAt:
        """Counters of pins, in the order asked."""
        parts: list[PinPart] = []
        self.run(self.collect_pins(asked, parts.append), asked)
        return joined_pins(parts, len(asked), len(PIN_COUNTERS))

    def topics(self, asked: Asked) -> TopicsAt:
        """Statistics of topics, in the order asked."""
        parts: list[TopicPart] = []
        self.run(self.collect_topics(asked, parts.append), asked)
        return joined_topics(parts, len(asked), len(TOPIC_STATS))

    def collect_pins(
        self, asked: Asked, answer: Callable[[PinPart], None], beyond: Callable[[np.ndarray, int], None] | None = None
    ) -> list[Collector]:
        """What gathers for queries of pins, to be run together with others; `beyond` as of `PinsByPosition`."""
        arrived, placed = _by_kind(asked)
        found: list[Collector] = [PinsArrived(asked, arrived, answer)] if len(arrived) else []
        if len(placed):
            found.append(PinsByPosition(asked, placed, History.every(self.settings), self.settings.partitions, answer, beyond))
        return found

    def collect_topics(self, asked: Asked, answer: Callable[[TopicPart], None]) -> list[Collector]:
        """What gathers for queries of topics."""
        arrived, placed = _by_kind(asked)
        found: list[Collector] = [TopicsArrived(asked, arrived, answer)] if len(arrived) else []
        return [*found, TopicsByPosition(asked, placed, answer)] if len(placed) else found

    def run(self, collectors: Sequence[Collector], *asked: Asked) -> None:
        """Pass over the log until every collector has answered.

        Parameters
        ----------
        collectors : sequence of Collector
        *asked : Asked
            What they were made for: its positions are looked at before anything is read.

        Raises
        ------
        SettingsError
            A position is of other settings.
        CorruptionError
            The log or the corrections lack what a position covers.
        """
        ends, histories = self._log.end_positions(), History.every(self.settings)
        for one in asked:
            self._check(one, ends, histories)
        done = total = 0
        # Reads and decodes what comes next, beside the judging.
        with ThreadPoolExecutor(1, "point-in-time") as ahead:
            while waiting := [collector for collector in collectors if collector.pending()]:
                for collector in waiting:
                    collector.begin()
                numbers = [
                    sorted(set().union(*(collector.numbers(p, history) for collector in waiting))) for p, history in enumerate(histories)
                ]
                total += sum(end * len(of_partition) for end, of_partition in zip(ends, numbers, strict=True))
                for partition, history in enumerate(histories):
                    for number in numbers[partition]:
                        judge = Judge(self.settings, self.vocabulary, partition, history, number)
                        takers = [t for collector in waiting if (t := collector.taker(Pass(partition, number, judge))) is not None]
                        self._pass(ahead, judge, partition, takers, ends[partition], done, total)
                        done += ends[partition]
                for collector in waiting:
                    collector.end()

    def _pass(
        self, ahead: ThreadPoolExecutor, judge: Judge, partition: int, takers: Sequence[Taker], end: int, before: int, total: int
    ) -> None:
        arrival, position = max(t.reach.arrival for t in takers), max(t.reach.position for t in takers)
        at = first = 0
        coming = ahead.submit(self._read, judge, partition, at, end) if end else None
        while coming is not None and (at < position or judge.working_set.arrival is None or judge.working_set.arrival <= arrival):
            batches, decoded = coming.result()
            at = batches[-1].end_offset
            coming = ahead.submit(self._read, judge, partition, at, end) if at < end else None
            done = judge.judge(batches, decoded)
            for taker in takers:
                taker.take(done, first)
            first += len(done.offsets)
            if self._progress is not None:
                self._progress(before + at, total)
        if coming is not None:
            coming.cancel()
        for taker in takers:
            taker.end()

    def _read(self, judge: Judge, partition: int, at: int, end: int) -> tuple[list[LogBatch], Columns]:
        batches = read_before(self._log, end, partition, at, self.settings.batch_records)
        if not batches:
            raise CorruptionError(f"log '{ACTIONS}', partition {partition}: records from offset {at} on are missing; restore the log")
        return batches, judge.decoder.decode(*(batch.records for batch in batches))

    def _check(self, asked: Asked, ends: Sequence[int], histories: Sequence[History]) -> None:
        for count in {len(positions.actions) for positions in asked.positions}:
            if count != self.settings.partitions:
                raise SettingsError(
                    f"positions of {count} partitions were given, and {self.settings.data} has {self.settings.partitions}: "
                    "they are of another data directory"
                )
        if not asked.positions:
            return
        farthest = np.max([positions.actions for positions in asked.positions], axis=0).tolist()
        newest = np.max([positions.corrected_to for positions in asked.positions], axis=0).tolist()
        for partition, (position, end, number, history) in enumerate(zip(farthest, ends, newest, histories, strict=True)):
            if position > end:
                raise CorruptionError(
                    f"log '{ACTIONS}', partition {partition}, ends at {end}, and a position is {position}: the log has lost records, or the "
                    "position is of another data directory"
                )
            if number > history.generation:
                raise CorruptionError(
                    f"log '{CORRECTIONS}', partition {partition}, ends with correction {history.generation}, and a position reflects "
                    f"correction {number}: the log has lost records, or the position is of another data directory"
                )


def _by_kind(asked: Asked) -> tuple[np.ndarray, np.ndarray]:
    """Queries by what had arrived, and queries by position."""
    marks = asked.marks()
    return np.flatnonzero(marks < 0), np.flatnonzero(marks >= 0)
