"""What the last audit of state and the last check of what was served have found, as their commands have left it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flows import last_told
from flows.settings import Settings


@dataclass(frozen=True)
class Round:
    """The last round of a check.

    Attributes
    ----------
    told_at : int
        ms.
    said : dict
        What it has found, as `replay.commands.audit` and `flows.skew.told` put it in short.
    """

    told_at: int
    said: dict[str, Any]


@dataclass(frozen=True)
class Checks:
    """Of each check its last round; None: none was ever done over this data directory."""

    audit: Round | None
    skew: Round | None


class ChecksSection:
    """See the module.

    Parameters
    ----------
    settings : Settings
    """

    every_s = 2.0

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def look(self) -> Checks:
        """Read both."""
        return Checks(self._last(last_told.AUDIT), self._last(last_told.SKEW))

    def close(self) -> None:
        """Nothing is open between looks."""

    def _last(self, check: str) -> Round | None:
        found = last_told.last(self._settings, check)
        return Round(*found) if found is not None else None
