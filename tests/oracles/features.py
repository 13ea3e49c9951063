"""What is read at (log prefix, as_of): docs/semantics.md from "Action sequence" to "Reading", in closed form over decided records.

`decided` is always what `decide` returned, or some of its rows that make up a prefix of each partition. Its order doesn't matter.
A full tie, which (event_time, event_id) doesn't break, goes to the greater offset.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from typing import Any, Literal

import numpy as np
import pandas as pd

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
WINDOWS = {"7d": 7 * DAY_MS, "30d": 30 * DAY_MS, "90d": 90 * DAY_MS}
TOPIC_STATISTICS = ("saves_{}_count", "saves_{}_clicked", "saves_{}_clicked_days_3_6", "click_rate_{}", "days_3_6_share_{}")

Action = tuple[int, str, str, int, int]


def default_as_of(decided: pd.DataFrame) -> int | None:
    """The greatest accepted event_time over all partitions; None if nothing was accepted."""
    accepted = decided.loc[decided["status"] == "accepted", "event_time"]
    return int(accepted.max()) if len(accepted) else None


def _until(decided: pd.DataFrame, as_of: int | None) -> int:
    """`as_of`, or its default; before all time if nothing was accepted."""
    if as_of is None:
        as_of = default_as_of(decided)
    return -1 if as_of is None else as_of


def _accepted(decided: pd.DataFrame) -> pd.DataFrame:
    return decided[decided["status"] == "accepted"].sort_values(["partition", "offset"], ignore_index=True)


def _is_save(accepted: pd.DataFrame) -> pd.Series:
    return (accepted["action"] == "save") & ~accepted["late"]


def sequences(decided: pd.DataFrame, as_of: int | None = None, length: int = 100) -> dict[int, list[Action]]:
    """Of each user with an engagement: the newest (pin_id, action, surface, event_time, duration_ms), newest first."""
    until = _until(decided, as_of)
    accepted = _accepted(decided)
    taken = accepted[(accepted["action"] != "impression") & (accepted["event_time"] <= until)]
    newest_first = taken.sort_values(["event_time", "event_id", "offset"], ascending=False)
    of_user: dict[int, list[Action]] = defaultdict(list)
    columns = ["user_id", "pin_id", "action", "surface", "event_time", "duration_ms"]
    for user, *action in zip(*(newest_first[c].tolist() for c in columns), strict=True):
        if len(of_user[user]) < length:
            of_user[user].append(tuple(action))
    return dict(of_user)


def credited(decided: pd.DataFrame) -> pd.DataFrame:
    """Each revisit of the prefix with the save it is credited to.

    Returns
    -------
    DataFrame
        One row per accepted revisit, by (partition, offset): partition, offset, user_id, pin_id, event_id, event_time,
        type (impression or click), and of the save: save_offset, save_time, save_event_id (Int64, NA if it is credited to none),
        save_surface (None if none), rp (bool, False if none).
    """
    lateness = decided.attrs["allowed_lateness_ms"]
    accepted = _accepted(decided)

    saves_of: dict[tuple[int, int], list[tuple[int, int, int, str]]] = defaultdict(list)
    opened = accepted[_is_save(accepted)]
    columns = ["user_id", "pin_id", "event_time", "event_id", "offset", "surface"]
    for user, pin, *fields in zip(*(opened[c].tolist() for c in columns), strict=True):
        saves_of[user, pin].append(tuple(fields))
    for of_pair in saves_of.values():
        of_pair.sort()

    revisits = accepted[(accepted["surface"] == "own_profile") & accepted["action"].isin(["impression", "grid_click"])]
    found: list[Any] = []  # (time, event_id, offset, surface) of its save, or None
    columns = ["user_id", "pin_id", "event_time", "w_before"]
    for user, pin, time, w in zip(*(revisits[c].tolist() for c in columns), strict=True):
        candidates = saves_of.get((user, pin), [])
        # The latest save before the revisit. If it is too old or no longer kept, so is every earlier one.
        i = bisect.bisect_left(candidates, (time,)) - 1
        save = candidates[i] if i >= 0 else None
        if save and time < save[0] + 7 * DAY_MS and (pd.isna(w) or save[0] + 7 * DAY_MS + lateness > w):
            found.append(save)
        else:
            found.append(None)

    out = revisits[["partition", "offset", "user_id", "pin_id", "event_id", "event_time"]].reset_index(drop=True)
    out["type"] = revisits["action"].map({"impression": "impression", "grid_click": "click"}).to_numpy()
    for name, i in (("save_offset", 2), ("save_time", 0), ("save_event_id", 1)):
        out[name] = pd.array([save and save[i] for save in found], dtype="Int64")
    out["save_surface"] = pd.Series([save and save[3] for save in found], dtype=object)
    out["rp"] = out["save_surface"] == "related_pins"
    return out


def _counted(decided: pd.DataFrame, until: int) -> pd.DataFrame:
    """The revisits that are credited to some save, up to a time."""
    revisits = credited(decided)
    return revisits[revisits["save_time"].notna() & (revisits["event_time"] <= until)]


def saves(decided: pd.DataFrame, as_of: int | None = None) -> pd.DataFrame:
    """The saves up to `as_of` with their labels.

    Returns
    -------
    DataFrame
        One row per save, by (partition, offset): partition, offset, user_id, pin_id, save_time, save_event_id, save_surface, topic,
        label_1dRevImpre, label_1dRevGrid, label_7dRevGrid (bool), first_revisit_time, first_click_time (Int64), matured (bool).
    """
    until = _until(decided, as_of)
    lateness = decided.attrs["allowed_lateness_ms"]
    accepted = _accepted(decided)
    accepted = accepted[accepted["event_time"] <= until]
    w = accepted.groupby("partition")["event_time"].max()

    impressions: dict[tuple[int, int], list[int]] = defaultdict(list)
    clicks: dict[tuple[int, int], list[int]] = defaultdict(list)
    counted = _counted(decided, until)
    columns = ["partition", "save_offset", "type", "event_time"]
    for partition, offset, kind, time in zip(*(counted[c].tolist() for c in columns), strict=True):
        (impressions if kind == "impression" else clicks)[partition, offset].append(time)

    out = accepted[_is_save(accepted)][["partition", "offset", "user_id", "pin_id", "event_time", "event_id", "surface", "topic"]]
    out = out.rename(columns={"event_time": "save_time", "event_id": "save_event_id", "surface": "save_surface"}).reset_index(drop=True)
    keys = list(zip(out["partition"].tolist(), out["offset"].tolist(), out["save_time"].tolist(), strict=True))
    out["label_1dRevImpre"] = np.array([any(r < s + DAY_MS for r in impressions[p, o]) for p, o, s in keys], dtype=bool)
    out["label_1dRevGrid"] = np.array([any(r < s + DAY_MS for r in clicks[p, o]) for p, o, s in keys], dtype=bool)
    out["label_7dRevGrid"] = np.array([bool(clicks[p, o]) for p, o, _ in keys], dtype=bool)
    out["first_revisit_time"] = pd.array([min(impressions[p, o] + clicks[p, o], default=None) for p, o, _ in keys], dtype="Int64")
    out["first_click_time"] = pd.array([min(clicks[p, o], default=None) for p, o, _ in keys], dtype="Int64")
    out["matured"] = (out["save_time"] + 7 * DAY_MS + lateness <= out["partition"].map(w)).astype(bool)
    return out


def _in_window(time: int, as_of: int, window_ms: int) -> bool:
    return time <= as_of and (time // HOUR_MS + 1) * HOUR_MS > as_of - window_ms


def counters(decided: pd.DataFrame, entity: Literal["pin", "user"], as_of: int | None = None) -> pd.DataFrame:
    """The 24 revisit counters (int64) of each pin or user that is exported, sorted by ``pin_id`` or ``user_id`` (the index)."""
    until = _until(decided, as_of)
    revisits = _counted(decided, until)
    key, other, distinct = ("pin_id", "user_id", "users") if entity == "pin" else ("user_id", "pin_id", "pins")
    rows = list(zip(*(revisits[c].tolist() for c in ("type", "rp", "event_time", key, other)), strict=True))
    exported = set(revisits[key].tolist())
    if entity == "user":
        exported |= set(sequences(decided, until))
    entities = sorted(exported)

    columns: dict[str, np.ndarray] = {}
    for kind in ("click", "impression"):
        for scope in ("rp", "all"):
            for window, window_ms in WINDOWS.items():
                held: dict[int, list[int]] = defaultdict(list)  # by entity: the other side of each revisit in the window
                for r_kind, rp, time, one, another in rows:
                    if r_kind == kind and (rp or scope == "all") and _in_window(time, until, window_ms):
                        held[one].append(another)
                name = f"revisits_{kind}_{scope}_{window}"
                columns[f"{name}_count"] = np.array([len(held[e]) for e in entities], dtype=np.int64)
                columns[f"{name}_{distinct}"] = np.array([len(set(held[e])) for e in entities], dtype=np.int64)
    return pd.DataFrame(columns, index=pd.Index(entities, dtype="int64", name=key))


def topics(decided: pd.DataFrame, as_of: int | None = None) -> pd.DataFrame:
    """The 15 statistics of each topic with a save up to `as_of`, sorted by ``topic`` (the index)."""
    until = _until(decided, as_of)
    saves_of: dict[str, list[tuple[int, Any]]] = defaultdict(list)  # by topic: (save_time, first_click_time or NA)
    all_saves = saves(decided, until)
    for topic, save_time, click_time in zip(*(all_saves[c].tolist() for c in ("topic", "save_time", "first_click_time")), strict=True):
        if topic:
            saves_of[topic].append((save_time, click_time))

    names = [name.format(d) for d in WINDOWS for name in TOPIC_STATISTICS]
    rows: list[list[float]] = []
    for topic in sorted(saves_of):
        row: list[float] = []
        for window_ms in WINDOWS.values():
            held = [(s, click) for s, click in saves_of[topic] if _in_window(s, until, window_ms)]
            ages = [(click - s) // DAY_MS for s, click in held if not pd.isna(click)]
            old = sum(3 <= age <= 6 for age in ages)
            row += [len(held), len(ages), old, len(ages) / len(held) if held else 0.0, old / len(ages) if ages else 0.0]
        rows.append(row)
    out = pd.DataFrame(rows, index=pd.Index(sorted(saves_of), dtype=object, name="topic"), columns=names)
    return out.astype({name: "int64" if name.startswith("saves_") else "float64" for name in names})
