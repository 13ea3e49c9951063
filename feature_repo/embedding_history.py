"""What was known of a user at a moment: the rows that each run made, with the time that they are of, looked up point in time.

A run writes the rows that it made anew and nothing else, so a user's vector at a moment is that of the newest row before it. Vectors are read for
rows that are asked for alone, a file at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.embedding_table import table_numbers
from feature_repo.errors import DamagedEmbeddingError
from flows.partition import partition_of

USER_EMBEDDING = "user_embedding"
RUN = b"tidemark.run"
"""Of a file's metadata: JSON with the as_of, the number and the positions of its run."""
SCHEMA = pa.schema(
    [
        ("user_id", pa.int64()),
        ("event_timestamp", pa.timestamp("ms", tz="UTC")),
        ("embedding", pa.list_(pa.float32())),
        ("embedding_version", pa.int64()),
        ("embedding_position", pa.int64()),
        ("embedding_run", pa.int64()),
    ]
)
"""A row is valid from `event_timestamp` on, until the next one of its user; of rows of one time, the one of the greatest run. A null embedding says
that the user has none any more. `embedding_position` is the next offset of the partition of ACTIONS that the user is of."""


@dataclass(frozen=True, eq=False)
class Found:
    """What was known of n users, each at a moment of their own.

    Attributes
    ----------
    vectors : float32[n, D]
        Zeros where there was none.
    found : bool[n]
    position : int64[n]
        What the table of that moment reflects: the next offset of the user's partition of ACTIONS.
    run : int64[n]
        That made the row; -1 where there was none.
    """

    vectors: np.ndarray
    found: np.ndarray
    position: np.ndarray
    run: np.ndarray


def directory_of(offline: Path, version: int) -> Path:
    """Where the rows of a version's runs lie."""
    return offline / USER_EMBEDDING / str(version)


class EmbeddingHistory:
    """The rows of all runs of a version whose tables were put in place.

    Parameters
    ----------
    data, offline : Path
        The data directory, and that of its offline store.
    version : int
    dim : int
        Width of a vector.

    Attributes
    ----------
    runs : int64[r]
        Their numbers, which are those of the tables that they made, ascending.

    Raises
    ------
    DamagedEmbeddingError
    """

    def __init__(self, data: Path, offline: Path, version: int, dim: int) -> None:
        self._directory, self._dim = directory_of(offline, version), dim
        newest = max(table_numbers(data, version), default=0)
        runs = sorted(int(path.stem) for path in self._directory.glob("*.parquet") if path.stem.isdecimal())
        # One whose table is not in place yet was never anybody's.
        runs = [run for run in runs if run <= newest]
        columns = ("user_id", "event_timestamp")
        parts = [self._read(run, columns) for run in runs]
        sizes = [len(part) for part in parts]

        def joined(name: str) -> np.ndarray:
            arrays = [part.column(name).cast(pa.int64()).to_numpy() for part in parts]
            return np.concatenate([np.empty(0, np.int64), *arrays])

        user, time, run = joined("user_id"), joined("event_timestamp"), np.repeat(np.array(runs, np.int64), sizes)
        row = np.concatenate([np.empty(0, np.int64), *(np.arange(size) for size in sizes)])
        order = np.lexsort((run, time, user))
        self._user, self._time, self._run, self._row = (column[order] for column in (user, time, run, row))
        # What each run reflects, in the order in which they were valid: times never go back, so that is the order of their numbers too.
        told = [orjson.loads(part.schema.metadata[RUN]) for part in parts]
        told.sort(key=lambda one: (one["as_of"], one["number"]))
        self.runs = np.array([one["number"] for one in told], np.int64)
        self._run_times = np.array([one["as_of"] for one in told], np.int64)
        self._run_actions = np.array([one["actions"] for one in told], np.int64)

    def at(self, user_ids: np.ndarray, times: np.ndarray, inclusive: bool = False) -> Found:
        """What was known of users strictly before times, or up to them: int64[n] each."""
        place = self._places(user_ids, times, self._time, "right" if inclusive else "left")
        vectors, found = self._at(place)
        run, position = np.full((2, len(place)), -1, np.int64)
        run[found] = self._run[place[found]]
        # The table of a moment is that of the last run until then, whoever has made the row.
        last = np.searchsorted(self._run_times, times[found], "right" if inclusive else "left") - 1
        if len(last):
            position[found] = self._run_actions[last, partition_of(user_ids[found], self._run_actions.shape[1])]
        return Found(vectors, found, position, run)

    def tables_at(self, times: np.ndarray) -> np.ndarray:
        """The number of the newest table that is of a time strictly before each of some, 0 where there was none: int64[n]."""
        return np.concatenate([[0], self.runs])[np.searchsorted(self._run_times, times, "left")]

    def of_tables(self, user_ids: np.ndarray, tables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What tables said of users: vectors, zeros where one said nothing, and where it did: float32[n, D], bool[n].

        Parameters
        ----------
        user_ids, tables : int64[n]
            A table of their own for each; 0: none.
        """
        return self._at(self._places(user_ids, tables, self._run, "right"))

    def users_until(self, table: int) -> np.ndarray:
        """Who had a row in some table up to one: int64[n], ascending."""
        return np.unique(self._user[self._run <= table])

    def _at(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vectors at places of rows, -1 for none; a file at a time."""
        vectors, found = np.zeros((len(place), self._dim), np.float32), np.zeros(len(place), np.bool_)
        at = np.flatnonzero(place >= 0)
        for run in np.unique(self._run[place[at]]).tolist():
            of = at[self._run[place[at]] == run]
            vectors[of], found[of] = self._vectors(run, self._row[place[of]])
        return vectors, found

    def _places(self, user_ids: np.ndarray, values: np.ndarray, column: np.ndarray, side: str) -> np.ndarray:
        """The newest row of each user whose time, or run, is below a value, -1: none."""
        queries = len(user_ids)
        # Rows and queries in one order by (user, value); at equal values a query comes before rows, or behind them.
        user, time = np.concatenate([self._user, user_ids]), np.concatenate([column, values])
        is_query = np.repeat([0, 1], [len(self._user), queries])
        order = np.lexsort((is_query if side == "right" else -is_query, time, user))
        newest = np.maximum.accumulate(np.where(order < len(self._user), order, -1))
        asked = order >= len(self._user)
        out = np.empty(queries, np.int64)
        out[order[asked] - len(self._user)] = newest[asked]
        mine = out >= 0
        mine[mine] = self._user[out[mine]] == user_ids[mine]
        return np.where(mine, out, -1)

    def _vectors(self, run: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lists = self._read(run, ("embedding",)).column("embedding").combine_chunks().take(pa.array(rows))
        there = lists.is_valid().to_numpy(zero_copy_only=False)
        values = lists.flatten().to_numpy()
        if len(values) != int(there.sum()) * self._dim:
            raise DamagedEmbeddingError(f"{self._path(run)} holds vectors that are not of {self._dim} numbers; restore it from a copy")
        out = np.zeros((len(rows), self._dim), np.float32)
        out[there] = values.reshape(-1, self._dim)
        return out, there

    def _path(self, run: int) -> Path:
        return self._directory / f"{run}.parquet"

    def _read(self, run: int, columns: tuple[str, ...]) -> pa.Table:
        try:
            return pq.read_table(self._path(run), columns=list(columns), page_checksum_verification=True)
        except (OSError, pa.ArrowException, KeyError) as error:
            raise DamagedEmbeddingError(
                f"{self._path(run)} can't be read ({' '.join(str(error).split())}); restore it from a copy"
            ) from error
