"""Records of EXAMPLES as micro-batches that a step learns, several at once.

Numpy alone: they are made by a process that does without torch, beside the one that learns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from flows.examples.joining import with_requests_in_order
from flows.examples.picked import Picked
from online_model.learner.config import LearnerConfig
from online_model.learner.delayed import labels_of, learned_from
from online_model.model.columns import ExampleColumns, Features
from online_model.model.config import ModelConfig

if TYPE_CHECKING:
    # Loads Feast; few rankers take user embeddings.
    from online_model.model.served_vectors import ServedVectors


@dataclass(frozen=True, eq=False)
class Prepared:
    """A micro-batch as it is before any table is looked at; made of its records alone, by whatever thread or process.

    Attributes
    ----------
    features : Features
        Of the n records that are learned from.
    labels : int8[n, heads]
    sighted : int64[k]
        Those that count as a sighting of their user and pin.
    seen_at : int64[k]
        When, ms.
    time : int
        Newest event time of all records, those that are passed over too, ms; nothing is newer than it was known. -1: there is none.
    """

    features: Features
    labels: np.ndarray
    sighted: np.ndarray
    seen_at: np.ndarray
    time: int


def prepare(batches: Sequence[Picked], model: ModelConfig, config: LearnerConfig, vectors: ServedVectors | None = None) -> list[Prepared]:
    """Records of EXAMPLES as micro-batches, several at once; each is what it would be alone.

    Parameters
    ----------
    batches : sequence of Picked
        Of any kinds; one or more.
    model : ModelConfig
    config : LearnerConfig
    vectors : ServedVectors, optional
        For a ranker that takes user embeddings.

    Raises
    ------
    InputError
        A record holds what can't be.
    """
    records = Picked.joined(batches)
    kind, seen_at = records.column("kind"), records.column("impression_time")
    known_at = np.minimum(seen_at, records.column("ready_time"))
    bounds = np.cumsum([0, *map(len, batches)])
    kept = np.flatnonzero(learned_from(kind, config.delayed_labels))
    if len(kept) < len(records):
        records, kind, seen_at = records.some(kept), kind[kept], seen_at[kept]
    labels, sightings = labels_of(kind, records.column("labels"), config.delayed_labels)
    wanted = np.ascontiguousarray(labels[:, : len(model.heads)])
    starts = np.searchsorted(kept, bounds)
    # The order of requests decides the last bits of sums over them.
    features = ExampleColumns.of([with_requests_in_order(records.features(), starts[:-1].tolist())]).all_features(model.sequence_length)
    if vectors is not None:
        table = records.made(vectors.tables)
        given = vectors.given(records.column("user_id"), records.column("request_time"), table)
        features = replace(features, user_embedding=given.vectors[given.row])
    # Requests are numbered by batches: each begins with one of its own.
    requests = np.append(features.context, len(features.hour))[starts]
    out = []
    for i, (low, high) in enumerate(pairwise(starts.tolist())):
        sighted = np.flatnonzero(sightings[low:high])
        own = features.part(low, high, int(requests[i]), int(requests[i + 1]))
        time = int(known_at[bounds[i] : bounds[i + 1]].max(initial=-1))
        out.append(Prepared(own, wanted[low:high], sighted, seen_at[low:high][sighted], time))
    return out
