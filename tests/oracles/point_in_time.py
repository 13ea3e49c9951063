"""What one query sees: docs/semantics.md, "A point-in-time read", naively: the prefix by its records, then the features of that prefix."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd


def arrivals(events: pd.DataFrame) -> pd.Series:
    """The arrival of each record: the greatest timestamp of its partition so far, bad records included."""
    in_order = events.sort_values(["partition", "offset"])
    return in_order.groupby("partition")["timestamp"].cummax().reindex(events.index)


def arrived(decided: pd.DataFrame, by: int) -> pd.DataFrame:
    """The records of a decided stream, with their ``arrival`` as a column, that had arrived by a time."""
    return _prefix(decided, decided["arrival"] <= by)


def before(decided: pd.DataFrame, positions: Sequence[int]) -> pd.DataFrame:
    """The records before a position of each partition."""
    ends = decided["partition"].map(dict(enumerate(positions)))
    return _prefix(decided, decided["offset"] < ends)


def _prefix(decided: pd.DataFrame, mask: pd.Series) -> pd.DataFrame:
    out = decided[mask]
    out.attrs = dict(decided.attrs)
    return out
