"""JSON objects of actions → columns, by one compiled loop over the bytes of a whole batch.

It takes what it is certain of: flat objects of well-formed members. Whatever else there is (escapes, nested values, floats in a field, equal keys,
names that mean nothing, values out of bounds, anything that is no JSON) it leaves to a reader that judges record by record, so that the
contract lies there alone. What it takes, it takes as that reader would.
"""

from __future__ import annotations

import numpy as np

from flows.compiled import compiled_in_place
from flows.kernels.texts import hash_text

# Fields by number: whole numbers first, then names that stand for a code, then other texts.
EVENT_ID, USER_ID, PIN_ID, EVENT_TIME, DURATION_MS, SCHEMA_VERSION, ACTION, SURFACE, TOPIC, REQUEST_ID, PRODUCER = range(11)
_OTHER = 11
_REQUIRED = 1 << EVENT_ID | 1 << USER_ID | 1 << PIN_ID | 1 << EVENT_TIME | 1 << ACTION

# What a name in a table is the name of.
KEY = 0
LONGEST_NAME = 256

# What became of a record.
TAKEN, LEFT, NEW_NAME = 0, 1, 2

_QUOTE, _COMMA, _MINUS, _POINT, _ZERO, _NINE, _COLON, _BACKSLASH, _OPEN, _CLOSE = 34, 44, 45, 46, 48, 57, 58, 92, 123, 125
_LEAST, _TENTH = -(2**63), -(2**63 // 10)
_PRIME = np.uint64(0x100000001B3)
_BASIS = np.uint64(0xCBF29CE484222325)


@compiled_in_place
def hash_name(kind, data, start, end):  # type: ignore[no-untyped-def]
    """FNV-1a of a name and its kind."""
    h = (_BASIS ^ np.uint64(kind)) * _PRIME
    for i in range(start, end):
        h = (h ^ np.uint64(data[i])) * _PRIME
    return h


@compiled_in_place
def find_name(kind, h, data, start, end, table, hashes, kinds, starts, arena):  # type: ignore[no-untyped-def]
    """The number of a name, or `-1 - slot` of the table's free slot where it would go."""
    mask = np.int64(len(table) - 1)
    slot = np.int64(h >> np.uint64(32)) & mask
    while table[slot] >= 0:
        at = table[slot]
        if hashes[at] == h and kinds[at] == kind and starts[at + 1] - starts[at] == end - start:
            same = True
            for i in range(end - start):
                if arena[starts[at] + i] != data[start + i]:
                    same = False
                    break
            if same:
                return at
        slot = (slot + 1) & mask
    return -1 - slot


@compiled_in_place
def place_names(table, hashes):  # type: ignore[no-untyped-def]
    """Fill an empty table with the names of these hashes, all different."""
    mask = np.int64(len(table) - 1)
    for at in range(len(hashes)):
        slot = np.int64(hashes[at] >> np.uint64(32)) & mask
        while table[slot] >= 0:
            slot = (slot + 1) & mask
        table[slot] = at


@compiled_in_place
def _after_space(data, i, end):  # type: ignore[no-untyped-def]
    while i < end and (data[i] == 32 or data[i] == 10 or data[i] == 13 or data[i] == 9):
        i += 1
    return i


@compiled_in_place
def _after_rune(data, i, end):  # type: ignore[no-untyped-def]
    """Past one character of more than a byte, -1 if it isn't well-formed UTF-8 (Unicode 15, table 3-7)."""
    lead = data[i]
    low, high = 0x80, 0xBF
    if 0xC2 <= lead <= 0xDF:
        more = 1
    elif 0xE0 <= lead <= 0xEF:
        more = 2
        if lead == 0xE0:
            low = 0xA0
        elif lead == 0xED:
            high = 0x9F
    elif 0xF0 <= lead <= 0xF4:
        more = 3
        if lead == 0xF0:
            low = 0x90
        elif lead == 0xF4:
            high = 0x8F
    else:
        return -1
    if i + more >= end or data[i + 1] < low or data[i + 1] > high:
        return -1
    for k in range(2, more + 1):
        if data[i + k] < 0x80 or data[i + k] > 0xBF:
            return -1
    return i + more + 1


@compiled_in_place
def _closing_quote(data, i, end):  # type: ignore[no-untyped-def]
    """Where a text without escapes that begins at `i` ends, -1 if it is no such text."""
    while i < end:
        b = data[i]
        if b == _QUOTE:
            return i
        if b < 32 or b == _BACKSLASH:
            return -1
        if b < 128:
            i += 1
        else:
            i = _after_rune(data, i, end)
            if i < 0:
                return -1
    return -1


@compiled_in_place
def _whole_number(data, i, end):  # type: ignore[no-untyped-def]
    """A canonical decimal within int64: (value, past it), past it -1 if there is none."""
    negative = i < end and data[i] == _MINUS
    if negative:
        i += 1
    first, value = i, np.int64(0)
    while i < end and _ZERO <= data[i] <= _NINE:
        digit = np.int64(data[i] - _ZERO)
        # Built below zero, where there is one number more.
        if value < _TENTH or (value == _TENTH and digit > 8):
            return value, -1
        value = value * 10 - digit
        i += 1
    if i == first or (data[first] == _ZERO and i - first > 1) or (not negative and value == _LEAST):
        return value, -1
    return (value if negative else -value), i


@compiled_in_place
def _is_word(data, i, end, word):  # type: ignore[no-untyped-def]
    if i + len(word) > end:
        return False
    for k in range(len(word)):
        if data[i + k] != word[k]:
            return False
    return True


_NULL, _TRUE, _FALSE = (np.frombuffer(word, np.uint8) for word in (b"null", b"true", b"false"))


@compiled_in_place
def _after_scalar(data, i, end):  # type: ignore[no-untyped-def]
    """Past a value of a field that no one reads, -1 if it isn't a plain text, number, true, false or null."""
    if i >= end:
        return -1
    if data[i] == _QUOTE:
        i = _closing_quote(data, i + 1, end)
        return i + 1 if i >= 0 else -1
    if _is_word(data, i, end, _NULL) or _is_word(data, i, end, _TRUE):
        return i + 4
    if _is_word(data, i, end, _FALSE):
        return i + 5
    _, i = _whole_number(data, i, end)
    if i >= 0 and i < end and data[i] == _POINT:
        first = i + 1
        i = first
        while i < end and _ZERO <= data[i] <= _NINE and i - first <= 18:
            i += 1
        if i == first or i - first > 18:
            return -1
    return i


@compiled_in_place
def scan(data, bounds, left, row, texts, used, names, limits, numbers, coded, out):  # type: ignore[no-untyped-def]
    """Read records from `row` on, up to the end or to a name that isn't in the tables yet.

    Parameters
    ----------
    data : uint8[]
    bounds : int32[n + 1]
        Record i lies in data[bounds[i]:bounds[i + 1]].
    left : bool[n]
        True on entry: a record not to be looked at. Set for each that is left to the other reader.
    texts : int64[3n, 4]
        Takes (record, field, start, end) of each ID that is a text and no canonical decimal within int64.
    used : int
        How many of them there are.
    names : (table, hashes, kinds, starts, arena, codes, room)
        `codes` by name: for keys the field's number, else the code, -1 if it means nothing. `room`: whether more names can be taken up.
    limits : (greatest event_time, greatest size of a record in bytes, schema version, surface where there is none)
    numbers, coded : int64[6], int64[3]
        Room for one record's values.
    out : (event_id, user_id, pin_id, event_time, duration_ms, topic, action, surface, request)
        Columns to fill in; the last may have no rows.

    Returns
    -------
    (row, used, kind, start, end)
        Where it stopped; short of n, the name that is to be taken up there before it goes on.
    """
    table, hashes, kinds, starts, arena, codes, room = names
    event_id, user_id, pin_id, event_time, duration_ms, topic, action, surface, request = out
    n = len(bounds) - 1
    while row < n:
        if left[row]:
            row += 1
            continue
        i, end = int(bounds[row]), int(bounds[row + 1])
        became, seen, before = TAKEN, 0, used
        requested = np.int64(0)
        kind = start = stop = 0
        numbers[DURATION_MS], numbers[SCHEMA_VERSION] = 0, limits[2]
        coded[0], coded[1], coded[2] = 0, limits[3], 0
        i = _after_space(data, i, end)
        if end - bounds[row] > limits[1] or i >= end or data[i] != _OPEN:
            became = LEFT
        else:
            i = _after_space(data, i + 1, end)
            if i < end and data[i] == _CLOSE:
                became = LEFT  # nothing in it
            while became == TAKEN:
                # A key, and which field it is.
                if i >= end or data[i] != _QUOTE:
                    became = LEFT
                    break
                stop = _closing_quote(data, i + 1, end)
                if stop < 0:
                    became = LEFT
                    break
                at = find_name(KEY, hash_name(KEY, data, i + 1, stop), data, i + 1, stop, table, hashes, kinds, starts, arena)
                field = codes[at] if at >= 0 else _OTHER
                i = _after_space(data, stop + 1, end)
                if i >= end or data[i] != _COLON or (field != _OTHER and seen >> field & 1):
                    became = LEFT
                    break
                i = _after_space(data, i + 1, end)
                # Its value.
                if field == _OTHER:
                    i = _after_scalar(data, i, end)
                elif _is_word(data, i, end, _NULL):
                    i += 4
                    # What is required is missing then.
                    if _REQUIRED >> field & 1:
                        i = -1
                elif field <= SCHEMA_VERSION and i < end and data[i] != _QUOTE:
                    numbers[field], i = _whole_number(data, i, end)
                elif i < end and data[i] == _QUOTE and field != EVENT_TIME and field != DURATION_MS and field != SCHEMA_VERSION:
                    start = i + 1
                    stop = _closing_quote(data, start, end)
                    if stop < 0:
                        i = -1
                    else:
                        i = stop + 1
                        if field <= PIN_ID:
                            numbers[field], past = _whole_number(data, start, stop)
                            if past != stop or (data[start] == _MINUS and numbers[field] == 0):
                                texts[used, 0], texts[used, 1], texts[used, 2], texts[used, 3] = row, field, start, stop
                                used += 1
                        elif field <= TOPIC:
                            kind = field
                            at = find_name(kind, hash_name(kind, data, start, stop), data, start, stop, table, hashes, kinds, starts, arena)
                            if at < 0:
                                became = NEW_NAME if room and stop - start <= LONGEST_NAME else LEFT
                                break
                            coded[field - ACTION] = codes[at]
                            if field != TOPIC and codes[at] < 0:
                                i = -1
                        elif field == REQUEST_ID:
                            requested = hash_text(data, start, stop)
                else:
                    i = -1
                if i < 0:
                    became = LEFT
                    break
                if field != _OTHER:
                    seen |= 1 << field
                i = _after_space(data, i, end)
                if i < end and data[i] == _COMMA:
                    i = _after_space(data, i + 1, end)
                elif i < end and data[i] == _CLOSE:
                    if _after_space(data, i + 1, end) != end:
                        became = LEFT
                    break
                else:
                    became = LEFT
            if became == TAKEN and (
                seen & _REQUIRED != _REQUIRED
                or numbers[EVENT_TIME] < 0
                or numbers[EVENT_TIME] > limits[0]
                or numbers[DURATION_MS] < 0
                or numbers[SCHEMA_VERSION] != limits[2]
            ):
                became = LEFT
        if became == NEW_NAME:
            return row, before, kind, start, stop
        if became == LEFT:
            left[row] = True
            used = before
        else:
            event_id[row], user_id[row], pin_id[row] = numbers[EVENT_ID], numbers[USER_ID], numbers[PIN_ID]
            event_time[row], duration_ms[row] = numbers[EVENT_TIME], numbers[DURATION_MS]
            action[row], surface[row], topic[row] = coded[0], coded[1], coded[2]
            if len(request):
                request[row] = requested
        row += 1
    return row, used, 0, 0, 0
