"""Made-up final examples, as many as wanted: users like some topics, pins have one, and what users did shows which they like.

For measuring and for tests of the model; the simulated population (`flows.simulate`) is what studies are made on.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from flows.examples.record import HEADS, SEQUENCE_ENTRY, Kind
from flows.examples.rows import ExampleRows, UserFeatures
from flows.features import PIN_COUNTERS, USER_COUNTERS

START = 1_700_000_000_000
_HOUR = 3_600_000
_TOPICS = 8
_CHANCES = {"click": 0.12, "long_click": 0.06, "save": 0.08, "hide": 0.03}


def examples(n: int, *, users: int, pins: int, per_request: int = 8, actions: int = 100, days: float = 10, seed: int = 0) -> ExampleRows:
    """As many examples as wanted, of n / per_request requests in order of time.

    Parameters
    ----------
    n, users, pins, per_request : int
        At least 8 pins.
    actions : int
        Each request has so many, or fewer.
    days : float
        Over which they are spread.
    seed : int
    """
    rng = np.random.default_rng(seed)
    requests = -(-n // per_request)
    liked = rng.integers(0, _TOPICS, users)
    topic_of = rng.permutation(np.arange(pins) % _TOPICS)

    user = (users * rng.random(requests) ** 2).astype(np.int64)
    time = START + np.sort((days * 24 * _HOUR * rng.random(requests)).astype(np.int64))
    lengths = rng.integers(actions // 2, actions + 1, requests) if actions else np.zeros(requests, np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    owner = np.repeat(np.arange(requests), lengths)
    sequence = np.zeros(offsets[-1], SEQUENCE_ENTRY)
    # Seven of ten actions, and four of ten candidates, are on pins of the topic that the user likes.
    sequence["pin_id"] = 1_000 + _chosen(rng, topic_of, liked[user[owner]], 0.7)
    rank = np.arange(len(owner)) - offsets[owner]
    sequence["event_time"] = time[owner] - (rank + 1) * _HOUR // 2
    sequence["action"], sequence["surface"] = rng.integers(1, 6, len(owner)), rng.integers(0, 5, len(owner))

    request = np.repeat(np.arange(requests), per_request)[:n]
    pin = _chosen(rng, topic_of, liked[user[request]], 0.4)
    slot = np.tile(np.arange(per_request), requests)[:n]
    fits = liked[user[request]] == topic_of[pin]
    labels = np.zeros((n, len(HEADS)), np.int8)
    for i, head in enumerate(HEADS[:-1]):
        better = ~fits if head == "hide" else fits
        labels[:, i] = rng.random(n) < _CHANCES[head] * np.where(better, 3.0, 0.4) * 2 / (2 + slot)
    labels[:, 4] = labels[:, 2] * (rng.random(n) < 0.3)
    counters = (rng.pareto(1.0, (n, len(PIN_COUNTERS))) * 3).astype(np.int64)
    seen = time[request] + 1_000
    return ExampleRows(
        ready_time=seen + _HOUR // 2,
        kind=np.full(n, Kind.FINAL, np.int8),
        request_id=pa.array(np.char.add("r", request.astype(str)), pa.string()),
        user_id=user[request] + 1,
        pin_id=1_000 + pin,
        surface=np.zeros(n, np.int16),
        topic=topic_of[pin].astype(np.int32),
        topics=tuple(f"topic {i}" for i in range(_TOPICS)),
        request_time=time[request],
        impression_time=seen,
        slot=slot.astype(np.int16),
        propensity=np.full(n, np.nan, np.float32),
        explored=np.zeros(n, bool),
        score=np.full(n, np.nan, np.float32),
        base=np.full(n, -1, np.int64),
        delta=np.full(n, -1, np.int64),
        labels=labels,
        fingerprint=np.zeros(n, np.int32),
        fingerprints=("made-up",),
        position=np.full(n, -1, np.int32),
        positions=(),
        as_of=time[request],
        pin_counters=counters,
        request=request.astype(np.int32),
        users=UserFeatures((rng.pareto(1.0, (requests, len(USER_COUNTERS))) * 3).astype(np.int64), offsets, sequence),
    )


def _chosen(rng: np.random.Generator, topic_of: np.ndarray, liked: np.ndarray, share: float) -> np.ndarray:
    """Pins, low numbers more often: a share of them of the topic that is liked."""
    by_topic = np.argsort(topic_of, kind="stable")
    first, sizes = np.searchsorted(topic_of[by_topic], np.arange(_TOPICS)), np.bincount(topic_of, minlength=_TOPICS)
    topic = np.where(rng.random(len(liked)) < share, liked, rng.integers(0, _TOPICS, len(liked)))
    return np.asarray(by_topic[first[topic] + (rng.random(len(liked)) ** 2 * sizes[topic]).astype(np.int64)])
