"""Records as they lie in the ACTIONS log → validated columns. The one place where a record is judged well-formed.

Column by column: no Python per record, on the JSON lane too where a record is plain. A bad record gets a reason and changes
nothing else; it must never raise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.decode_json import JsonLane
from flows.decode_values import (
    INTEGERS,
    TEXTS,
    Faults,
    codes_of,
    column_named,
    dictionary_of,
    hash_texts,
    integers_of,
    is_text,
    note_fault,
    note_oversize,
    parse_json,
    python_integers,
    python_texts,
    python_values,
    rows_as_json,
    rows_without,
    timestamps_of,
)
from flows.events import (
    EVENT_SCHEMA,
    HEARTBEAT,
    INT64_MAX,
    MAX_EVENT_TIME,
    MAX_RAW_BYTES,
    RAW_SCHEMA,
    REQUIRED_FIELDS,
    SCHEMA_VERSION,
    hash_id,
)
from flows.kernels.layout import ROLE_CLICK, ROLE_RELATED_PINS, ROLE_REVISIT, ROLE_SAVE
from flows.partition import partition_of
from flows.vocabulary import GRID_CLICK, IMPRESSION, OWN_PROFILE, RELATED_PINS, SAVE, Vocabulary

# Codes are below it: a byte of which one bit is free.
_CODES = 128
# Batches that have no more rows than this, on average, are joined before they are looked at.
SMALL_ROWS = 4_096
_KEPT = tuple(name for name in INTEGERS if name != "schema_version")


@dataclass
class Columns:
    """Validated columns of consecutive records; row i of a bad record holds zeros.

    Attributes
    ----------
    event_id, user_id, pin_id, event_time, duration_ms, topic, timestamp : int64[n]
        `topic` is `hash_id` of its name, 0 for none.
    action, surface : int16[n]
        Codes of the vocabulary.
    role : uint8[n]
        What the kernel must know of each record: its ROLE_ bits.
    bad : bool[n]
    faults : dict of int to (reason, detail)
        Of each bad record.
    raw : callable
        Indexes, ascending → of each of these records, for dead letters: as JSON, its first MAX_RAW_BYTES bytes, and how many it has.
    topics : dict of int to str
        The name of every topic among them, and maybe of others.
    heartbeats : int
        How many of the records are heartbeats: bad, and without a fault.
    request : int64[n] or int64[0]
        Where the decoder was asked for it: `flows.decode_values.hash_texts` of request_id, 0 for none.
    """

    event_id: np.ndarray
    user_id: np.ndarray
    pin_id: np.ndarray
    action: np.ndarray
    surface: np.ndarray
    event_time: np.ndarray
    duration_ms: np.ndarray
    topic: np.ndarray
    timestamp: np.ndarray
    role: np.ndarray
    bad: np.ndarray
    faults: Faults
    raw: Callable[[Sequence[int]], list[tuple[bytes, int]]]
    topics: dict[int, str]
    heartbeats: int = 0
    request: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.event_id)


class _Filling:
    """Columns of n records, being filled in batch by batch."""

    def __init__(self, n: int, requests: bool) -> None:
        self.request = np.zeros(n if requests else 0, np.int64)
        self.integers = {name: np.empty(n, np.int64) for name in _KEPT}
        self.action, self.surface = np.empty(n, np.int16), np.empty(n, np.int16)
        self.topic, self.timestamp = np.empty(n, np.int64), np.empty(n, np.int64)
        self.bad = np.zeros(n, np.bool_)
        self.faults: Faults = {}
        self.heartbeats = 0

    def drop_bad(self) -> None:
        """Mark the bad records, and put zeros in their place."""
        if self.faults:
            at = np.fromiter(self.faults, np.int64, len(self.faults))
            self.bad[at] = True
            columns: list[np.ndarray] = [*self.integers.values(), self.action, self.surface, self.topic]
            for column in columns:
                column[at] = 0
            if len(self.request):
                self.request[at] = 0


class Decoder:
    """Decodes and validates against one vocabulary.

    Parameters
    ----------
    vocabulary : Vocabulary
    home : (partition, partitions), optional
        Where the records lie: a record of a user who belongs in another partition is bad, for nobody looks for that user here.
    requests : bool
        Whether columns are to tell the requests too.

    Attributes
    ----------
    topics : dict of int to str
        Every topic seen so far, by its ID.
    """

    def __init__(self, vocabulary: Vocabulary, home: tuple[int, int] | None = None, requests: bool = False) -> None:
        self._home = home
        self._requests = requests
        self._actions = vocabulary.actions
        self._surfaces = vocabulary.surfaces
        self._roles = np.zeros((_CODES, _CODES), np.uint8)
        own, related = vocabulary.surfaces[OWN_PROFILE], vocabulary.surfaces[RELATED_PINS]
        self._roles[vocabulary.actions[SAVE], :] = ROLE_SAVE
        self._roles[vocabulary.actions[SAVE], related] |= ROLE_RELATED_PINS
        self._roles[vocabulary.actions[IMPRESSION], own] = ROLE_REVISIT
        self._roles[vocabulary.actions[GRID_CLICK], own] = ROLE_REVISIT | ROLE_CLICK
        self.topics: dict[int, str] = {}
        self._topic_ids: dict[str, int] = {"": 0}
        self._json = JsonLane(self._actions, self._surfaces, self._topic_id)

    def decode(self, *batches: pa.RecordBatch) -> Columns:
        """Columns of consecutive batches of either kind."""
        batches = _joined(batches)
        starts = np.cumsum([0] + [records.num_rows for records in batches])
        c = _Filling(int(starts[-1]), self._requests)
        for records, start in zip(batches, starts.tolist(), strict=False):
            rows, faults = slice(start, start + records.num_rows), Faults()
            if records.schema.names == RAW_SCHEMA.names:
                version = self._fill_raw(records, c, rows, faults)
            else:
                agreed = self._fill_as_agreed(records, c, rows, faults)
                version = agreed if agreed is not None else self._fill_typed(records, c, rows, faults)
            _check(c.integers["event_time"][rows], 0, MAX_EVENT_TIME, "impossible_time", faults)
            _check(c.integers["duration_ms"][rows], 0, INT64_MAX, "negative_duration", faults)
            _check(version, SCHEMA_VERSION, SCHEMA_VERSION, "unknown_schema_version", faults)
            if faults:
                self._pass_heartbeats(records, c, rows, faults)
            c.faults.update({start + i: fault for i, fault in faults.items()})
        c.drop_bad()
        if self._home is not None:
            _check_home(*self._home, c)
            c.drop_bad()

        def raw(rows: Sequence[int]) -> list[tuple[bytes, int]]:
            at = np.asarray(rows, np.int64)
            parts = np.searchsorted(starts, at, "right") - 1
            values = (value for part in np.unique(parts) for value in _as_json(batches[part], at[parts == part] - starts[part]))
            return [(value[:MAX_RAW_BYTES], len(value)) for value in values]

        # At one place of the table: looking a pair up in two dimensions takes twice as long.
        role = self._roles.ravel()[c.action * np.int16(_CODES) + c.surface]
        i = c.integers
        return Columns(
            i["event_id"], i["user_id"], i["pin_id"], c.action, c.surface, i["event_time"], i["duration_ms"], c.topic, c.timestamp, role, c.bad,
            c.faults, raw, self.topics, c.heartbeats, c.request,
        )  # fmt: skip

    def _fill_as_agreed(self, records: pa.RecordBatch, c: _Filling, rows: slice, faults: Faults) -> np.ndarray | None:
        """Fill in a batch whose columns are of the types that they should be; None, with nothing noted, if they must be looked at one by one.

        What nearly every batch is, in a few calls each: a log may hold many small ones.
        """
        if records.schema != EVENT_SCHEMA:
            return None
        columns = dict(zip(EVENT_SCHEMA.names, records.columns, strict=True))
        if any(_may_be_oversize(columns[name]) for name in TEXTS):
            return None
        try:
            names = {name: columns[name].dictionary.to_pylist() for name in ("action", "surface", "topic")}
        except (ValueError, OverflowError):
            return None
        if any(None in texts for texts in names.values()):
            return None
        columns_of_codes: tuple[tuple[str, np.ndarray, Callable[[str], int | None], int], ...] = (
            ("action", c.action, self._actions.get, 0),
            ("surface", c.surface, self._surfaces.get, self._surfaces["other"]),
            ("topic", c.topic, self._topic_id, 0),
        )
        for name, out, code_of, default in columns_of_codes:
            codes = [code_of(text) for text in names[name]]
            # The code after the last stands for null.
            index = _filled(columns[name].indices, len(codes))
            out[rows] = np.array([*(-1 if code is None else code for code in codes), default], np.int64)[index]
            if None in codes:
                for unknown in np.flatnonzero(out[rows] < 0).tolist():
                    note_fault(faults, unknown, f"unknown_{name}", names[name][index[unknown]][:80])
        for name, integers in (*c.integers.items(), ("timestamp", c.timestamp)):
            integers[rows] = _filled(columns[name], 0)
        for name in REQUIRED_FIELDS:
            for i in rows_without(columns[name], len(records)):
                note_fault(faults, int(i), "missing_field", name)
        if self._requests:
            c.request[rows] = hash_texts(columns["request_id"])
        return _filled(columns["schema_version"], SCHEMA_VERSION)

    def _fill_typed(self, records: pa.RecordBatch, c: _Filling, rows: slice, faults: Faults) -> np.ndarray:
        n = records.num_rows
        for name in _KEPT:
            c.integers[name][rows] = integers_of(records, name, n, faults)
        c.timestamp[rows] = timestamps_of(records)
        c.action[rows] = self._codes(records, "action", self._actions, "unknown_action", n, faults)
        c.surface[rows] = self._codes(records, "surface", self._surfaces, "unknown_surface", n, faults)
        c.topic[rows] = self._topics(records, n, faults)
        note_oversize(records, faults)
        for name in ("request_id", "producer"):
            column = column_named(records, name)
            if column is None:
                continue
            texts = column if is_text(column.type) else pa.array(python_texts(python_values(column), name, faults), pa.string())
            if name == "request_id" and self._requests:
                c.request[rows] = hash_texts(texts)
        for name in REQUIRED_FIELDS:
            for i in rows_without(column_named(records, name), n):
                note_fault(faults, int(i), "missing_field", name)
        return integers_of(records, "schema_version", n, faults)

    def _fill_raw(self, records: pa.RecordBatch, c: _Filling, rows: slice, faults: Faults) -> np.ndarray:
        i = c.integers
        whole: tuple[np.ndarray, ...] = (
            i["event_id"], i["user_id"], i["pin_id"], i["event_time"], i["duration_ms"], c.topic, c.action, c.surface,
        )  # fmt: skip
        columns = [column[rows] for column in whole]
        values = records.column("value")
        version = np.full(len(values), SCHEMA_VERSION, np.int64)
        request = c.request[rows]
        left = np.flatnonzero(self._json.take(values, columns, request))
        if len(left):
            own = Faults()
            judged, version[left], requests = self._values(python_values(values.take(pa.array(left))), own)
            for column, some in zip(columns, judged, strict=True):
                column[left] = some
            if self._requests:
                request[left] = hash_texts(pa.array(requests, pa.string()))
            faults.update({int(left[k]): fault for k, fault in own.items()})
        c.timestamp[rows] = timestamps_of(records)
        return version

    def _pass_heartbeats(self, records: pa.RecordBatch, c: _Filling, rows: slice, faults: Faults) -> None:
        """Of heartbeats only the timestamp counts, as of bad records; and that they lack an event is no fault."""
        for i in heartbeats_among(records).tolist():
            del faults[i]
            c.bad[rows.start + i] = True
            c.heartbeats += 1

    def _values(self, values: list[Any], faults: Faults) -> tuple[tuple[np.ndarray, ...], np.ndarray, list[str | None]]:
        """Raw values one by one → their columns, and the schema version and the request of each."""
        objects = parse_json([_bytes(v) for v in values], faults)
        numbers = [python_integers([o.get(name) for o in objects], name, 0, faults) for name in _KEPT]
        texts = {name: python_texts([o.get(name) for o in objects], name, faults) for name in TEXTS}
        for name in REQUIRED_FIELDS:
            for i, o in enumerate(objects):
                if o.get(name) is None:
                    note_fault(faults, i, "missing_field", name)
        action = codes_of([t or "" for t in texts["action"]], self._actions, "unknown_action", faults)
        surface = codes_of(["other" if t is None else t for t in texts["surface"]], self._surfaces, "unknown_surface", faults)
        topic = np.fromiter((self._topic_id(t or "") for t in texts["topic"]), np.int64, len(objects))
        version = python_integers([o.get("schema_version") for o in objects], "schema_version", SCHEMA_VERSION, faults)
        return (*numbers, topic, action, surface), version, texts["request_id"]

    def _codes(self, records: pa.RecordBatch, name: str, known: Any, reason: str, n: int, faults: Faults) -> np.ndarray:
        """Codes of a name column: the distinct names are looked up, not the rows."""
        default = known["other"] if name == "surface" else 0
        texts = dictionary_of(records, name, n, faults)
        if texts is None:
            return np.full(n, default, np.int16)
        names, index = texts
        codes = np.array([known.get(text, -1) for text in names] + [default], np.int16)
        column = codes[index]
        if (codes < 0).any():
            for i in np.flatnonzero(column < 0):
                note_fault(faults, int(i), reason, str(names[index[i]])[:80])
        return column

    def _topics(self, records: pa.RecordBatch, n: int, faults: Faults) -> np.ndarray:
        texts = dictionary_of(records, "topic", n, faults)
        if texts is None:
            return np.zeros(n, np.int64)
        names, index = texts
        return np.array([self._topic_id(name or "") for name in names] + [0], np.int64)[index]

    def _topic_id(self, name: str) -> int:
        known = self._topic_ids.get(name)
        if known is None:
            known = self._topic_ids[name] = hash_id(name)
            self.topics[known] = name
        return known


def heartbeats_among(records: pa.RecordBatch) -> np.ndarray:
    """Which of some records are heartbeats of this log, and no event: indexes."""
    producer = column_named(records, "producer")
    if producer is None or not (pa.types.is_dictionary(producer.type) and pa.types.is_string(producer.type.value_type)):
        return np.empty(0, np.int64)
    said = pc.equal(producer.cast(pa.string()), HEARTBEAT).fill_null(False).to_numpy(zero_copy_only=False)
    for name in REQUIRED_FIELDS:
        column = column_named(records, name)
        said &= True if column is None else column.is_null().to_numpy(zero_copy_only=False)
    return np.flatnonzero(said)


def _joined(batches: tuple[pa.RecordBatch, ...]) -> tuple[pa.RecordBatch, ...]:
    """Small batches as one: to look at a batch takes 70 µs however small it is, to join eight of them 20."""
    if len(batches) < 2 or sum(records.num_rows for records in batches) > SMALL_ROWS * len(batches):
        return batches
    if any(records.schema != EVENT_SCHEMA for records in batches):
        return batches
    try:
        return (pa.concat_batches(batches),)
    except pa.ArrowInvalid:
        # Dictionaries with nulls can't become one.
        return batches


def _filled(column: pa.Array, default: int) -> np.ndarray:
    """A column of whole numbers with a default in place of null."""
    return (column.fill_null(default) if column.null_count else column).to_numpy()


def _check(values: np.ndarray, least: int, greatest: int, reason: str, faults: Faults) -> None:
    """Note each value out of bounds. The extremes tell at little cost that there is nothing to look for."""
    if len(values) and (values.min() < least or values.max() > greatest):
        for i in np.flatnonzero((values < least) | (values > greatest)):
            note_fault(faults, int(i), reason, str(values[i]))


def _check_home(partition: int, partitions: int, c: _Filling) -> None:
    """Note each user that is not of this partition."""
    users = c.integers["user_id"]
    homes = partition_of(users, partitions)
    elsewhere = np.flatnonzero(homes != partition)
    for i in elsewhere[~c.bad[elsewhere]].tolist():
        note_fault(
            c.faults, i, "wrong_partition", f"user {users[i]} belongs in partition {homes[i]}, the record is in partition {partition}"
        )


def _bytes(value: Any) -> bytes | None:
    return value.encode() if type(value) is str else value if type(value) is bytes else None


def _as_json(records: pa.RecordBatch, rows: np.ndarray) -> Iterator[bytes]:
    """Records as dead letters show them."""
    if records.schema.names == RAW_SCHEMA.names:
        return (_bytes(value) or b"" for value in python_values(records.column("value").take(pa.array(rows))))
    return rows_as_json(records, rows)


def _may_be_oversize(texts: pa.Array) -> bool:
    """Whether a text of a column of EVENT_SCHEMA could be too large: its bytes in all tell most often that none is."""
    if pa.types.is_dictionary(texts.type):
        texts = texts.dictionary
    buffers = texts.buffers()
    if buffers[2] is None or buffers[2].size <= MAX_RAW_BYTES:
        return False
    offsets = np.frombuffer(buffers[1], np.int32, len(texts) + 1, texts.offset * 4)
    return bool((offsets[1:] - offsets[:-1]).max(initial=0) > MAX_RAW_BYTES)
