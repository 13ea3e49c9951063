"""The rules of docs/semantics.md, Examples, as one compiled loop over records of ACTIONS and SERVED, merged by arrival.

It reads like the definition. `flows.kernels.examples` gives it room and arrays; it never looks at a clock.
"""

from __future__ import annotations

import numpy as np

from flows.compiled import compiled_in_place
from flows.kernels.join_entries import (
    D_NUMBER,
    D_OF,
    D_TIME,
    D_WHAT,
    EARLY,
    EXAMPLE,
    LABELS_DUE,
    N_DUE,
    O_DUE,
    O_HEAD,
    O_ID,
    O_NEXT,
    O_REVISITED,
    O_ROW,
    O_TIME,
    OUTCOME_DUE,
    PUT_OUT,
    R_DUE,
    R_INDEX,
    R_LABELS,
    R_LINK,
    R_NODE,
    R_NUMBER,
    R_PIN,
    R_SAVE_ID,
    R_SAVE_TIME,
    R_SEEN,
    R_STATE,
    R_TOPIC,
    R_USER,
    SAVE_DUE,
    SAVED,
    UNSERVED,
    add_node,
    add_row,
    free_node,
    free_row,
    link_saved,
    pop_due,
    push_due,
    row_of,
)
from flows.kernels.layout import CREDIT_MS, DAY_MS, NEVER
from flows.kernels.pairmap import put_at, slot_of

# What an accepted action is to examples: an impression, an outcome (2 << head, in the order of HEADS), late.
SEEN_BIT, FIRST_OUTCOME, LATE_BIT = 1, 2, 32
OUTCOMES = 4
SAVE_HEAD, REVISIT_HEAD, HEADS_IN_ALL = 2, 4, 5
OUTCOME_MS = 30 * 60_000
SERVED_KEPT_MS = DAY_MS
"""How long after its request a candidate may be seen."""

# What became of records that make nothing, in this order.
COUNTED = (
    "candidates",
    "duplicate_candidates",
    "defaulted_impressions",
    "late_impressions",
    "repeated_impressions",
    "impressions_without_served",
    "late_outcomes",
    "outcomes_outside_window",
    "outcomes_without_impression",
)
(
    C_CANDIDATES,
    C_DUPLICATE,
    C_DEFAULTED,
    C_LATE_IMPRESSION,
    C_REPEATED,
    C_UNSERVED,
    C_LATE_OUTCOME,
    C_OUTSIDE,
    C_EARLY,
) = range(len(COUNTED))  # fmt: skip

# Columns of the candidates of a request, as they are stored: E_NUMBER is the served record's; E_INDEX the place in its list, times 2, plus 1 if its
# values were defaulted; E_SEEN the offset of the impression that made it an example, UNSEEN for none, SEEN_BEFORE if that came first.
E_PIN, E_TIME, E_NUMBER, E_INDEX, E_SEEN = range(5)
ENTRY_COLUMNS = 5
UNSEEN, SEEN_BEFORE = -1, -2

# Columns of what comes out. X_KIND: at the impression, an outcome (X_HEAD), labels, the label of a save, nothing for so long.
X_READY, X_KIND, X_HEAD, X_USER, X_PIN, X_SEEN, X_TOPIC, X_NUMBER, X_INDEX, X_LABELS, X_SAVE_TIME, X_SAVE_ID = range(12)
OUT_COLUMNS = 12
NEGATIVE, POSITIVE, FINAL, FINAL_REVISIT, HEARTBEAT = 0, 1, 2, 3, 4
HEARTBEAT_MS = 5_000
"""Where nothing has come out for so long, a heartbeat does: the next record's arrival."""


