"""What became of a class of damage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """What became of a class.

    Attributes
    ----------
    damage : str
        What was done.
    detected_by : str
        The command, and the kinds of problem that it named; empty: nobody noticed.
    detect_s, recover_s : float
        With the start of every command's process.
    replayed : int
        Records that were applied again, of ACTIONS and REVISITS.
    recovered_by : list of str
        The commands that were typed.
    equal : bool
        All is as it was, and nothing is left to be found.
    differs : list of str
        What isn't equal, or what was said last.
    """

    name: str
    damage: str
    detected_by: str
    detect_s: float
    replayed: int
    recover_s: float
    recovered_by: list[str]
    equal: bool
    differs: list[str]
