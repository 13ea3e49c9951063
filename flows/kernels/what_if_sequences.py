"""What an action sequence would be if the engine had made a given mistake.

As `flows.kernels.what_if`, of sequences. It explains differences; it never decides what is right.
"""

from __future__ import annotations

import numpy as np

from flows.compiled import compiled
from flows.kernels.what_if import (
    AS_IT_IS,
    FIRST_SHIFT,
    FLAGS,
    IS_DUPLICATE,
    IS_LATE,
    OFFSET,
    OLD_READ,
    ORIGIN,
    TIME,
    WITH_DUPLICATES,
    WITH_ONE_TWICE,
    WITHOUT_LATE,
    WITHOUT_ONE,
)

# Events of a user for this: those of `what_if.EVENT_COLUMNS`, then what an entry holds beside its time.
ENTRY_COLUMNS = ("pin_id", "action", "surface", "duration_ms")
PIN, ACTION, SURFACE, DURATION = 8, 9, 10, 11
# Columns of a served entry, in the order of features.SEQUENCE_FIELDS: where the event has each.
_AT = np.array([PIN, ACTION, SURFACE, TIME, DURATION], np.int64)

# What is tried beyond `what_if`'s columns and shifts, counted from their end.
SHORTER, LONGER, OTHER_ORDER, TIMES_SHIFTED = 0, 1, 2, 3
MORE = 4

_QUARTER_MS = 900_000
_BACK = 256


@compiled
def explain_sequences(events, bounds, cuts, as_of, served, offsets, shifts, length, hits):  # type: ignore[no-untyped-def]
    """Try every mistake on every sequence.

    Parameters
    ----------
    events : int64[n, 12]
        Sorted by entity, time, event ID, offset.
    bounds : int64[m, 2]
        Events of query q are bounds[q, 0] to bounds[q, 1].
    cuts : int64[m, origins]
        Of each origin, events at lower offsets count.
    as_of : int64[m]
        ms.
    served : int64[s, 5]
        Entries, columns SEQUENCE_FIELDS.
    offsets : int64[m + 1]
        Entries of query q are offsets[q] to offsets[q + 1].
    shifts : int64[k, 2]
        To add to the time up to which events count (the second column says nothing here).
    length : int
    hits : bool[m, FIRST_SHIFT + k + MORE]
        Gets whether the mistake gives what was served.
    """
    for q in range(bounds.shape[0]):
        low, high = bounds[q, 0], bounds[q, 1]
        cut, time, hit = cuts[q], as_of[q], hits[q]
        got = served[offsets[q] : offsets[q + 1]]
        hit[AS_IT_IS] = _gives(events, low, high, cut, time, True, False, length, got, 0, 0)
        hit[WITHOUT_LATE] = _gives(events, low, high, cut, time, False, False, length, got, 0, 0)
        hit[WITH_DUPLICATES] = _gives(events, low, high, cut, time, True, True, length, got, 0, 0)
        hit[WITHOUT_ONE] = _gives(events, low, high, cut, time, True, False, length, got, 1, 0)
        hit[WITH_ONE_TWICE] = _gives(events, low, high, cut, time, True, False, length, got, 0, 1)
        hit[OLD_READ] = _old_read(events, low, high, cut, time, length, got)
        for k in range(shifts.shape[0]):
            # Windows alone are moved: no sequence is.
            if shifts[k, 0] != 0:
                hit[FIRST_SHIFT + k] = _gives(events, low, high, cut, time + shifts[k, 0], True, False, length, got, 0, 0)
        more = FIRST_SHIFT + shifts.shape[0]
        hit[more + SHORTER] = _gives(events, low, high, cut, time, True, False, length - 1, got, 0, 0)
        hit[more + LONGER] = _gives(events, low, high, cut, time, True, False, length + 1, got, 0, 0)
        hit[more + OTHER_ORDER] = _other_order(events, low, high, cut, time, length, got)
        hit[more + TIMES_SHIFTED] = _times_shifted(events, low, high, cut, time, length, got)


@compiled
def _counts(events, i, cut, late, duplicates):  # type: ignore[no-untyped-def]
    flags = events[i, FLAGS]
    return events[i, OFFSET] < cut[events[i, ORIGIN]] and (late or not flags & IS_LATE) and (duplicates or not flags & IS_DUPLICATE)


