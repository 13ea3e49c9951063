"""What moves over time: docs/report.md, in plain loops."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

SIZES = tuple(minutes * 60_000 for minutes in (1, 10, 60, 1440, 7 * 1440, 28 * 1440, 364 * 1440, 3640 * 1440))
MOST = 400
FOUND, DEFAULTED = 0, 2


def within(time: int, first: int | None, until: int | None) -> bool:
    return (first is None or time >= first) and (until is None or time < until)


def by_stretch(rows: Iterable[tuple[int, Any]], size: int, first: int | None = None, until: int | None = None) -> dict[int, Counter[Any]]:
    """How often each key occurs, by first ms of the stretch of its time."""
    found: dict[int, Counter[Any]] = {}
    for time, key in rows:
        if within(time, first, until):
            found.setdefault(time - time % size, Counter())[key] += 1
    return found


def size_of(logs: Iterable[Iterable[int]]) -> int:
    """The least width of which no log needs more than MOST stretches."""
    for size in SIZES:
        if all(len({time // size for time in times}) <= MOST for times in logs):
            return size
    return SIZES[-1]


def arrivals(records: Iterable[tuple[int, int]]) -> list[int]:
    """(partition, timestamp) in the order of the log → the greatest timestamp of the partition so far."""
    latest: dict[int, int] = {}
    out = []
    for partition, timestamp in records:
        latest[partition] = max(latest.get(partition, timestamp), timestamp)
        out.append(latest[partition])
    return out


def psi(before: Counter[Any], now: Counter[Any]) -> float | None:
    """None where either side has fewer than 100."""
    if min(sum(before.values()), sum(now.values())) < 100:
        return None
    total = 0.0
    for key in {*before, *now}:
        p = max(before[key] / sum(before.values()), 1e-4)
        q = max(now[key] / sum(now.values()), 1e-4)
        total += (p - q) * math.log(p / q)
    return total


def served_rows(request: dict[str, Any]) -> list[tuple[str, bool, bool, list[bool]]]:
    """Of each row of a request: its kind, whether it was found, whether it was defaulted, and which features have a value.

    A request has ``users`` and ``pins`` and ``topics``: lists of (status, sequence length, values), the length None but for users.
    """
    out = []
    for status, length, values in request["users"]:
        defaulted = status == DEFAULTED
        out.append(("sequence", length > 0 and not defaulted, defaulted, [length > 0 and not defaulted]))
        there = [value != 0 and not defaulted for value in values]
        out.append(("user", any(there), defaulted, there))
    for kind in ("pin", "topic"):
        for status, _, values in request[f"{kind}s"]:
            defaulted = status == DEFAULTED
            out.append((kind, status == FOUND, defaulted, [value != 0 and not defaulted for value in values]))
    return out


def labels(examples: Iterable[dict[str, Any]], heads: Iterable[str]) -> list[tuple[int, str, str, str]]:
    """Time, topic, head, and "label" or "positive" of all that final examples say; a positive label is both."""
    out = []
    for example in examples:
        if example["kind"] != 2:
            continue
        for head in heads:
            said = example[f"label_{head}"]
            if said != -1:
                out.append((example["timestamp"], example["topic"] or "(none)", head, "label"))
            if said == 1:
                out.append((example["timestamp"], example["topic"] or "(none)", head, "positive"))
    return out
