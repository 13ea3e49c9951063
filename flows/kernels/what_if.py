"""What counters and topic statistics would be if the engine had made a given mistake: the rules of docs/semantics.md once more, event by event.

This follows the contract's words (the latest save before a revisit, still kept when it was judged) and not the judging's lists, so that it
can leave out or repeat single events. It explains differences of a few entities; it is far too slow to serve from, and never decides what
is right.
"""

from __future__ import annotations

import numpy as np

from flows.compiled import compiled
from flows.features import PIN_COUNTERS
from flows.kernels.layout import CREDIT_MS, NEVER
from flows.kernels.reads import DAY_MS, HOUR_MS, N_WINDOWS, WINDOWS_MS

# Columns of the events of entities. `other` is the pin of a user's event, the user of a pin's, the pair's number of a topic's.
EVENT_COLUMNS = ("entity", "other", "time", "event_id", "offset", "origin", "flags", "before")
OTHER, TIME, EVENT_ID, OFFSET, ORIGIN, FLAGS, BEFORE = 1, 2, 3, 4, 5, 6, 7
# Of a record: what it is, and what was decided of it. IN_TOPIC: a save in the topic that is asked for.
IS_SAVE, IS_REVISIT, IS_CLICK, IS_RELATED, IS_LATE, IS_DUPLICATE, IN_TOPIC = 1, 2, 4, 8, 16, 32, 64

# What is tried, by column of the answer; from FIRST_SHIFT on the shifts of a time that are given.
AS_IT_IS, WITHOUT_LATE, WITH_DUPLICATES, WITHOUT_ONE, WITH_ONE_TWICE, OLD_TILE, OLD_READ, FIRST_SHIFT = 0, 1, 2, 3, 4, 5, 6, 7

N_COUNTERS = len(PIN_COUNTERS)
N_COUNTS = 3 * N_WINDOWS
"""Of a topic: saves, clicked, clicked on days 3 to 6, by window."""

# Looking for what is one event away is quadratic in the events of a pair, for an old tile in those of an entity; a shorter prefix takes all anew.
_MOST_OF_PAIR = 400
_MOST_OF_ENTITY = 250
_BACK = 64
_MOST_LOOKED_AT = 20_000
_HOURS_BACK = 72


@compiled
def explain(events, bounds, cuts, as_of, served, shifts, allowed, topics, hits):  # type: ignore[no-untyped-def]
    """Try every mistake on every entity.

    Parameters
    ----------
    events : int64[n, 8]
        Columns EVENT_COLUMNS, sorted by entity, other, time.
    bounds : int64[m, 2]
        Events of query q are bounds[q, 0] to bounds[q, 1].
    cuts : int64[m, origins]
        Of each origin, events at lower offsets count.
    as_of : int64[m]
        ms.
    served : int64[m, 24 + 1] or int64[m, 9 + 1]
        Counters, or counts of a topic; then whether there is anything to say of the entity: 1, 0, or -1 where that is not to be looked at.
    shifts : int64[k, 2]
        To add to the time up to which events count, and to that from which windows reach back.
    allowed : int
        Allowed lateness, ms.
    topics : bool
    hits : bool[m, FIRST_SHIFT + k]
        Gets whether the mistake gives what was served.
    """
    width = served.shape[1]
    out = np.empty(width, np.int64)
    for q in range(bounds.shape[0]):
        low, high = bounds[q, 0], bounds[q, 1]
        cut, time, want = cuts[q], as_of[q], served[q]
        hit = hits[q]
        total = np.empty(width, np.int64)
        # What follows whatever the time is: attribution is decided by the prefix alone.
        settled = _settled(events, low, high, cut, allowed, topics)
        _at(settled, time, time, topics, total)
        hit[AS_IT_IS] = _same(total, want)
        _all(events, low, high, cut, time, time, allowed, False, False, topics, out)
        hit[WITHOUT_LATE] = _same(out, want)
        _all(events, low, high, cut, time, time, allowed, True, True, topics, out)
        hit[WITH_DUPLICATES] = _same(out, want)
        for k in range(shifts.shape[0]):
            _at(settled, time + shifts[k, 0], time + shifts[k, 1], topics, out)
            hit[FIRST_SHIFT + k] = _same(out, want)
        _one_away(events, low, high, cut, time, allowed, topics, total, want, hit)
        hit[OLD_TILE] = _old_tile(settled, time, topics, want, out)
        hit[OLD_READ] = _old_read(events, low, high, cut, settled, time, allowed, topics, want, out)


