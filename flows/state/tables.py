"""The tables of each task: which rows its state consists of, how they fold, and when they expire."""

from __future__ import annotations

import numpy as np

from flows.features import SEQUENCE_LENGTH, WINDOW_DAYS
from flows.kernels.layout import LABEL_COLUMNS, TILE_COLUMNS
from flows.kernels.reads import REVISIT_COLUMNS, SEQUENCE_COLUMNS
from flows.kernels.rows import CUT, SEQUENCE_CODES, fold_sequences, fold_sums
from flows.kernels.rows import unexpired as kept_rows
from flows.settings import DAY_MS, HOUR_MS, Settings
from flows.state.runs import Table


def _summed(name: str, columns: tuple[str, ...]) -> Table:
    keys = len(columns) - 1
    return Table(name, len(columns), keys, lambda rows: fold_sums(rows, keys))


# By all columns: the order of equal offsets, as records of one message have, must not depend on how they were merged.
SEQUENCES = Table("sequences", len(SEQUENCE_COLUMNS), len(SEQUENCE_COLUMNS), fold_sequences)
REVISITS = _summed("revisits", REVISIT_COLUMNS)
LABELS = Table("labels", len(LABEL_COLUMNS), len(LABEL_COLUMNS), None)
TILES = _summed("tiles", TILE_COLUMNS)

ACTIONS_TABLES = (SEQUENCES, REVISITS, LABELS, TILES)
PIN_TABLES = (REVISITS,)

LONGEST_WINDOW_MS = max(WINDOW_DAYS) * DAY_MS


def expiry(settings: Settings, newest: int) -> int:
    """The hour end, in ms, at or before which no revisit or save counts in any window of a read within L + S + 1 h of `newest`."""
    back = settings.allowed_lateness_ms + settings.clock_skew_ms + HOUR_MS
    return (newest - back) // HOUR_MS * HOUR_MS - LONGEST_WINDOW_MS


def unexpired(table: Table, rows: np.ndarray, before: int) -> np.ndarray:
    """Rows that a read may still need."""
    if table is REVISITS:
        return kept_rows(rows, 3, 1, before)
    if table is TILES:
        return kept_rows(rows, 2, HOUR_MS, before)
    return rows


def canonical(table: Table, rows: np.ndarray, before: int) -> list[np.ndarray]:
    """What of a table's rows a digest covers: what counts, and which entities there are."""
    if table is SEQUENCES:
        rows = fold_sequences(rows, SEQUENCE_LENGTH)
        rows[:, SEQUENCE_CODES] &= ~CUT
        return [rows]
    if table is REVISITS:
        return [rows[(rows[:, 3] // HOUR_MS + 1) * HOUR_MS > before], np.unique(rows[:, 0])]
    if table is TILES:
        return [rows[(rows[:, 2] + 1) * HOUR_MS > before], np.unique(rows[:, 0])]
    return [rows]
