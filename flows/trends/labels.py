"""What came of what was seen: final labels of EXAMPLES by when they became known, by head, and by topic.

A label counts once, when it can't change any more. That of a revisit of a saved pin becomes known a week after the save, all others half an hour
after the impression; so a stretch of time that has passed never changes, and rates of revisits are right where the log is older than that week.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from flows.examples.record import HEADS, MASKED, Kind
from flows.log import Log
from flows.trends.reading import Numbered, Progress, begin_of
from flows.trends.sums import Counting, Period, Sums

COLUMNS = 2 * len(HEADS)
"""Of each head how many labels are final, then of each how many are 1."""
OTHER = "(other)"
"""What further topics are counted as where a stretch has MOST_TOPICS."""
NO_TOPIC = "(none)"
MOST_TOPICS = 4_096
ALL = Period()


class Labels:
    """Final labels of EXAMPLES.

    Parameters
    ----------
    log : Log
        EXAMPLES.
    counting : Counting
        What is counted by topic follows `counting.period` alone.
    topic_ms : int or None
        Width of the stretches that topics are counted by; None: all time together.

    Attributes
    ----------
    sums : Sums
        COLUMNS columns.
    """

    def __init__(self, log: Log, counting: Counting, topic_ms: int | None = None) -> None:
        self.sums = Sums(COLUMNS, counting)
        self.log, self._period, self._topic_ms = log, counting.period, topic_ms
        self._topics: dict[int, dict[str, np.ndarray]] = {}
        self._records = Numbered(log, ["kind", "topic", *(f"label_{head}" for head in HEADS)], begin_of(log, counting.first))

    @property
    def to_read(self) -> int:
        """Offsets that have not been read."""
        return self._records.to_read

    def read(self, progress: Progress = lambda records: None) -> None:
        """Count what has come since the last time."""
        for records in self._records.read(progress):
            final = records.filter(pa.array(records.column("kind").to_numpy() == Kind.FINAL))
            if not len(final):
                continue
            times = final.column("timestamp").to_numpy()
            labels = np.column_stack([final.column(f"label_{head}").to_numpy() for head in HEADS])
            counts = np.hstack([labels != MASKED, labels == 1]).astype(np.int64)
            self.sums.add(times, counts)
            self._by_topic(times, final.column("topic"), counts)

    def topics(self, period: Period = ALL) -> dict[str, np.ndarray]:
        """Sums by topic, int64[COLUMNS] each, over the stretches that begin in a period."""
        out: dict[str, np.ndarray] = {}
        for start, found in self._topics.items():
            if period.holds(np.array([start]))[0]:
                for name, row in found.items():
                    out[name] = out[name] + row if name in out else row
        return out

    def drop_before(self, time: int) -> None:
        """Forget what is known by topic of stretches that begin before a time, ms."""
        self._topics = {start: found for start, found in self._topics.items() if start >= time}

    def _by_topic(self, times: np.ndarray, topic: pa.ChunkedArray, counts: np.ndarray) -> None:
        inside = self._period.holds(times)
        if not inside.any():
            return
        encoded = topic.unify_dictionaries().combine_chunks()
        chunk = encoded if isinstance(encoded, pa.DictionaryArray) else encoded.chunk(0)
        names = [*(name or NO_TOPIC for name in chunk.dictionary.to_pylist()), NO_TOPIC]
        code = chunk.indices.fill_null(len(names) - 1).to_numpy(zero_copy_only=False)[inside].astype(np.int64)
        stretch = times[inside] // self._topic_ms if self._topic_ms is not None else np.zeros(len(code), np.int64)
        pairs, place = np.unique(np.column_stack([stretch, code]), axis=0, return_inverse=True)
        sums = np.zeros((len(pairs), COLUMNS), np.int64)
        np.add.at(sums, place.reshape(-1), counts[inside])
        for (at, which), row in zip(pairs.tolist(), sums, strict=True):
            found = self._topics.setdefault(at * (self._topic_ms or 1), {})
            name = names[which] if names[which] in found or len(found) < MOST_TOPICS else OTHER
            found[name] = found[name] + row if name in found else row
