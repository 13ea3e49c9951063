"""The faults of a soak, drawn from its seed before it begins; and how each is done."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from benchmarks._soak_load import Producer
from benchmarks._soak_stack import DEDUP_MS, LATENESS_MS, Site

KILLED = ("flows", "serving", "examples", "online", "learner", "archiver", "audit", "skew", "checkpoints", "retrain")
WORKER, DISK = "flows: one worker", "flows: full disk"
BROKER, BROKER_PAUSE, REDIS = "kafka: killed", "kafka: stands still", "redis: killed, and empty when it is back"
DOUBLED, LATE, MALFORMED, CLOCK, CROWD = (
    "events: sent again",
    "events: late",
    "events: malformed",
    "producer: clock behind",
    "producer: a crowd",
)
# What comes first comes most: where few faults are drawn, the parts that features depend on are struck.
KINDS = (
    *(f"{name}: killed" for name in KILLED[:2]),
    BROKER,
    DOUBLED,
    REDIS,
    f"{KILLED[2]}: killed",
    LATE,
    WORKER,
    MALFORMED,
    DISK,
    *(f"{name}: killed" for name in KILLED[3:6]),
    CLOCK,
    BROKER_PAUSE,
    *(f"{name}: killed" for name in KILLED[6:]),
    CROWD,
)
_ROOM = 65_536
# A clock that is behind makes no event late; late events are found again by their IDs, if a producer has to send them twice.
_CLOCK_MS, _OLD_MS = 30_000, (LATENESS_MS + DEDUP_MS) // 2


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes
    ----------
    at : float
        Seconds after the load began.
    kind : str
        Of KINDS.
    choice : float
        In [0, 1): whatever there is to choose.
    """

    at: float
    kind: str
    choice: float


def drawn(number: int, seconds: float, seed: int) -> list[Fault]:
    """So many faults over so long, in order: each kind once before any comes twice, in an order by chance, at intervals by chance."""
    random = np.random.default_rng([seed, 77])
    kinds: list[str] = []
    while len(kinds) < number:
        some = KINDS[: number - len(kinds)]
        kinds += [some[i] for i in random.permutation(len(some))]
    step = 0.9 * seconds / max(number, 1)
    at = (np.arange(number) + random.uniform(0.1, 0.6, number)) * step + 0.03 * seconds
    return [Fault(float(t), kind, float(choice)) for t, kind, choice in zip(at, kinds, random.random(number), strict=True)]


def strike(fault: Fault, site: Site, producer: Producer, rate: float) -> None:
    """Do it, and wait until what it has struck is there again."""
    kind = fault.kind
    name, _, how = kind.partition(": ")
    if how == "killed" and name in KILLED:
        site.kill(name)
        site.await_restarted(name)
    elif kind == WORKER:
        site.kill("flows", worker=int(fault.choice * 64))
        site.await_restarted("flows")
    elif kind == DISK:
        site.kill("flows", room=_ROOM)
        # Once for the life that has no room, and once for that after it.
        site.await_restarted("flows", lives=2)
    elif kind in (BROKER, BROKER_PAUSE):
        site.broker.outage("kill" if kind == BROKER else "pause", 2 + 6 * fault.choice)
    elif kind == REDIS:
        site.redis.stop()
        time.sleep(1 + 2 * fault.choice)
        site.redis.start()
        site.memory["redis"].begin()
    elif kind == DOUBLED:
        producer.double()
    elif kind == LATE:
        producer.send_late(200 + int(800 * fault.choice), _OLD_MS)
    elif kind == MALFORMED:
        producer.send_malformed(100 + int(400 * fault.choice))
    elif kind in (CLOCK, CROWD):
        if kind == CLOCK:
            producer.behind_ms = _CLOCK_MS
        else:
            producer.set_rate(2 * rate)
        time.sleep(5)
        producer.behind_ms = 0
        producer.set_rate(rate)
    else:
        raise ValueError(kind)
