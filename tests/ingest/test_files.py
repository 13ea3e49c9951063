"""Files that are damaged, empty, of other formats, or full of garbage: one clear line, or raw records, and never half a file."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import flows.ingest.columnar
import flows.ingest.jsonl
from flows.errors import InputError
from flows.events import hash_id
from flows.settings import Settings
from tests.ingest.ingesting import T0, batches, events, faults, lines, raw, row, run, summary, write


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


@pytest.mark.soak
def test_garbage_does_not_make_it_slow(tmp_path: Path, settings: Settings) -> None:
    good = [orjson.dumps(row(i)) for i in range(60_000)]
    clean = lines(tmp_path / "clean.jsonl", *good)
    good[::100] = [b"garbage {"] * 600
    dirty = lines(tmp_path / "dirty.jsonl", *good)
    summary(settings, write(tmp_path / "warm.jsonl", [row(1)]))
    seconds = [summary(settings, path)["files"][0]["seconds"] for path in (clean, dirty)]
    assert seconds[1] < 3 * seconds[0] + 0.3
