"""Ingest: every row of a file is in the log exactly once, as an event or as a raw record with its fault, whatever the format."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

import flows.ingest.columnar
import flows.ingest.jsonl
from flows.decode import Decoder
from flows.errors import InputError, LogError, SettingsError, StorageFullError
from flows.events import EVENT_SCHEMA, RAW_SCHEMA, hash_id
from flows.ingest.command import ingest
from flows.ingest.normalise import derived_ids
from flows.log import LocalLog
from flows.settings import Settings
from flows.vocabulary import Vocabulary
from tests.oracles.partition import partition_of

PARTITIONS = 4
T0 = 1_700_000_000_000
FIELDS = ["event_id", "user_id", "pin_id", "action", "event_time"]


def row(i: int, **changes: Any) -> dict[str, Any]:
    return {"event_id": i, "user_id": i % 7, "pin_id": 100 + i, "action": "save", "event_time": T0 + i} | changes


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data", partitions=PARTITIONS)


def run(settings: Settings, *arguments: str | Path) -> Result:
    result = CliRunner().invoke(ingest, [str(a) for a in arguments], obj=settings)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def summary(settings: Settings, *arguments: str | Path) -> dict[str, Any]:
    result = run(settings, "--json", *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def events(settings: Settings) -> list[dict[str, Any]]:
    """All events, by partition, in log order."""
    return [r | {"partition": p} for p, batch in batches(settings) if batch.schema.equals(EVENT_SCHEMA) for r in batch.to_pylist()]


def raw(settings: Settings) -> list[tuple[int, bytes, int]]:
    return [(p, r["value"], r["timestamp"]) for p, batch in batches(settings) if batch.schema.equals(RAW_SCHEMA) for r in batch.to_pylist()]


def faults(settings: Settings) -> Counter[str]:
    """The reasons for which the actions flow would dead-letter what is in the log."""
    decoder = Decoder(Vocabulary())
    return Counter(reason for _, batch in batches(settings) for reason, _ in decoder.decode(batch).faults.values())


def batches(settings: Settings) -> list[tuple[int, pa.RecordBatch]]:
    with LocalLog.open(settings.logs, "actions") as log:
        out = [(p, b.records) for p in range(log.partitions) for b in log.read(p, 0, 1 << 40)]
    assert all(b.schema.equals(EVENT_SCHEMA) or b.schema.equals(RAW_SCHEMA) for _, b in out)
    return out


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows in the format that the path's name says."""
    if path.suffix == ".jsonl":
        path.write_bytes(b"\n".join(orjson.dumps(r) for r in rows) + b"\n")
    elif path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def lines(path: Path, *texts: bytes | str) -> Path:
    path.write_bytes(b"\n".join(t if isinstance(t, bytes) else t.encode() for t in texts) + b"\n")
    return path


# What becomes of a row ---------------------------------------------------------------------------------------------------------------


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


# Time --------------------------------------------------------------------------------------------------------------------------------


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


def test_arrival(tmp_path: Path, settings: Settings) -> None:
    summary(settings, write(tmp_path / "a.jsonl", [row(1), row(2, arrival_time=T0 + 500), row(3, event_time=-5)]))
    assert {r["event_id"]: r["timestamp"] for r in events(settings)} == {1: T0 + 1, 2: T0 + 500, 3: 0}
    before = time.time_ns() // 1_000_000
    path = lines(tmp_path / "b.jsonl", json.dumps(row(4)), json.dumps(row(5, arrival_time=T0 + 500)), "garbage")
    summary(settings, path, "--arrival", "now")
    stamps = {r["event_id"]: r["timestamp"] for r in events(settings)}
    assert stamps[5] == T0 + 500
    assert before <= stamps[4] <= time.time_ns() // 1_000_000
    assert raw(settings)[0][2] >= before


# Names -------------------------------------------------------------------------------------------------------------------------------


