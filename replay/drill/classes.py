"""The ways of damage that the drill knows: DESIGN's list, without what comes with the learner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from replay.drill import checkpoints, logs, poison, state


@dataclass(frozen=True)
class Corruption:
    """A class of damage.

    Attributes
    ----------
    damage : callable
        Harms a site, as a random number generator decides; says what it did.
    sent : bool
        Nothing that is stored is harmed; what was sent is wrong.
    """

    name: str
    damage: Callable[..., str]
    sent: bool = False

    @property
    def what(self) -> str:
        """What it is, in a line."""
        return (self.damage.__doc__ or "").strip().splitlines()[0]


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
CLASSES["poison"] = Corruption("poison", poison.poisoned, sent=True)
