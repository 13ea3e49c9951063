"""Every row of a file is in the log exactly once, as an event or as a raw record with its fault, whatever the format."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.events import RAW_SCHEMA, hash_id
from flows.settings import Settings
from tests.ingest.ingesting import PARTITIONS, T0, batches, events, faults, lines, raw, row, run, summary, write
from tests.oracles.partition import partition_of


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_rows_become_events_in_file_order_in_kafkas_partition(tmp_path: Path, settings: Settings, suffix: str) -> None:
    rows = [row(i, surface="search", duration_ms=i, topic="art", request_id=f"r{i}") for i in range(50)]
    result = summary(settings, write(tmp_path / f"a.{suffix}", rows))
    assert (result["rows"], result["raw"]) == (50, 0)
    assert raw(settings) == []
    found = events(settings)
    for partition in range(PARTITIONS):
        expected = [r for r in rows if partition_of(r["user_id"], PARTITIONS) == partition]
        got = [r for r in found if r["partition"] == partition]
        assert [{k: r[k] for k in rows[0]} for r in got] == expected
        assert all(r["timestamp"] == r["event_time"] and r["schema_version"] == 1 and r["producer"] == "tidemark-ingest/1" for r in got)


def test_optional_columns_may_be_missing_or_null(tmp_path: Path, settings: Settings) -> None:
    nothing = dict.fromkeys(["surface", "topic", "duration_ms", "producer"])
    rows = [row(1), row(2, **nothing), row(3, surface="search", topic="x", duration_ms=5, producer="p")]
    summary(settings, write(tmp_path / "a.jsonl", rows))
    found = {r["event_id"]: r for r in events(settings)}
    for i in (1, 2):
        assert [found[i][k] for k in ("surface", "topic", "duration_ms", "producer")] == [None, None, None, "tidemark-ingest/1"]
    assert [found[3][k] for k in ("surface", "topic", "duration_ms", "producer")] == ["search", "x", 5, "p"]
    assert faults(settings) == {}


BAD = [
    (row(1, user_id=None), "missing_field"),
    (row(2, event_time="yesterday"), "wrong_type"),
    (row(3, pin_id=1.5), "wrong_type"),
    (row(4, pin_id=[1]), "wrong_type"),
    (row(5, user_id=2**63), "wrong_type"),
    (row(6, user_id=10**30), "wrong_type"),
    (row(7, action=5), "wrong_type"),
    (row(8, action=None), "missing_field"),
    (row(9, duration_ms="long"), "wrong_type"),
    (row(10, surface=7), "wrong_type"),
    (row(11, event_id=None), "missing_field"),
    (row(12, user_id=True), "wrong_type"),
    (row(13, action={"a": 1}), "wrong_type"),
    (row(14, event_time="1700000000000"), "wrong_type"),
    (row(15, schema_version=7), "unknown_schema_version"),
    (row(16, action="unheard"), "unknown_action"),
    (row(17, duration_ms=-1), "negative_duration"),
    (row(18, event_time=-1), "impossible_time"),
    (row(19, event_time=2**63), "wrong_type"),
    (row(20, topic=[1]), "wrong_type"),
    (row(21, schema_version=2**40), "unknown_schema_version"),
]
GARBAGE = [b"{", b"[1, 2]", b"5", b"null", b'{"a":1},{"b":2}', b'{"user_id": "\xff"}', b"NaN", b'{"user_id":1', b"x" * 70_000]


def _each(rows: list[tuple[dict[str, Any], str]]) -> bytes:
    return b"\n".join(json.dumps(r).encode() for r, _ in rows)


def test_faulty_json_rows_keep_their_faults(tmp_path: Path, settings: Settings) -> None:
    path = lines(tmp_path / "a.jsonl", _each(BAD), *GARBAGE, _each([(row(i), "") for i in range(100, 110)]))
    result = summary(settings, path)
    assert result["rows"] == len(BAD) + len(GARBAGE) + 10
    # One of the garbage lines is over 64 KiB too, but of two reasons the first one counts.
    expected = Counter(reason for _, reason in BAD) + Counter({"not_json": len(GARBAGE)})
    assert faults(settings) == expected
    values = [value for _, value, _ in raw(settings)]
    assert all(g in values for g in GARBAGE)  # byte for byte
    assert sorted(r["event_id"] for r in events(settings) if r["event_id"] >= 100) == list(range(100, 110))


def test_a_faulty_row_goes_to_its_users_partition_and_stamps_no_impossible_time(tmp_path: Path, settings: Settings) -> None:
    rows = [row(1, user_id=u, pin_id=None) for u in (3, "alice", -5)] + [row(2, user_id=9, pin_id=None, event_time=10**17)]
    summary(settings, write(tmp_path / "a.jsonl", rows))
    assert sorted((p, t) for p, _, t in raw(settings)) == sorted(
        [(partition_of(u, PARTITIONS), T0 + 1) for u in (3, hash_id("alice"), -5)] + [(partition_of(9, PARTITIONS), 0)]
    )


def test_raw_records_come_after_the_events_of_their_chunk(tmp_path: Path, settings: Settings) -> None:
    summary(settings, write(tmp_path / "a.jsonl", [row(1, user_id=3, pin_id=None), row(2, user_id=3), row(3, user_id=3, pin_id="x" * 9)]))
    kinds = [b.schema.names == RAW_SCHEMA.names for _, b in batches(settings)]
    assert kinds == [False, True]
    assert [r["event_id"] for r in events(settings)] == [2, 3]


def test_ids(tmp_path: Path, settings: Settings) -> None:
    users = [2**63 - 1, -(2**63), 0, "alice", "007", "9223372036854775808", "é", "", "42", 3.0]
    summary(settings, write(tmp_path / "a.jsonl", [row(i, user_id=u) for i, u in enumerate(users)]))
    expected = [2**63 - 1, -(2**63), 0, hash_id("alice"), hash_id("007"), hash_id("9223372036854775808"), hash_id("é"), hash_id(""), 42, 3]
    assert [r["user_id"] for r in sorted(events(settings), key=lambda r: r["event_id"])] == expected


def test_uint64_ids_past_int64_are_raw(tmp_path: Path, settings: Settings) -> None:
    table = pa.table(
        {"user_id": pa.array([1, 2**63, 2**64 - 1], pa.uint64()), "pin_id": [1, 2, 3], "action": ["save"] * 3, "event_time": [T0] * 3}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert summary(settings, tmp_path / "a.parquet")["raw"] == 2
    assert faults(settings) == {"wrong_type": 2}


def test_csv_of_pandas_nullable_columns(tmp_path: Path, settings: Settings) -> None:
    path = lines(
        tmp_path / "a.csv",
        "event_id,user_id,pin_id,action,event_time,duration_ms",
        f"1,5.0,6.0,save,{T0}.0,",
        f"2,,6,save,{T0},1",
        f"3,5,6,save,{T0},1.5",
        f"4,x,6,,{T0},1",
        f"5,5,6,save,soon,{2**63}",
        f'"6","5","6","save","{T0}","0012"',
    )
    assert summary(settings, path)["raw"] == 4
    assert [(r["event_id"], r["user_id"], r["duration_ms"]) for r in events(settings)] == [(1, 5, None), (6, 5, 12)]
    assert faults(settings) == {"missing_field": 2, "wrong_type": 2}


def test_parquet_of_pandas_nullable_columns(tmp_path: Path, settings: Settings) -> None:
    frame = pd.DataFrame(
        [row(1, duration_ms=None), row(2, duration_ms=3), row(3, user_id=np.nan), row(4, pin_id=2.5), row(5, pin_id=np.inf)]
    )
    frame.to_parquet(tmp_path / "a.parquet")
    summary(settings, tmp_path / "a.parquet")
    assert sorted((r["event_id"], r["user_id"], str(r["duration_ms"])) for r in events(settings)) == [(1, 1, "None"), (2, 2, "3")]
    assert faults(settings) == {"missing_field": 1, "wrong_type": 2}


def test_parquet_column_types(tmp_path: Path, settings: Settings) -> None:
    table = pa.table(
        {
            "event_id": pa.array([1, 2], pa.int8()),
            "user_id": pa.array([b"alice", b"7"], pa.binary()),
            "pin_id": pa.array(["a", "b"]).dictionary_encode(),
            "action": pa.array(["save", "click"], pa.large_string()),
            "event_time": pa.array([T0, T0 + 1], pa.decimal128(20, 0)),
            "surface": pa.array(["search", None]).dictionary_encode(),
            "topic": pa.array([17, None], pa.int32()),
            "duration_ms": pa.array([1.0, None], pa.float32()),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert summary(settings, tmp_path / "a.parquet")["raw"] == 0
    got = sorted(events(settings), key=lambda r: r["event_id"])
    assert [[r[k] for k in ("user_id", "pin_id", "action", "event_time", "surface", "topic", "duration_ms")] for r in got] == [
        [hash_id("alice"), hash_id("a"), "save", T0, "search", "17", 1],
        [7, hash_id("b"), "click", T0 + 1, None, None, None],
    ]


@pytest.mark.parametrize(("unit", "value"), [("s", 1_700_000_000), ("ms", T0), ("us", T0 * 1000 + 999), ("ns", T0 * 10**6 + 999_999)])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_time_units(tmp_path: Path, settings: Settings, unit: str, value: int, suffix: str) -> None:
    summary(settings, write(tmp_path / f"a.{suffix}", [row(1, event_time=value)]), "--time-unit", unit)
    assert [r["event_time"] for r in events(settings)] == [T0]


def test_seconds_that_are_taken_for_ms_are_told(tmp_path: Path, settings: Settings) -> None:
    seconds = [write(tmp_path / f"s{i}.csv", [row(i, event_time=1_700_000_000), row(i + 1, event_time=1_700_000_001)]) for i in (1, 3)]
    said = run(settings, *seconds)
    assert (said.exit_code, len(events(settings))) == (0, 4)
    words = "every event time is before 1971, read as ms; if these are seconds, ingest them into a new data directory with --time-unit s"
    assert said.stderr == f"tidemark: {seconds[0]} and 1 more: {words}\n"
    # Nothing was added, it was asked for, or one of the times is of another year.
    assert run(settings, *seconds).stderr == ""
    for unit in ("ms", "s"):
        assert run(Settings(data=tmp_path / unit, partitions=1), *seconds, "--time-unit", unit).stderr == ""
    last_of_1970, after = 31_536_000_000 - 1, 31_536_000_000
    mixed = write(tmp_path / "mixed.jsonl", [row(6, event_time=1_700_000_000), row(7, event_time=after)])
    assert run(settings, mixed).stderr == ""
    one = write(tmp_path / "one.jsonl", [row(8, event_time=last_of_1970), row(9, event_time="nothing")])
    assert run(settings, one, "--json").stderr == f"tidemark: {one}: {words}\n"


def test_seconds_with_a_fraction(tmp_path: Path, settings: Settings) -> None:
    summary(settings, write(tmp_path / "a.csv", [row(1, event_time="1700000000.25")]), "--time-unit", "s")
    summary(settings, write(tmp_path / "a.jsonl", [row(2, event_time=1700000000.25), row(3, event_time=2**62)]), "--time-unit", "s")
    assert [r["event_time"] for r in events(settings)] == [T0 + 250] * 2
    assert faults(settings) == {"wrong_type": 1}


def test_arrow_timestamps_by_their_own_unit_and_zone(tmp_path: Path, settings: Settings) -> None:
    moment = datetime(2024, 5, 1, 12, 30, 15, 250_000, tzinfo=UTC)
    ms = int(moment.timestamp() * 1000)
    for kind in (pa.timestamp("us"), pa.timestamp("ns", "UTC"), pa.timestamp("ms", "America/New_York"), pa.timestamp("s")):
        value = moment.astimezone(timezone(timedelta(hours=-4))) if kind.tz else moment.replace(tzinfo=None)
        stamps = pa.array([value.replace(microsecond=0) if kind.unit == "s" else value], kind)
        target = Settings(data=settings.data / str(kind).replace("/", ""), partitions=1)
        pq.write_table(pa.table({"user_id": [1], "pin_id": [1], "action": ["save"], "event_time": stamps}), tmp_path / "a.parquet")
        summary(target, tmp_path / "a.parquet", "--time-unit", "s")
        assert [r["event_time"] for r in events(target)] == [ms // 1000 * 1000 if kind.unit == "s" else ms]
    pq.write_table(pa.table({"user_id": [1], "pin_id": [1], "action": ["save"], "event_time": [date(2024, 5, 1)]}), tmp_path / "b.parquet")
    summary(settings, tmp_path / "b.parquet")
    assert [r["event_time"] for r in events(settings)] == [1_714_521_600_000]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_iso_texts(tmp_path: Path, settings: Settings, suffix: str) -> None:
    texts = [
        "2024-05-01", "2024-05-01 12:30:15", "2024-05-01T12:30:15Z", "2024-05-01T14:30:15.250+02:00", "2024-05-01 12:30:15.250999 UTC",
        "2024-13-01", "2024-05-01Tnoon", "May 1",
    ]  # fmt: skip
    assert summary(settings, write(tmp_path / f"a.{suffix}", [row(i, event_time=t) for i, t in enumerate(texts)]))["raw"] == 3
    day, noon = 1_714_521_600_000, 1_714_566_615_000
    got = [r["event_time"] for r in sorted(events(settings), key=lambda r: r["event_id"])]
    assert got == [day, noon, noon, noon + 250, noon + 250]
    assert faults(settings) == {"wrong_type": 3}


def test_what_json_has_no_form_for_stays_a_fault(tmp_path: Path, settings: Settings) -> None:
    table = pa.table(
        {"user_id": pa.array([1, 2]), "pin_id": [datetime(2024, 1, 1, tzinfo=UTC)] * 2, "action": ["save"] * 2, "event_time": [1, 2]}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    summary(settings, tmp_path / "a.parquet")
    assert faults(settings) == {"wrong_type": 2}
