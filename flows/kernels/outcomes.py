"""What came of impressions: a sweep over rows that are sorted by what belongs together, and in each by time.

Columns in, columns out. It tells when each thing was known, as the number of the record that told it; never what to make of it.
"""

from __future__ import annotations

from flows.compiled import compiled

HEADS = 4
"""Of what may follow an impression at once: click, long_click, save, hide, in this order."""


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
