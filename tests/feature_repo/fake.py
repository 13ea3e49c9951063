"""A reader of features that holds rows in memory, in the place of task state: what Feast returns is what it said."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from feast import FeatureView, FileSource

from flows import features
from flows.settings import Settings

T0 = 1_790_000_000_123  # milliseconds that a float of seconds would not keep
SAVE, CLICK = 4, 2
HOMEFEED, SEARCH = 0, 2
VIEWS = {"user_action_sequence", "user_revisit_counters", "pin_revisit_counters", "topic_revisit_stats"}
"""Of task state."""
ALL_VIEWS = VIEWS | {"user_embedding"}


@dataclass
class FakeReader:
    """`flows.reading.FeatureReader` over dicts; counts what is asked of it."""

    settings: Settings
    as_of: int | None = T0
    refreshed: int = 0
    asked: list[tuple[str, int, int]] = field(default_factory=list)  # (method, entities, as_of)
    closed: bool = False
    # (pin_id, action, surface, event_time, duration_ms), newest first
    sequences: dict[int, list[tuple[int, int, int, int, int]]] = field(default_factory=dict)
    users: dict[int, list[int]] = field(default_factory=dict)
    pins: dict[int, list[int]] = field(default_factory=dict)
    topics: dict[str, list[float]] = field(default_factory=dict)

    def refresh(self) -> None:
        self.refreshed += 1

    def default_as_of(self) -> int | None:
        return self.as_of

    def positions(self) -> dict[str, list[int]]:
        return {"actions": [100 + self.refreshed], "revisits": [7]}

    def close(self) -> None:
        self.closed = True

    def user_sequences(self, user_ids: np.ndarray, as_of: int | None = None) -> SimpleNamespace:
        at = self._note("user_sequences", user_ids, as_of)
        assert user_ids.dtype == np.int64
        lists = [[row for row in self.sequences.get(user, []) if row[3] <= at] for user in user_ids.tolist()]
        rows = np.array([row for rows in lists for row in rows], dtype=np.int64).reshape(-1, 5)
        return SimpleNamespace(
            offsets=np.cumsum([0, *map(len, lists)]).astype(np.int64),
            pin_id=rows[:, 0],
            action=rows[:, 1].astype(np.int16),
            surface=rows[:, 2].astype(np.int16),
            event_time=rows[:, 3],
            duration_ms=rows[:, 4],
            found=np.array([user in self.sequences for user in user_ids.tolist()], dtype=bool),
            as_of=at,
        )

    def user_counters(self, user_ids: np.ndarray, as_of: int | None = None) -> SimpleNamespace:
        return self._rows("user_counters", user_ids, as_of, self.users, len(features.USER_COUNTERS), np.int64)

    def pin_counters(self, pin_ids: np.ndarray, as_of: int | None = None) -> SimpleNamespace:
        return self._rows("pin_counters", pin_ids, as_of, self.pins, len(features.PIN_COUNTERS), np.int64)

    def topic_stats(self, topics: list[str], as_of: int | None = None) -> SimpleNamespace:
        return self._rows("topic_stats", topics, as_of, self.topics, len(features.TOPIC_STATS), np.float64)

    def _rows(self, method: str, keys: Any, as_of: int | None, held: dict[Any, list[Any]], width: int, dtype: Any) -> SimpleNamespace:
        at = self._note(method, keys, as_of)
        keys = keys if isinstance(keys, list) else keys.tolist()
        values = np.array([held.get(key, [0] * width) for key in keys], dtype=dtype).reshape(-1, width)
        return SimpleNamespace(values=values, found=np.array([key in held for key in keys], dtype=bool), as_of=at)

    def _note(self, method: str, keys: Any, as_of: int | None) -> int:
        assert as_of is not None, "a read through Feast fixes its as_of once, for all views"
        self.asked.append((method, len(keys), as_of))
        return as_of


def export_of(view: FeatureView) -> str:
    source = view.batch_source
    assert isinstance(source, FileSource)
    return source.path


def statuses(response: Any, name: str) -> list[Any]:
    return list(response.proto.results[list(response.proto.metadata.feature_names.val).index(name)].statuses)
