"""Sessions of page requests: what was served, what was seen, and what users did with it.

The served log is written under a policy of random exploration, so that a learner can correct for it exactly. Of a request's candidates one
is drawn for slot 0 by a softmax over scores; the others are shuffled evenly into the slots behind. So the chance that a candidate lies in
its slot (not given the other slots) is known in closed form: p for slot 0, (1 - p) / (candidates - 1) for any other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flows.simulate.parameters import RESAVE_MS, Parameters
from flows.simulate.population import TOPICS, Pins, Users, daily_rhythm
from flows.simulate.table import CLICK, CLOSEUP, GRID_CLICK, HIDE, HOMEFEED, IMPRESSION, LONG_CLICK, NONE, RELATED, SAVE, SEARCH, Events

CANDIDATES = 10
_LEAST_SHOWN = 3
_REQUESTS_PER_SESSION = 4.0
# No request so close to the end that what follows from it would be cut off.
_QUIET_END_MS = 10 * 60_000

# Shares of all events. Impressions are what remains beside revisits (about 3.5 %), strays and notifications.
IMPRESSION_SHARE = 0.715
_ACTION_SHARES = {CLOSEUP: 0.07, GRID_CLICK: 0.03, CLICK: 0.02, LONG_CLICK: 0.012, SAVE: 0.052, HIDE: 0.004}
# Seconds from the impression to the action, at least and at most.
_ACTION_DELAYS = {GRID_CLICK: (1, 3), CLOSEUP: (2, 6), CLICK: (5, 15), LONG_CLICK: (8, 30), SAVE: (5, 40), HIDE: (1, 4)}


@dataclass(frozen=True)
class Served:
    """The served log, one row per request, in order of time.

    Attributes
    ----------
    user, surface, time : ndarray
        Of each request.
    candidates, slots, propensities, shown : ndarray, (requests, candidates)
        In an order that says nothing: the pin, its slot, the chance that it came to lie there, and whether it was seen.
    mixture : float32, (requests, topics)
        The user's interests at that time (not written).
    """

    user: np.ndarray
    surface: np.ndarray
    time: np.ndarray
    candidates: np.ndarray
    slots: np.ndarray
    propensities: np.ndarray
    shown: np.ndarray
    mixture: np.ndarray


def serve(rng: np.random.Generator, users: Users, pins: Pins, parameters: Parameters) -> Served:
    """Enough requests for the wanted number of impressions."""
    width = min(CANDIDATES, len(pins))
    least = min(_LEAST_SHOWN, width)
    count = max(1, round(parameters.events * IMPRESSION_SHARE / ((least + width) / 2)))
    user, time = _request_times(rng, users, parameters, count)
    surface = rng.choice(np.array([HOMEFEED, RELATED, SEARCH], np.int8), count, p=[0.5, 0.32, 0.18])
    mixture = users.mixture(user, time, parameters.days)
    candidates = _candidates(rng, pins, mixture, surface, width)
    slots, propensities = _explore(rng, pins, mixture, candidates)
    shown = slots < rng.integers(least, width + 1, count)[:, None]
    return Served(user, surface, time, candidates, slots, propensities, shown, mixture)


def engage(rng: np.random.Generator, served: Served, pins: Pins, parameters: Parameters) -> Events:
    """Impressions of what was shown and the actions that followed; saves are numbered."""
    request, column = np.nonzero(served.shown)
    request = request.astype(np.int32)
    pin, slot = served.candidates[request, column], served.slots[request, column]
    user, surface = served.user[request], served.surface[request]
    time = served.time[request] + 200 + slot * rng.integers(300, 1500, len(request))
    parts = [Events.of(user, pin, IMPRESSION, surface, time, request=request)]

    liking = np.sqrt(served.mixture[request, pins.topic[pin]] * len(TOPICS)) * pins.quality[pin] / (1 + 0.15 * slot)
    liking = np.minimum(liking, 5.0)
    for action, share in _ACTION_SHARES.items():
        # What is disliked is hidden: for that action the liking is turned round.
        weight = 1 / (0.2 + liking) if action == HIDE else liking
        hit = np.flatnonzero(rng.random(len(weight)) * weight.sum() < weight * (share * parameters.events))
        least, most = _ACTION_DELAYS[action]
        acted = time[hit] + rng.integers(least * 1000, most * 1000, len(hit))
        part = Events.of(user[hit], pin[hit], action, surface[hit], acted, durations(rng, action, len(hit)), request[hit])
        parts.append(_once(part) if action == SAVE else part)
    return Events.concat(parts)


def durations(rng: np.random.Generator, action: int, count: int) -> np.ndarray | int:
    """How long a closeup, a click (up to 10 s) or a long click (over 10 s) lasts, in ms; NONE for other actions."""
    if action == CLOSEUP:
        return np.minimum(rng.lognormal(8.5, 0.9, count), 300_000).astype(np.int32)
    if action == CLICK:
        return rng.integers(500, 10_001, count).astype(np.int32)
    if action == LONG_CLICK:
        return (10_001 + np.minimum(rng.lognormal(10.0, 1.0, count), 1_800_000)).astype(np.int32)
    return NONE


def _request_times(rng: np.random.Generator, users: Users, parameters: Parameters, count: int) -> tuple[np.ndarray, np.ndarray]:
    """User and time of each request, in order of time; a session has a geometric number of them, half a minute or so apart."""
    sessions = int(count / _REQUESTS_PER_SESSION * 1.1) + 64
    lengths = rng.geometric(1 / _REQUESTS_PER_SESSION, sessions)
    while lengths.sum() < count:
        lengths = np.concatenate([lengths, rng.geometric(1 / _REQUESTS_PER_SESSION, sessions)])
    session = np.repeat(np.arange(len(lengths)), lengths)[:count]
    sessions = int(session[-1]) + 1
    user = users.pick(rng, sessions)
    start = daily_rhythm(rng, users.zone_ms[user], parameters)

    gaps = 5_000 + rng.exponential(35_000, count).astype(np.int64)
    since = np.cumsum(gaps)
    heads = np.flatnonzero(np.diff(session, prepend=-1))
    offset = since - since[heads][session]
    # A session that would run into the end is moved forward as a whole.
    over = start + np.maximum.reduceat(offset, heads) - (parameters.end_ms - _QUIET_END_MS)
    time = (start - np.maximum(over, 0))[session] + offset
    order = np.argsort(time, kind="stable")
    return user[session][order], time[order]


def _candidates(rng: np.random.Generator, pins: Pins, mixture: np.ndarray, surface: np.ndarray, width: int) -> np.ndarray:
    """Distinct pins for each request: of the user's interests, mostly of one topic where the surface is about one."""
    count = len(mixture)
    cumulative = np.cumsum(mixture, axis=1)
    draws = rng.random((count, width + 1), dtype=np.float32) * cumulative[:, -1:]
    topics = np.zeros((count, width + 1), np.int8)
    for t in range(len(TOPICS) - 1):
        topics += draws > cumulative[:, t : t + 1]
    focus = (rng.random((count, width), dtype=np.float32) < 0.8) & (surface != HOMEFEED)[:, None]
    wanted = np.where(focus, topics[:, width:], topics[:, :width])
    anything = rng.random((count, width), dtype=np.float32) < 0.1
    wanted[anything] = rng.integers(0, len(TOPICS), np.count_nonzero(anything))
    candidates = pins.pick(rng, wanted)
    for _ in range(8):
        rows, columns = np.nonzero(_repeated(candidates))
        if not len(rows):
            return candidates
        candidates[rows, columns] = rng.integers(0, len(pins), len(rows))
    # With hardly more pins than candidates chance takes long; neighbours are distinct for certain.
    rows = np.flatnonzero(_repeated(candidates).any(axis=1))
    candidates[rows] = (rng.integers(0, len(pins), len(rows))[:, None] + np.arange(width)) % len(pins)
    return candidates


