"""Histories for examples: streams with impressions, requests and outcomes around every edge; and what a backfill makes of one, as plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flows.examples.backfill.drafts import What
from flows.examples.backfill.run import Backfill
from flows.examples.backfill.served import ServedFile
from flows.examples.joining import joined
from flows.examples.record import MASKED
from flows.examples.rows import ExampleRows
from flows.open_log import open_log
from flows.outputs import ACTIONS
from flows.settings import Settings
from flows.vocabulary import Vocabulary
from tests import driving
from tests.oracles.decide import decide
from tests.oracles.examples_of_history import WINDOW, Example
from tests.oracles.point_in_time import arrivals
from tests.strategies import DAY, HOUR, MAX_TIME, MINUTE, adversarial, log_of

_ACTIONS = ("impression", "impression", "impression", "click", "long_click", "save", "save", "hide", "closeup")
_OUTCOMES = ("save", "save", "click", "long_click", "hide", "impression")
_SURFACES = ("homefeed", "related_pins", "search", "own_profile")
_REQUESTS = ("", "", "a", "b", "ü-3")


def with_requests(events: pd.DataFrame, seed: int, partitions: int = 2) -> pd.DataFrame:
    """A stream of `tests.strategies` of which most records become impressions, what follows them, and revisits, many near the edge of a window."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = [{str(name): value for name, value in row.items()} for row in events.to_dict("records")]
    for i, row in enumerate(rows):
        row["request_id"] = _REQUESTS[int(rng.integers(len(_REQUESTS)))]
        if row["request_id"] not in ("", "a"):
            # A name of its own, and not one that is used over days.
            row["request_id"] += str(i // 15)
        chance = rng.random()
        if row["bad"] or chance < 0.15:
            continue
        row["action"], row["surface"] = _ACTIONS[int(rng.integers(len(_ACTIONS)))], _SURFACES[int(rng.integers(len(_SURFACES)))]
        cause = "save" if chance < 0.4 else "impression" if chance < 0.8 else None
        earlier = [one for one in rows[max(0, i - 8) : i] if one["action"] == cause and not one["bad"]]
        if not earlier:
            continue
        of = earlier[int(rng.integers(len(earlier)))]
        row["user_id"], row["pin_id"], row["request_id"] = of["user_id"], of["pin_id"], of["request_id"]
        if cause == "save":
            row["action"], row["surface"] = ("impression", "grid_click")[int(rng.integers(2))], "own_profile"
            after = rng.choice([1, 1000, MINUTE, HOUR, DAY - 1, DAY], p=[0.4, 0.3, 0.2, 0.05, 0.03, 0.02])
        else:
            row["action"] = _OUTCOMES[int(rng.integers(len(_OUTCOMES)))]
            after = rng.choice([0, 0, 1, -1, 1000, 1000, MINUTE, MINUTE, WINDOW - 1, WINDOW, WINDOW + 1])
        row["event_time"] = min(max(of["event_time"] + int(after), 0), MAX_TIME)
        if rng.random() < 0.9:
            row["timestamp"] = max(row["timestamp"], row["event_time"])
    frame = pd.DataFrame(rows)
    return log_of(frame, partitions).assign(request_id=frame["request_id"])


def history(seed: int, n: int = 120, partitions: int = 2, **settings: int) -> pd.DataFrame:
    """One from a seed; `settings` are those of `tests.strategies.play`."""
    return with_requests(adversarial(seed, n, partitions, **settings), seed, partitions)


def decided_of(events: pd.DataFrame, **settings: int) -> pd.DataFrame:
    """What the oracle takes."""
    found = decide(events, **settings)
    return found.assign(arrival=arrivals(events))


def write(settings: Settings, events: pd.DataFrame, seed: int = 0) -> None:
    """The log of a history."""
    driving.write(settings, events, np.random.default_rng(seed))


def backfilled(settings: Settings, what: What, served: Path | None = None, **sizes: int) -> dict[int, ExampleRows]:
    """What a backfill makes, by partition."""
    out: dict[int, list[ExampleRows]] = {}
    with open_log(settings, ACTIONS, read_only=True) as log:
        file = ServedFile(served) if served is not None else None
        with Backfill(settings, log, log.end_positions(), what, file, **sizes) as made:
            found = made.prepare()
            for span in made.spans():
                for partition, rows in span:
                    out.setdefault(partition, []).append(rows)
    whole = {partition: joined(parts) for partition, parts in sorted(out.items())}
    assert sum(map(len, whole.values())) == found.rows
    return whole


def told(rows: ExampleRows) -> list[Example]:
    """Rows as the oracle says them."""
    surfaces = Vocabulary().surface_names()
    columns: list[Any] = [
        rows.kind, rows.ready_time, rows.request_id.to_pylist(), rows.user_id, rows.pin_id, [surfaces[s] for s in rows.surface.tolist()],
        [rows.topics[t] if t >= 0 else "" for t in rows.topic.tolist()], rows.request_time, rows.impression_time, rows.as_of,
        [tuple(None if label == MASKED else label for label in labels) for labels in rows.labels.tolist()],
    ]  # fmt: skip
    return [Example(*row) for row in zip(*(c.tolist() if isinstance(c, np.ndarray) else c for c in columns), strict=True)]
