"""The records of SERVED: what was served, with the values used and the prefix that they reflect; so that it can be recomputed, bit by bit.

One record for each user of a request; the pins and topics of a request lie in its first record. A record lies in its user's partition, or without a
user in that of its request ID's hash. The record's timestamp is the time of the request. A record without a request ID is a heartbeat: it says
nothing but that so much time has passed, and every reader passes over it.
"""

from __future__ import annotations

from enum import IntEnum

import pyarrow as pa

SERVED_VERSION = 2
"""2: what was ranked. Records of version 1 are read as well: they know nothing of that."""


class Status(IntEnum):
    """How an entity's values came to be."""

    FOUND = 0
    NOT_FOUND = 1  # it has nothing to say: empty and zeros
    DEFAULTED = 2  # the store did not answer in time: empty and zeros, whatever it has to say


SERVED_SCHEMA = pa.schema(
    [
        pa.field("timestamp", pa.int64()),  # of the request, ms
        pa.field("version", pa.int16()),
        pa.field("request_id", pa.string()),
        pa.field("surface", pa.dictionary(pa.int32(), pa.string())),
        pa.field("fingerprint", pa.dictionary(pa.int32(), pa.string())),  # flows.state.actions_task.state_fingerprint
        pa.field("as_of", pa.int64()),  # events with event_time ≤ as_of were taken, ms
        pa.field("positions", pa.dictionary(pa.int32(), pa.binary())),  # flows.positions.Positions; null where nothing was read
        pa.field("user_id", pa.int64()),  # null: none was asked for, and no column up to user_counters has a value
        pa.field("user_status", pa.int8()),
        pa.field("sequence_pin_id", pa.list_(pa.int64())),  # newest first
        pa.field("sequence_action", pa.list_(pa.uint8())),  # codes of the vocabulary, which the fingerprint covers
        pa.field("sequence_surface", pa.list_(pa.uint8())),
        pa.field("sequence_event_time", pa.list_(pa.int64())),
        pa.field("sequence_duration_ms", pa.list_(pa.int64())),
        pa.field("user_counters", pa.list_(pa.int64())),  # features.USER_COUNTERS
        pa.field("pin_id", pa.list_(pa.int64())),
        pa.field("pin_status", pa.list_(pa.int8())),
        pa.field("pin_counters", pa.list_(pa.int64())),  # features.PIN_COUNTERS of the first pin, then of the next
        pa.field("topic", pa.list_(pa.string())),
        pa.field("topic_status", pa.list_(pa.int8())),
        pa.field("topic_stats", pa.list_(pa.float64())),  # features.TOPIC_STATS of the first topic, then of the next
        pa.field("pin_slot", pa.list_(pa.int16())),  # where each pin was shown, -1: not known
        pa.field("pin_propensity", pa.list_(pa.float32())),  # the chance that the policy put it there; null: not known
        pa.field("pin_explored", pa.list_(pa.bool_())),  # put there by chance and not by score
        pa.field("pin_score", pa.list_(pa.float32())),  # null: no model of ours ranked it
        pa.field("base", pa.int64()),  # model that ranked the pins, and its last delta; null: none of ours
        pa.field("delta", pa.int64()),
        pa.field("not_shown", pa.list_(pa.int64())),  # pins that were candidates and not shown, a sample
    ]
)
FIRST_OF_VERSION_2 = "pin_slot"