def _repeated(rows: np.ndarray) -> np.ndarray:
    """Mask of the values that stand in their row already."""
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    again = np.zeros(rows.shape, bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    out = np.empty_like(again)
    np.put_along_axis(out, order, again, axis=1)
    return out


def _explore(rng: np.random.Generator, pins: Pins, mixture: np.ndarray, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slots and propensities of the policy in the module's docstring."""
    count, width = candidates.shape
    liking = np.take_along_axis(mixture, pins.topic[candidates].astype(np.int64), axis=1).astype(np.float64)
    score = liking + 0.1 * np.log(pins.popularity(candidates)) + rng.normal(0.0, 0.3, (count, width))
    chance = np.exp(score - score.max(axis=1, keepdims=True))
    chance /= chance.sum(axis=1, keepdims=True)
    draw = rng.random((count, 1)) >= np.cumsum(chance, axis=1)
    top = np.minimum(draw.sum(axis=1), width - 1)
    keys = rng.random((count, width))
    keys[np.arange(count), top] = -1.0
    slots = np.empty((count, width), np.int32)
    np.put_along_axis(slots, np.argsort(keys, axis=1), np.arange(width, dtype=np.int32)[None, :], axis=1)
    return slots, np.where(slots == 0, chance, (1 - chance) / max(width - 1, 1))


def _once(saves: Events) -> Events:
    """The saves without those that follow another of the same user and pin within RESAVE_MS, numbered in order of time."""
    pair = saves.user.astype(np.int64) << 32 | saves.pin
    rows = np.lexsort((saves.time, pair))
    # At most one per span of the calendar first, so that what remains forms short chains and the loop below ends soon.
    span = saves.time // RESAVE_MS
    rows = rows[(np.diff(pair[rows], prepend=-1) != 0) | (np.diff(span[rows], prepend=-1) != 0)]
    while len(rows):
        close = np.zeros(len(rows), bool)
        close[1:] = (pair[rows][1:] == pair[rows][:-1]) & (saves.time[rows][1:] - saves.time[rows][:-1] < RESAVE_MS)
        # The first of a run of close ones stays, so only the second goes: the third may be far enough from the first.
        second = close & ~np.concatenate([[False], close[:-1]])
        if not second.any():
            break
        rows = rows[~second]
    rows = rows[np.argsort(saves.time[rows], kind="stable")]
    out = saves.take(rows)
    out.save = np.arange(len(out), dtype=np.int32)
    return out
