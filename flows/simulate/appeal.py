"""What makes a user do something with a pin: how its topic fits, what the pin is like now, what the user is like, and where it lies.

The weights here are all that decides about reactions, so that what a learner could know at best is known exactly. They hold no randomness
of their own: whoever draws reactions brings that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flows.errors import SettingsError
from flows.settings import HOUR_MS
from flows.simulate.parameters import START_MS, Parameters
from flows.simulate.population import TOPICS, Pins, Users
from flows.simulate.table import CLICK, CLOSEUP, GRID_CLICK, HIDE, LONG_CLICK, SAVE
from flows.simulate.world import World

# Shares of all events.
ACTION_SHARES = {CLOSEUP: 0.07, GRID_CLICK: 0.03, CLICK: 0.02, LONG_CLICK: 0.012, SAVE: 0.052, HIDE: 0.004}
OWN_SHARES = {CLICK: 1.0, LONG_CLICK: 1.5, SAVE: 0.75, HIDE: 1.25}
"""Of the heads, how much of a pin's appeal is theirs alone, as a factor on `World.head_spread`: so each is predictable to a degree of its own."""
HEADS = tuple(OWN_SHARES)
_GREATEST_WALK = 2**28


@dataclass(frozen=True)
class Looked:
    """Pins that users looked at, or would: columns of equal length.

    Attributes
    ----------
    request : int32
        Row of the served log.
    user, pin : int32
    surface : int8
    slot : int32
    requested : int64
        Time of the request, ms.
    fit : float32
        The user's interest at that time in the pin's topic.
    """

    request: np.ndarray
    user: np.ndarray
    pin: np.ndarray
    surface: np.ndarray
    slot: np.ndarray
    requested: np.ndarray
    fit: np.ndarray

    def __len__(self) -> int:
        return len(self.request)


@dataclass(frozen=True)
class Appeal:
    """What pins and users are like beyond topics and quality.

    Attributes
    ----------
    quality : float32, (pins,)
    walk : float32, (hours, pins), or None
        Factor on the appeal of a pin during an hour; None: it stays.
    own : float32, (heads, pins), or None
        Factor on what a head stands for alone.
    readiness : float32, (heads, users), or None
        Factor of a user on the same.
    """

    quality: np.ndarray
    walk: np.ndarray | None
    own: np.ndarray | None
    readiness: np.ndarray | None

    @classmethod
    def draw(cls, walk: np.random.Generator, own: np.random.Generator, users: Users, pins: Pins, parameters: Parameters) -> Appeal:
        """As the world says.

        Parameters
        ----------
        walk, own : Generator
            Of the walks, and of what stays.

        Raises
        ------
        SettingsError
            The walks of so many pins over so many days don't fit into memory.
        """
        world = parameters.world
        spreads = np.array([world.head_spread * share for share in OWN_SHARES.values()])[:, None]
        return cls(
            quality=pins.quality,
            walk=_walks(walk, world, len(pins), parameters.days * 24) if world.appeal_drift else None,
            own=_factors(own, spreads, len(pins)) if world.head_spread else None,
            readiness=_factors(own, np.full((len(HEADS), 1), world.user_spread), len(users.zone_ms)) if world.user_spread else None,
        )

    def liking(self, looked: Looked) -> np.ndarray:
        """How much each is liked, float64: 1 or so, 5 at most, less the further down it lies."""
        liking = np.sqrt(looked.fit * len(TOPICS)) * self.quality[looked.pin] / (1 + 0.15 * looked.slot)
        if self.walk is not None:
            hour = np.minimum((looked.requested - START_MS) // HOUR_MS, len(self.walk) - 1)
            liking *= self.walk[hour, looked.pin]
        return np.minimum(liking, 5.0)

    def weight(self, action: int, liking: np.ndarray, looked: Looked) -> np.ndarray:
        """In proportion to the chance of an action, float64."""
        # What is disliked is hidden: for that action the liking is turned round.
        weight = 1 / (0.2 + liking) if action == HIDE else liking
        if action in HEADS:
            head = HEADS.index(action)
            if self.own is not None:
                weight = weight * self.own[head, looked.pin]
            if self.readiness is not None:
                weight = weight * self.readiness[head, looked.user]
        return weight


def _walks(rng: np.random.Generator, world: World, pins: int, hours: int) -> np.ndarray:
    """Exp of AR(1) walks, stationary from the begin."""
    if hours * pins > _GREATEST_WALK:
        raise SettingsError(
            f"simulate: 'appeal_drift' of {pins} pins over {hours // 24} days takes more than a GiB; simulate at most "
            f"{_GREATEST_WALK // hours} pins, or fewer days"
        )
    kept = 0.5 ** (1 / world.appeal_half_life)
    fresh = world.appeal_drift * (1 - kept * kept) ** 0.5
    out = np.empty((hours, pins), np.float32)
    out[0] = world.appeal_drift * rng.standard_normal(pins, np.float32)
    for hour in range(1, hours):
        out[hour] = kept * out[hour - 1] + fresh * rng.standard_normal(pins, np.float32)
    return np.exp(out, out=out)


def _factors(rng: np.random.Generator, spreads: np.ndarray, count: int) -> np.ndarray:
    return np.exp(spreads * rng.standard_normal((len(spreads), count))).astype(np.float32)
