"""Which saves are come back to, and when: planned to the published figures.

Figures and how they are read: flows/simulate/published.py. Quotas, not coin tosses, where one simulation deals out all its saves
(`numbers.Drawn`): in each stratum (topic, matured or not) the saves get evenly spread numbers in random order, so that a stratum of n saves
has n x p of an outcome, rounded at random. What the end of the simulation cuts off falls into the strata of the saves that don't mature.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flows.settings import DAY_MS
from flows.simulate.numbers import Leaning, Numbers
from flows.simulate.parameters import RETENTION_MS, START_MS, Parameters
from flows.simulate.population import TOPICS, Pins, Users
from flows.simulate.published import CLICKS_BY_DAY, PUBLISHED, first_click_by_day, repeat_click_by_day
from flows.simulate.table import CLOSEUP, GRID_CLICK, IMPRESSION, LONG_CLICK, NONE, OWN_PROFILE, SAVE, Events

DAYS = len(CLICKS_BY_DAY)
# Not published: of the saves first clicked on days 1 to 6, how many are seen on day 0; days 1 to 6 on which a save may be seen unclicked,
# per day clicked; second impressions and clicks on the same day; closeups and long clicks that follow a click.
_SEEN_OF_LATER_CLICKED = 0.35
_UNCLICKED_PER_CLICK = 2.0
_SECOND_IMPRESSION, _SECOND_CLICK, _OPENED = 0.3, 0.15, 0.3
_STRAYS, _TOO_LATE = 0.01, 0.005
_MINUTE = 60_000


@dataclass(frozen=True)
class Leanings:
    """Which saves are more likely come back to than others: those of some users, and of some pins.

    Attributes
    ----------
    users, pins : float64
        By how much the log-odds of their saves are higher; a save's are those of both.
    saves, unclicked : Leaning
        Over all saves, and over those that aren't clicked within the week.
    """

    users: np.ndarray
    pins: np.ndarray
    saves: Leaning
    unclicked: Leaning

    @classmethod
    def draw(
        cls, rng: np.random.Generator, spread: float, users: int, pins: int, user: np.ndarray, pin: np.ndarray, weight: np.ndarray
    ) -> Leanings:
        """Random ones, of which pins make up 0.6 of the variance.

        Parameters
        ----------
        spread : float
            Standard deviation of a save's log-odds.
        users, pins : int
            How many there are.
        user, pin, weight : ndarray
            Of what may be saved, and how likely it is to be: over these the published rates hold.
        """
        by_user, by_pin = (spread * share**0.5 * rng.standard_normal(count) for share, count in ((0.4, users), (0.6, pins)))
        lean = by_user[user] + by_pin[pin]
        saves = Leaning(lean, weight)
        return cls(by_user, by_pin, saves, Leaning(lean, weight * (1 - saves.chance(PUBLISHED.label_7dRevGrid / 100, lean))))

    def of(self, user: np.ndarray, pin: np.ndarray) -> np.ndarray:
        """Log-odds of a save, float64."""
        return self.users[user] + self.pins[pin]


def plan(numbers: Numbers, saves: Events, pins: Pins, leanings: Leanings | None, parameters: Parameters) -> Events:
    """The revisits of the saves, up to the end of the simulation; column `save` says of which.

    Parameters
    ----------
    numbers : Numbers
        Of the rows of `saves`.
    saves : Events
        Numbered.
    """
    label = pins.label[saves.pin]
    matures = saves.time + RETENTION_MS + parameters.allowed_lateness_ms + 10 * _MINUTE <= parameters.end_ms
    stratum = (label.astype(np.int64) + 1) * 2 + matures
    lean = None if leanings is None else leanings.of(saves.user, saves.pin)
    clicked, seen = _days(numbers, label, stratum, lean, leanings)

    # A visit is a save and a day on which its owner sees it; a click comes after an impression of the same day.
    save, day = np.nonzero(seen)
    age = _age_in_day(numbers, save, day)
    clicks = clicked[save, day]
    begin = saves.time[save] + day * DAY_MS
    click_age = age + numbers.whole(save, 1_000, 20_000, day)
    parts = [_visit(saves, save, IMPRESSION, begin + age), _visit(saves, save[clicks], GRID_CLICK, (begin + click_age)[clicks])]

    again = numbers.uniform(save, day) < _SECOND_IMPRESSION
    parts.append(_visit(saves, save[again], IMPRESSION, (begin + _later(numbers, save, day, age))[again]))
    again = clicks & (numbers.uniform(save, day) < _SECOND_CLICK)
    parts.append(_visit(saves, save[again], GRID_CLICK, (begin + _later(numbers, save, day, click_age))[again]))

    # On the surface of revisits, but of other actions: no revisits.
    opened = clicks & (numbers.uniform(save, day) < _OPENED)
    rows, day = save[opened], day[opened]
    time = (begin + click_age)[opened] + numbers.whole(rows, 500, 3_000, day)
    long = numbers.uniform(rows, day) < 0.3
    action = np.where(long, LONG_CLICK, CLOSEUP)
    lasting = np.where(long, numbers.lasting(LONG_CLICK, rows, day), numbers.lasting(CLOSEUP, rows, day))
    parts.append(Events.of(saves.user[rows], saves.pin[rows], action, OWN_PROFILE, time, lasting))

    events = Events.concat(parts)
    return events.take(events.time < parameters.end_ms)


def chance_of_revisit(leanings: Leanings | None, user: np.ndarray, pin: np.ndarray) -> np.ndarray:
    """The chance that a save has any of the three labels, if there is time for it; float64."""
    day_0, week = PUBLISHED.label_1dRevGrid / 100, PUBLISHED.label_7dRevGrid / 100
    seen = _seen_of_unclicked(day_0, week)
    if leanings is None:
        return np.full(len(user), week + (1 - week) * seen)
    lean = leanings.of(user, pin)
    clicked = leanings.saves.chance(week, lean)
    return clicked + (1 - clicked) * leanings.unclicked.chance(seen, lean)


def strays(rng: np.random.Generator, saves: Events, users: Users, pins: Pins, parameters: Parameters) -> Events:
    """Own-profile impressions that belong to no save.

    Most are of pins that the user never saves. A few are of a saved pin at the very moment of the save, or 7 to 8 days after it, some
    at 7 days to the millisecond: the bounds of docs/semantics.md are strict.
    """
    count = round(parameters.events * _STRAYS)
    user, pin = rng.integers(0, len(users.zone_ms), count), rng.integers(0, len(pins), count)
    saved = np.isin(user << 32 | pin, saves.user.astype(np.int64) << 32 | saves.pin)
    time = rng.integers(START_MS, parameters.end_ms, count)
    there = np.ones(count, bool)
    for born, who in ((users.born, user), (pins.born, pin)):
        if born is not None:
            there &= born[who] <= time
    never = Events.of(user, pin, IMPRESSION, OWN_PROFILE, time).take(~saved & there)

    rows = np.flatnonzero(rng.random(len(saves)) < _TOO_LATE)
    beyond = RETENTION_MS + rng.integers(0, DAY_MS, len(rows))
    age = np.choose(rng.choice(3, len(rows), p=[0.1, 0.2, 0.7]), [np.zeros_like(beyond), np.full_like(beyond, RETENTION_MS), beyond])
    bounds = Events.of(saves.user[rows], saves.pin[rows], IMPRESSION, OWN_PROFILE, saves.time[rows] + age)
    return Events.concat([never, bounds.take(bounds.time < parameters.end_ms)])


def _days(
    numbers: Numbers, label: np.ndarray, stratum: np.ndarray, lean: np.ndarray | None, leanings: Leanings | None
) -> tuple[np.ndarray, np.ndarray]:
    """Masks (saves, days): clicked on that day, seen on that day. Who leans to it comes back sooner or at all, and no more often."""
    of_saves, of_unclicked = (None, None) if leanings is None else (leanings.saves, leanings.unclicked)
    # Row 0 is of pins without a topic, whose label is -1.
    topics = (None, *TOPICS)
    first_share = np.array([first_click_by_day(t) for t in topics]) / 100
    repeat_share = np.array([repeat_click_by_day(t) for t in topics]) / 100
    row, everything = label.astype(np.int64) + 1, np.arange(len(label))

    first = (numbers.even(everything, stratum, lean, of_saves)[:, None] >= np.cumsum(first_share, axis=1)[row]).sum(axis=1)
    clicked = first[:, None] == np.arange(DAYS)
    for day in range(1, DAYS):
        before = np.flatnonzero(first < day)
        chance = repeat_share[:, day] / first_share[:, :day].sum(axis=1)
        clicked[before, day] |= numbers.even(before, stratum[before]) < chance[row[before]]

    never = _seen_of_unclicked(PUBLISHED.label_1dRevGrid / 100, PUBLISHED.label_7dRevGrid / 100)
    kind = np.where(first == 0, 0, np.where(first < DAYS, 1, 2))
    seen = clicked.copy()
    seen[:, 0] |= numbers.even(everything, stratum * 3 + kind, lean, of_unclicked) < np.array([1.0, _SEEN_OF_LATER_CLICKED, never])[kind]
    unclicked = np.array(CLICKS_BY_DAY[1:]) / 100 * _UNCLICKED_PER_CLICK
    seen[:, 1:] |= numbers.table(everything, DAYS - 1) < unclicked
    return clicked, seen


def _seen_of_unclicked(day_0: float, week: float) -> float:
    """Share of the saves without a click that are seen on day 0, so that of all saves as many are as published."""
    return (PUBLISHED.label_1dRevImpre / 100 - day_0 - _SEEN_OF_LATER_CLICKED * (week - day_0)) / (1 - week)


def _age_in_day(numbers: Numbers, save: np.ndarray, day: np.ndarray) -> np.ndarray:
    """Age at a visit less whole days: soon after the save on day 0, any time on later ones, never at a day's very end."""
    most = DAY_MS - _MINUTE
    spread = numbers.uniform(save, day)
    return np.where(day == 0, 2_000 * (most / 2_000) ** spread, _MINUTE + spread * (most - _MINUTE)).astype(np.int64)


def _later(numbers: Numbers, save: np.ndarray, day: np.ndarray, age: np.ndarray) -> np.ndarray:
    """A bit after, on the same day."""
    return np.minimum(age + numbers.whole(save, _MINUTE, 120 * _MINUTE, day), DAY_MS - numbers.whole(save, 1, 20_000, day))


def _visit(saves: Events, rows: np.ndarray, action: int, time: np.ndarray) -> Events:
    return Events.of(saves.user[rows], saves.pin[rows], action, OWN_PROFILE, time, NONE, NONE, saves.save[rows])


def saves_of(events: Events) -> Events:
    """The saves, in order of their numbers."""
    saves = events.take(events.action == SAVE)
    return saves.take(np.argsort(saves.save, kind="stable"))
