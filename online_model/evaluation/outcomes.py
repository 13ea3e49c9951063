"""Labels of examples: what was known of each at some time, put together from all its records. Whole columns, in whatever order the records lie.

An example is a pin that a request showed: EXAMPLES holds several records of it, each with some of its labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pyarrow as pa

from flows.examples.record import HEADS, MASKED, Kind
from flows.examples.rows import ExampleRows


class Labels(StrEnum):
    """Which labels examples are measured by."""

    KNOWN = "known"  # those that were known when the example was scored, right or not
    FINAL = "final"  # those that can't change any more; MASKED where there is none yet


@dataclass(frozen=True, eq=False)
class Records:
    """n records of examples, without their features.

    Attributes
    ----------
    user_id, pin_id, request_time : int64[n]
    request_id : pa.StringArray
    kind : int8[n]
    labels : int8[n, 5]
        In the order of HEADS.
    topic : pa.StringArray
    """

    user_id: np.ndarray
    pin_id: np.ndarray
    request_time: np.ndarray
    request_id: pa.Array
    kind: np.ndarray
    labels: np.ndarray
    topic: pa.Array

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, which: np.ndarray) -> Records:
        """Some of them: int64[k]."""
        return Records(
            self.user_id[which],
            self.pin_id[which],
            self.request_time[which],
            self.request_id.take(pa.array(which)),
            self.kind[which],
            self.labels[which],
            self.topic.take(pa.array(which)),
        )


def records_of(rows: ExampleRows) -> Records:
    """What is kept of records once they are scored."""
    topic = pa.array(list(rows.topics), pa.string()).take(pa.array(rows.topic.astype(np.int32), mask=rows.topic < 0))
    return Records(rows.user_id, rows.pin_id, rows.request_time, rows.request_id, rows.kind, rows.labels, topic)


def joined(parts: Sequence[Records]) -> Records:
    """All of them, one after another; of at least one part."""
    return Records(
        user_id=np.concatenate([part.user_id for part in parts]),
        pin_id=np.concatenate([part.pin_id for part in parts]),
        request_time=np.concatenate([part.request_time for part in parts]),
        request_id=pa.concat_arrays([part.request_id for part in parts]),
        kind=np.concatenate([part.kind for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        topic=pa.concat_arrays([part.topic for part in parts]),
    )


def example_of(records: Records) -> np.ndarray:
    """Which example each record is of: int64[n], numbered from 0 by first appearance."""
    request = records.request_id.dictionary_encode().indices.to_numpy()
    order = np.lexsort((records.pin_id, request, records.user_id))
    keys = [column[order] for column in (records.user_id, request, records.pin_id)]
    new = np.concatenate([[True], np.logical_or.reduce([key[1:] != key[:-1] for key in keys])])[: len(order)]
    example = np.empty(len(order), np.int64)
    example[order] = np.cumsum(new) - 1
    # Lexsort is stable: the first of an example's records in `order` is its first at all.
    first = order[new]
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    return number[example]


def labels_of(example: np.ndarray, examples: int, records: Records, labels: Labels) -> np.ndarray:
    """Labels of examples: 1 where any of its records says so, else 0 where any does, else MASKED.

    Parameters
    ----------
    example : int64[n]
        Which example each record is of.
    examples : int
    records : Records
        n of them.
    labels : Labels
        FINAL takes final records alone, KNOWN all of them.

    Returns
    -------
    int8[examples, 5]
    """
    said = np.flatnonzero(records.kind == Kind.FINAL) if labels == Labels.FINAL else np.arange(len(records))
    out = np.full((examples, len(HEADS)), MASKED, np.int8)
    np.maximum.at(out, example[said], records.labels[said])
    return out
