"""What is true of a simulated stream, known from how it was made.

Since a user saves a pin at most once within 8 days, the save that a revisit was planned for is the only one that it can be credited to.
What remains to be judged is whether the save was late (it opens nothing) and whether it was still kept when the revisit arrived.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.partition import partition_of
from flows.settings import DAY_MS
from flows.simulate.disorder import FLAWS, Stream
from flows.simulate.parameters import RETENTION_MS, Parameters
from flows.simulate.population import FIRST_USER_ID, TOPICS, Pins
from flows.simulate.published import CLICKS_BY_DAY, PUBLISHED
from flows.simulate.table import ACTIONS, GRID_CLICK, IMPRESSION, OWN_PROFILE, SAVE, Events
from flows.simulate.world import World

NEVER = np.iinfo(np.int64).max
LABELS = ("label_1dRevImpre", "label_1dRevGrid", "label_7dRevGrid")


@dataclass(frozen=True)
class Labels:
    """One row per save (accepted, not late), in order of (time, event_id).

    Attributes
    ----------
    event : int64
        Row of the save in the events.
    event_id, time : int64
    labels : bool, (saves, 3)
        In the order of LABELS.
    first_revisit, first_click : int64
        Times, or NEVER.
    clicked : bool, (saves, days)
        Any credited click at this age in days.
    matured : bool
        At the end of the stream.
    credited : int
        Revisits credited to any save.
    """

    event: np.ndarray
    event_id: np.ndarray
    time: np.ndarray
    labels: np.ndarray
    first_revisit: np.ndarray
    first_click: np.ndarray
    clicked: np.ndarray
    matured: np.ndarray
    credited: int


def label_saves(stream: Stream, events: Events, parameters: Parameters) -> Labels:
    """The labels of every save at the end of the stream."""
    lateness = parameters.allowed_lateness_ms
    records = np.flatnonzero(stream.accepted)
    row = stream.row[records]
    number = events.save[row]

    opens = (events.action[row] == SAVE) & ~stream.late[records]
    count = int(events.save.max(initial=-1)) + 1
    kept = np.zeros(count, bool)
    time, saved_by, event_id = (np.zeros(count, np.int64) for _ in range(3))
    kept[number[opens]] = True
    time[number[opens]] = events.time[row[opens]]
    saved_by[number[opens]] = row[opens]
    event_id[number[opens]] = stream.event_id[records[opens]]

    visits = np.flatnonzero((events.surface[row] == OWN_PROFILE) & (number >= 0))
    visits = visits[kept[number[visits]]]
    visits = visits[time[number[visits]] + RETENTION_MS + lateness > stream.watermark[records[visits]]]
    save, at = number[visits], events.time[row[visits]]
    click = events.action[row[visits]] == GRID_CLICK
    age = at - time[save]

    labels = np.zeros((count, len(LABELS)), bool)
    labels[save[~click & (age < DAY_MS)], 0] = True
    labels[save[click & (age < DAY_MS)], 1] = True
    labels[save[click], 2] = True
    first_revisit, first_click = np.full(count, NEVER), np.full(count, NEVER)
    np.minimum.at(first_revisit, save, at)
    np.minimum.at(first_click, save[click], at[click])
    clicked = np.zeros((count, len(CLICKS_BY_DAY)), bool)
    clicked[save[click], age[click] // DAY_MS] = True

    partition = partition_of(events.user[saved_by].astype(np.int64) + FIRST_USER_ID, parameters.partitions)
    matured = time + RETENTION_MS + lateness <= stream.last_watermark[partition]
    order = np.lexsort((event_id, time))
    order = order[kept[order]]
    return Labels(
        event=saved_by[order],
        event_id=event_id[order],
        time=time[order],
        labels=labels[order],
        first_revisit=first_revisit[order],
        first_click=first_click[order],
        clicked=clicked[order],
        matured=matured[order],
        credited=len(visits),
    )


def summary(
    stream: Stream, events: Events, labels: Labels, pins: Pins, lines: list[tuple[str, str]], requests: int, parameters: Parameters
) -> dict[str, Any]:
    """The counts and rates that truth.json holds."""
    accepted = np.flatnonzero(stream.accepted)
    actions = np.bincount(events.action[stream.row[accepted]], minlength=len(ACTIONS))
    saves = int(actions[SAVE])
    bad_rows = _reasons([FLAWS[code][1] for code in stream.flaw[stream.flaw > 0]])
    bad_lines = _reasons([reason for reason, _ in lines])
    matured = labels.matured
    warnings = parameters.warnings()
    if not 0.04 <= saves / max(len(accepted), 1) <= 0.06:
        warnings.append("saves are not 4 to 6 % of the events: there are too few users or pins for so many events")
    return {
        "format": 1,
        "parameters": parameters.as_dict(),
        **({} if parameters.world == World() else {"world": parameters.world.as_dict()}),
        "warnings": warnings,
        "records": {
            "total": len(stream) + len(lines),
            "in_parquet": len(stream),
            "in_jsonl": len(lines),
            "accepted": len(accepted),
            "late": int(stream.late.sum()),
            "duplicates": int(stream.duplicate.sum()),
            "bad": sum(bad_rows.values()) + sum(bad_lines.values()),
        },
        "bad": {r: bad_rows.get(r, 0) + bad_lines.get(r, 0) for r in sorted(bad_rows.keys() | bad_lines.keys())},
        "bad_in_parquet": bad_rows,
        "bad_in_jsonl": bad_lines,
        "events_by_action": {name: int(actions[code]) for name, code in ACTIONS.items()},
        "requests": requests,
        "saves": len(matured),
        "late_saves": saves - len(matured),
        "matured": int(matured.sum()),
        "revisits": {"on_own_profile": _revisits(stream, events, accepted), "credited": labels.credited},
        "labels": {name: _rate(labels.labels[:, i], np.ones_like(matured)) for i, name in enumerate(LABELS)},
        "labels_matured": {name: _rate(labels.labels[:, i], matured) for i, name in enumerate(LABELS)},
        "click_revisits_by_day": {str(d): _rate(labels.clicked[:, d], matured) for d in range(labels.clicked.shape[1])},
        "topics": _topics(labels, pins.label[events.pin[labels.event]]),
        "published": {
            **{name: getattr(PUBLISHED, name) for name in LABELS},
            "click_revisits_by_day": {str(d): v for d, v in PUBLISHED.click_revisits_by_day.items()},
            "topic_days_3_6_share": dict(PUBLISHED.topic_days_3_6_share),
        },
    }


def _revisits(stream: Stream, events: Events, accepted: np.ndarray) -> int:
    row = stream.row[accepted]
    action = events.action[row]
    return int(((events.surface[row] == OWN_PROFILE) & ((action == IMPRESSION) | (action == GRID_CLICK))).sum())


def _reasons(reasons: list[str]) -> dict[str, int]:
    return {reason: reasons.count(reason) for reason in sorted(set(reasons))}


def _rate(hit: np.ndarray, among: np.ndarray) -> dict[str, int | float]:
    count, total = int((hit & among).sum()), int(among.sum())
    return {"count": count, "percent": round(100 * count / total, 4) if total else 0.0}


def _topics(labels: Labels, label: np.ndarray) -> dict[str, dict[str, Any]]:
    """Per topic, over all saves and over the matured ones, with the published share beside."""
    clicked = labels.first_click < NEVER
    days_3_6 = clicked & (np.where(clicked, labels.first_click - labels.time, 0) >= 3 * DAY_MS)
    out: dict[str, dict[str, Any]] = {}
    for code, name in enumerate(TOPICS):
        counts: dict[str, Any] = {}
        for prefix, among in (("", label == code), ("matured_", (label == code) & labels.matured)):
            click, late = int((among & clicked).sum()), int((among & days_3_6).sum())
            counts |= {
                f"{prefix}saves": int(among.sum()),
                f"{prefix}clicked": click,
                f"{prefix}clicked_days_3_6": late,
                f"{prefix}share": round(100 * late / click, 4) if click else 0.0,
            }
        out[name] = {**counts, "published_share": PUBLISHED.topic_days_3_6_share.get(name)}
    return out
