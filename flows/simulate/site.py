"""A site before anybody reacts: its users and pins, what they are like, and every request with its candidates.

The open simulation and the closed loop are both of one site, so equal parameters give them equal users, pins and requests. A site decides
nothing about reactions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flows.simulate.appeal import Appeal
from flows.simulate.browsing import Served, looked_at, serve
from flows.simulate.parameters import Parameters
from flows.simulate.population import Pins, Users
from flows.simulate.revisits import Leanings
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
    leanings : Leanings or None
        None: all saves are alike.
    """

    parameters: Parameters
    streams: list[np.random.Generator]
    users: Users
    pins: Pins
    appeal: Appeal
    served: Served
    leanings: Leanings | None

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
        served = serve(streams[2], users, pins, parameters)
        leanings = None
        if world.revisit_spread:
            looked = looked_at(served, pins)
            weight = appeal.weight(SAVE, appeal.liking(looked), looked)
            leanings = Leanings.draw(streams[13], world.revisit_spread, parameters.users, len(pins), looked.user, looked.pin, weight)
        return cls(parameters, streams, users, pins, appeal, served, leanings)
