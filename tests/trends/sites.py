"""A data directory with all the logs that a report reads, and the same as plain values for the oracle."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flows.examples.record import EXAMPLES, HEADS
from flows.examples.rows import ExampleRows, batch_of, heartbeats_at
from flows.outputs import SERVED
from flows.served import Status
from flows.served_rows import Served, batches_of
from flows.served_versions import heartbeat
from flows.settings import Settings
from tests import driving
from tests.examples.playing import DAY, HOUR, MINUTE, START, one_served
from tests.examples.test_rows import made
from tests.oracles.decide import decide
from tests.oracles.partition import partition_of
from tests.oracles.trends import arrivals

PARTITIONS = 2
ACTIONS_OF = ("impression", "closeup", "click", "save", "hide")
TOPICS = ("art", "food", "garden")


@dataclass
class Site:
    """What its logs hold, row by row.

    Attributes
    ----------
    records : list of (time, action or "malformed")
    late : list of time
    dead : list of time
    future : int
        How many of these were ahead of their time.
    served : list of dict
        As of `tests.oracles.trends.served_rows`, and ``time``.
    examples : list of dict
    beats : list of time
        Of heartbeats in EXAMPLES.
    """

    settings: Settings
    records: list[tuple[int, str]] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    dead: list[int] = field(default_factory=list)
    future: int = 0
    served: list[dict[str, Any]] = field(default_factory=list)
    examples: list[dict[str, Any]] = field(default_factory=list)
    beats: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=lambda: [0] * PARTITIONS)
    offsets: list[int] = field(default_factory=lambda: [0] * PARTITIONS)
    events: list[pd.DataFrame] = field(default_factory=list)


def events_between(seed: int, n: int, first: int, until: int, shares: tuple[float, ...], offsets: list[int]) -> pd.DataFrame:
    """Records of a span of arrival time: late ones, bad ones, some ahead of their time, some whose timestamp runs back."""
    rng = np.random.default_rng(seed)
    arrival = np.sort(rng.integers(first, until, n))
    lag = rng.choice([0, MINUTE, HOUR, 4 * HOUR, -HOUR], n, p=[0.5, 0.3, 0.1, 0.08, 0.02])
    user = rng.integers(1, 60, n)
    frame = pd.DataFrame(
        {
            "event_id": seed * 10**6 + np.arange(n), "user_id": user, "pin_id": rng.integers(1, 40, n),
            "action": rng.choice(ACTIONS_OF, n, p=shares), "surface": rng.choice(["homefeed", "own_profile"], n), "event_time": arrival - lag,
            "duration_ms": 0, "topic": rng.choice(TOPICS, n), "timestamp": arrival - rng.choice([0, 5 * MINUTE], n, p=[0.9, 0.1]),
            "bad": rng.random(n) < 0.03, "partition": [partition_of(one, PARTITIONS) for one in user.tolist()],
        }
    )  # fmt: skip
    frame["offset"] = frame.groupby("partition").cumcount() + [offsets[p] for p in frame["partition"]]
    for partition, size in frame["partition"].value_counts().items():
        offsets[int(partition)] += int(size)
    return frame


def write_events(site: Site, frame: pd.DataFrame, rng: np.random.Generator) -> None:
    """Append records; what becomes of them is known once flows have run, and `decided` is asked."""
    driving.write(site.settings, frame, rng)
    site.events.append(frame)
    decided = decide(pd.concat(site.events, ignore_index=True)).sort_values(["partition", "offset"])
    times = arrivals(zip(decided["partition"].tolist(), decided["timestamp"].tolist(), strict=True))
    rows = list(zip(times, decided["action"].tolist(), decided["status"].tolist(), decided["late"].tolist(), strict=True))
    site.records = [(time, "malformed" if status == "bad" else action) for time, action, status, _ in rows]
    site.late = [time for time, _, _, late in rows if late]
    site.dead = [time for time, _, status, _ in rows if status in ("bad", "future_time")]
    site.future = sum(status == "future_time" for _, _, status, _ in rows)


def write_served(site: Site, seed: int, n: int, first: int, until: int, nothing: float) -> None:
    """Append requests of a span of time, a few of them logged long after, and heartbeats; `nothing` is the share of counters that are 0."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(first, until, n))
    times[rng.random(n) < 0.05] -= 3 * HOUR
    batches = []
    with driving.open_log(site.settings, SERVED) as log:
        for number, time in enumerate(times.tolist()):
            one = one_served(rng, time, int(rng.integers(1, 60)), f"{seed}-{number}", rng.integers(1, 40, int(rng.integers(0, 4))).tolist())
            one = _with_topics(_thinned(one, rng, nothing), rng)
            batches += batches_of([one], PARTITIONS, 1 << 20)
            if rng.random() < 0.1:
                batches.append((0, heartbeat(time)))
            site.served.append(_plain(one))
        log.append(batches)


