"""What tests of ingest do again and again: rows into a file, a file into the log, and what lies there then."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from click.testing import CliRunner, Result

from flows.decode import Decoder
from flows.events import EVENT_SCHEMA, RAW_SCHEMA
from flows.ingest.command import ingest
from flows.log import LocalLog
from flows.settings import Settings
from flows.vocabulary import Vocabulary

PARTITIONS = 4
T0 = 1_700_000_000_000
FIELDS = ["event_id", "user_id", "pin_id", "action", "event_time"]


def row(i: int, **changes: Any) -> dict[str, Any]:
    return {"event_id": i, "user_id": i % 7, "pin_id": 100 + i, "action": "save", "event_time": T0 + i} | changes


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
