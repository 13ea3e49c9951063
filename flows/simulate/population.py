"""Who there is and what there is: users with drifting interests, pins with topics and popularity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flows.settings import DAY_MS, HOUR_MS
from flows.simulate.parameters import START_MS, Parameters
from flows.simulate.published import TOPIC_DAYS_3_6_SHARE

# Topics beyond Table 3 are there so that not everything that is saved has a published figure.
TOPICS: tuple[str, ...] = (*TOPIC_DAYS_3_6_SHARE, "Food and Drink", "Travel", "Fashion")
PRODUCERS: tuple[str, ...] = ("ios", "android", "web")
FIRST_USER_ID, FIRST_PIN_ID = 1, 1_000_000

_UNLABELLED_PINS = 0.005
_HOUR_WEIGHTS = np.array([3, 2, 1, 1, 1, 2, 3, 5, 6, 6, 6, 6, 7, 7, 6, 6, 7, 8, 9, 11, 12, 11, 8, 5], np.float64)  # an evening peak
_WEEKDAY_WEIGHTS = np.array([1.0, 1.0, 1.0, 1.0, 1.05, 1.25, 1.3])


@dataclass(frozen=True)
class Users:
    """Users by index.

    Attributes
    ----------
    cumulative_activity : float64
        Running share of sessions; the last is 1.
    interests : float32, (2, users, topics)
        Topic mixture at the begin and at the end; in between it drifts evenly from one to the other.
    zone_ms : int64
        Local time less UTC.
    producer : int8
        Index into PRODUCERS.
    """

    cumulative_activity: np.ndarray
    interests: np.ndarray
    zone_ms: np.ndarray
    producer: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, count: int) -> Users:
        """Random users, some far more active than others."""
        activity = np.cumsum(rng.lognormal(0.0, 1.0, count))
        begin = rng.normal(0.0, 1.5, (count, len(TOPICS))).astype(np.float32)
        end = 0.7 * begin + 0.7 * rng.normal(0.0, 1.5, (count, len(TOPICS))).astype(np.float32)
        interests = np.exp(np.stack([begin, end]))
        interests /= interests.sum(axis=2, keepdims=True)
        zones = rng.choice(np.array([-8, -5, 0, 1, 9]) * HOUR_MS, count, p=[0.2, 0.35, 0.15, 0.2, 0.1])
        return cls(activity / activity[-1], interests, zones, rng.choice(len(PRODUCERS), count, p=[0.45, 0.35, 0.2]).astype(np.int8))

    def pick(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Users of so many sessions, by activity."""
        picked = np.searchsorted(self.cumulative_activity, rng.random(count), side="right")
        return np.minimum(picked, len(self.zone_ms) - 1).astype(np.int32)

    def mixture(self, users: np.ndarray, times: np.ndarray, days: int) -> np.ndarray:
        """Topic mixture of each user at each time, (n, topics)."""
        age = ((times - START_MS) / (days * DAY_MS)).astype(np.float32)[:, None]
        return (1 - age) * self.interests[0, users] + age * self.interests[1, users]


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
    """

    topic: np.ndarray
    label: np.ndarray
    quality: np.ndarray
    cumulative: np.ndarray
    first: np.ndarray
    ids: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, count: int) -> Pins:
        """Random pins, popularity Zipf-like."""
        share = rng.dirichlet(np.full(len(TOPICS), 20.0))
        topic = np.sort(rng.choice(len(TOPICS), count, p=share)).astype(np.int8)
        popularity = (1.0 + rng.permutation(count)) ** -0.8
        return cls(
            topic=topic,
            label=np.where(rng.random(count) < _UNLABELLED_PINS, -1, topic).astype(np.int8),
            quality=rng.lognormal(0.0, 0.3, count).astype(np.float32),
            cumulative=np.concatenate([[0.0], np.cumsum(popularity)]),
            first=np.searchsorted(topic, np.arange(len(TOPICS) + 1)),
            ids=FIRST_PIN_ID + rng.permutation(count).astype(np.int64),
        )

    def __len__(self) -> int:
        return len(self.topic)

    def popularity(self, pins: np.ndarray) -> np.ndarray:
        """Popularity of each pin, the greatest being 1."""
        return self.cumulative[pins + 1] - self.cumulative[pins]

    def pick(self, rng: np.random.Generator, topics: np.ndarray) -> np.ndarray:
        """A pin of each topic, by popularity; of a neighbouring topic where one has no pins."""
        low, high = self.cumulative[self.first[topics]], self.cumulative[self.first[topics + 1]]
        at = np.searchsorted(self.cumulative, low + rng.random(topics.shape) * (high - low), side="right") - 1
        return np.clip(at, 0, len(self) - 1).astype(np.int32)


def daily_rhythm(rng: np.random.Generator, zone_ms: np.ndarray, parameters: Parameters) -> np.ndarray:
    """A moment for each of so many sessions: busier in the evening, local time, and at weekends."""
    days = _WEEKDAY_WEIGHTS[np.arange(parameters.days) % 7]
    hours = _HOUR_WEIGHTS / _HOUR_WEIGHTS.sum()
    n = len(zone_ms)
    day = rng.choice(parameters.days, n, p=days / days.sum())
    hour = rng.choice(24, n, p=hours)
    local = hour * HOUR_MS + rng.integers(0, HOUR_MS, n)
    return START_MS + day * DAY_MS + (local - zone_ms) % DAY_MS
