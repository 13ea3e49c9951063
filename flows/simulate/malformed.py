"""Lines that no typed column could hold: not JSON, cut short, of wrong types, too long.

Each is wrong whatever time it is read at and whatever partition it is put in, so the truth can count it without knowing either.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from flows.events import MAX_RAW_BYTES, SCHEMA_VERSION

# No blank line: a reader might skip it, rightly, and all of these must be counted.
_GARBAGE = ("{not json}", "<html><body>502 Bad Gateway</body></html>", "user_id=17&pin_id=4", "{'event_id': 1}", "\\x00\\x7f")

# Reason, and what to do to a right record. Taken in turn.
_SPOILERS: tuple[tuple[str, Callable[[dict[str, Any]], object]], ...] = (
    ("wrong_type", lambda r: r.update(event_time={"ms": r["event_time"]})),
    ("wrong_type", lambda r: r.update(duration_ms=12.5)),
    ("missing_field", lambda r: r.pop("action")),
    ("wrong_type", lambda r: r.update(event_id=2**70)),
    ("wrong_type", lambda r: r.update(action=7)),
    ("missing_field", lambda r: r.update(event_id=None)),
    ("wrong_type", lambda r: r.update(user_id=[r["user_id"]])),
    ("unknown_action", lambda r: r.update(action="teleport")),
    ("impossible_time", lambda r: r.update(event_time=-1)),
    # More than one thing wrong: the first reason of the contract's order counts.
    ("missing_field", lambda r: r.update(pin_id=None, action="teleport", duration_ms=-1)),
    ("negative_duration", lambda r: r.update(duration_ms=-1)),
    ("wrong_type", lambda r: r.update(pin_id=3.5, event_time=-1)),
)


def bad_lines(rng: np.random.Generator, count: int, time: np.ndarray) -> list[tuple[str, str]]:
    """So many malformed lines (without line ends), each with its reason.

    Parameters
    ----------
    time : int64
        Times to stamp the lines with, as many.
    """
    out: list[tuple[str, str]] = []
    for i in range(count):
        user, pin, number = (int(v) for v in rng.integers(1, 10_000, 3))
        record: dict[str, Any] = {
            "event_id": number + 10_000 * i,
            "user_id": user,
            "pin_id": pin,
            "action": "click",
            "surface": "homefeed",
            "event_time": int(time[i]),
            "duration_ms": 700,
            "producer": "web",
            "schema_version": SCHEMA_VERSION,
            "arrival_time": int(time[i]) + 500,
        }
        turn, again = i % 4, i // 4
        if i == 6:
            # One is enough: each is over 64 KiB.
            record["request_id"] = "x" * (MAX_RAW_BYTES + 1)
            out.append(("oversize", json.dumps(record)))
        elif turn == 0:
            out.append(("not_json", _GARBAGE[again % len(_GARBAGE)]))
        elif turn == 2:
            text = json.dumps(record)
            out.append(("not_json", text[: int(rng.integers(2, len(text) - 1))]))
        else:
            reason, spoil = _SPOILERS[(2 * again + (turn == 3)) % len(_SPOILERS)]
            spoil(record)
            out.append((reason, json.dumps(record)))
    return out
