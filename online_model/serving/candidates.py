"""A request's candidates as the model reads them: what was read of the store, straight into columns. Nothing goes through values one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from feature_repo.embedding_table import EmbeddingTable
from online_model.model.columns import NO_EMBEDDING, ExampleColumns, logged
from online_model.model.served_vectors import as_input
from online_model.serving.answer import Answer


@dataclass(frozen=True, eq=False)
class Candidates:
    """One user and n pins.

    Attributes
    ----------
    timestamp : int
        When the request came, ms: ages, hour and weekday are of then, as in the examples that will be made of it.
    surface : int
        Code of the vocabulary.
    answer : Answer
    """

    timestamp: int
    surface: int
    answer: Answer

    def __len__(self) -> int:
        return len(self.answer.ask.pins)


def columns_of(requests: Sequence[Candidates], table: EmbeddingTable | None = None) -> ExampleColumns:
    """Requests one after another, request i numbered i; slots are not known.

    Parameters
    ----------
    requests : sequence of Candidates
    table : EmbeddingTable, optional
        Users' vectors, for a model that takes them.
    """
    sizes = [len(one) for one in requests]
    answers = [one.answer for one in requests]
    entries = np.cumsum([0, *(len(one.sequences.pin_id) for one in answers)])
    offsets = [one.sequences.offsets[1:] + first for one, first in zip(answers, entries[:-1], strict=True)]

    embedding = NO_EMBEDDING
    if table is not None:
        vectors, found = table.gather(np.concatenate([one.ask.users for one in answers]))
        # Which table it was is said with the prefix that was read; where none was, nobody could find it again.
        vectors = as_input(vectors, found & [one.prefix.packed is not None for one in answers])
        embedding = {"embedding": np.repeat(np.arange(len(requests), dtype=np.int32), sizes), "embeddings": vectors}

    def each(values: Sequence[object], kind: type) -> np.ndarray:
        return np.repeat(np.array(values, kind), sizes)

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(one.sequences, name) for one in answers])

    return ExampleColumns(
        user_id=np.repeat(np.concatenate([one.ask.users for one in answers]), sizes),
        pin_id=np.concatenate([one.ask.pins for one in answers]),
        request=np.repeat(np.arange(len(requests)), sizes),
        surface=each([one.surface for one in requests], np.int16),
        slot=each([-1] * len(requests), np.int16),
        pin_counters=logged(np.concatenate([one.pin_counters for one in answers])),
        user_counters=logged(np.concatenate([one.user_counters for one in answers])),
        request_time=np.array([one.timestamp for one in requests], np.int64),
        offsets=np.concatenate([[0], *offsets]).astype(np.int64),
        action_pin_id=joined("pin_id"),
        action_time=joined("event_time"),
        action=joined("action").astype(np.uint8),
        action_surface=joined("surface").astype(np.uint8),
        **embedding,
    )
