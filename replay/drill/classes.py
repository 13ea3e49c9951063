"""The ways of damage that the drill knows: DESIGN's list, without what comes with the learner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from replay.drill import checkpoints, logs, state
from replay.drill.site import Site


@dataclass(frozen=True)
class Corruption:
    """A class of damage.

    Attributes
    ----------
    damage : callable
        Harms a site, as a random number generator decides; says what it did.
    """

    name: str
    damage: Callable[[Site, Random], str]

    @property
    def what(self) -> str:
        """What it is, in a line."""
        return (self.damage.__doc__ or "").strip()


CLASSES = {
    name: Corruption(name, damage)
    for name, damage in {
        "sst-bit": state.bit_in_table,
        "log-bit": logs.bit_in_log,
        "segment-bit": logs.bit_in_segment,
        "wal-cut": state.log_cut,
        "file-gone": state.file_gone,
        "state-ahead": logs.tail_lost,
        "state-behind": state.behind,
        "stale-checkpoint": checkpoints.stale,
        "other-settings": state.other_settings,
        "output-twice": logs.output_twice,
        "output-lost": logs.output_lost,
    }.items()
}
