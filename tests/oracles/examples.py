"""Which examples there are: docs/semantics.md, Examples, record by record and with every rule looked up anew."""

from __future__ import annotations

from typing import Any

import pandas as pd

from tests.oracles.features import credited

MINUTE, DAY = 60_000, 86_400_000
WINDOW, KEPT, MATURES = 30 * MINUTE, DAY, 7 * DAY
QUIET = 5_000
OUTCOMES = ("click", "long_click", "save", "hide")
MASKED = -1


def merged(actions: list[dict[str, Any]], served: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of one partition that have their place, in that order.

    Parameters
    ----------
    actions, served : list of dict
        In the order of their offsets, each with `timestamp`.
    """
    out = []
    reached = []
    for number, records in enumerate((actions, served)):
        arrival = None
        for offset, record in enumerate(records):
            arrival = record["timestamp"] if arrival is None else max(arrival, record["timestamp"])
            out.append({**record, "input": number, "place": offset, "arrival": arrival})
        reached.append(arrival)
    if None in reached:
        return []
    # An action goes before a served record of the same time, so it has its place even if one of that time is still to come.
    kept = [r for r in out if (r["arrival"] <= reached[1] if r["input"] == 0 else r["arrival"] < reached[0])]
    return sorted(kept, key=lambda r: (r["arrival"], r["input"], r["place"]))


def revisited_at(decided: pd.DataFrame) -> dict[tuple[int, int, int, int], int]:
    """Of each save (user, pin, time, ID) of one partition, of which a label has held in some prefix: the offset of the first record that ends one."""
    first: dict[tuple[int, int, int, int], int] = {}
    accepted = decided[decided["status"] == "accepted"]
    of_profile = (accepted["surface"] == "own_profile") & accepted["action"].isin(["impression", "grid_click"])
    for offset in sorted(accepted[of_profile | (accepted["action"] == "save")]["offset"].tolist()):
        for save in labelled(decided[decided["offset"] <= offset]):
            first.setdefault(save, offset)
    return first


def labelled(decided: pd.DataFrame) -> set[tuple[int, int, int, int]]:
    """The saves (user, pin, time, ID) of which a label holds."""
    found = credited(decided)
    found = found[found["save_time"].notna()]
    age = found["event_time"] - found["save_time"].astype("int64")
    found = found[(found["type"] == "click") | (age < DAY)]
    return set(zip(*(found[name].astype("int64").tolist() for name in ("user_id", "pin_id", "save_time", "save_event_id")), strict=True))


def examples(decided: pd.DataFrame, served: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The records of EXAMPLES of one partition, in order, and what became of all else.

    Parameters
    ----------
    decided : DataFrame
        What `decide` says of the partition's actions, in order, with request_id; ``attrs["allowed_lateness_ms"]`` is L.
    served : list of dict
        In the order of their offsets: timestamp, user_id, request_id, time (of the request), pins: list of (pin, defaulted). Without a request_id:
        a heartbeat.

    Returns
    -------
    list of dict
        ready_time, kind (negative, positive, final, heartbeat), request_id, user_id, pin_id, impression_time, topic, labels (five), and `served`:
        the place of the served record and that of the pin in it.
    dict of str to int
    """
    lateness = decided.attrs["allowed_lateness_ms"]
    revisits, in_the_end = revisited_at(decided), labelled(decided)
    candidates: dict[tuple[int, str, int], list[dict[str, Any]]] = {}
    rows: list[dict[str, Any]] = []
    waiting: list[dict[str, Any]] = []
    out: list[dict[str, Any]] = []
    counts: dict[str, int] = {}
    number = 0
    w: float = float("-inf")
    now: dict[str, Any] = {}

    def count(name: str) -> None:
        counts[name] = counts.get(name, 0) + 1

    def next_number() -> int:
        nonlocal number
        number += 1
        return number

    def emit(row: dict[str, Any], kind: str, labels: list[int]) -> None:
        told = {name: row[name] for name in ("request_id", "user_id", "pin_id", "impression_time", "topic", "served")}
        out.append({"ready_time": now["arrival"], "kind": kind, "labels": labels, **told})

    def positive(row: dict[str, Any], head: int) -> None:
        emit(row, "positive", [1 if h == head else MASKED for h in range(5)])

    def begin(row: dict[str, Any]) -> None:
        emit(row, "negative", [0] * 5)
        for head in sorted(row["heads"]):
            positive(row, head)

    def take_outcome(row: dict[str, Any], outcome: dict[str, Any]) -> bool:
        """Whether it is the first of its head in the row's window."""
        if not row["impression_time"] <= outcome["time"] <= row["impression_time"] + WINDOW:
            count("outcomes_outside_window")
            return False
        if outcome["head"] == 2 and (row["save"] is None or outcome["save"][2:] > row["save"][2:]):
            row["save"] = outcome["save"]
        if outcome["head"] in row["heads"]:
            return False
        row["heads"].add(outcome["head"])
        return True

    def revisited(row: dict[str, Any]) -> bool:
        """Whether the save of a row has been revisited by now."""
        return row["save"] is not None and row["save"] in revisits and revisits[row["save"]] <= now["last_action"]

    def late_heads(row: dict[str, Any]) -> None:
        if revisited(row) and 4 not in row["heads"]:
            row["heads"].add(4)
            if row["served"] is not None:
                positive(row, 4)

    def beat(before: int) -> None:
        """After a record that put nothing out, as long as that has been so."""
        if len(out) == before and now and (not out or now["arrival"] >= out[-1]["ready_time"] + QUIET):
            nobody = {"request_id": "", "user_id": -1, "pin_id": -1, "impression_time": now["arrival"], "topic": "", "served": None}
            out.append({"ready_time": now["arrival"], "kind": "heartbeat", "labels": [MASKED] * 5, **nobody})

    last_action, put_out = -1, 0
    for record in merged(decided.to_dict("records"), served):  # type: ignore[arg-type]
        beat(put_out)
        put_out = len(out)
        if record["input"] == 0:
            last_action = record["place"]
        now = {"arrival": record["arrival"], "last_action": last_action}
        if record["input"] == 1:
            if not record["request_id"] or record["user_id"] is None:
                continue
            for place, (pin, defaulted) in enumerate(record["pins"]):
                key = (record["user_id"], record["request_id"], pin)
                before = candidates.setdefault(key, [])
                if before and w <= before[-1]["time"] + KEPT + lateness:
                    count("duplicate_candidates")
                    continue
                count("candidates")
                one = {"time": record["time"], "defaulted": defaulted, "seen": False, "served": (record["place"], place)}
                before.append(one)
                for row in [r for r in rows if r["key"] == key and r["served"] is None and r["impression_time"] <= one["time"] + KEPT]:
                    one["seen"] = True
                    if defaulted:
                        count("defaulted_impressions")
                        rows.remove(row)
                    else:
                        row["served"] = one["served"]
                        begin(row)
            continue

        revisit = record["action"] == "impression" and record["surface"] == "own_profile"
        if record["status"] == "accepted" and record["request_id"] and record["action"] in ("impression", *OUTCOMES) and not revisit:
            key = (record["user_id"], record["request_id"], record["pin_id"])
            row = next((r for r in rows if r["key"] == key), None)
            if record["late"]:
                count("late_impressions" if record["action"] == "impression" else "late_outcomes")
            elif record["action"] == "impression":
                one = candidates[key][-1] if key in candidates else None
                if one is not None and record["event_time"] > one["time"] + KEPT:
                    one = None
                if row is not None or (one is not None and one["seen"]):
                    count("repeated_impressions")
                elif one is not None and one["defaulted"]:
                    one["seen"] = True
                    count("defaulted_impressions")
                else:
                    row = {
                        "key": key, "user_id": key[0], "request_id": key[1], "pin_id": key[2], "impression_time": record["event_time"],
                        "topic": record["topic"], "served": None, "heads": set(), "save": None, "final": False,
                        "due": record["event_time"] + WINDOW + lateness + 1, "number": next_number(),
                    }  # fmt: skip
                    rows.append(row)
                    for outcome in [o for o in waiting if o["key"] == key]:
                        waiting.remove(outcome)
                        take_outcome(row, outcome)
                    if revisited(row):
                        row["heads"].add(4)
                    if one is not None:
                        one["seen"] = True
                        row["served"] = one["served"]
                        begin(row)
            else:
                save = (record["user_id"], record["pin_id"], record["event_time"], record["event_id"])
                outcome = {"key": key, "head": OUTCOMES.index(record["action"]), "time": record["event_time"], "save": save}
                if row is None:
                    waiting.append(outcome | {"due": record["event_time"] + lateness + 1, "number": next_number()})
                elif take_outcome(row, outcome) and row["served"] is not None:
                    positive(row, outcome["head"])
        for row in list(rows):
            late_heads(row)
        if record["status"] == "accepted":
            w = max(w, record["event_time"])
        while due := [d for d in (*rows, *waiting) if d["due"] <= w]:
            one = min(due, key=lambda d: (d["due"], d["number"]))
            if "head" in one:
                waiting.remove(one)
                count("outcomes_without_impression")
            elif one["final"]:
                rows.remove(one)
                emit(one, "final", [MASKED] * 4 + [int(one["save"] in in_the_end)])
            elif one["served"] is None:
                rows.remove(one)
                count("impressions_without_served")
            else:
                heads = [int(head in one["heads"]) for head in range(4)]
                emit(one, "final", [*heads, MASKED if one["save"] else 0])
                if one["save"]:
                    one |= {"final": True, "due": one["save"][2] + MATURES + lateness, "number": next_number()}
                else:
                    rows.remove(one)
    beat(put_out)
    return out, counts
