"""A file that is ingested twice, in two pieces, or by two at once, is in the log once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

import flows.ingest.columnar
import flows.ingest.jsonl
from flows.errors import InputError, LogError, StorageFullError
from flows.ingest.normalise import derived_ids
from flows.log import LocalLog
from flows.settings import Settings
from tests.ingest.ingesting import FIELDS, PARTITIONS, batches, events, faults, raw, row, run, summary, write
from tests.sparing import first


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


@pytest.mark.parametrize("suffix", first(2, ["csv", "parquet", "jsonl"]))
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