@compiled
def agrees(events, bounds, cuts, as_of, values, allowed, topics, out):  # type: ignore[no-untyped-def]
    """Whether the events give these values where no mistake is made: bool[m], filled in. Parameters as of `explain`."""
    total = np.empty(values.shape[1], np.int64)
    for q in range(bounds.shape[0]):
        _all(events, bounds[q, 0], bounds[q, 1], cuts[q], as_of[q], as_of[q], allowed, True, False, topics, total)
        out[q] = _same(total, values[q])


@compiled
def _same(total, want):  # type: ignore[no-untyped-def]
    last = want.shape[0] - 1
    for i in range(last):
        if total[i] != want[i]:
            return False
    return want[last] < 0 or (total[last] > 0) == (want[last] > 0)


@compiled
def _all(events, low, high, cut, head, tail, allowed, late, duplicates, topics, out):  # type: ignore[no-untyped-def]
    out[:] = 0
    i = low
    while i < high:
        j = _end_of_pair(events, i, high)
        _pair(events, i, j, cut, head, tail, allowed, late, duplicates, -1, -1, topics, out)
        i = j


@compiled
def _end_of_pair(events, i, high):  # type: ignore[no-untyped-def]
    j = i + 1
    while j < high and events[j, OTHER] == events[i, OTHER]:
        j += 1
    return j


@compiled
def _counts(events, i, cut, late, duplicates, dropped):  # type: ignore[no-untyped-def]
    """Whether an event is among those that count."""
    flags = events[i, FLAGS]
    return (
        i != dropped
        and events[i, OFFSET] < cut[events[i, ORIGIN]]
        and (late or not flags & IS_LATE)
        and (duplicates or not flags & IS_DUPLICATE)
    )


@compiled
def _save_of(events, low, high, i, cut, allowed, late, duplicates, dropped):  # type: ignore[no-untyped-def]
    """The save that a revisit is credited to, -1 for none."""
    time = events[i, TIME]
    best = -1
    for j in range(low, high):
        if events[j, TIME] >= time:
            # Sorted by time.
            break
        if not events[j, FLAGS] & IS_SAVE or events[j, FLAGS] & IS_LATE or not _counts(events, j, cut, late, duplicates, dropped):
            continue
        if time < events[j, TIME] + CREDIT_MS and events[j, TIME] + CREDIT_MS + allowed > events[i, BEFORE]:
            # Sorted by time, event ID and offset.
            best = j
    return best