def _thinned(one: Served, rng: np.random.Generator, nothing: float) -> Served:
    counters = [np.where(rng.random(values.shape) < nothing, 0, values) for values in (one.user_counters, one.pin_counters)]
    if rng.random() < nothing:
        counters[0] = np.zeros_like(counters[0])
    return replace(one, user_counters=counters[0], pin_counters=counters[1])


def _with_topics(one: Served, rng: np.random.Generator) -> Served:
    n = int(rng.integers(0, 3))
    stats = np.where(rng.random((n, 15)) < 0.4, 0.0, rng.random((n, 15)))
    return replace(one, topic=TOPICS[:n], topic_status=rng.choice(list(Status), n).astype(np.int8), topic_stats=stats)


def _plain(one: Served) -> dict[str, Any]:
    def rows(status: np.ndarray, values: np.ndarray, lengths: list[int] | None = None) -> list[tuple[int, int | None, list[float]]]:
        return list(zip(status.tolist(), lengths if lengths is not None else [None] * len(status), values.tolist(), strict=True))

    return {
        "time": one.timestamp,
        "users": rows(one.user_status, one.user_counters, np.diff(one.sequences.offsets).tolist()),
        "pins": rows(one.pin_status, one.pin_counters),
        "topics": rows(one.topic_status, one.topic_stats),
    }


def write_examples(site: Site, seed: int, n: int, first: int, until: int) -> None:
    """Append examples that became known in a span of time; some are put out again, as a task does that was killed."""
    rng = np.random.default_rng(seed)
    with driving.open_log(site.settings, EXAMPLES) as log:
        for partition in range(PARTITIONS):
            rows = made(seed + partition, n, max(1, n // 4))
            rows = replace(
                rows, ready_time=np.sort(rng.integers(first, until, n)), topic=rng.integers(-1, 3, n).astype(np.int32), topics=TOPICS
            )
            begin, at, batches = site.written[partition], 0, []
            while at < n:
                low, high = max(0, at - int(rng.integers(0, 5))), min(n, at + int(rng.integers(1, 30)))
                batches.append((partition, batch_of(rows.take(np.arange(low, high)), 0, partition, begin + low)))
                at = high
            batches.append((partition, batch_of(heartbeats_at(np.array([until])), 0, partition, begin + n)))
            log.append(batches)
            site.written[partition] = begin + n + 1
            site.examples += _examples(rows)
        site.beats.append(until)


def _examples(rows: ExampleRows) -> list[dict[str, Any]]:
    return [
        {
            "timestamp": int(rows.ready_time[i]), "kind": int(rows.kind[i]), "topic": rows.topics[rows.topic[i]] if rows.topic[i] >= 0 else None,
            **{f"label_{head}": int(rows.labels[i, h]) for h, head in enumerate(HEADS)},
        }
        for i in range(len(rows))
    ]  # fmt: skip


EVEN, SHIFTED = (0.4, 0.2, 0.2, 0.15, 0.05), (0.2, 0.2, 0.1, 0.1, 0.4)


def build(directory: Path, seed: int = 1, days: int = 6) -> Site:
    """Half of the days under one mix of actions and coverage, half under another; flows have run, and were killed on the way."""
    site = Site(Settings(data=directory, partitions=PARTITIONS, batch_records=64))
    rng = np.random.default_rng(seed)
    middle, end = START + days * DAY // 2, START + days * DAY
    for half, (first, until) in enumerate([(START, middle), (middle, end)]):
        write_events(site, events_between(seed * 10 + half, 700, first, until, (EVEN, SHIFTED)[half], site.offsets), rng)
        write_served(site, seed * 10 + half, 150, first, until, (0.3, 0.7)[half])
        write_examples(site, seed * 10 + half, 250, first, until)
    driving.apply(site.settings, rng, kill_share=0.1, most=300)
    return site