def test_columns_actions_and_surfaces(tmp_path: Path, settings: Settings) -> None:
    rows = [
        {"user": i, "item": i, "ts": T0 + i, "what": what, "topic": "kept"}
        for i, what in enumerate(["repin", "profile_tap", "tap", "impression", "feed_view", "profile_view", "other"])
    ]
    for suffix in ("csv", "parquet", "jsonl"):
        target = Settings(data=settings.data / suffix, partitions=1)
        summary(
            target,
            write(tmp_path / f"a.{suffix}", rows),
            "--columns", "user_id=user,pin_id=item", "--columns", "event_time=ts, action=what",
            "--actions", "repin=save,profile_tap=grid_click,tap=grid_click,feed_view=impression,profile_view=impression",
            "--surface-of", "grid_click=own_profile,profile_view=own_profile",
            "--surface", "homefeed",
        )  # fmt: skip
        assert [(r["action"], r["surface"], r["topic"]) for r in events(target)] == [
            ("save", "homefeed", "kept"),
            ("grid_click", "own_profile", "kept"),
            ("grid_click", "own_profile", "kept"),
            ("impression", "homefeed", "kept"),
            ("impression", "homefeed", "kept"),
            ("impression", "own_profile", "kept"),
            ("other", "homefeed", "kept"),
        ]


def test_a_rows_own_surface_comes_first(tmp_path: Path, settings: Settings) -> None:
    rows = [row(1, user_id=1, surface="search"), row(2, user_id=1, surface=None), row(3, user_id=1, action="hide", surface=None)]
    summary(settings, write(tmp_path / "a.jsonl", rows), "--surface-of", "save=own_profile")
    assert [r["surface"] for r in events(settings)] == ["search", "own_profile", None]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_surfaces_under_other_names(tmp_path: Path, settings: Settings, suffix: str) -> None:
    names = ["profile", "feed", "search", "elsewhere", None]
    rows = [row(i, user_id=1, surface=name) for i, name in enumerate(names)]
    summary(settings, write(tmp_path / f"a.{suffix}", rows), "--surfaces", "profile=own_profile,feed=homefeed", "--surface", "notification")
    assert sorted((r["event_time"] - T0, r["surface"]) for r in events(settings)) == [
        (0, "own_profile"), (1, "homefeed"), (2, "search"), (3, "elsewhere"), (4, "notification"),
    ]  # fmt: skip
    # Read otherwise they are other events; the same way, nothing is added.
    more = ("--surfaces", "feed=homefeed", "--surfaces", "profile=own_profile", "--surface", "notification")
    summary(settings, tmp_path / f"a.{suffix}", *more)
    assert len(events(settings)) == len(names)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_actions_that_are_numbers(tmp_path: Path, settings: Settings, suffix: str) -> None:
    rows = [row(i, action=i) for i in (1, 2, 3)]
    summary(settings, write(tmp_path / f"a.{suffix}", rows), "--actions", "1=save,2=click")
    assert sorted(r["action"] for r in events(settings) if r["action"] != "3") == ["click", "save"]
    assert sum(faults(settings).values()) == 1


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_surfaces_that_are_numbers(tmp_path: Path, settings: Settings, suffix: str) -> None:
    rows = [row(i, surface=i) for i in (1, 2, 3)]
    summary(settings, write(tmp_path / f"a.{suffix}", rows), "--surfaces", "1=own_profile,2=search")
    assert sorted(r["surface"] for r in events(settings) if r["surface"] != "3") == ["own_profile", "search"]
    assert sum(faults(settings).values()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--columns", "user=user_id"], "no column 'user' \\(did you mean 'user_id'"),
        (["--columns", "user_id"], "'user_id' is not NAME=VALUE"),
        (["--columns", "user_id="], "is not NAME=VALUE"),
        (["--columns", "user_id=u,,pin_id=p"], "is not NAME=VALUE"),
        (["--columns", "user_id=u,user_id=v"], "'user_id' is given twice"),
        (["--columns", "user_id=u,pin_id=u"], "column 'u' is mapped twice, to user_id and to pin_id"),
        (["--actions", "repin=sav"], "no action 'sav' \\(did you mean 'save'"),
        (["--actions", "repin=save,repin=click"], "'repin' is given twice"),
        (["--surface", "home"], "no surface 'home' \\(did you mean 'homefeed'"),
        (["--surfaces", "profile=own_profil"], "no surface 'own_profil' \\(did you mean 'own_profile'"),
        (["--surfaces", "profile=search,profile=other"], "'profile' is given twice"),
        (["--surface-of", "save=home"], "no surface 'home'"),
        (["--surface-of", "sav=homefeed"], "no action 'sav' \\(did you mean 'save'"),
        (["--time-unit", "m"], "--time-unit: 'm' is none of s, ms, us, ns"),
        (["--arrival", "later"], "--arrival: 'later' is none of"),
        (["--format", "avro"], "--format: 'avro' is none of"),
    ],
)
def test_bad_options(tmp_path: Path, settings: Settings, options: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        run(settings, write(tmp_path / "a.jsonl", [row(1)]), *options)
    assert not settings.data.exists()


def test_a_vocabulary_file_declares_actions(tmp_path: Path) -> None:
    (tmp_path / "v.toml").write_text("[actions]\nshare = 40\n")
    settings = Settings(data=tmp_path / "data", partitions=1, vocabulary=tmp_path / "v.toml")
    summary(settings, write(tmp_path / "a.jsonl", [row(1, action="sent")]), "--actions", "sent=share")
    assert events(settings)[0]["action"] == "share"


# Bad files ---------------------------------------------------------------------------------------------------------------------------


def _truncated(path: Path) -> None:
    write(path, [row(i) for i in range(1000)])
    path.write_bytes(path.read_bytes()[:-100])


def _damaged(path: Path) -> None:
    write(path, [row(i) for i in range(100_000)])
    content = bytearray(path.read_bytes())
    content[1000:60_000] = b"\xff" * 59_000
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "make", "options", "message"),
    [
        ("a.parquet", lambda p: None, [], "No such file"),
        ("a.parquet", lambda p: p.mkdir(), [], "is a directory"),
        ("a.parquet", lambda p: p.touch(), [], "can't be read as Parquet"),
        ("a.parquet", _truncated, [], "can't be read as Parquet"),
        ("a.parquet", _damaged, [], "can't be read as Parquet"),
        ("a.csv", lambda p: p.touch(), [], "has no header"),
        ("a.csv", lambda p: p.write_text("\n\n"), [], "has no header"),
        (
            "a.csv",
            lambda p: write(p, [row(1)]),
            ["--columns", "user_id=usr_id"],
            "no column 'usr_id' for user_id \\(did you mean 'user_id'",
        ),
        (
            "a.csv",
            lambda p: p.write_text("user_id,pinid,action,event_time\n"),
            [],
            "no column 'pin_id' \\(did you mean 'pinid'.*pin_id=NAME",
        ),
        ("a.csv", lambda p: p.write_text("user_id,user_id,pin_id,action,event_time\n"), [], "several columns 'user_id'"),
        ("a.jsonl", lambda p: write(p, [row(1)]), ["--columns", "user_id=uid"], "none of the first 1000 objects has the field 'uid'"),
        ("a.dat", lambda p: p.write_text("x"), [], "'.dat' names no format that is known; say --format"),
        ("a.jsonl.gz", lambda p: p.write_bytes(gzip.compress(b"{}\n" * 9999)[:-9]), [], "can't be read as JSON lines"),
        ("a.csv.gz", lambda p: p.write_bytes(b"user_id,pin_id"), [], "can't be read as CSV"),
    ],
)
def test_a_bad_file_is_one_clear_line_and_leaves_nothing(
    tmp_path: Path, settings: Settings, name: str, make: Any, options: list[str], message: str
) -> None:
    make(tmp_path / name)
    good = write(tmp_path / "good.jsonl", [row(1)])
    with pytest.raises(InputError, match=message) as caught:
        run(settings, good, tmp_path / name, *options) if not options else run(settings, tmp_path / name, *options)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)
    assert not settings.data.exists()


