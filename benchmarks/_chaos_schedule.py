"""What happens in a chaos run, drawn from its seed before anything is done: act by act, who runs, what strikes it, and when.

An act is a function of (seed, number) alone. How many acts it takes until enough kills have hit a process that lived is not: that is timing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

KILL, RESCALE, FULL = "kill", "rescale", "full disk"
RUN, FOLLOW, THREADS, CLUSTER = "run", "follow", "bytewax -w 2", "bytewax -i -a"
START, COMMIT, PUBLISH, END, STOP = "start", "commit", "publish", "end", "stop"
ALL, WORKER, LEADER = "all", "worker", "leader"
BEFORE, DURING, KILLED = "before", "during", "killed"

WORKERS = (1, 3, 2)
"""Worker processes, from one rescale to the next, round and round."""


@dataclass(frozen=True)
class Act:
    """One run of the flows and what strikes it.

    Attributes
    ----------
    kind : str
        A kill; a stop with another number of workers after it; or files that may not grow.
    engine : str
        `tidemark run`, the same with --follow, or one of Bytewax's own clusters.
    feed : str
        When the next part of the stream is ingested: before the run, during it, or before it by an ingest that is killed and repeated.
    moment : str
        What is waited for: a share of the time that a start takes, a share of the waiting records committed, records published, all committed,
        or, after a share is committed, a request to stop.
    share, delay_s : float
        Which share; how much later it strikes.
    victim : str
        Every process of the run, one worker, or the process that started them.
    drained : bool
        A rescale's run is stopped by SIGTERM, not by SIGKILL.
    clock_s, jump_s : int
        What the wall clock is off at the start, and half way on.
    pause_s : float
        For so long every process of the run stands still (SIGSTOP) before it is struck; 0 for not.
    room : int
        Bytes to which a file may grow, where the disk is full.
    broker : str
        What becomes of the broker half way: "kill", "pause" or nothing.
    outage_s : float
        For how long.
    awaited : bool
        The next act begins when the workers of this one are gone, not at once.
    choice : float
        Which worker is the victim, in [0, 1).
    """

    number: int
    kind: str
    engine: str
    batch_records: int
    anchor_records: int
    feed: str
    moment: str
    share: float
    delay_s: float
    victim: str
    drained: bool
    clock_s: int
    jump_s: int
    pause_s: float
    room: int
    broker: str
    outage_s: float
    awaited: bool
    choice: float


def act(seed: int, number: int, kind: str, kafka: bool) -> Act:
    """The act of a number."""
    rng = np.random.default_rng([seed, number])

    def one(*weighted: tuple[Any, float]) -> Any:
        values, weights = zip(*weighted, strict=True)
        return values[int(rng.choice(len(values), p=np.array(weights) / sum(weights)))]

    engine = one((RUN, 3), (FOLLOW, 6), (THREADS, 0.6), (CLUSTER, 0.6))
    feed = one((BEFORE, 5), (DURING, 4), (KILLED, 1))
    moment = one((START, 5), (COMMIT, 6), (PUBLISH, 4), (END, 2), (STOP, 2))
    victim = one((ALL, 4), (WORKER, 3), (LEADER, 3))
    clock = [int(rng.integers(-48, 49)) * 3_600, int(rng.integers(-48, 49)) * 3_600]
    clock = one((clock, 4), ([clock[0], clock[0]], 3), ([0, 0], 3))
    if kind != KILL:
        engine = one((RUN, 1), (FOLLOW, 2)) if kind == RESCALE else RUN
        moment = one((COMMIT, 3), (PUBLISH, 1), (END, 1)) if kind == RESCALE else END
        victim = ALL
    if feed == DURING and engine != FOLLOW:
        # A bounded run ends where its log ended when it began.
        feed = BEFORE
    return Act(
        number=number,
        kind=kind,
        engine=engine,
        batch_records=int(np.exp(rng.uniform(np.log(3), np.log(100)))),
        anchor_records=int(np.exp(rng.uniform(np.log(1), np.log(3_000)))),
        feed=feed,
        moment=moment,
        share=float(rng.uniform(0.02, 0.9)),
        delay_s=float(rng.uniform(0, 0.03 if moment in (COMMIT, PUBLISH) else 0.3)),
        victim=victim,
        drained=bool(rng.random() < 0.5),
        clock_s=clock[0],
        jump_s=clock[1],
        pause_s=one((0.0, 8), (float(rng.uniform(0.05, 1.0)), 1)),
        room=int(rng.integers(10_000, 400_000)),
        broker=one(("", 6), ("kill", 2), ("pause", 2)) if kafka else "",
        outage_s=float(rng.uniform(0.2, 3.0)),
        awaited=bool(rng.random() < 0.4),
        choice=float(rng.random()),
    )


def kinds(seed: int, kills: int, rescales: int, full: int) -> list[str]:
    """The kinds of the first acts, in an order that is drawn."""
    rng = np.random.default_rng([seed, 2**32])
    return [str(kind) for kind in rng.permutation([KILL] * kills + [RESCALE] * rescales + [FULL] * full)]
