"""The user embedding of each example as it was when its pins were ranked, for a model that takes one: looked up, never inferred again.

Which table of user embeddings was at hand stands in the example's positions, as they were served. Where they name none of this version, it is the
newest table of a time before the request's: never a later one. Where a model has ranked though nothing could be read, there was no vector either. A
table's rows stay in the offline store, so the vector is the one that was served, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from feature_repo.embedding_history import EmbeddingHistory
from feature_repo.embedding_table import TableManifest, open_table, read_table_manifest, table_numbers
from feature_repo.errors import NoEmbeddingError
from flows.examples.rows import ExampleRows
from flows.positions import embedding_of
from online_model.model.embedding_input import TakenEmbedding

BY_TIME = -1
"""In the place of a table's number: nobody has said which it was."""
_OFFLINE = "offline"


@dataclass(frozen=True, eq=False)
class Given:
    """What n examples were given of their users.

    Attributes
    ----------
    row : int32[n]
        Of `vectors`, which many may share.
    vectors : float32[u, D + 1]
        See `as_input`.
    """

    row: np.ndarray
    vectors: np.ndarray


def as_input(vectors: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Vectors as a model takes them: behind each 1, or zeros altogether where there is none.

    Parameters
    ----------
    vectors : float32[n, D]
    found : bool[n]

    Returns
    -------
    float32[n, D + 1]
    """
    out = np.zeros((len(vectors), vectors.shape[1] + 1), np.float32)
    out[found, :-1] = vectors[found]
    out[found, -1] = 1
    return out


class ServedVectors:
    """Looks up users of one embedding version at the tables that were served; used by one thread at a time.

    Parameters
    ----------
    data : Path
        The data directory.
    taken : TakenEmbedding
    """

    def __init__(self, data: Path, taken: TakenEmbedding) -> None:
        self.data, self.taken = data, taken
        self._history: EmbeddingHistory | None = None
        self._manifest: TableManifest | None = None
        self._newest = -1

    @classmethod
    def of(cls, config: Mapping[str, Any], data: Path, where: str = "a base") -> Self | None:
        """Those that a base takes. Arguments and errors: as of `TakenEmbedding.of`."""
        taken = TakenEmbedding.of(config, where)
        return None if taken is None else cls(data, taken)

    def tables(self, rows: ExampleRows, low: int = 0, high: int | None = None) -> np.ndarray:
        """The number of the table that each of some examples was served with: int64[high − low].

        0: with none. BY_TIME: its positions name none of this version, or nobody has said.
        """
        used, place = np.unique(rows.position[low:high], return_inverse=True)
        named = np.array([BY_TIME if code < 0 else self._table(rows.positions[code]) for code in used.tolist()], np.int64)[place]
        named[(rows.position[low:high] < 0) & (rows.base[low:high] >= 0)] = 0
        return named

    def given(self, user_id: np.ndarray, request_time: np.ndarray, table: np.ndarray) -> Given:
        """Vectors of examples.

        Parameters
        ----------
        user_id, request_time, table : int64[n]
            As of `tables`.

        Raises
        ------
        NoEmbeddingError
            An example was served with a table that is not there.
        FingerprintError
            The tables are of another embedding than the model takes.
        DamagedEmbeddingError
        """
        newest = self._refresh()
        by_time = table == BY_TIME
        if by_time.any():
            table = table.copy()
            table[by_time] = self._whole_history().tables_at(request_time[by_time])
        if len(table) and table.max() > newest:
            raise NoEmbeddingError(
                f"an example was served with table {table.max()} of user embeddings of version {self.taken.version}, and {self.data} has {newest}: "
                f"put embeddings/ and {_OFFLINE}/ back from copies of one time"
            )
        users, of_user = np.unique(user_id, return_inverse=True)
        pairs, row = np.unique(of_user * np.int64(newest + 1) + table, return_inverse=True)
        vectors, found = self._looked_up(users[pairs // (newest + 1)], pairs % (newest + 1))
        return Given(row.astype(np.int32), as_input(vectors, found))

    def _table(self, packed: bytes) -> int:
        at = embedding_of(packed)
        return at[1] if at is not None and at[0] == self.taken.version else BY_TIME

    def _refresh(self) -> int:
        """The newest table that is there, checked to be of the embedding that is taken."""
        newest = max(table_numbers(self.data, self.taken.version), default=0)
        if newest == 0:
            raise NoEmbeddingError(
                f"the ranker takes user embeddings of version {self.taken.version}, and {self.data} has no table of them; "
                "`tidemark embed infer` makes one"
            )
        if newest != self._newest:
            said = read_table_manifest(self.data, self.taken.version, newest)
            self.taken.check(said.version_digest, said.dim, f"table {said.number} of user embeddings")
            self._newest, self._manifest, self._history = newest, said, None
        return newest

    def _whole_history(self) -> EmbeddingHistory:
        if self._history is None:
            assert self._manifest is not None
            self._history = EmbeddingHistory(self.data / _OFFLINE, self._manifest)
        return self._history

    def _looked_up(self, user_ids: np.ndarray, tables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of pairs of a user and a table: float32[n, D], bool[n]."""
        vectors, found = np.zeros((len(tables), self.taken.dim), np.float32), np.zeros(len(tables), np.bool_)
        kept, swept = table_numbers(self.data, self.taken.version), tables > 0
        for number in np.intersect1d(tables, kept).tolist():
            mine = np.flatnonzero(tables == number)
            # Swept away between the two.
            with suppress(NoEmbeddingError):
                vectors[mine], found[mine] = open_table(self.data, self.taken.version, number).gather(user_ids[mine])
                swept[mine] = False
        # An online learner asks for a week of them, batch for batch: what comes of an impression late bears its table's number.
        if swept.any():
            vectors[swept], found[swept] = self._whole_history().of_tables(user_ids[swept], tables[swept])
        return vectors, found