def test_empty_files(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"")
    (tmp_path / "b.jsonl").write_bytes(b"\n \r\n\n")
    (tmp_path / "c.csv").write_text("user_id,pin_id,action,event_time\n")
    pq.write_table(pa.Table.from_pylist([row(1)]).slice(0, 0), tmp_path / "d.parquet")
    for _ in range(2):
        assert summary(settings, *(tmp_path / n for n in ("a.jsonl", "b.jsonl", "c.csv", "d.parquet")))["rows"] == 0
    assert batches(settings) == []


def test_formats_by_name_and_by_force(tmp_path: Path, settings: Settings) -> None:
    text = b"\n".join(orjson.dumps(row(i)) for i in (1, 2))
    (tmp_path / "a.ndjson").write_bytes(text)  # without a last newline
    (tmp_path / "b.log").write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n\r\n"))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(text + b"\n\n"))
    (tmp_path / "d.tsv").write_text("user_id\tpin_id\taction\tevent_time\n1\t2\tsave\t5\n")
    (tmp_path / "e.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfuser_id,pin_id,action,event_time\r\n1,2,save,5\r\n"))
    assert summary(settings, tmp_path / "b.log", "--format", "jsonl")["rows"] == 2
    assert summary(settings, *(tmp_path / n for n in ("a.ndjson", "c.jsonl.gz", "d.tsv", "e.csv.gz")))["rows"] == 6
    assert raw(settings) == []


