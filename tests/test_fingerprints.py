"""A change in what a value means changes the fingerprint; one that never changes a result doesn't."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows import features
from flows.settings import Settings
from flows.state.actions_task import state_fingerprint
from flows.vocabulary import Vocabulary

SETTINGS = Settings(data=Path("data"))
ANOTHER: dict[str, Any] = {
    "SEMANTICS_VERSION": features.SEMANTICS_VERSION + 1,
    "SEQUENCE_LENGTH": features.SEQUENCE_LENGTH - 1,
    "SEQUENCE_FIELDS": features.SEQUENCE_FIELDS[::-1],
    "PIN_COUNTERS": (*features.PIN_COUNTERS[:-1], "revisits_click_rp_60d_users"),
    "USER_COUNTERS": features.USER_COUNTERS[:-1],
    "TOPIC_STATS": (*features.TOPIC_STATS[:-1], (features.TOPIC_STATS[-1][0], "float32")),
}


def mark(settings: Settings = SETTINGS, vocabulary: Vocabulary | None = None) -> str:
    return state_fingerprint(settings, vocabulary if vocabulary is not None else Vocabulary())


@pytest.mark.parametrize("name", ANOTHER)
def test_a_change_in_a_declaration(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = mark(), features.fingerprint()
    monkeypatch.setattr(features, name, ANOTHER[name])
    assert mark() != before[0]
    assert features.fingerprint() != before[1]


@pytest.mark.parametrize("name", ["allowed_lateness_ms", "dedup_horizon_ms", "clock_skew_ms", "partitions"])
def test_a_setting_that_decides_values(name: str) -> None:
    assert mark(Settings(data=Path("data"), **{name: getattr(SETTINGS, name) + 1})) != mark()


def test_two_settings_that_change_places() -> None:
    first, second = (Settings(data=Path("data"), allowed_lateness_ms=a, dedup_horizon_ms=b) for a, b in ((1, 2), (2, 1)))
    assert mark(first) != mark(second)


def test_a_vocabulary() -> None:
    known = Vocabulary()
    another = [
        Vocabulary({**known.actions, "share": 32}, known.surfaces),
        Vocabulary({**known.actions, "share": 33}, known.surfaces),
        Vocabulary(known.actions, {**known.surfaces, "moon": 32}),
    ]
    assert len({mark(), *(mark(vocabulary=one) for one in another)}) == 4


@pytest.mark.parametrize("changed", [{"batch_records": 17}, {"anchor_records": 1}, {"read_cache_mb": 3}, {"data": Path("elsewhere")}])
def test_what_never_changes_a_result(changed: dict[str, Any]) -> None:
    assert mark(Settings(**{"data": Path("data"), **changed})) == mark()
