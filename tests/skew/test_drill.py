"""Ten mistakes, each found in every row and named; nothing found where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from flows.events import EVENT_SCHEMA
from flows.skew.drill import stream
from flows.skew.drill.mistakes import KINDS
from flows.skew.drill.runner import ROWS_OF_REQUEST
from tests.skew.conftest import Drill, refused_skew


def test_every_mistake_is_found_and_named(drill: Drill) -> None:
    said = drill.said
    assert said["results"] == {"kinds": 10, "missed": 0, "false_alarms": 0}
    assert [row["kind"] for row in said["rows"]] == [
        "late_event_ignored", "off_by_one_window", "wrong_tie_order", "stale_tile", "other_fingerprint", "lost_event", "doubled_event",
        "float32_for_float64", "wrong_time_zone", "feature_defaulted",
    ]  # fmt: skip
    for row in said["rows"]:
        assert row["seeded"] > 0, row
        assert row["found"] == row["seeded"], row
        assert row["named_as"] == {row["wanted"]: row["seeded"]}, row
        assert not row["missed"]


def test_a_sound_system_raises_no_alarm(drill: Drill) -> None:
    clean = drill.said["clean"]
    assert clean["compared"] == ROWS_OF_REQUEST * drill.said["requests"] >= 4000
    assert (clean["differing"], clean["apart"]) == (0, 0)


def test_names_are_those_of_causes() -> None:
    assert len({kind.name for kind in KINDS}) == len({kind.cause for kind in KINDS}) == 10


def test_a_directory_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all my work")
    assert "holds something already" in refused_skew("drill", "--keep", tmp_path, data=tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("make", [stream.without_late, stream.with_duplicates])
def test_streams_of_mistaken_systems_keep_their_offsets(make: object) -> None:
    def event(event_id: int, time: int) -> dict[str, object]:
        return {
            "event_id": event_id, "user_id": 7, "pin_id": 1, "action": "click", "surface": "homefeed", "event_time": time, "duration_ms": 0,
            "topic": None, "producer": "test", "schema_version": 1, "timestamp": time,
        }  # fmt: skip

    table = pa.Table.from_pylist([event(1, 10), event(1, 10), event(2, 20)], schema=EVENT_SCHEMA)
    what = [stream.Decided(np.array([0, 2, 0], np.int8), np.array([False, False, True]), np.array([False, True, False]))]
    (changed,) = make([table], what)  # type: ignore[operator]
    assert len(changed) == len(table)
    assert changed.column("timestamp").equals(table.column("timestamp"))
    if make is stream.without_late:
        assert changed.column("action").to_pylist() == ["click", "click", ""]
    else:
        assert changed.column("event_id").to_pylist() == [1, 2, 2]