@compiled
def _is(events, i, entry):  # type: ignore[no-untyped-def]
    for c in range(5):
        if events[i, _AT[c]] != entry[c]:
            return False
    return True


@compiled
def _gives(events, low, high, cut, head, late, duplicates, length, got, may_lack, may_repeat):  # type: ignore[no-untyped-def]
    """Whether the newest `length` events up to a time are what was served, but for so many that are left out or repeated."""
    at = 0
    i = high - 1
    lacks, repeats = may_lack, may_repeat
    while i >= low and at < length:
        if events[i, TIME] > head or not _counts(events, i, cut, late, duplicates):
            i -= 1
        elif at < got.shape[0] and _is(events, i, got[at]):
            at += 1
            i -= 1
        elif lacks > 0:
            lacks -= 1
            i -= 1
        elif repeats > 0 and at < got.shape[0] and _is_before(got, at):
            repeats -= 1
            at += 1
        else:
            return False
    if repeats > 0 and at < length and at == got.shape[0] - 1 and _is_before(got, at):
        repeats -= 1
        at += 1
    return at == got.shape[0] and (may_lack == 0 or lacks < may_lack) and (may_repeat == 0 or repeats < may_repeat)


@compiled
def _is_before(got, at):  # type: ignore[no-untyped-def]
    """Whether an entry repeats one before it, of the same time."""
    k = at - 1
    while k >= 0 and got[k, 3] == got[at, 3]:
        same = True
        for c in range(5):
            same &= got[k, c] == got[at, c]
        if same:
            return True
        k -= 1
    return False


@compiled
def _old_read(events, low, high, cut, time, length, got):  # type: ignore[no-untyped-def]
    """Whether a read at an earlier time, or of a shorter prefix, gives what was served."""
    if not got.shape[0]:
        return True
    # Whatever the time was: nothing is newer than the newest that was served.
    then = min(time, got[0, 3])
    if _gives(events, low, high, cut, then, True, False, length, got, 0, 0):
        return True
    earlier = cut.copy()
    # The events that could have come last, by where they lie in the log.
    for k in np.argsort(-events[low:high, OFFSET])[:_BACK]:
        i = low + k
        if events[i, OFFSET] < cut[events[i, ORIGIN]]:
            earlier[events[i, ORIGIN]] = events[i, OFFSET]
            if _gives(events, low, high, earlier, then, True, False, length, got, 0, 0):
                return True
    return False


@compiled
def _other_order(events, low, high, cut, time, length, got):  # type: ignore[no-untyped-def]
    """Whether the entries are right but for the order of those of equal times, or for which of these still have room."""
    used = np.zeros(high - low, np.bool_)
    i = high - 1
    room = length
    at = 0
    while i >= low and room > 0:
        if events[i, TIME] > time or not _counts(events, i, cut, True, False):
            i -= 1
            continue
        first = i
        size = 0
        while i >= low and events[i, TIME] == events[first, TIME]:
            size += _counts(events, i, cut, True, False)
            i -= 1
        for _ in range(min(size, room)):
            if at >= got.shape[0]:
                return False
            found = False
            for j in range(i + 1, first + 1):
                if not used[j - low] and _counts(events, j, cut, True, False) and _is(events, j, got[at]):
                    used[j - low] = True
                    found = True
                    break
            if not found:
                return False
            at += 1
        room -= size
    return at == got.shape[0]


@compiled
def _times_shifted(events, low, high, cut, time, length, got):  # type: ignore[no-untyped-def]
    """Whether the entries are right but for their times, all of which are off by the same whole quarters of an hour."""
    at = 0
    shift = 0
    i = high - 1
    while i >= low and at < length:
        if events[i, TIME] <= time and _counts(events, i, cut, True, False):
            if at >= got.shape[0]:
                return False
            apart = got[at, 3] - events[i, TIME]
            if at == 0:
                shift = apart
            if apart != shift:
                return False
            for c in range(5):
                if c != 3 and events[i, _AT[c]] != got[at, c]:
                    return False
            at += 1
        i -= 1
    return at == got.shape[0] and shift != 0 and shift % _QUARTER_MS == 0
