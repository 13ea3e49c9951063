"""Requests and reactions of a closed loop as rows of examples, without features: for models that see IDs, surface and time alone.

What `flows.examples` makes of logs, of a slice at once: each impression as negative when it arrives, each outcome as positive beside it. Nothing is
told before it has arrived.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.examples.record import HEADS, MASKED, OUTCOME_WINDOW_MS, Kind
from flows.examples.rows import ExampleRows, heartbeats_at
from flows.settings import HOUR_MS
from flows.simulate.closed_loop import Reaction, Requests

IMMEDIATE = HEADS[:-1]
"""Heads whose outcome is an action in the request's own slot; a revisit is one elsewhere, days later."""


@dataclass(frozen=True, eq=False)
class _Answered:
    """n requests and what they were answered."""

    request_id: pa.Array
    user_id: np.ndarray
    request_time: np.ndarray
    surface: np.ndarray
    candidates: np.ndarray
    slots: np.ndarray


def candidates_of(requests: Requests) -> ExampleRows:
    """All candidates, request by request, as rows that are scored: no outcome is known of them."""
    n, width = requests.candidates.shape
    each = np.repeat(np.arange(n), width)
    return replace(
        heartbeats_at(requests.request_time[each]),
        kind=np.full(n * width, Kind.NEGATIVE, np.int8),
        user_id=requests.user_id[each],
        pin_id=requests.candidates.reshape(-1),
        surface=_surfaces(requests)[each],
    )


class Reactions:
    """Remembers what was answered, for as long as an outcome may follow."""

    def __init__(self) -> None:
        self._answered: list[_Answered] = []

    def examples(self, requests: Requests, slots: np.ndarray, reaction: Reaction) -> ExampleRows:
        """What has become known in a slice, in order of arrival.

        Parameters
        ----------
        requests : Requests
            Of the slice; slices must come in order.
        slots : int64[n, width]
            What they were answered.
        reaction : Reaction

        Returns
        -------
        ExampleRows
            Kinds NEGATIVE and POSITIVE. `impression_time` of an outcome is that of its request.
        """
        self._remember(requests, slots)
        events = reaction.events
        action = pc.cast(events["action"], pa.string())
        wanted = pa.array(["impression", *IMMEDIATE])
        # Whatever belongs to no request is a revisit.
        events = events.filter(pc.and_(pc.is_in(action, wanted), pc.is_valid(events["request_id"])))
        head = pc.index_in(pc.cast(events["action"], pa.string()), wanted).to_numpy() - 1

        known = pa.concat_arrays([one.request_id for one in self._answered])
        place = pc.index_in(events["request_id"].combine_chunks(), known).to_numpy(zero_copy_only=False)
        whole = {
            name: np.concatenate([getattr(one, name) for one in self._answered])
            for name in ("user_id", "request_time", "surface", "candidates", "slots")
        }
        pin = events["pin_id"].to_numpy()
        column = (whole["candidates"][place] == pin[:, None]).argmax(1)
        seen = head < 0
        time = whole["request_time"][place]
        labels = np.full((len(head), len(HEADS)), MASKED, np.int8)
        labels[seen] = 0
        labels[np.flatnonzero(~seen), head[~seen]] = 1
        return replace(
            heartbeats_at(events["timestamp"].to_numpy()),
            kind=np.where(seen, Kind.NEGATIVE, Kind.POSITIVE).astype(np.int8),
            request_id=events["request_id"].combine_chunks(),
            user_id=whole["user_id"][place],
            pin_id=pin,
            surface=whole["surface"][place],
            request_time=time,
            impression_time=np.where(seen, events["event_time"].to_numpy(), time),
            slot=whole["slots"][place, column].astype(np.int16),
            labels=labels,
        )

    def _remember(self, requests: Requests, slots: np.ndarray) -> None:
        now = _Answered(
            requests.request_id, requests.user_id, requests.request_time, _surfaces(requests), requests.candidates, slots.astype(np.int64)
        )
        # Nobody acts later than an outcome counts, and an hour covers how late that arrives.
        since = requests.until_ms - OUTCOME_WINDOW_MS - HOUR_MS
        self._answered = [one for one in self._answered if len(one.request_time) and one.request_time[-1] >= since] + [now]


def _surfaces(requests: Requests) -> np.ndarray:
    return requests.surface.indices.to_numpy().astype(np.int16)
