"""The one declaration of features: names, types, windows, and the fingerprint that goes with every row, checkpoint and model.

State layout, Feast views, exports and docs derive from here. docs/semantics.md says in words what each name means.
"""

from __future__ import annotations

import hashlib
import json

SEQUENCE_LENGTH = 100
WINDOW_DAYS = (7, 30, 90)
TYPES = ("impression", "click")
SCOPES = ("all", "rp")

SEQUENCE_FIELDS = ("pin_id", "action", "surface", "event_time", "duration_ms")


def _counters(unique: str) -> tuple[str, ...]:
    # The order is that of the finalising kernel: scope, type, window, then count before unique.
    return tuple(
        f"revisits_{kind}_{scope}_{days}d_{measure}"
        for scope in SCOPES
        for kind in TYPES
        for days in WINDOW_DAYS
        for measure in ("count", unique)
    )


PIN_COUNTERS = _counters("users")
USER_COUNTERS = _counters("pins")

TOPIC_STATS: tuple[tuple[str, str], ...] = tuple(
    (name.format(days=days), kind)
    for days in WINDOW_DAYS
    for name, kind in (
        ("saves_{days}d_count", "int64"),
        ("saves_{days}d_clicked", "int64"),
        ("saves_{days}d_clicked_days_3_6", "int64"),
        ("click_rate_{days}d", "float64"),
        ("days_3_6_share_{days}d", "float64"),
    )
)

# Raise when what a name means, or which records are taken, changes without changing any name.
SEMANTICS_VERSION = 2


def fingerprint(*parts: str) -> str:
    """16 hex digits that change whenever a definition changes.

    Parameters
    ----------
    *parts : str
        What else decides values in a data directory: the vocabulary's fingerprint, the settings of time.
    """
    declared = [SEMANTICS_VERSION, SEQUENCE_LENGTH, SEQUENCE_FIELDS, PIN_COUNTERS, USER_COUNTERS, TOPIC_STATS, parts]
    return hashlib.blake2b(json.dumps(declared).encode(), digest_size=8).hexdigest()
