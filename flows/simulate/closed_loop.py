"""A simulated site whose users react to a ranking: requests go out slice by slice, slots come back, and what users then do comes out as events.

Every reaction follows from hashes of (seed, request, pin), and every later revisit from those of its save: whoever shows the same pin in the
same slot of the same request gets the same reaction, so arms of one seed differ by what their policies do, and by no luck of their own.
Nothing here knows what the policy is, and no slice's length changes what happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from flows.events import EVENT_SCHEMA
from flows.settings import DAY_MS
from flows.simulate import output
from flows.simulate.browsing import Served, aims_of, engage, looked_at
from flows.simulate.chances import HEAD_NAMES, chances_at, totals_of
from flows.simulate.disorder import Records
from flows.simulate.numbers import Hashed, key_of, unit
from flows.simulate.parameters import RESAVE_MS, START_MS, Parameters
from flows.simulate.population import FIRST_USER_ID
from flows.simulate.revisits import plan
from flows.simulate.site import Site
from flows.simulate.table import GRID_CLICK, IMPRESSION, OWN_PROFILE, SAVE, SURFACES, Events

_REACTS, _COMES_BACK, _ARRIVES, _IS_CALLED = range(4)
_LEAST_DELAY_MS, _MOST_DELAY_MS = 200, 1_700


@dataclass(frozen=True)
class Requests:
    """The requests of a slice, in order of time.

    Attributes
    ----------
    rows : slice
        Which of the site's requests they are.
    until_ms : int
        End of the slice: no request at this time or later.
    request_id : Array of string
    user_id, request_time : int64[n]
    surface : Array of dictionary of string
    candidates : int64[n, width]
        Pin IDs.
    shown : int64[n]
        How many of them will be looked at: those in the slots below.
    """

    rows: slice
    until_ms: int
    request_id: pa.Array
    user_id: np.ndarray
    request_time: np.ndarray
    surface: pa.Array
    candidates: np.ndarray
    shown: np.ndarray

    def __len__(self) -> int:
        return len(self.user_id)


@dataclass(frozen=True)
class Reaction:
    """What came of a slice.

    Attributes
    ----------
    events : Table
        Columns of `flows.events.EVENT_SCHEMA`, in order of arrival: all that arrived within the slice, of its requests and of those before.
    served : Table
        A row of `output.SERVED_SCHEMA` for each request.
    """

    events: pa.Table
    served: pa.Table


@dataclass(frozen=True)
class Outcomes:
    """What users did so far: columns of equal length, a row for each user who made a request.

    Attributes
    ----------
    user_id : int64
    days : int64
        Days (UTC) on which the user made a request: the same for all arms.
    saves, revisits : int64
        Revisits are impressions and clicks of saved pins on the own profile, within 7 days of the save.
    """

    user_id: np.ndarray
    days: np.ndarray
    saves: np.ndarray
    revisits: np.ndarray

    def per_user_day(self) -> dict[str, float]:
        """Saves and revisits per user-day, over all users."""
        days = max(int(self.days.sum()), 1)
        return {"saves": float(self.saves.sum() / days), "revisits": float(self.revisits.sum() / days)}


class ClosedLoop:
    """The site of some parameters, from a moment on.

    Its users, pins and requests are those of `simulate` with the same parameters, to the request ID: what that wrote before `begin_ms` is the
    history of this, if one likes. What was saved in that history is not known here: it may be saved again, and its revisits are in the events
    of `simulate`. Rates are such that the policy of `simulate` gets as much of each action as there.

    Parameters
    ----------
    parameters : Parameters
        Those of disorder say nothing here: events arrive within two seconds, once, well-formed. No notifications, no strays.
    begin_ms : int
        No request before.

    Raises
    ------
    SettingsError
        The site doesn't fit into memory.
    """

    def __init__(self, parameters: Parameters, begin_ms: int = START_MS) -> None:
        self._parameters = parameters
        self._site = site = Site.draw(parameters)
        self._ids = output.request_ids(len(site.served.time))
        self._shown = site.served.shown.sum(axis=1)
        explored = looked_at(site.served, site.pins)
        self._aims = aims_of(parameters)
        self._totals = totals_of(explored, site.appeal, self._aims)
        self._begin, self._begin_ms = int(np.searchsorted(site.served.time, begin_ms)), begin_ms
        self._start()

    def _start(self) -> None:
        self._next, self._now = self._begin, self._begin_ms
        self._saves = 0
        self._pending = _nothing()
        self._open_pairs, self._open_times = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._counts = np.zeros((2, self._parameters.users), np.int64)

    def anew(self) -> ClosedLoop:
        """The same site at the first moment, for another policy. What was drawn, which takes longest, is shared; nothing changes it."""
        other = copy(self)
        other._start()
        return other

    @property
    def end_ms(self) -> int:
        """Nothing happens at this time or later."""
        return self._parameters.end_ms

    def slices(self, length_ms: int) -> Iterator[Requests]:
        """The requests of one slice after the other, up to the end.

        Raises
        ------
        ValueError
            The next slice was asked for before `react` to the last one.
        """
        while self._now < self.end_ms:
            until = self._now + length_ms
            yield self.requests(until)
            if self._now < until:
                raise ValueError(f"the requests before {until} want their slots (`react`) before the next ones are there")

    def requests(self, until_ms: int) -> Requests:
        """The requests before a moment that have had no reaction yet."""
        served = self._site.served
        rows = slice(self._next, max(self._next, int(np.searchsorted(served.time, until_ms))))
        return Requests(
            rows=rows,
            until_ms=until_ms,
            request_id=self._ids[rows],
            user_id=served.user[rows].astype(np.int64) + FIRST_USER_ID,
            request_time=served.time[rows],
            surface=pa.DictionaryArray.from_arrays(pa.array(served.surface[rows].astype(np.int32)), pa.array(list(SURFACES))),
            candidates=self._site.pins.ids[served.candidates[rows]],
            shown=self._shown[rows],
        )

    def react(self, requests: Requests, slots: np.ndarray, propensities: np.ndarray | None = None) -> Reaction:
        """What users do with a ranking; moves the loop on to the end of the slice. In the last slice everything that is left comes out.

        Parameters
        ----------
        requests : Requests
            The next slice.
        slots : int[n, width]
            The slot of each candidate: of each request a permutation of 0, 1, …
        propensities : float64[n, width], optional
            The chance that each candidate came to lie there; by default 1, as it is without exploration.

        Raises
        ------
        ValueError
            It isn't the next slice, or these are no slots.
        """
        if requests.rows.start != self._next or requests.until_ms < self._now:
            raise ValueError(f"these requests are not the next ones: the loop stands before request {self._next}")
        shape = requests.candidates.shape
        if slots.shape != shape or not np.array_equal(np.sort(slots, axis=1), np.broadcast_to(np.arange(shape[1]), shape)):
            raise ValueError(f"slots must be the numbers 0 to {shape[1] - 1} in each of {shape[0]} rows, each number once")
        served = self._ranked(requests.rows, slots, np.ones(shape) if propensities is None else propensities)
        looked = looked_at(served, self._site.pins)
        looked = replace(looked, request=looked.request + np.int32(requests.rows.start))
        happened = engage(Hashed(self._keys(_REACTS, looked.request, looked.pin)), looked, self._site.appeal, self._aims, self._totals)
        saves = happened[SAVE] = self._kept(happened[SAVE])
        numbers = Hashed(self._keys(_COMES_BACK, saves.request, saves.pin))
        later = plan(numbers, saves, self._site.pins, self._site.leanings, self._parameters)
        self._pending = Events.concat([self._pending, *happened.values(), later])
        self._next, self._now = requests.rows.stop, requests.until_ms
        return Reaction(self._arrived(), output.served_rows(served, self._site.pins, requests.request_id))

    def chances(self, requests: Requests) -> np.ndarray:
        """The chance of each head for each candidate if it lay in slot 0 and was looked at, float64[n, width, heads], as `chances.HEAD_NAMES`.

        Nothing that learns may see it: it is there to say how good a policy could be.
        """
        shape = requests.candidates.shape
        served = self._ranked(requests.rows, np.zeros(shape, np.int32), np.ones(shape))
        looked = looked_at(replace(served, shown=np.ones(shape, bool)), self._site.pins)
        return chances_at(looked, self._site.appeal, self._aims, self._totals, self._site.leanings).reshape(*shape, len(HEAD_NAMES))

    def outcomes(self) -> Outcomes:
        """What has come out so far."""
        rows = slice(self._begin, self._next)
        user, time = self._site.served.user[rows].astype(np.int64), self._site.served.time[rows]
        days = np.bincount(np.unique(user << 32 | (time - START_MS) // DAY_MS) >> 32, minlength=self._parameters.users)
        users = np.flatnonzero(days)
        return Outcomes(users + FIRST_USER_ID, days[users], self._counts[0, users], self._counts[1, users])

    def _ranked(self, rows: slice, slots: np.ndarray, propensities: np.ndarray) -> Served:
        served = self._site.served
        return Served(
            user=served.user[rows],
            surface=served.surface[rows],
            time=served.time[rows],
            candidates=served.candidates[rows],
            slots=slots.astype(np.int32),
            propensities=propensities,
            shown=slots < self._shown[rows, None],
            mixture=served.mixture[rows],
        )

    def _keys(self, purpose: int, request: np.ndarray, pin: np.ndarray) -> np.ndarray:
        return key_of(self._parameters.seed, purpose, request, pin)

    def _kept(self, saves: Events) -> Events:
        """The saves, in order of their requests and numbered, without those of a pin that the user has saved within RESAVE_MS before."""
        # Of requests, not of saves: a save of the next slice may be seconds earlier than the last one of this.
        pair = saves.user.astype(np.int64) << 32 | saves.pin
        pairs, which = np.unique(pair, return_inverse=True)
        last = np.full(len(pairs), -RESAVE_MS, np.int64)
        if len(self._open_pairs):
            at = np.minimum(np.searchsorted(self._open_pairs, pairs), len(self._open_pairs) - 1)
            known = self._open_pairs[at] == pairs
            last[known] = self._open_times[at[known]]
        kept = np.zeros(len(saves), bool)
        left = np.lexsort((saves.request, which))
        while len(left := left[saves.time[left] - last[which[left]] >= RESAVE_MS]):
            head = np.diff(which[left], prepend=-1) != 0
            kept[left[head]] = True
            last[which[left[head]]] = saves.time[left[head]]
            left = left[~head]
        self._remember(pairs, last)
        out = saves.take(np.flatnonzero(kept))
        out.save = self._saves + np.arange(len(out), dtype=np.int32)
        self._saves += len(out)
        return out

    def _remember(self, pairs: np.ndarray, times: np.ndarray) -> None:
        """When each pair was saved last, for as long as that matters."""
        stays = (self._open_times > self._now - RESAVE_MS) & ~np.isin(self._open_pairs, pairs)
        pairs, times = np.concatenate([self._open_pairs[stays], pairs]), np.concatenate([self._open_times[stays], times])
        order = np.argsort(pairs)
        self._open_pairs, self._open_times = pairs[order], times[order]

    def _arrived(self) -> pa.Table:
        """What has arrived by now, counted."""
        events = self._pending
        called = key_of(
            self._parameters.seed, _IS_CALLED, events.user, events.pin, events.action, events.surface, events.time, events.request
        )
        delay = _LEAST_DELAY_MS + unit(key_of(called.view(np.int64), _ARRIVES)) * (_MOST_DELAY_MS - _LEAST_DELAY_MS)
        arrival = events.time + delay.astype(np.int64)
        here = np.flatnonzero((arrival < self._now) | (self._now >= self.end_ms))
        event_id = called.view(np.int64)
        here = here[np.lexsort((event_id[here], arrival[here]))]
        self._pending = events.take(np.setdiff1d(np.arange(len(events)), here))

        profile = events.surface[here] == OWN_PROFILE
        action = events.action[here]
        for row, counts in enumerate((action == SAVE, profile & ((action == IMPRESSION) | (action == GRID_CLICK)))):
            self._counts[row] += np.bincount(events.user[here[counts]], minlength=self._parameters.users)
        records = Records(here, arrival[here], events.time[here], event_id[here], np.zeros(len(here), np.int8))
        table = output.event_rows(records, slice(None), events, self._site.users, self._site.pins, self._ids)
        return table.rename_columns(EVENT_SCHEMA.names)


def _nothing() -> Events:
    empty = np.zeros(0, np.int64)
    return Events.of(empty, empty, 0, 0, empty)
