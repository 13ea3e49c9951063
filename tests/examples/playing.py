"""Random streams of what was served, seen and done, written to logs; and the examples flow over them, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from flows.answers import SequenceRows
from flows.examples.record import EXAMPLES
from flows.examples.rows import ExampleRows, rows_of
from flows.examples.task import ExamplesTask
from flows.features import PIN_COUNTERS, USER_COUNTERS
from flows.log import LocalLog
from flows.outputs import ACTIONS, SERVED, take_next
from flows.served import Status
from flows.served_rows import Ranked, Served, batches_of
from flows.served_versions import heartbeat
from flows.settings import Settings
from tests import driving
from tests.oracles.decide import decide
from tests.oracles.examples import examples
from tests.oracles.partition import partition_of

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
START = 1_699_999_200_000
OUTCOMES = ("click", "long_click", "save", "hide")


@dataclass(frozen=True)
class Play:
    """A stream of both logs.

    Attributes
    ----------
    events : DataFrame
        As of `tests.strategies.COLUMNS`, with request_id.
    served : list of (partition, Served or timestamp of a heartbeat)
        In the order in which they are appended.
    """

    events: pd.DataFrame
    served: list[tuple[int, Served | int]]


def one_served(rng: np.random.Generator, time: int, user: int, request: str, pins: list[int], defaulted: float = 0.1) -> Served:
    """A request with features that tell it apart."""
    n, length = len(pins), int(rng.integers(0, 4))
    sequence = SequenceRows(
        np.array([0, length]), rng.integers(0, 2**60, length), rng.integers(0, 9, length).astype(np.int16),
        rng.integers(0, 5, length).astype(np.int16), rng.integers(0, time, length), rng.integers(0, 9, length), np.ones(1, np.bool_), time,
    )  # fmt: skip
    status = np.where(rng.random(n) < defaulted, Status.DEFAULTED, Status.FOUND).astype(np.int8)
    user_status = Status.DEFAULTED if rng.random() < defaulted / 2 else Status.NOT_FOUND
    ranked = Ranked(
        rng.integers(0, 9, n).astype(np.int16), rng.random(n).astype(np.float32), rng.random(n) < 0.5, rng.random(n).astype(np.float32), 3,
        int(rng.integers(0, 9)), np.array([5]),
    )  # fmt: skip
    return Served(
        timestamp=time, request_id=request, surface=str(rng.choice(["homefeed", "search", "nowhere"])), fingerprint="f", as_of=time,
        positions=bytes([int(rng.integers(0, 9))]) * 20, user_id=np.array([user]), user_status=np.array([user_status], np.int8), sequences=sequence,
        user_counters=rng.integers(0, 99, (1, len(USER_COUNTERS))), pin_id=np.array(pins, np.int64), pin_status=status,
        pin_counters=rng.integers(0, 99, (n, len(PIN_COUNTERS))), topic=(), topic_status=np.empty(0, np.int8), topic_stats=np.empty((0, 15)),
        ranked=ranked if rng.random() < 0.7 else None,
    )  # fmt: skip


def play(
    seed: int, requests: int = 40, partitions: int = 2, delays: tuple[int, ...] = (0, 0, 1, SECOND, MINUTE, 50 * MINUTE, 2 * HOUR)
) -> Play:
    """A random stream: late and doubled records, requests served twice, views and outcomes without a request, gaps of minutes to weeks."""
    rng = np.random.default_rng(seed)
    users, pins = rng.integers(1, 10**6, 3).tolist(), rng.integers(1, 10**6, 5).tolist()
    time, number = START, 0
    served: list[tuple[int, int, Served | int]] = []  # partition, when it is appended, what
    events: list[dict[str, Any]] = []
    known: list[tuple[int, str, list[int], int]] = []

    def act(at: int, user: int, pin: int, request: str | None, action: str, surface: str = "homefeed") -> None:
        nonlocal number
        number += 1
        event = {
            "event_id": number, "user_id": user, "pin_id": pin, "action": action, "surface": surface, "event_time": at, "duration_ms": 0,
            "topic": str(rng.choice(["", "food", "travel"])), "timestamp": at + int(rng.choice(delays)), "bad": False, "request_id": request,
        }  # fmt: skip
        events.append(event)
        while rng.random() < 0.05:
            events.append(event | {"timestamp": event["timestamp"] + int(rng.choice(delays)), "event_time": at + int(rng.integers(0, 2))})

    for i in range(requests):
        time += int(rng.choice([0, 1, SECOND, MINUTE, 10 * MINUTE, 40 * MINUTE, 2 * HOUR, DAY, 7 * DAY], p=[0.1] * 6 + [0.25, 0.1, 0.05]))
        user = int(rng.choice(users))
        shown = rng.choice(pins, int(rng.integers(1, 5))).tolist()
        request = f"r{i}"
        if known and rng.random() < 0.15:
            user, request, _, _ = known[int(rng.integers(len(known)))]
        if rng.random() < 0.85:
            defaulted = 0.1 if rng.random() < 0.5 else 0.0
            one = one_served(rng, time, user, request, shown if rng.random() < 0.95 else [], defaulted)
            served.append((partition_of(user, partitions), time + int(rng.choice(delays)), one))
        if rng.random() < 0.5:
            served.append((int(rng.integers(partitions)), time + int(rng.choice(delays)), time + int(rng.choice(delays))))
        known.append((user, request, shown, time))
        for _ in range(int(rng.integers(0, 8))):
            user, request, shown, began = known[-1 - int(rng.integers(min(3, len(known))))]
            pin = int(rng.choice(shown)) if rng.random() < 0.9 else int(rng.choice(pins))
            named = request if rng.random() < 0.9 else rng.choice(["", "unknown"])
            at = max(began, time) + int(rng.choice([0, 1, SECOND, MINUTE, 29 * MINUTE, 30 * MINUTE, 30 * MINUTE + 1, HOUR, DAY, DAY + 1]))
            if rng.random() < 0.8:
                act(at, user, pin, named, "impression")
            while rng.random() < 0.6:
                act(
                    at + int(rng.choice([-1, 0, 1, SECOND, MINUTE, 30 * MINUTE, 30 * MINUTE + 1])),
                    user,
                    pin,
                    named,
                    str(rng.choice(OUTCOMES)),
                )
            while rng.random() < 0.4:
                back = at + int(rng.choice([1, MINUTE, HOUR, DAY - 1, DAY, 3 * DAY, 7 * DAY - 1, 7 * DAY]))
                # What is seen there is a revisit, whatever request it names.
                of = named if rng.random() < 0.3 else None
                act(back, user, pin, of, str(rng.choice(["impression", "grid_click"])), "own_profile")
    # What has come last is followed by enough that most falls due.
    for user in users:
        for later in (HOUR, 2 * HOUR, DAY, 9 * DAY, 18 * DAY):
            act(time + later, user, 1, None, "closeup")
            served.append((partition_of(user, partitions), time + later, time + later))
    frame = pd.DataFrame(events).sort_values("timestamp", kind="stable", ignore_index=True)
    # Arrival is no order of the log: what is appended later may have a lesser timestamp.
    frame = frame.iloc[np.argsort(np.arange(len(frame)) + rng.integers(0, 4, len(frame)), kind="stable")].reset_index(drop=True)
    frame["partition"] = [partition_of(user, partitions) for user in frame["user_id"]]
    frame["offset"] = frame.groupby("partition").cumcount()
    served.sort(key=lambda one: one[1])
    return Play(frame, [(partition, what) for partition, _, what in served])


def write(settings: Settings, played: Play, rng: np.random.Generator) -> None:
    """Append both logs, in batches of random size."""
    driving.write(settings, played.events, rng)
    write_served(settings, played)


def write_served(settings: Settings, played: Play) -> None:
    """Append SERVED."""
    with driving.open_log(settings, SERVED) as log:
        for partition, what in played.served:
            log.append([(partition, heartbeat(what))] if isinstance(what, int) else batches_of([what], settings.partitions, 1 << 20))


def expected(played: Play, partition: int, settings: Settings) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """What the oracle says of a partition."""
    decided = decide(played.events, settings.allowed_lateness_ms, settings.dedup_horizon_ms, settings.clock_skew_ms)
    attrs = dict(decided.attrs)
    decided = decided[decided["partition"] == partition].sort_values("offset")
    decided.attrs.update(attrs)
    return examples(decided, [as_told(what) for home, what in played.served if home == partition])


def as_told(what: Served | int) -> dict[str, Any]:
    """A served record as the oracle is told of it."""
    if isinstance(what, int):
        return {"timestamp": what, "request_id": None, "user_id": None}
    defaulted = (what.pin_status == Status.DEFAULTED) | (what.user_status[0] == Status.DEFAULTED)
    pins = list(zip(what.pin_id.tolist(), defaulted.tolist(), strict=True))
    return {
        "timestamp": what.timestamp,
        "request_id": what.request_id,
        "user_id": int(what.user_id[0]),
        "time": what.timestamp,
        "pins": pins,
    }


class Driven:
    """The flow over one partition of a data directory."""

    def __init__(self, settings: Settings, partition: int) -> None:
        self._settings, self._partition = settings, partition
        self._logs = [driving.open_log(settings, name) for name in (ACTIONS, SERVED, EXAMPLES)]

    def open(self, ends: tuple[int, int] | None = None) -> ExamplesTask:
        return ExamplesTask(self._settings, self._partition, self._settings.load_vocabulary(), *self._logs, ends=ends)

    def ends(self) -> tuple[int, int]:
        actions, served = (log.end_position(self._partition) for log in self._logs[:2])
        return actions, served

    def run(self, rng: np.random.Generator, kill_share: float = 0.0, grow: bool = False) -> tuple[str, dict[str, int]]:
        """To the end of both logs, killed now and then; with `grow` the logs end a little later each time. Returns digest and counts."""
        actions, served = self.ends()
        upto = (0, 0) if grow else (actions, served)
        while True:
            task = self.open(upto)
            killed = False
            while task.catch_up(sum(upto)):
                if rng.random() < kill_share:
                    killed = True
                    break
            if killed or rng.random() < kill_share:
                task.abandon()
            else:
                digest, counts = task.digest(), dict(task.store.meta.counts)
                task.close()
                if upto == (actions, served):
                    return digest, counts
            if not killed and grow:
                upto = (min(actions, upto[0] + int(rng.integers(0, 60))), min(served, upto[1] + int(rng.integers(0, 20))))

    def rows(self) -> ExampleRows:
        """EXAMPLES of the partition."""
        return rows_of(self._read(), EXAMPLES)

    def table(self) -> pa.Table:
        """EXAMPLES of the partition, dictionaries decoded: equal records are equal tables."""
        return pa.concat_tables([_plain(records) for records in self._read()]).combine_chunks()

    def _read(self) -> list[pa.RecordBatch]:
        """Each record once: a kill may have appended some twice."""
        log: LocalLog = self._logs[2]
        applied: dict[int, int] = {}
        return [take_next(batch.records, applied, EXAMPLES) for batch in log.read(self._partition, 0, 1 << 30)]

    def close(self) -> None:
        for log in self._logs:
            log.close()


def _plain(records: pa.RecordBatch) -> pa.Table:
    columns = [c.cast(c.type.value_type) if pa.types.is_dictionary(c.type) else c for c in records.columns]
    return pa.table(columns, names=records.schema.names)


def played_by_hand(records: Sequence[Any]) -> Play:
    """Records of one user and one partition, each arriving when it is said to have happened, or with the one before if that is later.

    ("serve", time, request, pins), ("beat", time), (action, time, request, pin); "own_profile" stands for a revisit. Times from START on.
    """
    events, served, rng = [], [], np.random.default_rng(0)
    arrival: dict[str, int] = {"actions": 0, "served": 0}
    for number, (what, time, *more) in enumerate(records):
        if what == "serve":
            served.append((0, one_served(rng, START + time, 7, more[0], more[1], defaulted=0.0)))
        elif what == "beat":
            served.append((0, START + time))
        else:
            arrival["actions"] = max(arrival["actions"], START + time)
            revisit = what == "own_profile"
            event = {
                "event_id": number, "user_id": 7, "pin_id": more[1], "action": "grid_click" if revisit else what,
                "surface": "own_profile" if revisit else "homefeed", "event_time": START + time, "duration_ms": 0, "topic": "",
                "timestamp": arrival["actions"], "bad": False, "request_id": more[0], "partition": 0, "offset": len(events),
            }  # fmt: skip
            events.append(event)
    return Play(pd.DataFrame(events), served)
