"""Dead letters: the records that the actions flow couldn't take, read once each, and put back into ACTIONS after a fix.

A dead letter's id is "partition:offset" of its record in ACTIONS. An id is re-driven at most once: the ledger of ACTIONS holds it, written in
the same transaction as the record. A re-driven record that is bad again is a new dead letter, with an id of its own.
"""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from flows.errors import InputError
from flows.events import INT64_MAX, INT64_MIN, RAW_SCHEMA, id_of
from flows.log import LedgerEntry, Log
from flows.open_log import log_exists, open_log
from flows.outputs import ACTIONS, DEADLETTERS, take_next
from flows.partition import partition_of
from flows.settings import Settings
from flows.vocabulary import suggestion

READ_RECORDS = 8_192
REDRIVE_RECORDS = 4_096  # of one transaction


@dataclass(frozen=True)
class DeadLetter:
    """One record that was not taken, where it lies in its log, and why."""

    log: str
    partition: int
    offset: int
    reason: str
    detail: str
    raw: bytes
    size: int
    timestamp: int

    @property
    def cut(self) -> bool:
        """Whether `raw` is only the start of the record, which has `size` bytes. The whole lies at its place in its log."""
        return len(self.raw) < self.size

    @property
    def id(self) -> str:
        """How a user names it."""
        return f"{self.partition}:{self.offset}"

    @property
    def ledger_key(self) -> str:
        """Under which the ledger of ACTIONS knows that it has been re-driven."""
        return f"redrive:{self.id}"


@dataclass
class Redriven:
    """What a redrive did, or would do."""

    redriven: int = 0
    before: int = 0  # had been re-driven by an earlier run
    cut: int = 0  # only their start is kept, so they are left out


def read_deadletters(settings: Settings) -> Iterator[pa.RecordBatch]:
    """Effective dead letters (`flows.outputs.DEADLETTER_SCHEMA`): each once, partition by partition.

    Raises
    ------
    DataDirectoryError
        There is no data directory.
    CorruptionError
        Records are missing.
    """
    if not log_exists(settings, DEADLETTERS):
        # No flow has run yet; a directory without even ACTIONS is an error.
        open_log(settings, ACTIONS, read_only=True).close()
        return
    with open_log(settings, DEADLETTERS, read_only=True) as log:
        for partition in range(log.partitions):
            yield from _effective(log, partition)


def _effective(log: Log, partition: int) -> Iterator[pa.RecordBatch]:
    applied: dict[int, int] = {}
    position, end = 0, log.end_position(partition)
    while position < end:
        for batch in log.read(partition, position, min(READ_RECORDS, end - position)):
            position = batch.end_offset
            records = take_next(batch.records, applied, f"log '{log.name}', partition {partition}")
            if records.num_rows:
                yield records


def deadletters(settings: Settings, reason: str | None = None) -> Iterator[DeadLetter]:
    """Dead letters one by one, of one reason or of all."""
    for batch in read_deadletters(settings):
        chosen = batch if reason is None else batch.filter(pc.equal(batch.column("reason"), reason))
        for row in chosen.to_pylist():
            # Older ones don't tell their size: they were kept whole.
            fields = {"size": len(row["raw"]), **row}
            yield DeadLetter(**{name: fields[name] for name in DeadLetter.__dataclass_fields__})


def counts(settings: Settings) -> dict[str, int]:
    """Number of dead letters by reason, the most frequent first."""
    total: Counter[str] = Counter()
    for batch in read_deadletters(settings):
        for item in pc.value_counts(batch.column("reason")).to_pylist():
            total[item["values"]] += item["counts"]
    return dict(total.most_common())


def newest(settings: Settings, limit: int, reason: str | None = None) -> list[DeadLetter]:
    """The last `limit` dead letters by arrival."""
    last: dict[int, deque[DeadLetter]] = {}
    for letter in deadletters(settings, reason):
        last.setdefault(letter.partition, deque(maxlen=limit)).append(letter)
    kept = [letter for part in last.values() for letter in part]
    return sorted(kept, key=lambda letter: (letter.timestamp, letter.partition, letter.offset))[-limit:] if limit else []


