"""What was known of a user at a moment: the rows that each run made, with the time that they are of, looked up point in time.

A run writes the rows that it made anew and nothing else, so a user's vector at a moment is that of the newest row before it; none where a run that
inferred everyone lies between. A file that is gone is never passed over: what it may have said is refused.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.embedding_table import TableManifest, places_of
from feature_repo.errors import DamagedEmbeddingError
from flows.directories import translated
from flows.partition import partition_of

USER_EMBEDDING = "user_embedding"
RUN = b"tidemark.run"
"""Of a file's metadata: a `Run` as JSON."""
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


@dataclass(frozen=True)
class Run:
    """What a run says of itself in its file.

    Attributes
    ----------
    number : int
        Of the table that it made.
    as_of : int
        The time of all of its rows, ms.
    actions : tuple of int
        What it reflects: the next offset of each partition of ACTIONS.
    version_digest : str or None
        Of the embedding; None: it was made by a Tidemark that did not say so yet.
    everyone : bool
        It inferred everyone, so that rows of runs before it mean nothing any more.
    """

    number: int
    as_of: int
    actions: tuple[int, ...]
    version_digest: str | None = None
    everyone: bool = False

    def to_bytes(self) -> bytes:
        """As the file's metadata has it."""
        return orjson.dumps(asdict(self))

    def is_of(self, version_digest: str) -> bool:
        """Whether it is of an embedding, as far as it says."""
        return self.version_digest in (None, version_digest)


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
    """The rows of all runs of a version up to a table.

    Parameters
    ----------
    offline : Path
        The directory of the offline store.
    newest : TableManifest
        Of the newest table: a run behind it, whose table is not in place, was never anybody's.

    Attributes
    ----------
    runs : int64[r]
        Their numbers, which are those of the tables that they made, ascending.

    Raises
    ------
    DamagedEmbeddingError
    """

    def __init__(self, offline: Path, newest: TableManifest) -> None:
        self._directory, self._dim = directory_of(offline, newest.version), newest.dim
        there = [number for number in run_numbers(offline, newest.version) if number <= newest.number]
        runs = [run for run in (read_run(offline, newest.version, number) for number in there) if run.is_of(newest.version_digest)]
        for before, run in pairwise(runs):
            if run.as_of < before.as_of:
                raise DamagedEmbeddingError(
                    f"{self._path(run.number)} is of {run.as_of}, earlier than run {before.number}, and runs never go back; restore both from a copy"
                )
        self.runs = np.array([run.number for run in runs], np.int64)
        self._run_times = np.array([run.as_of for run in runs], np.int64)
        self._run_actions = np.array([run.actions for run in runs], np.int64)
        # By table: the newest run up to it that inferred everyone; since then, the newest that is gone; the newest at all that is gone. 0: none.
        self._everyone, self._gone, self._lost = np.zeros((3, newest.number + 1), np.int64)
        everyone, present = {run.number for run in runs if run.everyone}, set(there)
        for number in range(1, newest.number + 1):
            gone = number not in present
            self._everyone[number] = number if number in everyone else self._everyone[number - 1]
            self._gone[number] = number if gone else 0 if number in everyone else self._gone[number - 1]
            self._lost[number] = number if gone else self._lost[number - 1]
        users = [_users_of(self._path(number)) for number in self.runs.tolist()]
        sizes = [len(ids) for ids in users]
        every = np.concatenate([np.empty(0, np.int64), *users])
        del users
        # Of a user, in the order of runs.
        order = np.argsort(every, kind="stable")
        every = every[order]
        self._starts = np.append(np.flatnonzero(np.diff(every, prepend=every[:1] - 1)), len(every))
        self._users = every[self._starts[:-1]]
        self._run = np.repeat(self.runs.astype(np.int32), sizes)[order]
        self._row = np.concatenate([np.empty(0, np.int32), *(np.arange(size, dtype=np.int32) for size in sizes)])[order]
        self._asked: set[int] = set()
        self._unpacked = _Unpacked(newest.dim)

    def at(self, user_ids: np.ndarray, times: np.ndarray, inclusive: bool = False) -> Found:
        """What was known of users strictly before times, or up to them: int64[n] each."""
        tables = self.tables_at(times, inclusive)
        place = self._places(user_ids, tables)
        vectors, found = self._at(place)
        run, position = np.full((2, len(place)), -1, np.int64)
        run[found] = self._run[place[found]]
        if found.any():
            # The table of a moment is that of the last run until then, whoever has made the row.
            last = np.searchsorted(self.runs, tables[found])
            position[found] = self._run_actions[last, partition_of(user_ids[found], self._run_actions.shape[1])]
        return Found(vectors, found, position, run)

    def tables_at(self, times: np.ndarray, inclusive: bool = False) -> np.ndarray:
        """The number of the newest table that is of a time strictly before each of some, or up to it; 0 where there was none: int64[n].

        Raises
        ------
        DamagedEmbeddingError
            It may be one whose file is gone.
        """
        place = np.searchsorted(self._run_times, times, "right" if inclusive else "left")
        tables = np.concatenate([[0], self.runs])[place]
        following = np.append(self.runs, len(self._lost))[place]
        lost = self._lost[following - 1]
        if (lost > tables).any():
            raise self._is_gone(int(lost[lost > tables][0]))
        return tables

    def of_tables(self, user_ids: np.ndarray, tables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What tables said of users: vectors, zeros where one said nothing, and where it did: float32[n, D], bool[n].

        Parameters
        ----------
        user_ids, tables : int64[n]
            A table of their own for each; 0: none.

        Raises
        ------
        DamagedEmbeddingError
            Also where the file of a run is gone that may have had the row.
        """
        return self._at(self._places(user_ids, tables))

    def _places(self, user_ids: np.ndarray, tables: np.ndarray) -> np.ndarray:
        """The row of each user in a table, -1: none."""
        of = places_of(self._users, user_ids)
        low, high = np.where(of < 0, 0, self._starts[of]), np.where(of < 0, 0, self._starts[of + 1])
        first = low
        # The user's rows are few and ascend by run: halved for all at once.
        while (left := low < high).any():
            middle = np.where(left, (low + high) // 2, 0)
            known = left & (self._run[middle] <= tables)
            low, high = np.where(known, middle + 1, low), np.where(left & ~known, middle, high)
        run = np.zeros(len(tables), np.int64)
        there = low > first
        run[there] = self._run[low[there] - 1]
        there &= run >= self._everyone[tables]
        unsure = np.where(there, run, 0) < self._gone[tables]
        if unsure.any():
            raise self._is_gone(int(self._gone[tables[unsure]][0]))
        return np.where(there, low - 1, -1)

    def _is_gone(self, run: int) -> DamagedEmbeddingError:
        return DamagedEmbeddingError(
            f"{self._path(run)} is gone, and a row that is asked for may have been there; restore it from a copy "
            "(tables need no earlier file from the next `tidemark embed infer --full` on)"
        )

    def _at(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vectors at places of rows, -1 for none; a file at a time."""
        vectors, found = np.zeros((len(place), self._dim), np.float32), np.zeros(len(place), np.bool_)
        at = np.flatnonzero(place >= 0)
        of_run, row = self._run[place[at]], self._row[place[at]].astype(np.int64)
        for run in np.unique(of_run).tolist():
            some = np.flatnonzero(of_run == run)
            vectors[at[some]], found[at[some]] = self._vectors(run, row[some])
        return vectors, found

    def _vectors(self, run: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a run. Parquet gives no single row, so who asks a second time, as an online learner does on and on, finds the run unpacked."""
        if run in self._asked and run not in self._unpacked:
            self._unpacked.add(run, self._parts(run))
        self._asked.add(run)
        if run in self._unpacked:
            return self._unpacked.take(run, rows)
        vectors, there = np.zeros((len(rows), self._dim), np.float32), np.zeros(len(rows), np.bool_)
        begin = 0
        for values, valid in self._parts(run):
            mine = np.flatnonzero((rows >= begin) & (rows < begin + len(valid)))
            vectors[mine], there[mine] = values[rows[mine] - begin], valid[rows[mine] - begin]
            begin += len(valid)
        return vectors, there

    def _parts(self, run: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All vectors of a run, a row group at a time, and which there are: float32[k, D], bool[k]."""
        with _readable(self._path(run)), pq.ParquetFile(self._path(run), page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                lists = file.read_row_group(group, columns=["embedding"]).column("embedding").combine_chunks()
                there = lists.is_valid().to_numpy(zero_copy_only=False)
                values = lists.flatten().to_numpy()
                if len(values) != int(there.sum()) * self._dim:
                    raise DamagedEmbeddingError(
                        f"{self._path(run)} holds vectors that are not of {self._dim} numbers; restore it from a copy"
                    )
                out = np.zeros((len(lists), self._dim), np.float32)
                out[there] = values.reshape(-1, self._dim)
                yield out, there

    def _path(self, run: int) -> Path:
        return self._directory / f"{run}.parquet"


class _Unpacked:
    """Vectors of whole runs in a scratch file without a name: any row is there at once, and what is not asked for takes no memory."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._file: Any = None
        self._begin: dict[int, int] = {}
        self._there = np.empty(0, np.bool_)
        self._mapped = np.empty((0, dim), np.float32)

    def __contains__(self, run: int) -> bool:
        return run in self._begin

    def add(self, run: int, parts: Iterator[tuple[np.ndarray, np.ndarray]]) -> None:
        """All rows of a run, in order."""
        begin = len(self._there)
        with translated(f"can't unpack user embeddings in {tempfile.gettempdir()}"):
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="tidemark-embeddings-")  # noqa: SIM115 - closed when this goes
                weakref.finalize(self, self._file.close)
            # What a reading that failed has left is written over.
            self._file.seek(4 * self._dim * begin)
            valid = [self._there]
            for vectors, there in parts:
                self._file.write(np.ascontiguousarray(vectors).data)
                valid.append(there)
            self._file.flush()
            self._there = np.concatenate(valid)
            if len(self._there):
                self._mapped = np.memmap(self._file, np.float32, "r", shape=(len(self._there), self._dim))
        self._begin[run] = begin

    def take(self, run: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Some of its rows, and which have a vector."""
        at = self._begin[run] + rows
        return self._mapped[at], self._there[at]


def run_numbers(offline: Path, version: int) -> list[int]:
    """Numbers of the runs whose files are there, in order; of whatever embedding has had that number."""
    return sorted(int(path.stem) for path in directory_of(offline, version).glob("*.parquet") if path.stem.isdecimal())


def read_run(offline: Path, version: int, number: int) -> Run:
    """What a run says of itself.

    Raises
    ------
    DamagedEmbeddingError
    """
    path = directory_of(offline, version) / f"{number}.parquet"
    with _readable(path):
        said = orjson.loads(pq.read_schema(path).metadata[RUN])
        return Run(**said | {"actions": tuple(said["actions"])})


def users_until(offline: Path, version: int, version_digest: str, below: int) -> np.ndarray:
    """Who has a row of any run of an embedding below a number: int64[n], ascending.

    Raises
    ------
    DamagedEmbeddingError
    """
    users = np.empty(0, np.int64)
    for number in run_numbers(offline, version):
        if number < below and read_run(offline, version, number).is_of(version_digest):
            users = np.union1d(users, _users_of(directory_of(offline, version) / f"{number}.parquet"))
    return users


def _users_of(path: Path) -> np.ndarray:
    with _readable(path):
        return np.asarray(pq.read_table(path, columns=["user_id"], page_checksum_verification=True).column("user_id").to_numpy())


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise DamagedEmbeddingError(f"{path} can't be read ({' '.join(str(error).split())}); restore it from a copy") from error