@compiled_in_place
def join_records(  # type: ignore[no-untyped-def]
    user, request, pin, time, event, what, topic, arrival, offset, watermark, revisited, group,
    place, s_arrival, s_user, s_request, s_time, s_number, s_group, s_first, c_pin, c_defaulted,
    before, lateness, scalars, rows, keys, saved, nodes, heap, entries, known, found, dirty, counts, out, filled,
):  # fmt: skip
    """Join records in their merged order.

    Parameters
    ----------
    user … revisited : [n]
        Actions: `what` is bits, 0 of a record that was not accepted; `watermark` that after the record; `revisited` int64[n, 2] as of `Judged`.
    group : int64[n]
        The request's number in this batch, of impressions.
    place : int64[m]
        How many actions go before each served record.
    s_first : int64[m + 1]
        Candidates of served record i are s_first[i] to s_first[i + 1].
    before : int
        The watermark before the first action, -NEVER for none.
    entries, known : int64[, ENTRY_COLUMNS], int
        What is stored of candidates, `known` of them, and room for all new ones; `found` has their place by (group, pin).
    dirty : bool[groups]
        Set for those whose candidates have changed.
    filled : bool[candidates]
        Set for those candidates that are new in `entries`, where they lie in order.

    Returns
    -------
    (emissions, entries)
        How many rows of `out` are filled in, and of `entries`.
    """
    done, s, w = 0, 0, before
    for i in range(len(user) + 1):
        while s < len(place) and place[s] == i:
            out_before = done
            done, known = _serve(
                s, w, lateness, s_arrival, s_user, s_request, s_time, s_number, s_group, s_first, c_pin, c_defaulted, scalars, rows, keys,
                saved, entries, known, found, dirty, counts, out, filled, done,
            )  # fmt: skip
            done = _beat(s_arrival[s], out_before, scalars, out, done)
            s += 1
        if i == len(user):
            break
        out_before = done
        if request[i] != 0 and what[i] != 0:
            if what[i] & LATE_BIT:
                if what[i] & SEEN_BIT:
                    counts[C_LATE_IMPRESSION] += 1
                elif what[i] != LATE_BIT:
                    counts[C_LATE_OUTCOME] += 1
            elif what[i] & SEEN_BIT:
                done = _see(
                    user[i], request[i], pin[i], time[i], topic[i], arrival[i], offset[i], group[i], lateness, scalars, rows, keys, nodes, heap,
                    entries, found, dirty, counts, out, done,
                )  # fmt: skip
            else:
                head = 0
                while not what[i] & FIRST_OUTCOME << head:
                    head += 1
                done = _come_out(
                    user[i], request[i], pin[i], time[i], event[i], head, arrival[i], lateness, scalars, rows, keys, saved, nodes, heap, counts,
                    out, done,
                )  # fmt: skip
        if revisited[i, 0] != NEVER:
            done = _revisit(user[i], pin[i], revisited[i, 0], revisited[i, 1], arrival[i], rows, saved, nodes, out, done)
        if watermark[i] > w:
            w = watermark[i]
            done = _fall_due(w, arrival[i], lateness, scalars, rows, keys, saved, nodes, heap, counts, out, done)
        done = _beat(arrival[i], out_before, scalars, out, done)
    return done, known


@compiled_in_place
def _serve(  # type: ignore[no-untyped-def]
    s, w, lateness, s_arrival, s_user, s_request, s_time, s_number, s_group, s_first, c_pin, c_defaulted, scalars, rows, keys, saved, entries,
    known, found, dirty, counts, out, filled, done,
):  # fmt: skip
    """A served record: its candidates can be seen from now on, and those that were seen already are examples."""
    group = s_group[s]
    for c in range(s_first[s], s_first[s + 1]):
        slot = slot_of(found, group, c_pin[c])
        if slot >= 0 and w <= entries[found[slot, 2], E_TIME] + SERVED_KEPT_MS + lateness:
            counts[C_DUPLICATE] += 1
            continue
        # One that can be seen no more stays beside the new one: whoever goes through this again from before must meet it.
        e = known
        known += 1
        filled[c] = True
        if slot >= 0:
            found[slot, 2] = e
        else:
            put_at(found, -1 - slot, group, c_pin[c], e)
        counts[C_CANDIDATES] += 1
        dirty[group] = True
        entry = entries[e]
        entry[E_PIN], entry[E_TIME], entry[E_NUMBER], entry[E_SEEN] = c_pin[c], s_time[s], s_number[s], UNSEEN
        entry[E_INDEX] = 2 * (c - s_first[s]) + (1 if c_defaulted[c] else 0)
        r = row_of(s_user[s], s_request[s], c_pin[c], keys)
        if r >= 0 and rows[r, R_STATE] == UNSERVED and rows[r, R_SEEN] <= s_time[s] + SERVED_KEPT_MS:
            entry[E_SEEN] = SEEN_BEFORE
            if c_defaulted[c]:
                counts[C_DEFAULTED] += 1
                free_row(r, scalars, rows, keys, saved)
            else:
                done = _begin_example(r, s_number[s], c - s_first[s], s_arrival[s], rows, out, done)
    return done, known


