"""Heartbeats: that so much time has passed, in a partition where nothing else says so.

In SERVED, where nobody was served: without them, actions would wait for the next request of their partition. In ACTIONS, where nobody did anything:
without them, whoever reads examples of all partitions in order would wait for the users of the idle one. Either has the arrival of the newest
action, so none runs ahead of what the log of actions says, and where nothing moves there is none.
"""

from __future__ import annotations

from collections.abc import Sequence

from flows.decode_values import timestamps_of
from flows.events import heartbeat as heartbeat_in_actions
from flows.kernels.joining import HEARTBEAT_MS
from flows.kernels.layout import NEVER
from flows.log import Log
from flows.served_versions import heartbeat


def beat(actions: Log, served: Log, since: Sequence[int]) -> list[int]:
    """Append a heartbeat to each partition of SERVED that lies behind its actions.

    Parameters
    ----------
    since : sequence of int
        Where each partition of ACTIONS ended when this was last done; 0 before.

    Returns
    -------
    list of int
        Where it ends now.
    """
    ends, reach = actions.end_positions(), served.end_positions()
    beats = []
    for partition, (before, end) in enumerate(zip(since, ends, strict=True)):
        if end <= before:
            continue
        arrival = arrival_before(actions, partition, end)
        # A record that has arrived then, or later, does as well: another server may have been there first.
        if arrival is not None and served.position_for_time(partition, arrival) >= reach[partition]:
            beats.append((partition, heartbeat(arrival)))
    if beats:
        served.append(beats)
    return ends


def beat_idle(actions: Log, since: Sequence[int] | None) -> list[int]:
    """Append a heartbeat to each partition of ACTIONS that lies so far behind the newest action of any that its examples would be told to have none.

    Parameters
    ----------
    since : sequence of int or None
        Where each partition ended when this was last done; None before: nothing is known to have moved.

    Returns
    -------
    list of int
        Where it ends now.
    """
    ends = actions.end_positions()
    if since is None or ends == list(since):
        return ends
    moved = [arrival_before(actions, p, end) for p, (before, end) in enumerate(zip(since, ends, strict=True)) if end > before]
    newest = max((arrival for arrival in moved if arrival is not None), default=None)
    if newest is None:
        return ends
    idle = [p for p, end in enumerate(ends) if actions.position_for_time(p, newest - HEARTBEAT_MS + 1) >= end]
    if idle:
        # Whatever follows there has arrived then, or later: a log's arrival never runs back.
        actions.append([(p, heartbeat_in_actions(newest)) for p in idle])
    return [end + (p in idle) for p, end in enumerate(ends)]


def arrival_before(log: Log, partition: int, end: int) -> int | None:
    """The arrival of the last record before an offset, ms; None if there is none."""
    batches = log.read(partition, max(end - 1, log.start_positions()[partition]), 1) if end else []
    stamps = [int(timestamps_of(batch.records).max()) for batch in batches if batch.records.num_rows]
    if not stamps:
        return None
    # Mostly that is the greatest of all; an earlier record may have come with a greater one.
    low, step = max(stamps), 1
    while low + step < NEVER and log.position_for_time(partition, low + step) < end:
        low, step = low + step, 2 * step
    while step > 1:
        step //= 2
        if log.position_for_time(partition, low + step) < end:
            low += step
    return low
