"""What came of impressions: a sweep over rows that are sorted by what belongs together, and in each by time.

Columns in, columns out. It tells when each thing was known, as the number of the record that told it; never what to make of it.
"""

from __future__ import annotations

from flows.compiled import compiled
from flows.kernels.joining import SAVE_HEAD
from flows.kernels.layout import NEVER

HEADS = 4
"""Of what may follow an impression at once: click, long_click, save, hide, in this order."""


@compiled
def follow(bucket, time, order, head, target, window, came_back, came, save, known):  # type: ignore[no-untyped-def]
    """When each head of each impression was first known, which save is its own, and when that was known to have been come back to.

    Parameters
    ----------
    bucket : int64[n]
        What belongs together; rows are sorted by it, then by time, and saves as the later one is credited.
    time, order : int64[n]
        ms; number of the record.
    head : int64[n]
        Of an outcome; -1 for an impression.
    target : int64[n]
        Of an impression, its row of `came`.
    window : int
        An outcome follows an impression if it happens at most so many ms after it, and not before.
    came_back : int64[n]
        Of a save, the record by which it first came to be revisited, or NEVER.
    came : int64[k, 4]
        Filled with NEVER; gets the lowest record of the outcomes that follow.
    save : int64[k]
        Filled with -1; gets the row of the latest save.
    known : int64[k]
        Filled with NEVER; gets the record by which the save that was the latest by then first came to be revisited, and the impression was there.
    """
    begin = 0
    for i in range(bucket.shape[0]):
        if bucket[i] != bucket[begin]:
            begin = i
        if head[i] >= 0:
            continue
        low, high = i, i
        while low > begin and time[low - 1] == time[i]:
            low -= 1
        while high < bucket.shape[0] and bucket[high] == bucket[i] and time[high] <= time[i] + window:
            high += 1
        taken = NEVER  # the lowest record of a later save
        for j in range(high - 1, low - 1, -1):
            if head[j] < 0:
                continue
            came[target[i], head[j]] = min(came[target[i], head[j]], order[j])
            if head[j] != SAVE_HEAD:
                continue
            if save[target[i]] < 0:
                save[target[i]] = j
            at = max(came_back[j], order[i])
            if at < taken:
                known[target[i]] = min(known[target[i]], at)
            taken = min(taken, order[j])