@compiled
def _pair(events, low, high, cut, head, tail, allowed, late, duplicates, dropped, doubled, topics, out):  # type: ignore[no-untyped-def]
    """Add what the events of one pair say."""
    if topics:
        _pair_of_topic(events, low, high, cut, head, tail, allowed, late, duplicates, dropped, doubled, out)
        return
    newest_end = np.full(4, -NEVER, np.int64)
    for i in range(low, high):
        if not events[i, FLAGS] & IS_REVISIT or events[i, TIME] > head or not _counts(events, i, cut, late, duplicates, dropped):
            continue
        save = _save_of(events, low, high, i, cut, allowed, late, duplicates, dropped)
        if save < 0:
            continue
        weight = 2 if i == doubled else 1
        out[-1] += weight
        end = (events[i, TIME] // HOUR_MS + 1) * HOUR_MS
        click = 1 if events[i, FLAGS] & IS_CLICK else 0
        for scope in range(2 if events[save, FLAGS] & IS_RELATED else 1):
            slot = 2 * scope + click
            newest_end[slot] = max(newest_end[slot], end)
            for w in range(N_WINDOWS):
                if end > tail - WINDOWS_MS[w]:
                    out[(slot * N_WINDOWS + w) * 2] += weight
    for slot in range(4):
        for w in range(N_WINDOWS):
            if newest_end[slot] > tail - WINDOWS_MS[w]:
                out[(slot * N_WINDOWS + w) * 2 + 1] += 1


@compiled
def _pair_of_topic(events, low, high, cut, head, tail, allowed, late, duplicates, dropped, doubled, out):  # type: ignore[no-untyped-def]
    for s in range(low, high):
        flags = events[s, FLAGS]
        if not flags & IN_TOPIC or flags & IS_LATE or events[s, TIME] > head or not _counts(events, s, cut, late, duplicates, dropped):
            continue
        first = NEVER
        for i in range(s + 1, high):
            if events[i, TIME] > head:
                break
            if not events[i, FLAGS] & IS_CLICK or not _counts(events, i, cut, late, duplicates, dropped):
                continue
            if _save_of(events, low, high, i, cut, allowed, late, duplicates, dropped) == s:
                first = events[i, TIME]
                break
        age = (first - events[s, TIME]) // DAY_MS
        weight = 2 if s == doubled else 1
        out[-1] += weight
        for w in range(N_WINDOWS):
            if (events[s, TIME] // HOUR_MS + 1) * HOUR_MS > tail - WINDOWS_MS[w]:
                out[3 * w] += weight
                if first != NEVER:
                    out[3 * w + 1] += weight
                    if 3 <= age <= 6:
                        out[3 * w + 2] += weight


@compiled
def _one_away(events, low, high, cut, time, allowed, topics, total, want, hit):  # type: ignore[no-untyped-def]
    """Whether leaving out one event, or counting one twice, gives what was served. Pairs add up, so only the event's own is done again."""
    base, other = np.empty(want.shape[0], np.int64), np.empty(want.shape[0], np.int64)
    i = low
    while i < high:
        j = _end_of_pair(events, i, high)
        if j - i <= _MOST_OF_PAIR:
            base[:] = 0
            _pair(events, i, j, cut, time, time, allowed, True, False, -1, -1, topics, base)
            # What all others say.
            for c in range(want.shape[0]):
                base[c] = total[c] - base[c]
            for k in range(i, j):
                if events[k, FLAGS] & IS_DUPLICATE or not _counts(events, k, cut, True, False, -1):
                    continue
                if not hit[WITHOUT_ONE]:
                    other[:] = base
                    _pair(events, i, j, cut, time, time, allowed, True, False, k, -1, topics, other)
                    hit[WITHOUT_ONE] = _same(other, want)
                if not hit[WITH_ONE_TWICE]:
                    other[:] = base
                    _pair(events, i, j, cut, time, time, allowed, True, False, -1, k, topics, other)
                    hit[WITH_ONE_TWICE] = _same(other, want)
        i = j


@compiled
def _settled(events, low, high, cut, allowed, topics):  # type: ignore[no-untyped-def]
    """What an entity's events come to before a time is taken: int64[k, 4].

    Of counters, each credited revisit: number of its pair, time, click, save on related_pins. Of a topic, each save: 0, time, first click, 0.
    """
    rows = np.empty((high - low, 4), np.int64)
    k = 0
    i = low
    while i < high:
        j = _end_of_pair(events, i, high)
        for e in range(i, j):
            if not _counts(events, e, cut, True, False, -1):
                continue
            flags = events[e, FLAGS]
            if topics:
                if flags & IN_TOPIC and not flags & IS_LATE:
                    rows[k, 0], rows[k, 1], rows[k, 2], rows[k, 3] = 0, events[e, TIME], NEVER, 0
                    for c in range(e + 1, j):
                        if events[c, FLAGS] & IS_CLICK and _counts(events, c, cut, True, False, -1):
                            if _save_of(events, i, j, c, cut, allowed, True, False, -1) == e:
                                rows[k, 2] = events[c, TIME]
                                break
                    k += 1
            elif flags & IS_REVISIT:
                save = _save_of(events, i, j, e, cut, allowed, True, False, -1)
                if save >= 0:
                    rows[k, 0], rows[k, 1], rows[k, 2] = i, events[e, TIME], 1 if flags & IS_CLICK else 0
                    rows[k, 3] = 1 if events[save, FLAGS] & IS_RELATED else 0
                    k += 1
        i = j
    return rows[:k]


@compiled
def _at(settled, head, tail, topics, out):  # type: ignore[no-untyped-def]
    """What it says of a time up to which events count, and one from which windows reach back."""
    out[:] = 0
    newest_end = np.empty(4, np.int64)
    i = 0
    while i < settled.shape[0]:
        pair = settled[i, 0]
        newest_end[:] = -NEVER
        while i < settled.shape[0] and settled[i, 0] == pair:
            time = settled[i, 1]
            if time <= head:
                out[-1] += 1
                end = (time // HOUR_MS + 1) * HOUR_MS
                if topics:
                    first = settled[i, 2]
                    age = (first - time) // DAY_MS
                    for w in range(N_WINDOWS):
                        if end > tail - WINDOWS_MS[w]:
                            out[3 * w] += 1
                            if first <= head:
                                out[3 * w + 1] += 1
                                out[3 * w + 2] += 3 <= age <= 6
                else:
                    for scope in range(1 + settled[i, 3]):
                        slot = 2 * scope + settled[i, 2]
                        newest_end[slot] = max(newest_end[slot], end)
                        for w in range(N_WINDOWS):
                            if end > tail - WINDOWS_MS[w]:
                                out[(slot * N_WINDOWS + w) * 2] += 1
            i += 1
        if not topics:
            for slot in range(4):
                for w in range(N_WINDOWS):
                    if newest_end[slot] > tail - WINDOWS_MS[w]:
                        out[(slot * N_WINDOWS + w) * 2 + 1] += 1


@compiled
def _old_tile(settled, time, topics, want, out):  # type: ignore[no-untyped-def]
    """Whether windows that end earlier, though nothing is missing that came since, give what was served.

    What has left a window since are events whose hour ends so long ago; just before one leaves is as good a time as any.
    """
    newest = -NEVER
    for i in range(settled.shape[0]):
        if settled[i, 1] <= time:
            newest = max(newest, settled[i, 1])
    if newest == -NEVER:
        return False
    _at(settled, time, newest, topics, out)
    if _same(out, want):
        return True
    for back in range(1, _HOURS_BACK + 1):
        _at(settled, time, time - back * HOUR_MS, topics, out)
        if _same(out, want):
            return True
    if settled.shape[0] > _MOST_OF_ENTITY:
        return False
    for i in range(settled.shape[0]):
        for w in range(N_WINDOWS):
            left = (settled[i, 1] // HOUR_MS + 1) * HOUR_MS + WINDOWS_MS[w]
            if newest < left <= time:
                _at(settled, time, left - 1, topics, out)
                if _same(out, want):
                    return True
    return False


@compiled
def _old_read(events, low, high, cut, settled, time, allowed, topics, want, out):  # type: ignore[no-untyped-def]
    """Whether a read at an earlier time, or of a shorter prefix, gives what was served."""
    for back in range(1, _HOURS_BACK + 1):
        _at(settled, time - back * HOUR_MS, time - back * HOUR_MS, topics, out)
        if _same(out, want):
            return True
    for k in np.argsort(-settled[:, 1])[:_BACK]:
        before = settled[k, 1] - 1
        if before < time:
            _at(settled, before, before, topics, out)
            if _same(out, want):
                return True
    if high == low:
        return False
    # As all stood when a record came: what came since, of any origin, had a later watermark before it.
    earlier = cut.copy()
    most = min(_BACK, 8 + _MOST_LOOKED_AT // (high - low))
    for k in np.argsort(-events[low:high, BEFORE])[:most]:
        mark = events[low + k, BEFORE]
        earlier[:] = cut
        for i in range(low, high):
            if events[i, BEFORE] >= mark:
                earlier[events[i, ORIGIN]] = min(earlier[events[i, ORIGIN]], events[i, OFFSET])
        then = _settled(events, low, high, earlier, allowed, topics)
        for head in (time, min(time, mark)):
            _at(then, head, head, topics, out)
            if _same(out, want):
                return True
    return False
