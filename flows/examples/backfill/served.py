"""How pins were served, of a history: from a Parquet file that was kept elsewhere, and which requests are SERVED's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.errors import InputError
from flows.examples.backfill.matching import found_in
from flows.partition import partition_of


@dataclass(frozen=True, eq=False)
class Offers:
    """What is known of how n pins were served.

    Attributes
    ----------
    found : bool[n]
        Anything.
    request_time : int64[n]
        ms; -1: not known.
    slot : int16[n]
        -1: not known.
    propensity : float32[n]
        nan: not known.
    explored : bool[n]
    ours : bool[n]
        SERVED has their request: the join makes their examples.
    """

    found: np.ndarray
    request_time: np.ndarray
    slot: np.ndarray
    propensity: np.ndarray
    explored: np.ndarray
    ours: np.ndarray

    @classmethod
    def unknown(cls, n: int) -> Offers:
        """Of n pins nothing."""
        return cls(
            np.zeros(n, np.bool_), np.full(n, -1, np.int64), np.full(n, -1, np.int16), np.full(n, np.nan, np.float32), np.zeros(n, np.bool_),
            np.zeros(n, np.bool_),
        )  # fmt: skip

    def take(self, rows: np.ndarray) -> Offers:
        """Of some of them."""
        return Offers(*(getattr(self, field.name)[rows] for field in fields(self)))


_NEEDED = ("request_id", "user_id", "candidates", "slots")
_LISTS = ("candidates", "slots", "propensities", "explored")


class ServedFile:
    """A row for each request: its ID, user, maybe its time, and lists of one length: candidates, slots, and maybe propensities and explored.

    Parameters
    ----------
    path : Path

    Raises
    ------
    InputError
        It can't be read, or lacks a column.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = pq.ParquetFile(path)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path} can't be read as Parquet ({' '.join(str(error).split())})") from error
        names = self._file.schema_arrow.names
        lacking = [name for name in _NEEDED if name not in names]
        if lacking:
            raise InputError(
                f"{path} has no column '{lacking[0]}'; a file of what was served has a row for each request: {', '.join(_NEEDED)}, and maybe "
                "request_time, propensities and explored"
            )
        self._columns = [name for name in (*_NEEDED, "request_time", "propensities", "explored") if name in names]

    def offers(self, wanted: tuple[np.ndarray, ...], requests: pa.StringArray, partition: int, partitions: int) -> Offers:
        """How some pins of a partition were served; of several rows of one user, request and pin the first counts.

        Parameters
        ----------
        wanted : (int64[n], int64[n], int64[n])
            User, number of the request, and pin; -1 for a request without a name, which isn't found.
        requests : pa.StringArray
            The names that the numbers point to.
        """
        out = Offers.unknown(len(wanted[0]))
        todo = wanted[1] >= 0
        for part in self._of_partition(partition, partitions, requests):
            at = np.flatnonzero(todo & ~out.found)
            found = found_in(tuple(column[at] for column in wanted), (part["user_id"], part["request"], part["candidates"]))
            hit, row = at[found >= 0], found[found >= 0]
            for name, column in (
                ("slot", "slots"),
                ("propensity", "propensities"),
                ("explored", "explored"),
                ("request_time", "request_time"),
            ):
                if column in part:
                    getattr(out, name)[hit] = part[column][row]
            out.found[hit] = True
        return out

    def _of_partition(self, partition: int, partitions: int, requests: pa.StringArray) -> Iterator[dict[str, np.ndarray]]:
        """Candidates of a partition's users in requests that are known, a stretch at a time."""
        for batch in self._batches():
            users = self._integers(batch.column("user_id"), "user_id")
            code = self._codes(batch.column("request_id"), requests)
            rows = np.flatnonzero((partition_of(users, partitions) == partition) & (code >= 0))
            if not len(rows):
                continue
            some = batch.take(pa.array(rows))
            lengths = self._lengths(some)
            part = {"user_id": np.repeat(users[rows], lengths), "request": np.repeat(code[rows], lengths)}
            if "request_time" in self._columns:
                part["request_time"] = np.repeat(self._integers(some.column("request_time"), "request_time"), lengths)
            for name in _LISTS:
                if name in self._columns:
                    part[name] = self._values(some.column(name).flatten(), name)
            yield part

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._file.iter_batches(columns=self._columns)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{self.path} can't be read ({' '.join(str(error).split())})") from error

    def _codes(self, names: pa.Array, requests: pa.StringArray) -> np.ndarray:
        """Which of the known requests each one is, -1 for none."""
        try:
            found = pc.index_in(names.cast(pa.string()), value_set=requests)
        except pa.ArrowException as error:
            raise InputError(f"{self.path}: request_id must be texts, not {names.type}") from error
        return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)

    def _lengths(self, batch: pa.RecordBatch) -> np.ndarray:
        try:
            of = {
                name: pc.list_value_length(batch.column(name)).fill_null(0).to_numpy(zero_copy_only=False)
                for name in _LISTS
                if name in self._columns
            }
        except pa.ArrowException as error:
            raise InputError(f"{self.path}: {', '.join(_LISTS[:3])} must be lists ({' '.join(str(error).split())})") from error
        for name, lengths in of.items():
            if not np.array_equal(lengths, of["candidates"]):
                request = batch.column("request_id")[int(np.flatnonzero(lengths != of["candidates"])[0])]
                raise InputError(f"{self.path}: request '{request}' has lists of different lengths, candidates and {name}")
        return np.asarray(of["candidates"])

    def _values(self, column: pa.Array, name: str) -> np.ndarray:
        if name == "candidates":
            return self._integers(column, name)
        kind, null = {"slots": (pa.int16(), -1), "propensities": (pa.float32(), np.nan), "explored": (pa.bool_(), False)}[name]
        try:
            return np.asarray(column.cast(kind, safe=name != "propensities").fill_null(null).to_numpy(zero_copy_only=False))
        except pa.ArrowException as error:
            raise InputError(f"{self.path}: {name} holds what is none ({' '.join(str(error).split())})") from error

    def _integers(self, column: pa.Array, name: str) -> np.ndarray:
        if not pa.types.is_integer(column.type) or column.null_count:
            raise InputError(
                f"{self.path}: {name} must be whole numbers without nulls, not {column.type}; IDs are those of the log, times in ms"
            )
        return np.asarray(column.cast(pa.int64()).to_numpy(zero_copy_only=False), np.int64)
