"""Examples of a history: docs/semantics.md, "Examples" and "Backfill", naively, record by record over decided records."""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd

from tests.oracles import features

MINUTE = 60_000
DAY = 24 * 60 * MINUTE
WINDOW = 30 * MINUTE
HEADS = ("click", "long_click", "save", "hide", "revisit")
NEGATIVE, POSITIVE, FINAL = 0, 1, 2


class Example(NamedTuple):
    """A record of EXAMPLES without features; `labels` None where masked."""

    kind: int
    ready_time: int
    request_id: str
    user_id: int
    pin_id: int
    surface: str
    topic: str
    request_time: int
    impression_time: int
    as_of: int
    labels: tuple[int | None, ...]


def examples(decided: pd.DataFrame, feature_delay: int = 0, all_kinds: bool = False) -> dict[int, list[Example]]:
    """The records of each partition, in order.

    Parameters
    ----------
    decided : DataFrame
        What `decide` returned, with columns request_id ("" for none) and arrival.
    """
    return {int(p): _of_partition(decided, rows, feature_delay, all_kinds) for p, rows in decided.groupby("partition")}


def _of_partition(decided: pd.DataFrame, rows: pd.DataFrame, delay: int, all_kinds: bool) -> list[Example]:
    lateness = decided.attrs["allowed_lateness_ms"]
    rows = rows.sort_values("offset")
    rows.attrs = dict(decided.attrs)
    records: list[Any] = list(rows.itertuples())
    accepted = [r for r in records if r.status == "accepted"]
    counted = [r for r in accepted if not r.late]
    saves = {s.offset: s for s in features.saves(rows).itertuples()}
    arrival = {r.offset: r.arrival for r in records}

    def reached(time: int) -> int | None:
        """The record after which W is at least a time."""
        return next((r.offset for r in records if (at := _moves_to(r)) is not None and at >= time), None)

    seen: list[Any] = []
    for r in counted:
        if _shows(r) and not any(_request(r) == _request(s) and r.pin_id == s.pin_id for s in seen):
            seen.append(r)

    out: list[tuple[tuple[int, ...], Example]] = []
    for i in seen:
        of_request = [r for r in accepted if _request(r) == _request(i) and (i.request_id or _shows(r))]
        request_time = min(r.event_time for r in of_request if _shows(r) and not r.late)
        if i.event_time > request_time + DAY:
            continue
        as_of = max(min(r.event_time for r in of_request) - 1 - delay, -1)
        came: dict[str, list[Any]] = {head: [] for head in HEADS}
        for r in counted:
            if (
                r.action in HEADS
                and (r.user_id, r.pin_id, r.request_id) == (i.user_id, i.pin_id, i.request_id)
                and (i.request_id or r.surface != "own_profile")
                and i.event_time <= r.event_time <= i.event_time + WINDOW
            ):
                came[r.action].append(r)
        latest = max(came["save"], key=lambda r: (r.event_time, r.event_id), default=None)
        save = saves[latest.offset] if latest is not None else None

        def put(
            kind: int,
            cause: int | None,
            head: int,
            labels: dict[str, int],
            due: tuple[int, int] = (0, 0),
            i: Any = i,
            request_time: int = request_time,
            as_of: int = as_of,
        ) -> None:
            if cause is not None:
                known = tuple(labels.get(name) for name in HEADS)
                example = Example(
                    kind, arrival[cause], i.request_id, i.user_id, i.pin_id, i.surface, i.topic, request_time, i.event_time, as_of, known
                )
                out.append(((cause, kind, *due, head, i.event_time, i.offset), example))

        outcome = {head: int(bool(came[head])) for head in HEADS[:-1]}
        matures = i.event_time + WINDOW + lateness + 1
        final = reached(matures)
        put(FINAL, final, 0, outcome | ({} if save else {"revisit": 0}), (matures, i.offset))
        if save is not None and final is not None:
            matures = save.save_time + 7 * DAY + lateness
            put(FINAL, reached(matures), 4, {"revisit": int(_revisited(save))}, (matures, final))
        if all_kinds:
            put(NEGATIVE, i.offset, 0, dict.fromkeys(HEADS, 0))
            for head, name in enumerate(HEADS[:-1]):
                if came[name]:
                    put(POSITIVE, max(i.offset, came[name][0].offset), head, {name: 1})
            if save is not None:
                put(POSITIVE, _first_revisited(rows, accepted, i, came["save"]), 4, {"revisit": 1})
    return [example for _, example in sorted(out, key=lambda one: one[0])]


def _shows(r: Any) -> bool:
    """Whether it says that a pin was seen where it was served."""
    return bool(r.action == "impression" and r.surface != "own_profile")


def _request(r: Any) -> tuple[Any, ...]:
    return (r.user_id, "by name", r.request_id) if r.request_id else (r.user_id, "by time", r.event_time)


def _moves_to(r: Any) -> int | None:
    """The time up to which a record moves the watermark, if it does."""
    clock = getattr(r, "clock", pd.NA)
    return int(clock) if not pd.isna(clock) else int(r.event_time) if r.status == "accepted" else None


def _revisited(save: Any) -> bool:
    return bool(save.label_1dRevImpre or save.label_1dRevGrid or save.label_7dRevGrid)


def _first_revisited(rows: pd.DataFrame, accepted: list[Any], impression: Any, window: list[Any]) -> int | None:
    """The first record by which the save that was the latest of the window by then had been revisited, and the impression was there."""
    revisited: set[int] = set()
    for r in accepted:
        if r.user_id != impression.user_id or r.pin_id != impression.pin_id:
            continue
        prefix = rows[(rows["offset"] <= r.offset) & (rows["user_id"] == r.user_id) & (rows["pin_id"] == r.pin_id)]
        prefix.attrs = dict(rows.attrs)
        revisited |= {s.offset for s in features.saves(prefix).itertuples() if _revisited(s)}
        latest = max((s for s in window if s.offset <= r.offset), key=lambda s: (s.event_time, s.event_id), default=None)
        if r.offset >= impression.offset and latest is not None and latest.offset in revisited:
            return int(r.offset)
    return None
