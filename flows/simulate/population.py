"""Who there is and what there is, and since when: users with drifting interests, pins with topics and popularity.

Everybody and everything has been there from the begin, unless the world says otherwise. Nothing is ever picked before it was there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from flows.settings import DAY_MS, HOUR_MS
from flows.simulate.parameters import START_MS, Parameters
from flows.simulate.published import TOPIC_DAYS_3_6_SHARE
from flows.simulate.world import World

# Topics beyond Table 3 are there so that not everything that is saved has a published figure.
TOPICS: tuple[str, ...] = (*TOPIC_DAYS_3_6_SHARE, "Food and Drink", "Travel", "Fashion")
PRODUCERS: tuple[str, ...] = ("ios", "android", "web")
FIRST_USER_ID, FIRST_PIN_ID = 1, 1_000_000

_UNLABELLED_PINS = 0.005
# Of the clicks of a pin's first month 70 percent come within two days of its appearing (Piqora 2013): such a share needs a burst that is
# over within days. How high it is, is the world's.
_BURST_HALF_LIFE_MS = 17 * HOUR_MS
_HOUR_WEIGHTS = np.array([3, 2, 1, 1, 1, 2, 3, 5, 6, 6, 6, 6, 7, 7, 6, 6, 7, 8, 9, 11, 12, 11, 8, 5], np.float64)  # an evening peak
_WEEKDAY_WEIGHTS = np.array([1.0, 1.0, 1.0, 1.0, 1.05, 1.25, 1.3])


@dataclass(frozen=True)
class Users:
    """Users by index.

    Attributes
    ----------
    cumulative_activity : float64
        Running share of sessions; the last is 1.
    interests : float32, (2 or more, users, topics)
        Topic mixtures, from each of which it drifts evenly to the next.
    drift : float
        How many of these ways are gone from the begin to the end.
    zone_ms : int64
        Local time less UTC.
    producer : int8
        Index into PRODUCERS.
    born : int64 or None
        No session of the user begins before, ms; None: all have been there from the begin.
    """

    cumulative_activity: np.ndarray
    interests: np.ndarray
    drift: float
    zone_ms: np.ndarray
    producer: np.ndarray
    born: np.ndarray | None = None

    @classmethod
    def draw(cls, rng: np.random.Generator, later: np.random.Generator, count: int, drift: float = 1.0) -> Users:
        """Random users, some far more active than others; `later` draws what interests change to after their first change."""
        activity = np.cumsum(rng.lognormal(0.0, 1.0, count))
        begin = rng.normal(0.0, 1.5, (count, len(TOPICS))).astype(np.float32)
        ways = [begin, _changed(rng, begin)]
        zones = rng.choice(np.array([-8, -5, 0, 1, 9]) * HOUR_MS, count, p=[0.2, 0.35, 0.15, 0.2, 0.1])
        producer = rng.choice(len(PRODUCERS), count, p=[0.45, 0.35, 0.2]).astype(np.int8)
        while len(ways) - 1 < drift:
            ways.append(_changed(later, ways[-1]))
        interests = np.exp(np.stack(ways))
        interests /= interests.sum(axis=2, keepdims=True)
        return cls(activity / activity[-1], interests, drift, zones, producer)

    def with_newcomers(self, rng: np.random.Generator, share: float, parameters: Parameters) -> Users:
        """The same users, of whom a share comes during the span, up to a day before its end."""
        when = _births(rng, len(self.zone_ms), int(share * len(self.zone_ms)), max(0, parameters.days - 1) * DAY_MS)
        return self if when is None else replace(self, born=when)

    def pick(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Users of so many sessions, by activity."""
        picked = np.searchsorted(self.cumulative_activity, rng.random(count), side="right")
        return np.minimum(picked, len(self.zone_ms) - 1).astype(np.int32)

    def mixture(self, users: np.ndarray, times: np.ndarray, days: int) -> np.ndarray:
        """Topic mixture of each user at each time, (n, topics)."""
        gone = ((times - START_MS) / (days * DAY_MS) * self.drift).astype(np.float32)
        way = np.minimum(gone.astype(np.int64), len(self.interests) - 2)
        part = (gone - way.astype(np.float32))[:, None]
        return (1 - part) * self.interests[way, users] + part * self.interests[way + 1, users]