# CSV garbage -------------------------------------------------------------------------------------------------------------------------

HEADER = b"user_id,pin_id,action,event_time,note"


def test_ragged_csv_rows_are_raw_and_their_text_is_kept(tmp_path: Path, settings: Settings) -> None:
    good = [b'%d,5,save,%d,"a, b"' % (i, T0 + i) for i in range(5)]
    path = lines(tmp_path / "a.csv", HEADER, b"1,2", good[0], b"", good[1], b"1,2,3,4,5,6,7", b"x", good[2], good[3], good[4], b"7")
    result = summary(settings, path)
    assert (result["rows"], result["raw"]) == (9, 4)
    assert sorted(value for _, value, _ in raw(settings)) == [b"1,2", b"1,2,3,4,5,6,7", b"7", b"x"]
    assert sorted(r["user_id"] for r in events(settings)) == list(range(5))


def test_csv_that_is_not_utf8(tmp_path: Path, settings: Settings) -> None:
    path = lines(
        tmp_path / "a.csv",
        b"\xef\xbb\xbf" + HEADER,
        b"1,5,save,5,caf\xe9",  # in a column that nobody reads
        b"\xff\xfe,5,save,5,x",
        b"3,\xff",
        "alicé,5,save,5,x".encode(),
        b"4,5,save,5,x",
    )
    assert summary(settings, path)["raw"] == 2
    assert {r["user_id"] for r in events(settings)} == {1, 4, hash_id("alicé")}
    values = sorted(value for _, value, _ in raw(settings))
    assert values[0] == b"3,\xff"
    assert b"\xff\xfe" in values[1]
    assert faults(settings) == {"not_json": 2}


def test_quotes_and_newlines_in_csv(tmp_path: Path, settings: Settings) -> None:
    path = lines(tmp_path / "a.csv", HEADER, '"a ""q"", b\nc",5,save,5,', '1,5,save,5,"never closed', "2,5,save,5,x")
    summary(settings, path)
    assert events(settings)[0]["user_id"] in (hash_id('a "q", b\nc'), 1)
    assert len(events(settings)) + len(raw(settings)) == 2  # the open quote takes the rest of the file into one field


def test_an_open_quote_in_a_large_csv_is_an_error(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.ingest.columnar, "BLOCK_BYTES", 1 << 20)
    path = lines(tmp_path / "a.csv", HEADER, '1,5,save,5,"never closed', *[b"1,5,save,5,x"] * 200_000)
    with pytest.raises(InputError, match="is a quote never closed"):
        run(settings, path)
    assert not settings.data.exists()


def test_random_garbage_never_raises(tmp_path: Path, settings: Settings) -> None:
    random = np.random.default_rng(7)
    alphabet = np.frombuffer(b'{}[]",:\n\r\t 01.e-\\uxs\x00\xff\xc3', np.uint8)
    for round_ in range(40):
        noise = alphabet[random.integers(0, alphabet.size, 400)].tobytes()
        lines(tmp_path / f"{round_}.jsonl", noise)
        lines(tmp_path / f"{round_}.csv", HEADER, noise.replace(b'"', b""))
    result = summary(settings, *tmp_path.glob("*.jsonl"), *tmp_path.glob("*.csv"))
    assert result["rows"] == len(events(settings)) + len(raw(settings)) > 0


# Once, and again ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_the_same_file_twice_adds_nothing(tmp_path: Path, settings: Settings, suffix: str) -> None:
    path = write(tmp_path / f"a.{suffix}", [row(i) for i in range(20)])
    copy = tmp_path / f"copy.{suffix}"
    copy.write_bytes(path.read_bytes())
    assert summary(settings, path)["rows"] == 20
    before = batches(settings)
    assert summary(settings, path)["rows"] == 0
    result = run(settings, copy, path, copy)
    assert result.exit_code == 0
    assert result.output.count("already ingested, 0 added") == 3
    assert len(batches(settings)) == len(before)
    # Other options make other records of it.
    assert summary(settings, path, "--surface", "search")["rows"] == 20


