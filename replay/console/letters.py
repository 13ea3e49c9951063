"""Records that came too late, and those that could not be taken: how many, and the newest of each.

Numbers are those of the flows' state. Samples are read from the ends of the logs alone, however long these are; `tidemark deadletters` has all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flows.log import Log
from flows.metrics_http import scraped
from flows.open_log import log_exists, open_live_log
from flows.outputs import DEADLETTERS, LATE
from flows.settings import Settings

SHOWN = 12
"""Of each kind."""
# Offsets of each partition, and records of each message: repeats of a restart may lie among them.
_LOOKED_AT = 4 * SHOWN
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
    late_offsets, dead_offsets : int or None
        Offsets of the logs: records, repeats of a restart among them, or, over Kafka, messages of many. None: there is no such log yet.
    """

    late_offsets: int | None
    late: list[LateRecord]
    dead_offsets: int | None
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
                self._newest[name] = newest(log, starts, ends)
                self._ends[name] = ends
        return sum(end - start for start, end in zip(starts, ends, strict=True))


def newest(log: Log, starts: list[int], ends: list[int]) -> list[dict[str, Any]]:
    """The newest records of a log of outputs by their arrival, the newest first, each once though a restart has put it out again.

    What is held at once is a message, and of those before it no more than is shown: an offset of Kafka may have thousands of records.
    """
    found: dict[tuple[int, int, int], dict[str, Any]] = {}
    for partition, (start, end) in enumerate(zip(starts, ends, strict=True)):
        position = max(start, end - _LOOKED_AT)
        while position < end:
            batches = log.read(partition, position, end - position if log.dense else 1)
            if not batches:
                break
            for batch in batches:
                records = batch.records
                for row in records.slice(max(0, records.num_rows - _LOOKED_AT)).to_pylist():
                    found[partition, row["origin"], row["sequence"]] = row
                found = dict(sorted(found.items(), key=_arrival, reverse=True)[:SHOWN])
            position = batches[-1].end_offset
    return [*found.values()]


def _arrival(one: tuple[Any, dict[str, Any]]) -> tuple[int, int, int]:
    row = one[1]
    return row["timestamp"] or 0, row["partition"], row["offset"]


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
