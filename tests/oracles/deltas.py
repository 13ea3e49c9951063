"""What a reader of deltas must say of a log, and have then, told naively: one delta after the other, rows in dicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Rows = dict[tuple[str, int], bytes]
"""(table, ID) → the bytes of its weights."""


@dataclass(frozen=True)
class Seen:
    """A delta as it lies in a log: whose, its number, whether it is what was put out, which delta it says that it follows, what it is itself."""

    base: int
    number: int
    sound: bool
    previous: str
    digest: str


def verdicts(log: Sequence[Seen], base: int, digest: str, beside: set[int]) -> list[str]:
    """Of each delta "taken" or "passed over"; the last may be why it is refused, and then nothing behind it counts."""
    out: list[str] = []
    last = 0
    for i, seen in enumerate(log):
        if seen.base != base:
            if seen.base in beside:
                out.append("passed over")
                continue
            return [*out, "other base"]
        if seen.number <= last:
            return [*out, "duplicate"]
        if seen.number > last + 1:
            later = any(other.base == base and other.number == last + 1 for other in log[i + 1 :])
            return [*out, "reordered" if later else "gap"]
        if seen.previous != digest:
            return [*out, "forked"]
        if not seen.sound:
            return [*out, "damaged"]
        out.append("taken")
        last, digest = seen.number, seen.digest
    return out


def after(rows: Rows, changed: Rows, deleted: set[tuple[str, int]]) -> Rows:
    """Rows behind a delta."""
    out = {key: value for key, value in rows.items() if key not in deleted}
    out.update(changed)
    return out
