"""The rows that a consumer serves: those of the base that is its role's, with every delta since, always of one base and one delta.

It follows switches and heals by itself. Where it can't, the rows stay as they were and `trouble` says why; it never serves a base with another's
rows.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from flows.errors import CorruptionError, RetentionError, TidemarkError
from flows.log import Log
from online_model.deltas.errors import DeltaError
from online_model.deltas.reader import DeltaReader
from online_model.deltas.table_rows import TableRows, applied, tables_of
from online_model.registry.bases import Base
from online_model.registry.current import Start
from online_model.registry.errors import NoModelError
from online_model.registry.registry import Registry
from online_model.registry.snapshots import sound

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Served:
    """What is served at one moment: a base, and its rows at one of its deltas.

    Attributes
    ----------
    base : Base
    delta : int
    tables : mapping of str to TableRows
        "user" and "pin".
    positions : tuple of int
        Next offset of each partition of EXAMPLES that the deltas reflect; () before the first one that was read.
    newest_event_time : int
        ms; -1: not known.
    """

    base: Base
    delta: int
    tables: Mapping[str, TableRows]
    positions: tuple[int, ...] = ()
    newest_event_time: int = -1


class Follower:
    """Follows one role's base and its deltas.

    Parameters
    ----------
    registry : Registry
    log : Log
        EMBEDDINGS.
    role : str
        "served", "canary" or "holdout".

    Attributes
    ----------
    served : Served
    trouble : TidemarkError or None
        Why the rows are not as new as they should be.
    healed : int
        How often it has gone on at a snapshot.

    Raises
    ------
    NoModelError, DamagedModelError, NewerFormatError, OtherFeaturesError, OtherVocabularyError
        There is nothing to begin with.
    """

    def __init__(self, registry: Registry, log: Log, role: str = "served") -> None:
        self._registry, self._log, self._role = registry, log, role
        self.trouble: TidemarkError | None = None
        self.healed = 0
        self._begin(self._wanted())

    def refresh(self, most: int = 65_536) -> bool:
        """Take what is new, of `most` records at a time; whether anything was.

        Never raises what is wrong with a model or its deltas: that becomes `trouble`, and the rows stay.
        """
        before = self.served
        try:
            self._follow(most)
            self.trouble = None
        except TidemarkError as error:
            if str(error) != str(self.trouble):
                _log.warning("deltas of base %d: %s", self.served.base.number, error)
            self.trouble = error
        return self.served is not before

    def _wanted(self) -> Start:
        start = self._registry.current().starts().get(self._role)
        if start is None:
            raise NoModelError(f"no base is the {self._role} now; `tidemark models show` says which are served")
        return start

    def _begin(self, start: Start) -> None:
        base, states = self._registry.load(start)
        self._start = start
        tables = tables_of(states)
        self.served = Served(base, start.delta, tables)
        dimension = len(tables["user"].default)
        self._reader = DeltaReader(self._log, start, lambda: self._registry.current().beside(base.number), dimension)

    def _follow(self, most: int) -> None:
        if (start := self._wanted()) != self._start:
            self._begin(start)
        try:
            deltas = self._reader.read(most)
        except (DeltaError, CorruptionError, RetentionError) as error:
            if (start := self._wanted()) != self._start:
                # That is what it was: the switch came between the look and the read.
                self._begin(start)
                return
            self._heal(error)
            return
        tables = self.served.tables
        for delta in deltas:
            tables = applied(tables, delta)
        if deltas:
            last = deltas[-1].closing
            self.served = Served(self.served.base, last.delta, tables, last.positions, last.newest_event_time)

    def _heal(self, error: TidemarkError) -> None:
        base = self.served.base
        point, states = self._reader.heal(sound(base))
        _log.warning("deltas of base %d: %s; went on at the snapshot of delta %d", base.number, error, point.delta)
        self.served = Served(base, point.delta, tables_of(states), point.positions, point.newest_event_time)
        self.healed += 1
