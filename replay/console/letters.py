"""Records that came too late, and those that could not be taken: how many, and the newest of each.

Numbers are those of the flows' state. Samples are read from the ends of the logs alone, however long these are; `tidemark deadletters` has all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from flows.log import Log
from flows.metrics_http import scraped
from flows.open_log import log_exists, open_live_log
from flows.outputs import DEADLETTERS, LATE
from flows.settings import Settings

SHOWN = 12
"""Of each kind."""
_TEXT = 600
_DETAIL = 300


@dataclass(frozen=True)
class DeadLetter:
    """A record that could not be taken.

    Attributes
    ----------
    id : str
        ``partition:offset`` in ACTIONS, as `tidemark deadletters` takes it.
    arrived : int
        ms.
    raw : str
        Its beginning, as text; bytes that are no UTF-8 are escaped.
    size : int
        Bytes of the whole.
    """

    id: str
    arrived: int
    reason: str
    detail: str
    raw: str
    size: int


@dataclass(frozen=True)
class LateRecord:
    """A record that came behind the allowed lateness. IDs are texts: JavaScript's numbers end at 2^53.

    Attributes
    ----------
    id : str
        ``partition:offset`` in ACTIONS.
    arrived, event_time, lateness_ms : int
        ms; lateness is how far behind the watermark it was.
    """

    id: str
    arrived: int
    user_id: str
    pin_id: str
    action: str
    event_time: int
    lateness_ms: int


@dataclass(frozen=True)
class Letters:
    """The newest of both kinds, the newest first.

    Attributes
    ----------
    late_records, dead_records : int or None
        Records of the logs, repeats of a restart among them; None: there is no such log yet.
    """

    late_records: int | None
    late: list[LateRecord]
    dead_records: int | None
    dead: list[DeadLetter]


class LettersSection:
    """See the module.

    Parameters
    ----------
    settings : Settings
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = scraped(settings)
        # Over Kafka samples cost a consumer for each partition.
        self.every_s = 10.0 if settings.kafka else 2.0
        self._ends: dict[str, list[int]] = {}
        self._newest: dict[str, list[dict[str, Any]]] = {}

    def look(self) -> Letters:
        """Look again, where the logs have grown."""
        late, dead = (self._look_at(name) for name in (LATE, DEADLETTERS))
        return Letters(
            late,
            [_late(row) for row in self._newest.get(LATE, [])],
            dead,
            [_dead(row) for row in self._newest.get(DEADLETTERS, [])],
        )

    def close(self) -> None:
        """Nothing is open between looks."""

    def _look_at(self, name: str) -> int | None:
        if not log_exists(self._settings, name):
            return None
        with open_live_log(self._settings, name, read_only=True) as log:
            ends, starts = log.end_positions(), log.start_positions()
            if ends != self._ends.get(name):
                self._newest[name] = list(newest(log, starts, ends))
                self._ends[name] = ends
        return sum(end - start for start, end in zip(starts, ends, strict=True))


def newest(log: Log, starts: list[int], ends: list[int]) -> Iterator[dict[str, Any]]:
    """The newest records of a log of outputs by their arrival, the newest first, each once though a restart has put it out again."""
    found: dict[tuple[int, int, int], dict[str, Any]] = {}
    for partition, (start, end) in enumerate(zip(starts, ends, strict=True)):
        position = max(start, end - 4 * SHOWN)
        while position < end:
            batches = log.read(partition, position, end - position)
            if not batches:
                break
            for batch in batches:
                for row in _rows(batch.records):
                    found[partition, row["origin"], row["sequence"]] = row
            position = batches[-1].end_offset
    yield from sorted(found.values(), key=lambda row: (row["timestamp"] or 0, row["partition"], row["offset"]), reverse=True)[:SHOWN]


def _rows(records: pa.RecordBatch) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = records.to_pylist()
    return rows


def _late(row: Mapping[str, Any]) -> LateRecord:
    return LateRecord(
        id=f"{row['partition']}:{row['offset']}",
        arrived=row["timestamp"] or 0,
        user_id=str(row["user_id"]),
        pin_id=str(row["pin_id"]),
        action=str(row["action"]),
        event_time=row["event_time"],
        lateness_ms=row["lateness_ms"],
    )


def _dead(row: Mapping[str, Any]) -> DeadLetter:
    raw: bytes = row["raw"] or b""
    text = raw[: 4 * _TEXT].decode("utf-8", "backslashreplace")
    # Older ones don't tell their size: they were kept whole.
    size = row.get("size") or len(raw)
    return DeadLetter(
        id=f"{row['partition']}:{row['offset']}",
        arrived=row["timestamp"] or 0,
        reason=str(row["reason"]),
        detail=_cut(str(row["detail"]), _DETAIL),
        raw=_cut(text, _TEXT),
        size=size,
    )


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + "…"