@compiled_in_place
def _see(  # type: ignore[no-untyped-def]
    user, request, pin, time, topic, arrival, offset, group, lateness, scalars, rows, keys, nodes, heap, entries, found, dirty, counts, out, done
):  # fmt: skip
    """An impression: the first of a candidate makes it an example; without a served row it waits for one."""
    r = row_of(user, request, pin, keys)
    slot = slot_of(found, group, pin)
    e = found[slot, 2] if slot >= 0 else np.int64(-1)
    if e >= 0 and time > entries[e, E_TIME] + SERVED_KEPT_MS:
        e = np.int64(-1)
    if (r >= 0 and rows[r, R_STATE] != EARLY) or (e >= 0 and entries[e, E_SEEN] != UNSEEN):
        counts[C_REPEATED] += 1
        return done
    if e >= 0:
        entries[e, E_SEEN] = offset
        dirty[group] = True
        if entries[e, E_INDEX] & 1:
            counts[C_DEFAULTED] += 1
            return done
    if r < 0:
        r = add_row(user, request, pin, UNSERVED, scalars, rows, keys)
    rows[r, R_STATE], rows[r, R_SEEN], rows[r, R_TOPIC] = UNSERVED, time, topic
    rows[r, R_DUE] = push_due(time + OUTCOME_MS + lateness + 1, LABELS_DUE, r, scalars, heap)
    came_back = False
    while rows[r, R_NODE] >= 0:
        k = rows[r, R_NODE]
        if time <= nodes[k, O_TIME] <= time + OUTCOME_MS:
            _set_outcome(r, nodes[k, O_HEAD], nodes[k, O_TIME], nodes[k, O_ID], rows)
            if nodes[k, O_HEAD] == SAVE_HEAD and rows[r, R_SAVE_TIME] == nodes[k, O_TIME] and rows[r, R_SAVE_ID] == nodes[k, O_ID]:
                came_back = nodes[k, O_REVISITED] != 0
        else:
            counts[C_OUTSIDE] += 1
        free_node(k, scalars, rows, nodes)
    if came_back:
        rows[r, R_LABELS] |= 1 << REVISIT_HEAD
    if e >= 0:
        done = _begin_example(r, entries[e, E_NUMBER], entries[e, E_INDEX] // 2, arrival, rows, out, done)
    return done


@compiled_in_place
def _come_out(  # type: ignore[no-untyped-def]
    user, request, pin, time, event, head, arrival, lateness, scalars, rows, keys, saved, nodes, heap, counts, out, done
):  # fmt: skip
    """An outcome: of an impression that is known, or it waits for one."""
    r = row_of(user, request, pin, keys)
    if r >= 0 and rows[r, R_STATE] != EARLY:
        if not rows[r, R_SEEN] <= time <= rows[r, R_SEEN] + OUTCOME_MS:
            counts[C_OUTSIDE] += 1
        elif _set_outcome(r, head, time, event, rows):
            if head == SAVE_HEAD:
                link_saved(r, scalars, rows, saved)
            if rows[r, R_STATE] != UNSERVED:
                done = _emit(r, POSITIVE, head, arrival, rows, out, done)
        return done
    if r < 0:
        r = add_row(user, request, pin, EARLY, scalars, rows, keys)
    k = add_node(r, head, time, event, scalars, rows, nodes)
    nodes[k, O_DUE] = push_due(time + lateness + 1, OUTCOME_DUE, k, scalars, heap)
    if head == SAVE_HEAD:
        link_saved(r, scalars, rows, saved)
    return done


@compiled_in_place
def _set_outcome(r, head, time, event, rows):  # type: ignore[no-untyped-def]
    """Note an outcome of a row; whether it is the first of its head. The latest save is the row's: what comes back is credited to no earlier one."""
    first = not rows[r, R_LABELS] >> head & 1
    rows[r, R_LABELS] |= 1 << head
    if head == SAVE_HEAD:
        later = time > rows[r, R_SAVE_TIME] or (time == rows[r, R_SAVE_TIME] and event > rows[r, R_SAVE_ID])
        if first or later:
            rows[r, R_SAVE_TIME], rows[r, R_SAVE_ID] = time, event
    return first


@compiled_in_place
def _revisit(user, pin, time, event, arrival, rows, saved, nodes, out, done):  # type: ignore[no-untyped-def]
    """A save has come to be revisited: so have the rows that it is the save of, each once."""
    slot = slot_of(saved, user, pin)
    r = saved[slot, 2] if slot >= 0 else np.int64(-1)
    while r >= 0:
        if rows[r, R_LABELS] >> SAVE_HEAD & 1:
            ours = rows[r, R_SAVE_TIME] == time and rows[r, R_SAVE_ID] == event
            if ours and not rows[r, R_LABELS] >> REVISIT_HEAD & 1:
                rows[r, R_LABELS] |= 1 << REVISIT_HEAD
                if rows[r, R_STATE] != UNSERVED:
                    done = _emit(r, POSITIVE, REVISIT_HEAD, arrival, rows, out, done)
        else:
            k = rows[r, R_NODE]
            while k >= 0:
                if nodes[k, O_HEAD] == SAVE_HEAD and nodes[k, O_TIME] == time and nodes[k, O_ID] == event:
                    nodes[k, O_REVISITED] = 1
                k = nodes[k, O_NEXT]
        r = rows[r, R_LINK]
    return done


@compiled_in_place
def _fall_due(w, arrival, lateness, scalars, rows, keys, saved, nodes, heap, counts, out, done):  # type: ignore[no-untyped-def]
    """What no later record can change any more, in the order in which it falls due."""
    while scalars[N_DUE] > 0 and heap[0, D_TIME] <= w:
        number, kind, of = heap[0, D_NUMBER], heap[0, D_WHAT], heap[0, D_OF]
        pop_due(scalars, heap)
        if kind == OUTCOME_DUE:
            if nodes[of, O_DUE] == number:
                r = nodes[of, O_ROW]
                counts[C_EARLY] += 1
                free_node(of, scalars, rows, nodes)
                if rows[r, R_NODE] < 0:
                    free_row(r, scalars, rows, keys, saved)
            continue
        if rows[of, R_DUE] != number:
            continue
        if kind == SAVE_DUE:
            done = _emit(of, FINAL_REVISIT, REVISIT_HEAD, arrival, rows, out, done)
        elif rows[of, R_STATE] == UNSERVED:
            counts[C_UNSERVED] += 1
        else:
            done = _emit(of, FINAL, 0, arrival, rows, out, done)
            if rows[of, R_LABELS] >> SAVE_HEAD & 1:
                rows[of, R_STATE] = SAVED
                rows[of, R_DUE] = push_due(rows[of, R_SAVE_TIME] + CREDIT_MS + lateness, SAVE_DUE, of, scalars, heap)
                continue
        free_row(of, scalars, rows, keys, saved)
    return done


@compiled_in_place
def _beat(arrival, out_before, scalars, out, done):  # type: ignore[no-untyped-def]
    """After a record: a heartbeat, if it has led to nothing and nothing has come out for long enough."""
    if done > out_before:
        scalars[PUT_OUT] = max(scalars[PUT_OUT], arrival)
    elif arrival >= scalars[PUT_OUT] + HEARTBEAT_MS:
        scalars[PUT_OUT] = arrival
        out[done] = 0
        out[done, X_READY], out[done, X_KIND] = arrival, HEARTBEAT
        done += 1
    return done


@compiled_in_place
def _begin_example(r, number, index, arrival, rows, out, done):  # type: ignore[no-untyped-def]
    """Both the impression and the served row are there: a negative, and what has come out already."""
    rows[r, R_STATE], rows[r, R_NUMBER], rows[r, R_INDEX] = EXAMPLE, number, index
    done = _emit(r, NEGATIVE, 0, arrival, rows, out, done)
    for head in range(HEADS_IN_ALL):
        if rows[r, R_LABELS] >> head & 1:
            done = _emit(r, POSITIVE, head, arrival, rows, out, done)
    return done


@compiled_in_place
def _emit(r, kind, head, arrival, rows, out, done):  # type: ignore[no-untyped-def]
    row = out[done]
    row[X_READY], row[X_KIND], row[X_HEAD], row[X_USER], row[X_PIN] = arrival, kind, head, rows[r, R_USER], rows[r, R_PIN]
    row[X_SEEN], row[X_TOPIC], row[X_NUMBER], row[X_INDEX] = rows[r, R_SEEN], rows[r, R_TOPIC], rows[r, R_NUMBER], rows[r, R_INDEX]
    row[X_LABELS], row[X_SAVE_TIME], row[X_SAVE_ID] = rows[r, R_LABELS], rows[r, R_SAVE_TIME], rows[r, R_SAVE_ID]
    return done + 1
