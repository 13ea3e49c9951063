"""A site before anybody reacts: its users and pins, what they are like, and every request with its candidates.

The open simulation and the closed loop are both of one site, so equal parameters give them equal users, pins and requests. A site decides
nothing about reactions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flows.simulate.appeal import Appeal, Looked
from flows.simulate.browsing import Served, serve
from flows.simulate.numbers import Leaning
from flows.simulate.parameters import Parameters
from flows.simulate.population import Pins, Users
from flows.simulate.revisits import leans
from flows.simulate.table import SAVE

_STREAMS = 14


@dataclass(frozen=True)
class Site:
    """A site.

    Attributes
    ----------
    streams : list of Generator
        One per stage: a change in one doesn't reshuffle the others. 0 to 2 and 8 to 13 are used up here.
    served : Served
        Every request, as the policy of random exploration answers it.
    """

    parameters: Parameters
    streams: list[np.random.Generator]
    users: Users
    pins: Pins
    appeal: Appeal
    served: Served
    leans: tuple[np.ndarray, np.ndarray] | None

    @classmethod
    def draw(cls, parameters: Parameters) -> Site:
        """The site that the parameters make.

        Raises
        ------
        SettingsError
            It doesn't fit into memory.
        """
        world = parameters.world
        streams = [np.random.Generator(np.random.PCG64(s)) for s in np.random.SeedSequence(parameters.seed).spawn(_STREAMS)]
        users = Users.draw(streams[0], streams[8], parameters.users, world.interest_drift)
        users = users.with_newcomers(streams[9], world.new_users, parameters)
        pins = Pins.draw(streams[1], parameters.pins, world.appeal_spread).with_fresh(streams[10], world, parameters)
        appeal = Appeal.draw(streams[11], streams[12], users, pins, parameters)
        lean = leans(streams[13], parameters.users, parameters.pins, world.revisit_spread)
        return cls(parameters, streams, users, pins, appeal, serve(streams[2], users, pins, parameters), lean)

    def lean(self, user: np.ndarray, pin: np.ndarray) -> np.ndarray | None:
        """By how much the log-odds that a save is come back to are higher than those of others, float64; None if all are alike."""
        return None if self.leans is None else self.leans[0][user] + self.leans[1][pin]

    def leaning(self, looked: Looked) -> Leaning | None:
        """How that goes together with the published rates, if these pins are what saves come from."""
        lean = self.lean(looked.user, looked.pin)
        return None if lean is None else Leaning(lean, self.appeal.weight(SAVE, self.appeal.liking(looked), looked))
