"""What everyone reads: one simulated stream, as a file of JSON lines and, the same values, in Tidemark's own log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
import pandas as pd

from benchmarks import _stream
from flows.ingest.producer import raw_batch
from flows.log import LocalLog
from flows.outputs import ACTIONS
from flows.settings import Settings

FIELDS = ("event_id", "user_id", "pin_id", "action", "surface", "event_time", "duration_ms")
_APPENDED_AT_ONCE = 131_072


def records(scratch: Path, events: int, users: int, seed: int) -> tuple[pd.DataFrame, Settings]:
    """A stream with the simulator's usual disorder, in order of arrival, without what would be a dead letter; and where it lies.

    Columns as of `_stream.records`; offsets are those that the records have once the others are left out.
    """
    settings = _stream.make(scratch, events, users, seed)
    found = _stream.records(settings)
    found = found[found["usable"]].drop(columns=["bad"]).reset_index(drop=True)
    found["offset"] = found.groupby("partition").cumcount()
    return found, settings


def json_values(rows: pd.DataFrame) -> Iterator[bytes]:
    """Each record as the JSON of the contract."""
    for row in zip(*(rows[name].tolist() for name in FIELDS), strict=True):
        yield orjson.dumps(dict(zip(FIELDS, row, strict=True)))


def write_lines(rows: pd.DataFrame, path: Path) -> None:
    """The records as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.writelines(value + b"\n" for value in json_values(rows))


def fill_log(rows: pd.DataFrame, data: Path, like: Settings) -> Settings:
    """A data directory whose ACTIONS log holds the records as JSON."""
    settings = Settings(data=data, partitions=like.partitions)
    with LocalLog.open(settings.logs, ACTIONS, settings.partitions, create=True) as log:
        for at in range(0, len(rows), _APPENDED_AT_ONCE):
            chunk = rows[at : at + _APPENDED_AT_ONCE]
            for partition, of_partition in chunk.groupby("partition"):
                batch = raw_batch(list(json_values(of_partition)), of_partition["timestamp"].tolist())
                log.append([(int(str(partition)), batch)])
    return settings
