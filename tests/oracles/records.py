"""Logs written by hand, for literal examples."""

from __future__ import annotations

from typing import Any

import pandas as pd

from tests.strategies import COLUMNS

T = 1_699_999_200_000  # on the hour
HOUR, DAY = 3_600_000, 86_400_000


def record(time: int, action: str = "closeup", surface: str = "homefeed", **fields: Any) -> dict[str, Any]:
    """A record at T + `time` that arrives on time."""
    basic = {
        "partition": 0,
        "event_id": None,
        "user_id": 7,
        "pin_id": 70,
        "duration_ms": 0,
        "topic": "",
        "timestamp": T + time,
        "bad": False,
    }
    return basic | {"action": action, "surface": surface, "event_time": T + time} | fields


def save(time: int, **fields: Any) -> dict[str, Any]:
    return record(time, "save", **fields)


def click(time: int, **fields: Any) -> dict[str, Any]:
    return record(time, "grid_click", "own_profile", **fields)


def seen(time: int, **fields: Any) -> dict[str, Any]:
    return record(time, "impression", "own_profile", **fields)


def log(*records: dict[str, Any]) -> pd.DataFrame:
    """Records in log order; event IDs count from 1."""
    rows = [r | {"event_id": i + 1 if r["event_id"] is None else r["event_id"]} for i, r in enumerate(records)]
    frame = pd.DataFrame(rows)
    frame["offset"] = frame.groupby("partition").cumcount()
    return frame[COLUMNS]
