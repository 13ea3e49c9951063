"""The event contract: the columns of an action, on the wire and inside, and how an ID becomes an int64.

An ACTIONS log holds two kinds of record batches: `EVENT_SCHEMA` (typed columns, the fast lane) and `RAW_SCHEMA` (one opaque value per record,
JSON by contract). Both carry `timestamp`, the record's own time in ms, from which the log's arrival time is made.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pyarrow as pa

SCHEMA_VERSION = 1
MAX_EVENT_TIME = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z
MAX_RAW_BYTES = 65_536  # of a record that can be taken; and what is kept of one that can't
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

_NAME = pa.dictionary(pa.int32(), pa.string())

EVENT_SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.int64()),
        pa.field("user_id", pa.int64()),
        pa.field("pin_id", pa.int64()),
        pa.field("action", _NAME),
        pa.field("surface", _NAME),  # null or absent reads as "other"
        pa.field("event_time", pa.int64()),  # ms UTC
        pa.field("duration_ms", pa.int64()),  # null or absent reads as 0
        pa.field("request_id", pa.string()),
        pa.field("topic", _NAME),
        pa.field("producer", _NAME),
        pa.field("schema_version", pa.int16()),
        pa.field("timestamp", pa.int64()),
    ]
)
RAW_SCHEMA = pa.schema([pa.field("value", pa.binary()), pa.field("timestamp", pa.int64())])
REQUIRED_FIELDS = ("event_id", "user_id", "pin_id", "action", "event_time")

HEARTBEAT = "tidemark heartbeat"
"""What a record of ACTIONS without an event says in place of a producer: nothing but that so much time has passed."""

_DECIMAL = re.compile(r"0|-?[1-9][0-9]{0,18}")


def heartbeat(timestamp: int) -> pa.RecordBatch:
    """A record that says that so much time has passed, ms."""
    given = {"producer": HEARTBEAT, "schema_version": SCHEMA_VERSION, "timestamp": timestamp}
    return pa.RecordBatch.from_arrays([pa.array([given.get(f.name)]).cast(f.type) for f in EVENT_SCHEMA], schema=EVENT_SCHEMA)


def hash_id(text: str) -> int:
    """The int64 of a string ID: BLAKE2b, 8 bytes, little-endian, signed. Stable for ever."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little", signed=True)


def id_of(text: str) -> int:
    """The int64 ID that a text stands for.

    A canonical decimal within int64 ("0", "-7", "9223372036854775807") is that number, so that a numeric column read as text names the same
    users; any other text ("007", "alice", "") is hashed.
    """
    if is_decimal(text):
        number = int(text)
        if INT64_MIN <= number <= INT64_MAX:
            return number
    return hash_id(text)


def is_decimal(text: str) -> bool:
    """Whether a text is a whole number as one writes it, and not another way of writing it ("007", "-0"), which is a text ID of its own."""
    return _DECIMAL.fullmatch(text) is not None


def ids_of(texts: list[str | None]) -> np.ndarray:
    """`id_of` of each text, as int64; None gives 0 (the caller knows where). Each distinct text is hashed once."""
    known: dict[str | None, int] = {None: 0}
    out = np.empty(len(texts), np.int64)
    for i, text in enumerate(texts):
        value = known.get(text)
        if value is None:
            value = known[text] = id_of(text)  # type: ignore[arg-type]
        out[i] = value
    return out
