"""A version at work for retrieval: users, pins and index of one embedding, held together. Which pins are the nearest to a user, less those they know.

It is one immutable value: whoever has begun with it ends with it, whatever is put in place meanwhile. Torch is not needed for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from feature_repo.embedding_table import EMBEDDINGS, EmbeddingTable, open_table, table_numbers
from flows.settings import Settings
from online_model.embedding import index
from online_model.embedding.errors import DamagedIndexError
from online_model.embedding.index import PinIndex, open_index, read_pins_manifest
from online_model.embedding.sources import Source


@dataclass(frozen=True, eq=False)
class Retrieved:
    """Pins for a user, the best first.

    Attributes
    ----------
    source : Source
    pins : int64[k]
    score : float32[k]
        Inner products, −1 to 1; 0 where the source is popularity.
    """

    source: Source
    pins: np.ndarray
    score: np.ndarray


@dataclass(frozen=True, eq=False)
class Retriever:
    """Users and pins of one embedding version.

    Attributes
    ----------
    table : EmbeddingTable
    pins : PinIndex
    """

    table: EmbeddingTable
    pins: PinIndex

    @property
    def version(self) -> int:
        """Of both."""
        return self.table.manifest.version

    def retrieve(self, user: int, k: int, known: np.ndarray) -> Retrieved:
        """At most k pins for a user, without those that they know.

        Parameters
        ----------
        user : int
        k : int
        known : int64[s]
            Pins that the user has acted on.
        """
        row = int(self.table.rows_of(np.array([user], np.int64))[0])
        if row < 0:
            popular = np.array(self.table.manifest.popular, np.int64)
            popular = popular[~np.isin(popular, known)][:k]
            return Retrieved(Source.POPULAR, popular, np.zeros(len(popular), np.float32))
        # As many more as may be left out.
        places, products = self.pins.nearest(self.table.vectors[row : row + 1], k + len(known))
        there = places[0] >= 0
        pins, score = self.pins.pin_ids[places[0][there]], products[0][there]
        new = np.flatnonzero(~np.isin(pins, known))[:k]
        return Retrieved(Source.EMBEDDING, pins[new], score[new])


def open_retriever(settings: Settings, version: int, before: Retriever | None = None) -> Retriever:
    """The newest users and pins of a version, checked; what has not changed is taken from another one.

    Raises
    ------
    NoEmbeddingError, DamagedEmbeddingError, DamagedIndexError
        One of them is missing, is not what was written, or is of another embedding.
    """
    path = settings.data / EMBEDDINGS / str(version)
    table = open_table(settings.data, version)
    manifest = read_pins_manifest(path)
    pins = before.pins if before is not None and before.pins.manifest == manifest else open_index(path, manifest.number)
    if table.manifest.version_digest != manifest.version_digest or table.manifest.dim != manifest.dim:
        raise DamagedIndexError(
            f"embedding version {version}: table {table.manifest.number} of users and index {manifest.number} of pins are not of the same embedding; "
            f"make both anew with `tidemark embed infer --version {version} --full`"
        )
    if before is not None and before.table is table and before.pins is pins:
        return before
    return Retriever(table, pins)


def newest(settings: Settings, version: int) -> tuple[int, int]:
    """Numbers of a version's newest table and pins, 0 for none; cheap to ask again and again."""
    tables = table_numbers(settings.data, version)
    return max(tables, default=0), max(index.numbers(settings.data / EMBEDDINGS / str(version)), default=0)
