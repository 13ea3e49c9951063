"""Where the flows stand: positions, rates, lag, watermarks, and since when the oldest event waits that features lack.

Read from state and logs, as `tidemark status` does; where this machine has no task state, from the Redis that is served.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from flows.errors import TidemarkError
from flows.examples.record import EXAMPLES
from flows.log_file import NO_TIME
from flows.outputs import ACTIONS, REVISITS
from flows.run.standing import Standing, Task, bytes_in, run_place
from flows.settings import Settings
from flows.state.lock import run_is_on
from flows.state.meta import Meta
from flows.state.task import task_path
from flows.state.task_lock import is_wanted
from replay.console.rates import Rates

# Points of a flow's history, one for each look, so old at most; and so many.
_HISTORY_MS, _HISTORY = 300_000, 300
STATE, REDIS, NOTHING = "task state", "Redis", "nothing"


@dataclass(frozen=True)
class TaskStands:
    """Where a task stands.

    Attributes
    ----------
    position, end, lag : int or None
        In its input (ACTIONS, of examples); `lag` is of all inputs.
    rate : float or None
        Offsets a second, of the last ten seconds or so.
    watermark : int or None
        Greatest event time applied, ms.
    waiting_since : int or None
        Arrival of the oldest record that isn't committed, ms; None: there is none, or it isn't known.
    bytes : int
        Of its state.
    problem : str or None
        Why its state can't be read, or why whoever runs it does without it.
    handed_over : bool
        Somebody is replacing its state.
    """

    partition: int
    position: int | None
    end: int | None
    lag: int | None
    rate: float | None
    watermark: int | None
    waiting_since: int | None
    bytes: int
    problem: str | None
    handed_over: bool


@dataclass(frozen=True)
class Point:
    """A moment of a flow: when (ms), offsets a second, and lag."""

    at: int
    rate: float | None
    lag: int | None


@dataclass(frozen=True)
class FlowStands:
    """Where a flow stands: sums and extremes of its tasks.

    Attributes
    ----------
    running : bool or None
        Whether a run has its tasks; None: it can't be told from here.
    watermark_low, watermark : int or None
        The least and the greatest of its tasks, ms.
    history : list of Point
        As far back as somebody has looked, five minutes at most.
    """

    flow: str
    running: bool | None
    position: int
    lag: int | None
    rate: float | None
    watermark_low: int | None
    watermark: int | None
    waiting_since: int | None
    bytes: int
    tasks: list[TaskStands]
    history: list[Point]


@dataclass(frozen=True)
class Stands:
    """All flows.

    Attributes
    ----------
    source : str
        What was read: "task state", "Redis", or "nothing" where there is neither yet.
    logs : str
        "embedded", or the brokers.
    flows : list of FlowStands
    counts : dict of str to int
        Records of ACTIONS by what became of them.
    problems : list of str
        What could not be read.
    """

    source: str
    logs: str
    flows: list[FlowStands]
    counts: dict[str, int]
    problems: list[str]


class StandsSection:
    """See the module.

    Parameters
    ----------
    settings : Settings
    """

    every_s = 1.0

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._problems: dict[str, str] = {}
        flows = (ACTIONS, REVISITS, EXAMPLES)
        self._standing = Standing(settings, flows, lambda what, error: self._problems.update({what: str(error)}))
        self._rates: Rates[Task] = Rates()
        self._history: dict[str, deque[Point]] = {flow: deque(maxlen=_HISTORY) for flow in flows}
        self._seen: dict[Task, deque[tuple[int, int]]] = {}

    def look(self) -> Stands:
        """Look again."""
        self._problems.clear()
        now = time.time_ns() // 1_000_000
        metas, source = self._metas()
        for (flow, partition), why in self._standing.aside.items():
            self._problems.setdefault(f"{flow}/{partition}", why)
        self._rates.add({task: meta.position for task, meta in metas.items()})
        flows = [self._flow(flow, metas, source, now) for flow in (ACTIONS, REVISITS, EXAMPLES) if self._is_there(flow, metas)]
        self._standing.let_go()
        counts: dict[str, int] = {}
        for (flow, _), meta in metas.items():
            for name, n in meta.counts.items() if flow == ACTIONS else ():
                counts[name] = counts.get(name, 0) + n
        logs = self._settings.kafka or "embedded"
        problems = [why if what in why else f"{what}: {why}" for what, why in self._problems.items()]
        return Stands(source, logs, flows, dict(sorted(counts.items())), problems)

    def close(self) -> None:
        """Release state and logs."""
        self._standing.close()

    def _metas(self) -> tuple[dict[Task, Meta], str]:
        metas = self._standing.look()
        damaged = any("/" in what for what in self._problems)
        if metas or damaged or self._settings.online is None:
            return metas, STATE if metas or damaged else NOTHING
        # Not before it is needed: who reads task state needs nothing of Redis.
        from flows.online.reader import RedisReader

        try:
            with RedisReader(self._settings) as reader:
                tasks = [(flow, p) for flow in (ACTIONS, REVISITS) for p in range(self._settings.partitions)]
                return {task: meta for task in tasks if (meta := reader.meta(*task)) is not None}, REDIS
        except TidemarkError as error:
            self._problems["Redis"] = str(error)
            return {}, REDIS

    def _is_there(self, flow: str, metas: Mapping[Task, Meta]) -> bool:
        return flow != EXAMPLES or (self._settings.state / EXAMPLES).is_dir() or any(of == EXAMPLES for of, _ in metas)

    def _flow(self, flow: str, metas: Mapping[Task, Meta], source: str, now: int) -> FlowStands:
        tasks = [self._task(flow, p, metas.get((flow, p)), now) for p in range(self._settings.partitions)]
        lags = [task.lag for task in tasks if task.lag is not None]
        rates = [task.rate for task in tasks if task.rate is not None]
        marks = [task.watermark for task in tasks if task.watermark is not None]
        waiting = [task.waiting_since for task in tasks if task.waiting_since is not None]
        lag, rate = sum(lags) if lags else None, sum(rates) if rates else None
        history = self._history[flow]
        history.append(Point(now, rate, lag))
        while now - history[0].at > _HISTORY_MS:
            history.popleft()
        running = None if source == REDIS else run_is_on(run_place(self._settings, flow))
        return FlowStands(
            flow=flow,
            running=running,
            position=sum(task.position or 0 for task in tasks),
            lag=lag,
            rate=rate,
            watermark_low=min(marks, default=None),
            watermark=max(marks, default=None),
            waiting_since=min(waiting, default=None),
            bytes=sum(task.bytes for task in tasks),
            tasks=tasks,
            history=list(history),
        )

    def _task(self, flow: str, partition: int, meta: Meta | None, now: int) -> TaskStands:
        path = task_path(self._settings, flow, partition)
        ends = self._standing.ends.get(ACTIONS if flow == EXAMPLES else flow)
        end = ends[partition] if ends is not None and partition < len(ends) else None
        lag = self._standing.lag(flow, partition, meta) if meta is not None else end
        return TaskStands(
            partition=partition,
            position=meta.position if meta is not None else None,
            end=end,
            lag=lag,
            rate=self._rates.of((flow, partition)),
            watermark=meta.watermark if meta is not None else None,
            # Examples wait for the other log's time to pass, which says nothing of freshness.
            waiting_since=self._waiting_since(flow, partition, meta.position if meta is not None else 0, end, now)
            if flow != EXAMPLES
            else None,
            bytes=bytes_in(path),
            problem=self._problems.get(f"{flow}/{partition}"),
            handed_over=is_wanted(path),
        )

    def _waiting_since(self, flow: str, partition: int, position: int, end: int | None, now: int) -> int | None:
        if end is None:
            return None
        seen = self._seen.setdefault((flow, partition), deque(maxlen=_HISTORY))
        seen.append((now, end))
        if position >= end:
            return None
        if self._settings.kafka:
            # A consumer for each partition, only to see one record's time, would fetch all that it meets. An end that was seen says what was there.
            return next(at for at, reached in seen if reached > position)
        try:
            log = self._standing.log(flow)
            if log is None or position < log.start_positions()[partition]:
                return None
            [batch, *_] = log.read(partition, position, 1)
            stamp = batch.records.column("timestamp")[0].as_py() if "timestamp" in batch.records.schema.names else None
            return stamp if stamp is not None and stamp > NO_TIME else None
        except TidemarkError as error:
            self._problems[flow] = str(error)
            return None
