"""What a report says: plain numbers, read once, with no word of how they are shown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

LABELS = ("label_1dRevImpre", "label_1dRevGrid", "label_7dRevGrid")
AGES = 7  # days after a save at which a click may be credited to it


def percent(count: int, total: int) -> float:
    """`count` in percent of `total`, 0 of nothing."""
    return 100 * count / total if total else 0.0


def margin(count: int, total: int) -> float:
    """How far chance moves a share, in percentage points: half the width of the 95 % interval, were saves independent (Wilson)."""
    if not total:
        return 0.0
    share, z = count / total, 1.96
    return 100 * z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / (1 + z * z / total)


@dataclass(frozen=True)
class Throughput:
    """A run of the main job, as whoever ran it timed it."""

    events: int
    seconds: float
    workers: int

    @property
    def per_second(self) -> float:
        """Events per second."""
        return self.events / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class TopicClicks:
    """Matured saves of one topic: how many, with a first click, and with that on days 3 to 6."""

    topic: str
    saves: int
    clicked: int
    clicked_days_3_6: int


@dataclass(frozen=True)
class Lateness:
    """Late records that came more than `above_ms` and at most `up_to_ms` behind the watermark (None: no upper end)."""

    above_ms: int
    up_to_ms: int | None
    records: int


@dataclass(frozen=True)
class Report:
    """One data directory at one position and time.

    What became of the records (`counts`, `deadletters`, `lateness`) is of all that is committed; the rest is as of a time.

    Attributes
    ----------
    as_of : int or None
        ms; None if nothing was ever accepted.
    allowed_lateness_ms, partitions : int
        As the data directory is set.
    counts : mapping of str to int
        `FeatureReader.counts`: records, accepted, duplicate, late, action.<name>, deadletter.<reason>.
    deadletters : mapping of str to int64[partitions]
        Reason to records by partition, the most frequent reason first.
    lateness : tuple of Lateness
        Adds up to ``counts["late"]``.
    saves, matured : int
        Saves, and those with final labels. What follows is over the matured ones.
    labels : mapping of str to int
        Name of LABELS to the saves that have it.
    clicked_by_day, first_clicked_by_day : int64[7]
        Saves with any credited click at this age in days, and with their first one at it.
    topics : tuple of TopicClicks
        By topic name; saves without a topic are in none.
    actions : tuple of str
        Actions that occur, the most frequent first.
    days : int64[d]
        Days (UTC) with an accepted record, as days since 1970-01-01.
    events : int64[d, actions]
        Accepted records by day of event_time and action.
    throughput : Throughput or None
    """

    as_of: int | None
    allowed_lateness_ms: int
    partitions: int
    counts: Mapping[str, int]
    deadletters: Mapping[str, np.ndarray]
    lateness: tuple[Lateness, ...]
    saves: int
    matured: int
    labels: Mapping[str, int]
    clicked_by_day: np.ndarray
    first_clicked_by_day: np.ndarray
    topics: tuple[TopicClicks, ...]
    actions: tuple[str, ...]
    days: np.ndarray
    events: np.ndarray
    throughput: Throughput | None = None

    @property
    def dead(self) -> int:
        """Dead letters of all reasons."""
        return int(sum(int(by_partition.sum()) for by_partition in self.deadletters.values()))
