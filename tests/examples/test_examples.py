"""The examples flow says what the oracle says, whatever is killed, however both logs are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.examples.record import Kind
from flows.examples.rows import ExampleRows
from flows.served_rows import Served
from flows.settings import Settings
from tests.examples.playing import Driven, Play, expected, play, write

KINDS = {"negative": Kind.NEGATIVE, "positive": Kind.POSITIVE, "final": Kind.FINAL}


def told(rows: ExampleRows) -> list[dict[str, Any]]:
    """Records as the oracle tells them, but for features."""
    topics = [*rows.topics, ""]
    return [
        {
            "ready_time": int(rows.ready_time[i]), "kind": Kind(rows.kind[i]), "request_id": rows.request_id[i].as_py(),
            "user_id": int(rows.user_id[i]), "pin_id": int(rows.pin_id[i]), "impression_time": int(rows.impression_time[i]),
            "topic": topics[rows.topic[i]], "labels": rows.labels[i].tolist(),
        }
        for i in range(len(rows))
    ]  # fmt: skip


def check_features(rows: ExampleRows, places: list[tuple[int, int]], served: list[Served | int]) -> None:
    """Each record has the features of the very record and pin that it is said to be of."""
    surfaces = {"homefeed": 0, "search": 0}
    assert surfaces
    for i, (record, pin) in enumerate(places):
        one = served[record]
        assert isinstance(one, Served)
        assert rows.request_time[i] == one.timestamp and rows.as_of[i] == one.as_of
        assert rows.pin_counters[i].tolist() == one.pin_counters[pin].tolist()
        assert rows.positions[rows.position[i]] == one.positions and rows.fingerprints[rows.fingerprint[i]] == one.fingerprint
        user = rows.request[i]
        assert rows.users.counters[user].tolist() == one.user_counters[0].tolist()
        entries = rows.users.sequence[rows.users.offsets[user] : rows.users.offsets[user + 1]]
        for name in ("pin_id", "event_time", "duration_ms", "action", "surface"):
            assert entries[name].tolist() == getattr(one.sequences, name).tolist()
        if one.ranked is None:
            assert (rows.slot[i], rows.base[i], rows.delta[i]) == (-1, -1, -1) and np.isnan(rows.propensity[i]) and np.isnan(rows.score[i])
        else:
            r = one.ranked
            got = (rows.slot[i], rows.propensity[i], rows.explored[i], rows.score[i], rows.base[i], rows.delta[i])
            assert got == (r.slot[pin], r.propensity[pin], r.explored[pin], r.score[pin], r.base, r.delta)


def settings_of(data: Path, **more: Any) -> Settings:
    return Settings(data=data, partitions=2, **more)


def check(settings: Settings, played: Play, rng: np.random.Generator, kill_share: float = 0.0, grow: bool = False) -> dict[str, int]:
    total: dict[str, int] = {}
    for partition in range(settings.partitions):
        driven = Driven(settings, partition)
        _, counts = driven.run(rng, kill_share, grow)
        want, became = expected(played, partition, settings)
        rows = driven.rows()
        places = [one.pop("served") for one in want]
        assert told(rows) == [one | {"kind": KINDS[one["kind"]]} for one in want]
        check_features(rows, places, [what for home, what in played.served if home == partition])
        assert {name: n for name, n in counts.items() if name in became} == became
        for name, n in counts.items():
            total[name] = total.get(name, 0) + n
        driven.close()
    return total


@pytest.mark.parametrize("seed", range(12))
def test_the_flow_says_what_the_oracle_says(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    settings = settings_of(tmp_path, batch_records=int(rng.choice([1, 7, 1000])), anchor_records=int(rng.choice([1, 30, 10**6])))
    played = play(seed)
    write(settings, played, rng)
    check(settings, played, rng, kill_share=float(rng.choice([0.0, 0.3])), grow=bool(rng.random() < 0.5))