def test_derived_ids(tmp_path: Path, settings: Settings) -> None:
    rows = [{k: v for k, v in row(i).items() if k != "event_id"} for i in range(30)] + [{"user_id": 1}, row(5, event_id=None)]
    assert "event_id" not in rows[0]
    path = write(tmp_path / "a.parquet", [{k: r.get(k) for k in FIELDS if k != "event_id"} for r in rows])
    other = write(tmp_path / "b.parquet", [{k: r.get(k) for k in FIELDS if k != "event_id"} for r in rows] + [{"user_id": 3}])
    ids = []
    for data in ("one", "two"):
        target = Settings(data=settings.data / data, partitions=1)
        summary(target, path)
        found = [r["event_id"] for r in events(target)]
        assert len(set(found)) == 31
        assert "event_id" in json.loads(raw(target)[0][1])
        ids.append(found)
    assert ids[0] == ids[1]
    summary(settings, other)
    assert not {r["event_id"] for r in events(settings)} & set(ids[0])


def test_json_lines_derive_ids_only_if_the_file_has_none(tmp_path: Path, settings: Settings) -> None:
    rows = [row(i) for i in range(5)]
    del rows[3]["event_id"]
    summary(settings, write(tmp_path / "a.jsonl", rows))
    assert faults(settings) == {"missing_field": 1}
    for r in rows:
        r.pop("event_id", None)
    assert summary(settings, write(tmp_path / "b.jsonl", rows))["raw"] == 0


def test_derived_ids_are_distinct_and_stay_as_they_are() -> None:
    found = derived_ids(bytes(range(32)), np.arange(1_000_000))
    assert np.unique(found).size == 1_000_000
    assert derived_ids(bytes(range(32)), np.array([999_999])).tolist() == found[-1:].tolist()


def _big(path: Path, count: int) -> Path:
    """A file with a little of everything."""
    if path.suffix == ".parquet":
        table = pa.table(
            {"user_id": np.arange(count) % 1000, "pin_id": np.arange(count), "action": ["save"] * count, "event_time": np.arange(count)}
        )
        pq.write_table(table, path, row_group_size=9_000)
    elif path.suffix == ".csv":
        table = pa.table(
            {"user_id": np.arange(count) % 1000, "pin_id": np.arange(count), "action": ["save"] * count, "event_time": np.arange(count)}
        )
        pacsv.write_csv(table, path)
        content = path.read_bytes().split(b"\n")
        content[50::100] = [b"ragged,%d" % i for i in range(len(content[50::100]))]
        path.write_bytes(b"\n".join(content) + b"\nlast one,")
    else:
        path.write_bytes(b"\n".join(b'{"broken": %d' % i if i % 50 == 9 else orjson.dumps(row(i)) for i in range(count)))
    return path


def _content(settings: Settings) -> list[Any]:
    """Everything in the log, in order, events and raw records apart (a chunk's raw records follow its events)."""
    return [sorted(str(e) for e in events(settings)), sorted(raw(settings)), [(e["partition"], e["event_id"]) for e in events(settings)]]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("good_chunks", [1, 3])
