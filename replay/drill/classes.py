"""The ways of damage that the drill knows: to what features rest on, and to what a learner rests on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from replay.drill import checkpoints, logs, models, poison, state
from replay.drill.site import Site


@dataclass(frozen=True)
class Corruption:
    """A class of damage.

    Attributes
    ----------
    damage : callable
        Harms a site, as a random number generator decides; says what it did.
    sent : bool
        Nothing that is stored is harmed; what was sent is wrong.
    models : bool
        It needs a site with a model side.
    done_by : callable or None
        Of a command that is killed: its words, for a site.
    """

    name: str
    damage: Callable[..., str]
    sent: bool = False
    models: bool = False
    done_by: Callable[[Site], tuple[str, ...]] | None = None

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
CLASSES["publish-killed"] = Corruption("publish-killed", models.publish_killed, models=True, done_by=models.publishing)
CLASSES |= {
    name: Corruption(name, damage, models=True)
    for name, damage in {
        "base-damaged": models.base_damaged,
        "snapshot-damaged": models.snapshot_damaged,
        "deltas-lost": models.deltas_lost,
        "examples-state": models.examples_state,
        "examples-lost": models.examples_lost,
    }.items()
}
