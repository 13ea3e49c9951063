"""What becomes of each record of the log: docs/semantics.md, "One log partition, record by record"."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tests.oracles.partition import partition_of

HOUR_MS = 3_600_000


def decide(
    events: pd.DataFrame,
    allowed_lateness_ms: int = HOUR_MS,
    dedup_horizon_ms: int = HOUR_MS,
    clock_skew_ms: int = 300_000,
    partitions: int | None = None,
) -> pd.DataFrame:
    """The records with their fate, in the order and with the index of `events`.

    Parameters
    ----------
    events : DataFrame
        Columns partition, offset, user_id, event_id, event_time, timestamp and any others; optionally ``bad`` (malformed: only the timestamp
        counts), and ``clock`` (the event time by which a record moves the watermark, whatever becomes of it; NA: its own, if it is accepted).
    allowed_lateness_ms, dedup_horizon_ms, clock_skew_ms : int
        L, H and S.
    partitions : int, optional
        Of the log. None: every record lies where its user belongs.

    Returns
    -------
    DataFrame
        `events` with ``status`` (accepted, duplicate, bad, wrong_partition, future_time), ``late`` (bool, False unless accepted) and ``w_before``
        (Int64, the watermark before the record, NA for minus infinity). ``attrs["allowed_lateness_ms"]`` holds L, for the features.
    """
    bad = events["bad"].tolist() if "bad" in events else [False] * len(events)
    partition, offset = events["partition"].tolist(), events["offset"].tolist()
    user, event_id = events["user_id"].tolist(), events["event_id"].tolist()
    event_time, timestamp = events["event_time"].tolist(), events["timestamp"].tolist()

    clock = [None if pd.isna(c) else int(c) for c in events["clock"]] if "clock" in events else [None] * len(events)
    home = {u: partition_of(u, partitions) for u in set(user)} if partitions is not None else {}

    status = [""] * len(events)
    late = [False] * len(events)
    w_before: list[int | None] = [None] * len(events)

    arrival_of: dict[int, int] = {}  # by partition: the greatest timestamp so far
    w_of: dict[int, int] = {}  # by partition: the greatest accepted event_time so far
    # By partition and key: the greatest event_time of an accepted record. One at or after W - H exists if and only if the greatest is.
    newest_of: dict[tuple[int, int, int], int] = {}

    for i in sorted(range(len(events)), key=lambda i: (partition[i], offset[i])):
        p, t, key = partition[i], event_time[i], (partition[i], user[i], event_id[i])
        arrival = max(arrival_of.get(p, timestamp[i]), timestamp[i])
        arrival_of[p] = arrival
        w = w_of.get(p)
        w_before[i] = w
        if bad[i]:
            status[i] = "bad"
        elif partitions is not None and home[user[i]] != p:
            status[i] = "wrong_partition"
        elif t > arrival + clock_skew_ms:
            status[i] = "future_time"
        elif w is not None and key in newest_of and newest_of[key] >= w - dedup_horizon_ms:
            status[i] = "duplicate"
        else:
            status[i] = "accepted"
            late[i] = w is not None and t < w - allowed_lateness_ms
            if clock[i] is None:
                w_of[p] = t if w is None else max(w, t)
            newest_of[key] = max(newest_of.get(key, t), t)

        if clock[i] is not None:
            w_of[p] = clock[i] if w is None else max(w, clock[i])

    decided = events.assign(
        status=np.array(status, dtype=object),
        late=np.array(late, dtype=bool),
        w_before=pd.array(w_before, dtype="Int64"),
    )
    decided.attrs["allowed_lateness_ms"] = allowed_lateness_ms
    return decided
