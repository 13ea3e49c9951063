"""Sessions of page requests: what was served, what was seen, and what users did with it.

The served log is written under a policy of random exploration, so that a learner can correct for it exactly. Of a request's candidates one
is drawn for slot 0 by a softmax over scores; the others are shuffled evenly into the slots behind. So the chance that a candidate lies in
its slot (not given the other slots) is known in closed form: p for slot 0, (1 - p) / (candidates - 1) for any other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flows.simulate.appeal import ACTION_SHARES, Appeal, Looked
from flows.simulate.numbers import Numbers
from flows.simulate.parameters import RESAVE_MS, Parameters
from flows.simulate.population import TOPICS, Pins, Users, sessions
from flows.simulate.table import CLICK, CLOSEUP, GRID_CLICK, HIDE, HOMEFEED, IMPRESSION, LONG_CLICK, RELATED, SAVE, SEARCH, Events

_LEAST_SHOWN, _MOST_SHOWN = 3, 10
_REQUESTS_PER_SESSION = 4.0
# No request so close to the end that what follows from it would be cut off.
_QUIET_END_MS = 10 * 60_000

# Share of all events: what remains beside what is done with them, revisits (about 3.5 %), strays and notifications.
IMPRESSION_SHARE = 0.715
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
    width = min(parameters.world.candidates, len(pins))
    least, most = min(_LEAST_SHOWN, width), min(_MOST_SHOWN, width)
    count = max(1, round(parameters.events * IMPRESSION_SHARE / ((least + most) / 2)))
    user, time = _request_times(rng, users, parameters, count)
    surface = rng.choice(np.array([HOMEFEED, RELATED, SEARCH], np.int8), count, p=[0.5, 0.32, 0.18])
    mixture = users.mixture(user, time, parameters.days)
    candidates = _candidates(rng, pins, mixture, surface, time, width)
    slots, propensities = _explore(rng, pins, mixture, candidates)
    shown = slots < rng.integers(least, most + 1, count)[:, None]
    return Served(user, surface, time, candidates, slots, propensities, shown, mixture)


def looked_at(served: Served, pins: Pins) -> Looked:
    """What was shown, request by request."""
    request, column = np.nonzero(served.shown)
    request = request.astype(np.int32)
    pin = served.candidates[request, column]
    return Looked(
        request=request,
        user=served.user[request],
        pin=pin,
        surface=served.surface[request],
        slot=served.slots[request, column],
        requested=served.time[request],
        fit=served.mixture[request, pins.topic[pin]],
    )


def aims_of(parameters: Parameters) -> dict[int, float]:
    """How many of each action a simulation aims at."""
    return {action: share * parameters.events for action, share in ACTION_SHARES.items()}


def engage(
    numbers: Numbers, looked: Looked, appeal: Appeal, aims: dict[int, float], totals: dict[int, float] | None = None
) -> dict[int, Events]:
    """By action: impressions of what was looked at, and what followed. Saves are all there, however soon after another.

    Parameters
    ----------
    numbers : Numbers
        Of the rows of `looked`.
    aims, totals : dict
        Of each action, how many there would be if the weights added up to the total; by default they do.
    """
    everything = np.arange(len(looked))
    time = looked.requested + 200 + looked.slot * numbers.whole(everything, 300, 1500)
    parts = {IMPRESSION: Events.of(looked.user, looked.pin, IMPRESSION, looked.surface, time, request=looked.request)}
    liking = appeal.liking(looked)
    for action, aim in aims.items():
        weight = appeal.weight(action, liking, looked)
        total = weight.sum() if totals is None else totals[action]
        hit = np.flatnonzero(numbers.uniform(everything) * total < weight * aim)
        least, most = _ACTION_DELAYS[action]
        acted = time[hit] + numbers.whole(hit, least * 1000, most * 1000)
        lasting = numbers.lasting(action, hit)
        parts[action] = Events.of(looked.user[hit], looked.pin[hit], action, looked.surface[hit], acted, lasting, looked.request[hit])
    return parts


def _request_times(rng: np.random.Generator, users: Users, parameters: Parameters, count: int) -> tuple[np.ndarray, np.ndarray]:
    """User and time of each request, in order of time; a session has a geometric number of them, half a minute or so apart."""
    expected = int(count / _REQUESTS_PER_SESSION * 1.1) + 64
    lengths = rng.geometric(1 / _REQUESTS_PER_SESSION, expected)
    while lengths.sum() < count:
        lengths = np.concatenate([lengths, rng.geometric(1 / _REQUESTS_PER_SESSION, expected)])
    session = np.repeat(np.arange(len(lengths)), lengths)[:count]
    user, start = sessions(rng, users, int(session[-1]) + 1, parameters)

    gaps = 5_000 + rng.exponential(35_000, count).astype(np.int64)
    since = np.cumsum(gaps)
    heads = np.flatnonzero(np.diff(session, prepend=-1))
    offset = since - since[heads][session]
    # A session that would run into the end is moved forward as a whole.
    over = start + np.maximum.reduceat(offset, heads) - (parameters.end_ms - _QUIET_END_MS)
    time = (start - np.maximum(over, 0))[session] + offset
    order = np.argsort(time, kind="stable")
    return user[session][order], time[order]


def _candidates(rng: np.random.Generator, pins: Pins, mixture: np.ndarray, surface: np.ndarray, time: np.ndarray, width: int) -> np.ndarray:
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
    candidates = pins.pick(rng, wanted, time)
    for _ in range(8):
        rows, columns = np.nonzero(_repeated(candidates))
        if not len(rows):
            return candidates
        candidates[rows, columns] = pins.anything(rng, time[rows])
    # With hardly more pins than candidates chance takes long; neighbours are distinct for certain.
    rows = np.flatnonzero(_repeated(candidates).any(axis=1))
    candidates[rows] = pins.neighbours(rng, time[rows], width)
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


def once(saves: Events) -> Events:
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
