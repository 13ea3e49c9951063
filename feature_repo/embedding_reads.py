"""User embeddings as of a time, for Feast's online and offline reads alike: of the version that is served, now or as it was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from feature_repo.embedding_history import EmbeddingHistory
from feature_repo.embedding_table import open_table, served_version
from flows.partition import partition_of
from flows.settings import Settings


@dataclass(frozen=True, eq=False)
class Embedded:
    """n users.

    Attributes
    ----------
    vectors : float32[n, D]
    found : bool[n]
    version, position : int64[n]
        -1 where there is no vector.
    """

    vectors: np.ndarray
    found: np.ndarray
    version: np.ndarray
    position: np.ndarray


def embeddings_at(settings: Settings, user_ids: np.ndarray, times: int | np.ndarray) -> Embedded:
    """What is known of users up to a time, or up to one for each: ms. Nobody is found where no version is served.

    Raises
    ------
    NoEmbeddingError, DamagedEmbeddingError
    """
    version = served_version(settings.data)
    if version is None:
        nothing = np.full(len(user_ids), -1, np.int64)
        return Embedded(np.zeros((len(user_ids), 0), np.float32), nothing > 0, nothing, nothing)
    table = open_table(settings.data, version)
    said = table.manifest
    if np.min(times, initial=said.as_of) >= said.as_of:
        vectors, found = table.gather(user_ids)
        position = np.where(found, np.array(said.actions, np.int64)[partition_of(user_ids, len(said.actions))], -1)
    else:
        was = EmbeddingHistory(settings.offline, said).at(
            user_ids, np.broadcast_to(np.asarray(times, np.int64), len(user_ids)), inclusive=True
        )
        vectors, found, position = was.vectors, was.found, was.position
    return Embedded(vectors, found, np.where(found, version, -1), position)