@dataclass(frozen=True)
class Pins:
    """Pins by index, those of a topic side by side.

    Attributes
    ----------
    topic : int8
        Index into TOPICS: what the pin is about.
    label : int8
        The topic that is written into events: `topic`, or -1 for the few pins that nobody labelled.
    quality : float32
        Factor on the engagement with the pin.
    cumulative : float64
        Running popularity, with a 0 in front.
    first : int64
        First pin of each topic, and the number of pins behind.
    ids : int64
        Pin IDs, in no order of topic or popularity.
    born : int64 or None
        When the pin appears, ms, at a full hour; None: all have been there from the begin.
    by_birth : int64 or None
        The pins in the order in which they appear.
    burst : float
        See `World.fresh_burst`.
    """

    topic: np.ndarray
    label: np.ndarray
    quality: np.ndarray
    cumulative: np.ndarray
    first: np.ndarray
    ids: np.ndarray
    born: np.ndarray | None = None
    by_birth: np.ndarray | None = None
    burst: float = 0.0

    @classmethod
    def draw(cls, rng: np.random.Generator, count: int, spread: float = 0.3) -> Pins:
        """Random pins, popularity Zipf-like; `spread` as `World.appeal_spread`."""
        share = rng.dirichlet(np.full(len(TOPICS), 20.0))
        topic = np.sort(rng.choice(len(TOPICS), count, p=share)).astype(np.int8)
        popularity = (1.0 + rng.permutation(count)) ** -0.8
        return cls(
            topic=topic,
            label=np.where(rng.random(count) < _UNLABELLED_PINS, -1, topic).astype(np.int8),
            quality=rng.lognormal(0.0, spread, count).astype(np.float32),
            cumulative=np.concatenate([[0.0], np.cumsum(popularity)]),
            first=np.searchsorted(topic, np.arange(len(TOPICS) + 1)),
            ids=FIRST_PIN_ID + rng.permutation(count).astype(np.int64),
        )

    def __len__(self) -> int:
        return len(self.topic)

    def with_fresh(self, rng: np.random.Generator, world: World, parameters: Parameters) -> Pins:
        """The same pins, of which a share appears during the span; a request's candidates are always there."""
        count = min(int(world.fresh_pins * len(self)), len(self) - min(world.candidates, len(self)))
        born = _births(rng, len(self), count, parameters.days * DAY_MS)
        if born is None:
            return self
        born = START_MS + (born - START_MS) // HOUR_MS * HOUR_MS
        return replace(self, born=born, by_birth=np.argsort(born, kind="stable"), burst=world.fresh_burst)

    def popularity(self, pins: np.ndarray) -> np.ndarray:
        """Popularity of each pin, the greatest being 1; of one that appears, that after its burst."""
        return self.cumulative[pins + 1] - self.cumulative[pins]

    def pick(self, rng: np.random.Generator, topics: np.ndarray, times: np.ndarray) -> np.ndarray:
        """A pin of each topic, by popularity; of a neighbouring topic where one has no pins.

        Parameters
        ----------
        topics : int, (n, k)
        times : int64[n]
            In ascending order.
        """
        draws = rng.random(topics.shape)
        if self.born is None:
            return self._at(self.cumulative, topics, draws)
        out = np.empty(topics.shape, np.int32)
        hours = (times - START_MS) // HOUR_MS
        bounds = np.searchsorted(hours, np.arange(hours[0], hours[-1] + 2))
        for hour, begin, end in zip(range(int(hours[0]), int(hours[-1]) + 1), bounds, bounds[1:], strict=False):
            if begin < end:
                out[begin:end] = self._at(self._cumulative(START_MS + hour * HOUR_MS), topics[begin:end], draws[begin:end])
        # Where a topic has nothing yet, the pin behind may not be there either.
        unborn = self.born[out] > times[:, None]
        out[unborn] = self.anything(rng, np.broadcast_to(times[:, None], out.shape)[unborn])
        return out

    def anything(self, rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
        """Some pin at each time, all that are there being as likely."""
        if self.born is None or self.by_birth is None:
            return rng.integers(0, len(self), len(times))
        return self.by_birth[(rng.random(len(times)) * self._there(times)).astype(np.int64)]

    def neighbours(self, rng: np.random.Generator, times: np.ndarray, width: int) -> np.ndarray:
        """Distinct pins at each time, (n, width)."""
        if self.born is None or self.by_birth is None:
            return (rng.integers(0, len(self), len(times))[:, None] + np.arange(width)) % len(self)
        there = self._there(times)
        first = (rng.random(len(times)) * there).astype(np.int64)
        return self.by_birth[(first[:, None] + np.arange(width)) % there[:, None]]

    def _there(self, times: np.ndarray) -> np.ndarray:
        """How many pins there are at each time."""
        assert self.born is not None
        return np.searchsorted(self.born[self.by_birth], times, side="right")

    def _cumulative(self, time: int) -> np.ndarray:
        """Running popularity of what is there at a time, with a 0 in front."""
        assert self.born is not None
        age = time - self.born
        popularity = np.diff(self.cumulative) * (
            1 + self.burst * (self.born > START_MS) * 0.5 ** (np.maximum(age, 0) / _BURST_HALF_LIFE_MS)
        )
        return np.concatenate([[0.0], np.cumsum(np.where(age >= 0, popularity, 0.0))])

    def _at(self, cumulative: np.ndarray, topics: np.ndarray, draws: np.ndarray) -> np.ndarray:
        low, high = cumulative[self.first[topics]], cumulative[self.first[topics + 1]]
        at = np.searchsorted(cumulative, low + draws * (high - low), side="right") - 1
        return np.clip(at, 0, len(self) - 1).astype(np.int32)


def sessions(rng: np.random.Generator, users: Users, count: int, parameters: Parameters) -> tuple[np.ndarray, np.ndarray]:
    """User and moment of each of so many sessions: by activity and rhythm, and never of somebody who is yet to come."""
    user = users.pick(rng, count)
    start = daily_rhythm(rng, users.zone_ms[user], parameters)
    if users.born is not None:
        early = np.flatnonzero(start < users.born[user])
        while len(early):
            user[early] = users.pick(rng, len(early))
            start[early] = daily_rhythm(rng, users.zone_ms[user[early]], parameters)
            early = early[start[early] < users.born[user[early]]]
    return user, start


def daily_rhythm(rng: np.random.Generator, zone_ms: np.ndarray, parameters: Parameters) -> np.ndarray:
    """A moment for each of so many sessions: busier in the evening, local time, and at weekends."""
    days = _WEEKDAY_WEIGHTS[np.arange(parameters.days) % 7]
    hours = _HOUR_WEIGHTS / _HOUR_WEIGHTS.sum()
    n = len(zone_ms)
    day = rng.choice(parameters.days, n, p=days / days.sum())
    hour = rng.choice(24, n, p=hours)
    local = hour * HOUR_MS + rng.integers(0, HOUR_MS, n)
    return START_MS + day * DAY_MS + (local - zone_ms) % DAY_MS


def _changed(rng: np.random.Generator, logs: np.ndarray) -> np.ndarray:
    """Log-interests after a change: something of the old ones, as much of new ones."""
    return 0.7 * logs + 0.7 * rng.normal(0.0, 1.5, logs.shape).astype(np.float32)


def _births(rng: np.random.Generator, count: int, later: int, span_ms: int) -> np.ndarray | None:
    """When each of so many appears: `later` of them during the span, one in each part of it, the others at its begin."""
    if not later:
        return None
    born = np.full(count, START_MS)
    born[rng.permutation(count)[:later]] += ((np.arange(later) + rng.random(later)) / later * span_ms).astype(np.int64)
    return born
