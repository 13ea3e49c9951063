"""Why a served row differs from its recomputation: the causes that are known, what each means, and which is chosen where several would explain a row.

A mistake in a system leaves its mark on many rows, so of the mistakes that would explain a row the one is named that explains most rows of
all. A cause is a finding unless it says that nothing is wrong; nothing here turns a difference into none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flows.kernels import what_if
from flows.kernels.what_if_sequences import LONGER, OTHER_ORDER, SHORTER, TIMES_SHIFTED
from flows.settings import DAY_MS, HOUR_MS

QUARTER_MS = HOUR_MS // 4


@dataclass(frozen=True)
class Cause:
    """One reason for a difference.

    Attributes
    ----------
    name : str
    meaning : str
    benign : bool
        The row says so itself, and no value is wrong.
    """

    name: str
    meaning: str
    benign: bool = False


DEFAULTED = Cause("defaulted", "the store did not answer in time, and the row says that it holds defaults", benign=True)
OTHER_FINGERPRINT = Cause("other_fingerprint", "the row was served under other definitions or settings, and says which", benign=True)
CONTRADICTS_ITSELF = Cause(
    "contradicts_itself", "the row's status is none, or one that its values or positions belie; or it has no fingerprint"
)
POSITION_UNKNOWN = Cause("position_unknown", "the row does not say what it reflects, or the log no longer has all of it")
WRONG_TIE_ORDER = Cause("wrong_tie_order", "the right entries, but those of equal times are in another order")
FLOAT32 = Cause("float32", "the right values, cut to 32 bits on the way")
LATE_IGNORED = Cause("late_event_ignored", "the values without the records that came late")
DOUBLED = Cause("doubled_event", "the values with a record counted twice, or with duplicates that should have been dropped")
OFF_BY_ONE = Cause("off_by_one_window", "the values with a window, or a sequence, that is one unit longer or shorter")
TIME_ZONE = Cause("wrong_time_zone", "the values at a time, or with times, that are off by whole quarters of an hour")
LOST = Cause("lost_event", "the values without one of the records")
OLD_TILE = Cause("stale_tile", "all events are there, but the windows ended earlier than the time that was asked for")
OLD_READ = Cause("stale_read", "the values at an earlier time, or of a shorter prefix of the log")
EMPTY = Cause("empty", "nothing was served, not marked as a default, though there is something to say")
UNEXPLAINED = Cause("unexplained", "no known mistake gives these values")
NOT_LOOKED_INTO = Cause("not_looked_into", "too many rows differ to look into each; --explain-all does")

CAUSES = (
    DEFAULTED, OTHER_FINGERPRINT, CONTRADICTS_ITSELF, POSITION_UNKNOWN, WRONG_TIE_ORDER, FLOAT32, LATE_IGNORED, DOUBLED, OFF_BY_ONE,
    TIME_ZONE, LOST, EMPTY, OLD_TILE, OLD_READ, UNEXPLAINED, NOT_LOOKED_INTO,
)  # fmt: skip
BY_NAME = {cause.name: cause for cause in CAUSES}


@dataclass(frozen=True)
class Mistake:
    """A cause with all that it leaves open said: what is tried on every row.

    Attributes
    ----------
    cause : Cause
    detail : str
        Empty, or what exactly, as "window 1 h longer".
    shift : (int, int) or None
        Milliseconds to add to the time up to which events count, and to that from which windows reach back.
    """

    cause: Cause
    detail: str = ""
    shift: tuple[int, int] | None = None


def _edges() -> list[Mistake]:
    found = [Mistake(OFF_BY_ONE, "events at the very time left out", (-1, 0))]
    for ms, unit in ((1, "1 ms"), (HOUR_MS, "1 h"), (DAY_MS, "1 d")):
        found += [Mistake(OFF_BY_ONE, f"window {unit} longer", (0, -ms)), Mistake(OFF_BY_ONE, f"window {unit} shorter", (0, ms))]
    return found


def _zones() -> list[Mistake]:
    # UTC−12 to UTC+14 are in use.
    quarters = [q for q in range(-14 * 4, 14 * 4 + 1) if q]
    return [
        Mistake(TIME_ZONE, f"{'+' if q > 0 else '−'}{abs(q) // 4}:{abs(q) % 4 * 15:02d}", (q * QUARTER_MS, q * QUARTER_MS))
        for q in quarters
    ]


_SHIFTED = (*_edges(), *_zones())
SHIFTS = np.array([mistake.shift for mistake in _SHIFTED], np.int64)
"""What kernels are to try: int64[k, 2]."""

# Columns of hits: those of the kernels, those of sequences alone, and two that are told from the values.
_MORE = what_if.FIRST_SHIFT + len(_SHIFTED)
FLOAT32_COLUMN, EMPTY_COLUMN = _MORE + 4, _MORE + 5
COLUMNS = _MORE + 6

MISTAKES: dict[int, Mistake] = {
    what_if.WITHOUT_LATE: Mistake(LATE_IGNORED),
    what_if.WITH_DUPLICATES: Mistake(DOUBLED, "duplicates counted"),
    what_if.WITHOUT_ONE: Mistake(LOST),
    what_if.WITH_ONE_TWICE: Mistake(DOUBLED, "one counted twice"),
    what_if.OLD_TILE: Mistake(OLD_TILE),
    what_if.OLD_READ: Mistake(OLD_READ),
    **{what_if.FIRST_SHIFT + i: mistake for i, mistake in enumerate(_SHIFTED)},
    _MORE + SHORTER: Mistake(OFF_BY_ONE, "sequence one entry shorter"),
    _MORE + LONGER: Mistake(OFF_BY_ONE, "sequence one entry longer"),
    _MORE + OTHER_ORDER: Mistake(WRONG_TIE_ORDER),
    _MORE + TIMES_SHIFTED: Mistake(TIME_ZONE, "times of entries"),
    FLOAT32_COLUMN: Mistake(FLOAT32),
    EMPTY_COLUMN: Mistake(EMPTY),
}

# Of mistakes that explain as many rows, the one that says most: it fits fewer rows by chance.
_ORDER = sorted(MISTAKES, key=lambda column: (CAUSES.index(MISTAKES[column].cause), column))
NOT_EXPLAINED = Mistake(UNEXPLAINED)


def chosen(patterns: Mapping[bytes, int]) -> dict[bytes, Mistake]:
    """The mistake that each kind of row is put down to.

    Parameters
    ----------
    patterns : mapping of bytes to int
        What explains a row (`np.packbits` of bool[COLUMNS]), and how many rows there are of this kind.

    Returns
    -------
    dict of bytes to Mistake
        For each of them.
    """
    left = dict(patterns)
    hits = {pattern: unpacked(pattern) for pattern in patterns}
    out: dict[bytes, Mistake] = {}
    while left:
        weight = np.zeros(COLUMNS, np.int64)
        for pattern, rows in left.items():
            weight[hits[pattern]] += rows
        best = max(_ORDER, key=lambda column: weight[column])
        if not weight[best]:
            break
        for pattern in [p for p in left if hits[p][best]]:
            out[pattern] = MISTAKES[best]
            del left[pattern]
    return {pattern: out.get(pattern, NOT_EXPLAINED) for pattern in patterns}


def unpacked(pattern: bytes) -> np.ndarray:
    """bool[COLUMNS] of its bits."""
    return np.unpackbits(np.frombuffer(pattern, np.uint8), count=COLUMNS).astype(np.bool_)


def packed(hits: np.ndarray) -> list[bytes]:
    """The bits of each row of bool[n, COLUMNS]."""
    return [row.tobytes() for row in np.packbits(hits, axis=1)]


def findings(causes: Sequence[str]) -> list[str]:
    """Those names of causes that say that something is wrong."""
    return [name for name in causes if not BY_NAME[name].benign]
