"""Ten mistakes: how a system that makes each answers what a sound one is asked.

A mistake is made where it would be made: in what the flows take, in a rule of the reading code, in the definitions, or on the way to the
client.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numba
import numpy as np

from flows.answers import SequenceRows
from flows.features import PIN_COUNTERS, SEQUENCE_FIELDS
from flows.kernels import reads
from flows.kernels.reads import HOUR_MS
from flows.kernels.rows import CUT, SEQUENCE_CODES
from flows.outputs import ACTIONS, REVISITS
from flows.partition import partition_of
from flows.reading import FeatureReader
from flows.skew import causes
from flows.skew.drill.systems import Answers, System, Wanted, answer
from flows.state import tables
from flows.state.runs import Table

# A clock that is 8 hours behind: UTC taken for the Pacific's time.
_ZONE_MS = -8 * HOUR_MS


@dataclass(frozen=True)
class Kind:
    """A mistake.

    Attributes
    ----------
    name : str
    cause : str
        What the check must put it down to.
    what : str
    system : str
        Which system's state is read: "sound", or one that was fed or set wrongly.
    answer : callable
        Given a system that has caught up, and what is wanted.
    """

    name: str
    cause: str
    what: str
    system: str
    answer: Callable[[System, Wanted], Answers]


def _read(system: System, wanted: Wanted) -> Answers:
    return answer(system.read(), wanted)


def _longer_windows(system: System, wanted: Wanted) -> Answers:
    """The kernels as they are, built with windows that are an hour too long."""
    return _with_kernels(system.read(), wanted, _HOUR_LONGER)


def _ties_reversed(system: System, wanted: Wanted) -> Answers:
    """Ties broken by the smaller event ID."""
    reader = system.read()
    right = answer(reader, wanted)
    rows, bounds = _rows(reader, ACTIONS, tables.SEQUENCES, wanted.users)
    # Of whom state no longer has enough, a reader goes through the log; that is done right here.
    _, _, whole = reads.newest(rows, bounds, wanted.as_of)
    rows[:, SEQUENCE_CODES] &= ~CUT
    for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        part = rows[low:high]
        rows[low:high] = part[np.lexsort((-part[:, 2], part[:, 1]))]
    index, offsets, _ = reads.newest(rows, bounds, wanted.as_of)
    taken = rows[index]
    codes = taken[:, SEQUENCE_CODES]
    actions, surfaces = ((codes >> shift & 0xFF).astype(np.int16) for shift in (0, 8))
    other = SequenceRows(offsets, taken[:, 4], actions, surfaces, taken[:, 1], taken[:, 5], np.diff(offsets) > 0, wanted.as_of)
    return replace(right, sequences=_either(other, right.sequences, whole))


def _either(a: SequenceRows, b: SequenceRows, first: np.ndarray) -> SequenceRows:
    """The sequences of some users from one, of the others from another."""
    sides = [a if chosen else b for chosen in first.tolist()]
    parts = {
        field: np.concatenate([getattr(side, field)[side.offsets[i] : side.offsets[i + 1]] for i, side in enumerate(sides)])
        for field in SEQUENCE_FIELDS
    }
    lengths = [side.offsets[i + 1] - side.offsets[i] for i, side in enumerate(sides)]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return SequenceRows(offsets=offsets, **parts, found=np.diff(offsets) > 0, as_of=a.as_of)


def _old_tiles(system: System, wanted: Wanted) -> Answers:
    """Counters finalised when an entity was last written, and served as they are since."""
    reader = system.read()
    right = answer(reader, wanted)
    users = _finalised(*_rows(reader, ACTIONS, tables.REVISITS, wanted.users), wanted.as_of)
    pins = _finalised(*_rows(reader, REVISITS, tables.REVISITS, wanted.pins.reshape(-1)), wanted.as_of)
    return replace(right, user_counters=users, pin_counters=pins.reshape(right.pin_counters.shape))


def _finalised(rows: np.ndarray, bounds: np.ndarray, as_of: int) -> np.ndarray:
    out = np.zeros((len(bounds) - 1, len(PIN_COUNTERS)), np.int64)
    for i, (low, high) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
        part = rows[low:high]
        part = part[part[:, 3] <= as_of]
        if len(part):
            values, _ = reads.counters(part, np.array([0, len(part)], np.int64), int(part[:, 3].max()))
            out[i] = values[0]
    return out


def _in_32_bits(system: System, wanted: Wanted) -> Answers:
    """Statistics that pass through a column of 32-bit floats."""
    right = answer(system.read(), wanted)
    return replace(right, topic_stats=right.topic_stats.astype(np.float32).astype(np.float64))


def _other_zone(system: System, wanted: Wanted) -> Answers:
    """A time of another zone taken for UTC."""
    return answer(system.read(), wanted, wanted.as_of + _ZONE_MS)


def _timed_out(system: System, wanted: Wanted) -> Answers:
    """A store that doesn't answer in time: nothing but defaults."""
    n, k = wanted.pins.shape
    none = np.empty(0, np.int64)
    return Answers(
        sequences=SequenceRows(np.zeros(n + 1, np.int64), none, none, none, none, none, np.zeros(n, np.bool_), wanted.as_of),
        user_counters=np.zeros((n, 24), np.int64),
        user_found=np.zeros(n, np.bool_),
        pin_counters=np.zeros((n, k, 24), np.int64),
        pin_found=np.zeros((n, k), np.bool_),
        topic_stats=np.zeros((n, 15), np.float64),
        topic_found=np.zeros(n, np.bool_),
    )