def test_an_interrupted_ingest_continues(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, suffix: str, good_chunks: int
) -> None:
    monkeypatch.setattr(flows.ingest.columnar, "CHUNK_ROWS", 1_000)
    monkeypatch.setattr(flows.ingest.jsonl, "CHUNK_LINES", 1_000)
    path = _big(tmp_path / f"a.{suffix}", 5_555)
    clean = Settings(data=tmp_path / "clean", partitions=PARTITIONS)
    total = summary(clean, path)["rows"]

    real, calls = LocalLog.append, 0

    def failing(self: LocalLog, *arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > good_chunks:
            raise StorageFullError("the disk is full")
        return real(self, *arguments, **named)

    monkeypatch.setattr(LocalLog, "append", failing)
    with pytest.raises(StorageFullError, match=f"{good_chunks * 1000} of {total} rows are in|of {total} rows are in"):
        run(settings, path)
    monkeypatch.setattr(LocalLog, "append", real)
    # Chunks of another size: what is done is counted in rows.
    monkeypatch.setattr(flows.ingest.columnar, "CHUNK_ROWS", 700)
    monkeypatch.setattr(flows.ingest.jsonl, "CHUNK_LINES", 700)
    result = summary(settings, path)
    assert 0 < result["rows"] < total
    assert result["files"][0]["already"] + result["rows"] == total
    assert _content(settings) == _content(clean)
    assert summary(settings, path)["rows"] == 0


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_kill_in_the_middle_loses_and_doubles_nothing(tmp_path: Path, settings: Settings, suffix: str) -> None:
    path = _big(tmp_path / f"a.{suffix}", 60_000)
    clean = Settings(data=tmp_path / "clean", partitions=PARTITIONS)
    total = summary(clean, path)["rows"]
    code = (
        "import sys; from pathlib import Path; import flows.ingest.columnar as c, flows.ingest.jsonl as j\n"
        "from flows.ingest.command import ingest; from flows.settings import Settings\n"
        "c.CHUNK_ROWS = j.CHUNK_LINES = 500\n"
        f"ingest.main([sys.argv[1]], obj=Settings(data=Path(sys.argv[2]), partitions={PARTITIONS}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path), str(settings.data)], cwd=Path(__file__).parent.parent)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if (settings.logs / "actions.db").exists():
            with LocalLog.open(settings.logs, "actions", read_only=True) as log:
                if sum(log.end_positions()) > total // 10:
                    break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    result = summary(settings, path)
    assert result["files"][0]["already"] + result["rows"] == total
    assert result["files"][0]["already"] > 0
    assert _content(settings) == _content(clean)


def test_two_ingests_of_one_file_at_once(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", [row(i) for i in range(10)])
    real = LocalLog.append

    def raced(self: LocalLog, *arguments: Any, **named: Any) -> Any:
        monkeypatch.setattr(LocalLog, "append", real)
        summary(settings, path)  # another process is faster
        return real(self, *arguments, **named)

    monkeypatch.setattr(LocalLog, "append", raced)
    with pytest.raises(LogError, match="another process is appending"):
        run(settings, path)
    assert len(events(settings)) == 10


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", [row(i) for i in range(10)])
    real = LocalLog.ledger_entry

    def touched(self: LocalLog, key: str) -> Any:
        with path.open("ab") as file:
            file.write(b"{}\n")
        return real(self, key)

    monkeypatch.setattr(LocalLog, "ledger_entry", touched)
    with pytest.raises(InputError, match="changes while it is read"):
        run(settings, path)
    assert events(settings) == []


def test_partitions_of_another_data_directory(tmp_path: Path, settings: Settings) -> None:
    path = write(tmp_path / "a.jsonl", [row(1)])
    summary(settings, path)
    with pytest.raises(Exception, match="made with 4 partitions, but the settings say 8"):
        run(Settings(data=settings.data, partitions=8), path)


def test_summary_for_people(tmp_path: Path, settings: Settings) -> None:
    one = lines(tmp_path / "a.jsonl", orjson.dumps(row(1)), "garbage")
    two = write(tmp_path / "b.csv", [row(2)])
    output = run(settings, one, two).output
    assert "a.jsonl: 2 rows added (at least 1 dead letter, `tidemark run` judges the rest)" in output
    assert "b.csv: 1 rows added" in output
    assert "3 rows added from 2 files" in output


def test_help_names_every_option() -> None:
    text = CliRunner().invoke(ingest, ["--help"]).output
    for option in ("--columns", "--actions", "--surfaces", "--surface-of", "--surface", "--time-unit", "--arrival", "--format", "--json"):
        assert option in text


@pytest.mark.skipif(os.environ.get("CI") == "true", reason="a timing")
def test_garbage_does_not_make_it_slow(tmp_path: Path, settings: Settings) -> None:
    good = [orjson.dumps(row(i)) for i in range(60_000)]
    clean = lines(tmp_path / "clean.jsonl", *good)
    good[::100] = [b"garbage {"] * 600
    dirty = lines(tmp_path / "dirty.jsonl", *good)
    summary(settings, write(tmp_path / "warm.jsonl", [row(1)]))
    seconds = [summary(settings, path)["files"][0]["seconds"] for path in (clean, dirty)]
    assert seconds[1] < 3 * seconds[0] + 0.3


def test_what_json_has_no_form_for_stays_a_fault(tmp_path: Path, settings: Settings) -> None:
    table = pa.table(
        {"user_id": pa.array([1, 2]), "pin_id": [datetime(2024, 1, 1, tzinfo=UTC)] * 2, "action": ["save"] * 2, "event_time": [1, 2]}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    summary(settings, tmp_path / "a.parquet")
    assert faults(settings) == {"wrong_type": 2}
