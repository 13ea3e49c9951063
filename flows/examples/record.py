"""The records of EXAMPLES: a pin that was seen, with the features that were served for it, and what came of it.

A record is one example at one moment (`Kind`). Records lie in their user's partition, in the order in which they became known. What a request's
examples share, the user's features, is one entry of a dictionary, so that it is stored once. ID vectors are never in here: no increment of the
online learner may reach a full retrain.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import pyarrow as pa

EXAMPLES = "examples"
HEADS = ("click", "long_click", "save", "hide", "revisit")
"""What a pin can lead to, in the order of every array of labels and probabilities."""
MASKED = -1
"""The label of a head of which an example says nothing."""
OUTCOME_WINDOW_MS = 30 * 60_000
"""An outcome belongs to an impression if it follows it by at most this."""


class Kind(IntEnum):
    """What a record is good for."""

    NEGATIVE = 0  # at the impression, every head 0: for whoever learns online
    POSITIVE = 1  # when an outcome comes: that head 1, the others masked
    FINAL = 2  # when labels can't change any more: for a retrain. The heads that have matured, the others masked
    HEARTBEAT = 3  # no example: nothing has become known up to here. Readers pass over it, and know that time has gone on


SEQUENCE_ENTRY = np.dtype([("pin_id", "<i8"), ("event_time", "<i8"), ("duration_ms", "<i8"), ("action", "u1"), ("surface", "u1")])
"""One action of a user, packed: 26 bytes."""

EXAMPLE_SCHEMA = pa.schema(
    [
        pa.field("generation", pa.int32()),
        pa.field("origin", pa.int32()),  # partition of the task that put it out
        pa.field("sequence", pa.int64()),
        pa.field("timestamp", pa.int64()),  # when it became known, in arrival time, ms: never runs back within a partition
        pa.field("kind", pa.int8()),
        pa.field("request_id", pa.string()),
        pa.field("user_id", pa.int64()),
        pa.field("pin_id", pa.int64()),
        pa.field("surface", pa.int16()),  # code of the vocabulary, -1: none was named
        pa.field("topic", pa.dictionary(pa.int32(), pa.string())),  # of the impression; null: none
        pa.field("request_time", pa.int64()),  # ms
        pa.field("impression_time", pa.int64()),  # ms
        pa.field("slot", pa.int16()),  # -1: not known
        pa.field("propensity", pa.float32()),  # the chance that the policy put it there; null: not known
        pa.field("explored", pa.bool_()),  # put there by chance and not by score
        pa.field("score", pa.float32()),  # null: no model of ours ranked it
        pa.field("base", pa.int64()),  # model that ranked it, and its last delta; null: none of ours
        pa.field("delta", pa.int64()),
        *(pa.field(f"label_{head}", pa.int8()) for head in HEADS),  # 0, 1, or MASKED
        pa.field("fingerprint", pa.dictionary(pa.int32(), pa.string())),
        pa.field("positions", pa.dictionary(pa.int32(), pa.binary())),  # flows.positions.Positions; null: not known
        pa.field("as_of", pa.int64()),  # events with event_time ≤ as_of were taken, ms
        # int64[24] of features.USER_COUNTERS, then SEQUENCE_ENTRY of each action, newest first.
        pa.field("user_features", pa.dictionary(pa.int32(), pa.binary())),
        pa.field("pin_counters", pa.list_(pa.int64(), 24)),  # features.PIN_COUNTERS
    ]
)


def is_of_examples(records: pa.RecordBatch) -> bool:
    """Whether records have the columns of EXAMPLES."""
    schema = records.schema
    return schema.equals(EXAMPLE_SCHEMA) or (schema.names == EXAMPLE_SCHEMA.names and schema.types == EXAMPLE_SCHEMA.types)