TIMED_OUT = "feature_defaulted"
KINDS = (
    Kind("late_event_ignored", causes.LATE_IGNORED.name, "records that come late are dropped", "without_late", _read),
    Kind("off_by_one_window", causes.OFF_BY_ONE.name, "windows are an hour too long", "sound", _longer_windows),
    Kind("wrong_tie_order", causes.WRONG_TIE_ORDER.name, "of equal times the smaller event ID is the newer", "sound", _ties_reversed),
    Kind("stale_tile", causes.OLD_TILE.name, "counters are finalised when written, not when read", "sound", _old_tiles),
    Kind("other_fingerprint", causes.OTHER_FINGERPRINT.name, "twice the allowed lateness", "other_settings", _read),
    Kind("lost_event", causes.LOST.name, "a record is lost now and then", "without_some", _read),
    Kind("doubled_event", causes.DOUBLED.name, "copies of a record are not known again", "with_duplicates", _read),
    Kind("float32_for_float64", causes.FLOAT32.name, "statistics pass through 32-bit floats", "sound", _in_32_bits),
    Kind("wrong_time_zone", causes.TIME_ZONE.name, "UTC is taken for the Pacific's time", "sound", _other_zone),
    Kind(TIMED_OUT, causes.DEFAULTED.name, "the store doesn't answer in time", "sound", _timed_out),
)
"""All of them."""


def _rows(reader: FeatureReader, flow: str, table: Table, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Folded rows of entities, as a reader has them before it finalises them, and where those of each lie: int64[n + 1]."""
    homes = partition_of(ids, reader.settings.partitions)
    held = reader.rows_of(flow, table, {int(p): np.unique(ids[homes == p]) for p in np.unique(homes)})
    parts, starts, ends, total = [np.empty((0, table.columns), np.int64)], np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64), 0
    for partition, found in held.items():
        rows = table.fold(found) if table.fold is not None else found
        at = np.flatnonzero(homes == partition)
        starts[at] = total + np.searchsorted(rows[:, 0], ids[at], "left")
        ends[at] = total + np.searchsorted(rows[:, 0], ids[at], "right")
        total += len(rows)
        parts.append(rows)
    bounds = np.concatenate([[0], np.cumsum(ends - starts)]).astype(np.int64)
    take = np.repeat(starts - bounds[:-1], ends - starts) + np.arange(bounds[-1])
    return np.concatenate(parts)[take], bounds


def _with_kernels(reader: FeatureReader, wanted: Wanted, kernels: Mapping[str, Any]) -> Answers:
    right = answer(reader, wanted)
    out = []
    for flow, ids in ((ACTIONS, wanted.users), (REVISITS, wanted.pins.reshape(-1))):
        rows, bounds = _rows(reader, flow, tables.REVISITS, ids)
        values, present = np.zeros((len(ids), 24), np.int64), np.zeros(len(ids), np.bool_)
        kernels["_counters"](rows, bounds, wanted.as_of, values, present)
        out.append(values)
    return replace(right, user_counters=out[0], pin_counters=out[1].reshape(right.pin_counters.shape))


def _rebuilt(kernel: Any, **constants: Any) -> Any:
    """A kernel compiled once more, with other constants."""
    python = kernel.py_func
    return numba.njit(types.FunctionType(python.__code__, {**python.__globals__, **constants}, python.__name__))


_HOUR_LONGER = {"_counters": _rebuilt(reads._counters, WINDOWS_MS=reads.WINDOWS_MS + HOUR_MS)}
