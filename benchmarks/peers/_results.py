"""What each tool has written, as values by entity (`_exactness.Values`)."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import quix_reading

_CHANGE = re.compile(r"([+-])[IUD]\[(.*)\]")
# In the order in which pyflink_counters.py gives them.
_COLUMNS = [
    f"revisits_{kind}_{scope}_{days}d_{measure}"
    for scope in ("all", "rp")
    for kind in ("impression", "click")
    for days in (7, 30, 90)
    for measure in ("count", "users")
]


def of_tidemark(
    outcome: dict[str, Any], actions: Mapping[int, str], surfaces: Mapping[int, str], names: Sequence[str]
) -> dict[str, dict[int, Any]]:
    """Of both tasks, from the tables of `_outcome.exported`; what a code of an action or a surface means is given."""
    sequences: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for user, _, pin, action, surface, time, duration in sorted(map(tuple, outcome["sequences"].tolist())):
        sequences[user].append((pin, actions[action], surfaces[surface], time, duration))
    rows = ((pin, dict(zip(names, counters, strict=True))) for pin, *counters in outcome["pins"].tolist())
    return {"sequences": dict(sequences), "counters": {pin: _held(row) for pin, row in rows}}


def of_pathway(lines: Iterable[str], task: str) -> dict[int, Any]:
    """From JSON lines, each a row that came (diff 1) or went (diff -1)."""
    key, name = ("user_id", "sequence") if task == "sequences" else ("pin_id", "counters")
    found: dict[int, Any] = {}
    for row in map(json.loads, lines):
        value = [tuple(action) for action in row[name]] if task == "sequences" else _held(row[name])
        if row["diff"] > 0:
            found[row[key]] = value
        elif found.get(row[key]) == value:
            del found[row[key]]
    return found


def of_pyflink(lines: Iterable[str], task: str) -> dict[int, Any]:
    """From the changelog that Flink's print connector writes: rows of a sequence come and go, counters of a pin are replaced."""
    changes = ((found[1] == "+", found[2].split(", ")) for line in lines if (found := _CHANGE.fullmatch(line.strip())))
    if task == "counters":
        return {int(row[0]): _held(dict(zip(_COLUMNS, map(int, row[1:]), strict=True))) for come, row in changes if come}
    entries: dict[int, dict[tuple[int, int], tuple[Any, ...]]] = defaultdict(dict)
    for come, (user, time, event_id, pin, action, surface, duration) in changes:
        place = (int(time), int(event_id))
        if come:
            entries[int(user)][place] = (int(pin), action, surface, int(time), int(duration))
        else:
            entries[int(user)].pop(place, None)
    return {user: [of_user[place] for place in sorted(of_user, reverse=True)] for user, of_user in entries.items()}


def of_quix(messages: Iterable[tuple[bytes, bytes]], task: str, as_of: int) -> dict[int, Any]:
    """From the keys and values of the output topic: a user's last message holds, and so does the last of each of a pin's counts."""
    if task == "sequences":
        last = {int(key): json.loads(value)["sequence"] for key, value in messages}
        return {user: [(pin, action, surface, time, took) for time, _, pin, action, surface, took in of] for user, of in last.items()}
    tiles: dict[int, dict[tuple[Any, ...], int]] = defaultdict(dict)
    for _, value in messages:
        change = json.loads(value)
        tiles[change["pin_id"]][tuple(change["tile"])] = change["count"]
    return {pin: _held(quix_reading.counters(of_pin, as_of)) for pin, of_pin in tiles.items()}


def from_files(read: Callable[[Iterable[str], str], dict[int, Any]], path: Path, task: str, skip: int = 0) -> dict[int, Any]:
    """Read a file of lines, from some byte on."""
    with path.open(encoding="utf-8") as file:
        file.seek(skip)
        return read(file, task)


def _held(row: dict[str, int]) -> dict[str, int]:
    return {name: value for name, value in row.items() if value}
