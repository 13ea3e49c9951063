"""What came of impressions, and of saves: sweeps over rows that are sorted by what belongs together, and in each by time.

Columns in, columns out. They tell when each thing was known, as the number of the record that told it; never what to make of it.
"""

from __future__ import annotations

from flows.compiled import compiled
from flows.kernels.layout import CREDIT_MS, DAY_MS, NEVER

HEADS = 4
"""Of what may follow an impression at once: click, long_click, save, hide, in this order."""
SAVE_HEAD = 2


@compiled
def follow(bucket, time, order, head, target, window, came):  # type: ignore[no-untyped-def]
    """When each head of each impression was first known.

    Parameters
    ----------
    bucket : int64[n]
        What belongs together; rows are sorted by it, and then by time.
    time, order : int64[n]
        ms; number of the record.
    head : int64[n]
        Of an outcome; -1 for an impression.
    target : int64[n]
        Of an impression, its row of `came`.
    window : int
        An outcome follows an impression if it happens at most so many ms after it, and not before.
    came : int64[k, 4]
        Filled with NEVER; gets the lowest record of the outcomes that follow.
    """
    begin = 0
    for i in range(bucket.shape[0]):
        if bucket[i] != bucket[begin]:
            begin = i
        if head[i] >= 0:
            continue
        j = i
        while j > begin and time[j - 1] == time[i]:
            j -= 1
        while j < bucket.shape[0] and bucket[j] == bucket[i] and time[j] <= time[i] + window:
            if head[j] >= 0:
                came[target[i], head[j]] = min(came[target[i], head[j]], order[j])
            j += 1


@compiled
def saved(bucket, time, order, head, target, window, last, kept, came_back, credited, newest, label, first):  # type: ignore[no-untyped-def]
    """Of each impression, the newest of its saves that opened a window, and whether one of them was come back to.

    Parameters
    ----------
    bucket, time, order, head, target, window
        As of `follow`.
    last : int64[k]
        Saves whose record comes after it don't count.
    kept, came_back : bool[n]
        Of a save: whether it opened a window, and what came of it.
    credited : int64[n]
        Of a save, the record by which it was first known to have been come back to, or NEVER.
    newest : int64[k]
        Filled with -1; gets the time of the save.
    label : bool[k]
        Filled with False.
    first : int64[k]
        Filled with NEVER; gets the lowest of `credited`.
    """
    begin = 0
    for i in range(bucket.shape[0]):
        if bucket[i] != bucket[begin]:
            begin = i
        if head[i] >= 0:
            continue
        j = i
        while j > begin and time[j - 1] == time[i]:
            j -= 1
        while j < bucket.shape[0] and bucket[j] == bucket[i] and time[j] <= time[i] + window:
            if head[j] == SAVE_HEAD and kept[j] and order[j] <= last[target[i]]:
                newest[target[i]] = max(newest[target[i]], time[j])
                label[target[i]] |= came_back[j]
                first[target[i]] = min(first[target[i]], credited[j])
            j += 1


@compiled
def first_credits(bucket, time, order, is_save, click, before, allowed, known):  # type: ignore[no-untyped-def]
    """When a save was first known to have been come back to, in a way that its label counts.

    Parameters
    ----------
    bucket : int64[n]
        User and pin; rows are sorted by it, then by time, revisits before saves, and saves as the later one is credited.
    time, order : int64[n]
        ms; number of the record.
    is_save, click : bool[n]
        Saves that opened a window, or revisits; whether a revisit is a click.
    before : int64[n]
        The watermark before a record, ms.
    allowed : int
        Allowed lateness, ms.
    known : int64[n]
        Filled with NEVER; gets for a save the record by which a revisit was credited to it.
    """
    for i in range(bucket.shape[0]):
        if not is_save[i]:
            continue
        taken = NEVER  # the lowest record of a save that is later, and takes what follows it
        for j in range(i + 1, bucket.shape[0]):
            if bucket[j] != bucket[i] or time[j] >= time[i] + CREDIT_MS:
                break
            if is_save[j]:
                taken = min(taken, order[j])
                continue
            if time[j] == time[i] or (not click[j] and time[j] >= time[i] + DAY_MS):
                continue
            at = max(order[i], order[j])
            if order[j] > order[i] and time[i] + CREDIT_MS + allowed <= before[j]:
                continue
            if taken > at:
                known[i] = min(known[i], at)
