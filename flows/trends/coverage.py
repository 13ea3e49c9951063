"""How much of what is served has a value: by view, how many rows there were and were found; by feature, how many are not zero.

A row is what one request was given of one entity, as in docs/skew.md. A feature's coverage is the share of its rows with a value other than nothing
and zero; a row that was defaulted has none. Of sequences it is whether there is any action.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flows.log import Log
from flows.served_rows import ServedRows
from flows.skew.names import COLUMNS, KINDS, SEQUENCE, VIEWS
from flows.skew.served import Chosen, Question
from flows.skew.sides import LENGTH, rows_by_kind
from flows.trends.reading import Progress
from flows.trends.sums import Counting, Sums

ROWS, FOUND, DEFAULTED = range(3)


@dataclass(frozen=True)
class Covered:
    """One feature.

    Attributes
    ----------
    kind, feature : str
    column : int
        Of `Coverage.sums`: rows with a value.
    """

    kind: str
    feature: str
    column: int

    @property
    def name(self) -> str:
        """`view:feature`."""
        return f"{VIEWS[self.kind]}:{self.feature}"

    @property
    def rows(self) -> int:
        """The column of all rows."""
        return view_column(self.kind, ROWS)


def view_column(kind: str, what: int) -> int:
    """The column of ROWS, FOUND or DEFAULTED of a kind."""
    return 3 * KINDS.index(kind) + what


_OF_KIND = {kind: (LENGTH,) if kind == SEQUENCE else COLUMNS[kind] for kind in KINDS}
FEATURES = tuple(
    Covered(kind, feature, 3 * len(KINDS) + i)
    for i, (kind, feature) in enumerate((kind, name) for kind in KINDS for name in _OF_KIND[kind])
)


class Coverage:
    """Rows of SERVED by time of the request.

    Parameters
    ----------
    log : Log
        SERVED.
    counting : Counting
    """

    def __init__(self, log: Log, counting: Counting) -> None:
        self.log, self._question = log, Question(counting.first, counting.until)
        self.sums = Sums(3 * len(KINDS) + len(FEATURES), counting)
        self._since: Sequence[int] | None = None

    @property
    def to_read(self) -> int:
        """Offsets that have not been read."""
        return Chosen(self.log, self._question, self._since).to_read

    def read(self, progress: Progress = lambda records: None) -> None:
        """Count what has come since the last time."""
        chosen = Chosen(self.log, self._question, self._since)
        for served in chosen.stretches(progress):
            self._count(served)
        self._since = chosen.ends

    def _count(self, served: ServedRows) -> None:
        for rows in rows_by_kind(served):
            values = rows.values[:, :1] if rows.kind == SEQUENCE else rows.values
            there = (values != 0) & ~rows.defaulted[:, None]
            # Of a sequence that it was found is that it has an action.
            found = there[:, 0] if rows.kind == SEQUENCE else rows.found[:, 0] & ~rows.defaulted
            columns = np.zeros((len(values), self.sums.columns), np.int64)
            columns[:, view_column(rows.kind, ROWS)] = 1
            columns[:, view_column(rows.kind, FOUND)] = found
            columns[:, view_column(rows.kind, DEFAULTED)] = rows.defaulted
            first = next(one.column for one in FEATURES if one.kind == rows.kind)
            columns[:, first : first + values.shape[1]] = there
            self.sums.add(served.timestamp[rows.record], columns)