def find(settings: Settings, ids: Iterable[str]) -> list[DeadLetter]:
    """The dead letters with these ids.

    Raises
    ------
    InputError
        An id is malformed, or no dead letter has it.
    """
    wanted = dict.fromkeys(ids)
    for one in wanted:
        if not re.fullmatch(r"[0-9]+:[0-9]+", one):
            raise InputError(
                f"'{one}' is no id of a dead letter; one looks like 3:1041 (partition:offset), see `tidemark deadletters list`"
            )
    found = {letter.id: letter for letter in deadletters(settings) if letter.id in wanted}
    for one in wanted:
        if one not in found:
            raise InputError(f"there is no dead letter {one}; see `tidemark deadletters list`")
    return [found[one] for one in wanted]


def select(settings: Settings, ids: Collection[str] = (), reason: str | None = None) -> list[DeadLetter]:
    """By id, else by reason, else all.

    Raises
    ------
    InputError
        Nothing has such an id or reason.
    """
    if ids:
        return find(settings, ids)
    chosen = list(deadletters(settings, reason))
    if reason is not None and not chosen:
        known = counts(settings)
        raise InputError(f"no dead letter has the reason '{reason}'{suggestion(reason, known)}; reasons: {', '.join(known) or 'none'}")
    return chosen


def is_redriven(actions: Log, letter: DeadLetter) -> bool:
    """Whether the ledger of ACTIONS holds it."""
    return actions.ledger_entry(letter.ledger_key) is not None


def redrive(
    actions: Log,
    letters: Iterable[DeadLetter],
    changes: Mapping[str, Any] | None = None,
    original_arrival: bool = False,
    dry_run: bool = False,
) -> Redriven:
    """Append dead letters to ACTIONS again, each at most once, as raw records. Those that are cut are left out: whole, they would be too large again.

    Parameters
    ----------
    actions : Log
    letters : iterable of DeadLetter
    changes : mapping, optional
        Fields to set in each record, which must be a JSON object.
    original_arrival : bool
        Give them the arrival they had, not the present time.
    dry_run : bool
        Only count.

    Raises
    ------
    InputError
        Fields can't be set in a record that is no JSON object; nothing was appended.
    """
    result = Redriven()
    waiting: dict[str, tuple[DeadLetter, bytes]] = {}
    for letter in letters:
        if letter.id in waiting:
            continue
        if is_redriven(actions, letter):
            result.before += 1
        elif letter.cut:
            result.cut += 1
        else:
            waiting[letter.id] = letter, _changed(letter, changes or {})
    if not dry_run:
        items = list(waiting.values())
        for at in range(0, len(items), REDRIVE_RECORDS):
            _append(actions, items[at : at + REDRIVE_RECORDS], original_arrival)
    result.redriven = len(waiting)
    return result


def _append(actions: Log, items: list[tuple[DeadLetter, bytes]], original_arrival: bool) -> None:
    now = time.time_ns() // 1_000_000
    values: dict[int, list[bytes]] = {}
    stamps: dict[int, list[int]] = {}
    for letter, value in items:
        user = user_of(value)
        partition = letter.partition if user is None else int(partition_of(np.array([user]), actions.partitions)[0])
        values.setdefault(partition, []).append(value)
        stamps.setdefault(partition, []).append(letter.timestamp if original_arrival else now)
    batches = [(p, pa.record_batch([pa.array(values[p], pa.binary()), pa.array(stamps[p])], schema=RAW_SCHEMA)) for p in sorted(values)]
    actions.append(batches, ledger=[LedgerEntry(letter.ledger_key, 1, 1) for letter, _ in items])


def user_of(value: bytes) -> int | None:
    """The user that a raw record names, if it does so in a form that the flow would take."""
    try:
        fields = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    user = fields.get("user_id") if isinstance(fields, dict) else None
    if isinstance(user, str):
        return id_of(user)
    if isinstance(user, float) and user.is_integer() and abs(user) <= 2**53:
        user = int(user)
    return user if type(user) is int and INT64_MIN <= user <= INT64_MAX else None


def _changed(letter: DeadLetter, changes: Mapping[str, Any]) -> bytes:
    if not changes:
        return letter.raw
    try:
        fields = orjson.loads(letter.raw)
    except orjson.JSONDecodeError:
        fields = None
    if not isinstance(fields, dict):
        raise InputError(f"dead letter {letter.id} is no JSON object, so no field of it can be set; nothing was re-driven")
    return orjson.dumps({**fields, **changes})
