"""The table itself: looks up, admits, gathers, applies and expires batches, and says what has changed.

One thread at a time. An update changes the rows of its batch alone, and the default row only where that is asked for by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np

from online_model.table import arguments
from online_model.table.config import Spill, TableConfig
from online_model.table.errors import GradientError, TableError
from online_model.table.identities import Identities
from online_model.table.kernels import updates
from online_model.table.kernels.index import CHANGED, COUNT, ID, LAST_SEEN, MARK
from online_model.table.spilled import Spilled
from online_model.table.state import Hashes, State, check, mapped
from online_model.table.vectors import InMemory, Vectors

GRADIENT_LIMIT = np.float32(1e12)
"""Of a gradient's value. Sums and squares of a million such are still numbers, so no accumulator and no weight ever becomes anything else."""
# Rows that are copied at once where a table is read or made as a whole.
_PIECE = 4_096
_NONE = np.empty(0, np.int64)


class EmbeddingTable:
    """Vectors of IDs, f32[d] each.

    Row 0 is the default row: what an unknown ID reads as, and what a new row begins as. A row number is good until its ID expires or is deleted.

    Parameters
    ----------
    config : TableConfig
    default : f32[d], optional
        The default row; zeros without it.
    spill : Spill, optional
        Where vectors that are not in use go. Without it all are in memory. What any method answers is the same.

    Raises
    ------
    TableError
    """

    def __init__(self, config: TableConfig, default: np.ndarray | None = None, spill: Spill | None = None) -> None:
        self.config = config
        if default is not None:
            default = _finite(arguments.vectors(np.asarray(default)[None], "default row", 1, config.dimension), "the default row")
        self._vectors: Vectors = InMemory(config.dimension) if spill is None else Spilled(config.dimension, spill)
        self._identities = Identities(config)
        self._vectors.reserve(len(self._identities.entries))
        self._vectors.accumulators[0] = config.initial_accumulator
        # What was deleted, of each time.
        self._deleted: list[np.ndarray] = []
        if default is not None:
            self._vectors.weights[0] = default[0]

    def __len__(self) -> int:
        """How many IDs have a row."""
        return len(self._identities)

    @property
    def default(self) -> np.ndarray:
        """The default row, f32[d], a copy."""
        return self._vectors.weights[0].copy()

    @property
    def ids(self) -> np.ndarray:
        """The IDs that have a row, ascending: int64[n]."""
        return self._entries[self._identities.rows(), ID]

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Look IDs up; counts nothing.

        Parameters
        ----------
        ids : int64[n]
            Any int64, as often as it comes.

        Returns
        -------
        int64[n]
            0 for an ID that has no row.
        """
        return self._identities.look_up(arguments.integers(ids, "IDs"))

    def admit(self, ids: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Count sightings in their order; an ID that has been seen `config.admit_after` times gets a row, a copy of the default one.

        Parameters
        ----------
        ids : int64[n]
        times : int64[n]
            Event times, ms: an ID's greatest decides when it expires.

        Returns
        -------
        int64[n]
            The row as of each sighting; 0 where the ID has none yet. The same wherever a batch is cut.
        """
        ids, times = arguments.integers(ids, "IDs"), arguments.integers(times, "times")
        arguments.same_length(ids, times, "IDs and times")
        return self._admit(ids, times, self.config.admit_after)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Copy vectors out.

        Parameters
        ----------
        rows : int64[n]

        Returns
        -------
        f32[n, d]

        Raises
        ------
        TableError
            A row that was never given.
        """
        rows = self._known(rows)
        out = np.empty((len(rows), self.config.dimension), np.float32)
        for part in self._parts(len(rows)):
            updates.gather(self._vectors.weights, self._vectors.slots(rows[part], writing=False), out[part])
        return out

    def gather_within(self, rows: np.ndarray, limit: float) -> tuple[np.ndarray, bool]:
        """Copy vectors out, and say whether all of their values are numbers from -limit to limit.

        Parameters
        ----------
        rows : int64[n]
        limit : float

        Returns
        -------
        f32[n, d], bool

        Raises
        ------
        TableError
            A row that was never given.
        """
        rows = self._known(rows)
        out, bad, most = np.empty((len(rows), self.config.dimension), np.float32), 0, np.float32(limit)
        for part in self._parts(len(rows)):
            bad += updates.gather_within(self._vectors.weights, self._vectors.slots(rows[part], writing=False), out[part], most)
        return out, bad == 0

    def apply(self, rows: np.ndarray, gradients: np.ndarray, learning_rate: float, *, learn_default: bool = False) -> None:
        """One step of row-wise Adagrad; a row that comes more than once takes the sum of its gradients, in their order, as one.

        Parameters
        ----------
        rows : int64[n]
        gradients : f32[n, d]
            Those of row 0 are left out.
        learning_rate : float
        learn_default : bool
            For full retrains alone: row 0 learns as well.

        Raises
        ------
        GradientError
            A value is NaN, or beyond ±1e12. As with every error here, nothing has been changed.
        TableError
            A row that was never given, or whose ID has expired; a rate that isn't above 0.
        """
        rows = self._known(rows)
        gradients = arguments.vectors(gradients, "gradients", len(rows), self.config.dimension)
        rate = arguments.positive(learning_rate, "learning_rate", 1e6)
        bad = updates.first_unusable(gradients, GRADIENT_LIMIT)
        if bad >= 0:
            raise GradientError(
                f"embedding table: the gradient at place {bad} of its batch, of {self._name(rows[bad])}, is not finite or beyond 1e12; "
                "nothing was applied: look at that example's features and at the learning rate"
            )
        distinct, first, following, last = np.empty((4, len(rows)), np.int64)
        found = updates.group(self._entries, rows, distinct, first, following, last)
        if found < 0:
            raise TableError(f"embedding table: row {rows[-1 - found]} has no ID any more; look IDs up again after they expire")
        vectors, epsilon = self._vectors, np.float32(self.config.epsilon)
        for part in self._parts(found):
            slots = vectors.slots(distinct[:found][part], writing=True)
            updates.update(vectors.weights, vectors.accumulators, slots, first[:found][part], following, gradients, rate, epsilon)
        if learn_default and len(places := np.flatnonzero(rows == 0)):
            following[places[:-1]], following[places[-1]] = places[1:], -1
            row_0 = np.zeros(1, np.int64)
            updates.update(vectors.weights, vectors.accumulators, row_0, places[:1], following, gradients, rate, epsilon)

    def put(self, ids: np.ndarray, weights: np.ndarray) -> None:
        """Set vectors as another table has them: what a reader of deltas does. An ID without a row gets one, whatever it has been seen.

        Parameters
        ----------
        ids : int64[n]
            Each once.
        weights : f32[n, d]
        """
        ids = arguments.integers(ids, "IDs")
        weights = _finite(arguments.vectors(weights, "weights", len(ids), self.config.dimension), "weights")
        if len(np.unique(ids)) != len(ids):
            raise TableError("embedding table: an ID comes more than once; put each once")
        unknown = ids[self.rows_of(ids) == 0]
        self._identities.forget_candidates(unknown)
        # Never seen, as far as this table knows: its time is the least there is.
        self._admit(unknown, np.full(len(unknown), np.iinfo(np.int64).min), 1)
        rows = self.rows_of(ids)
        for part in self._parts(len(rows)):
            slots = self._vectors.slots(rows[part], writing=True)
            self._vectors.weights[slots] = weights[part]
        self._entries[rows, MARK] = CHANGED

    def delete(self, ids: np.ndarray) -> None:
        """Take the rows from IDs; those that have none are passed over."""
        rows = self.rows_of(np.unique(arguments.integers(ids, "IDs")))
        self._drop(rows[rows > 0])

    def expire(self, before_ms: int) -> np.ndarray:
        """Take the rows from all IDs that were last seen before an event time.

        Candidates stay: there are never more than `config.candidates`.

        Parameters
        ----------
        before_ms : int

        Returns
        -------
        int64[n]
            The IDs, ascending. They are unknown from now on, and may be admitted again.
        """
        rows = self._identities.rows()
        return self._drop(rows[self._entries[rows, LAST_SEEN] < before_ms])

    def take_changed(self) -> tuple[np.ndarray, np.ndarray]:
        """What has changed since this was last asked.

        Returns
        -------
        changed : int64[n]
            IDs that were admitted, updated or put, and have a row; ascending. Sightings alone change nothing.
        deleted : int64[m]
            IDs that have lost their row and have none now, ascending; those that came and went in between are among them.
        """
        rows = self._identities.rows()
        rows = rows[self._entries[rows, MARK] != 0]
        self._entries[rows, MARK] = 0
        deleted, self._deleted = self.deleted, []
        return self._entries[rows, ID], deleted

    @property
    def deleted(self) -> np.ndarray:
        """The IDs that `take_changed` will name as deleted."""
        ids = np.unique(np.concatenate([_NONE, *self._deleted]))
        return ids[self.rows_of(ids) == 0]

    def decay_accumulators(self, factor: float) -> None:
        """Multiply every accumulator, the default row's too: what a full retrain begins with, or rates would die.

        Parameters
        ----------
        factor : float
            Above 0, at most 1.
        """
        self._vectors.scale_accumulators(arguments.positive(factor, "factor", 1))

    def state(self, directory: Path | None = None) -> State:
        """All that the table is, as plain arrays; see `online_model.table.state`.

        Parameters
        ----------
        directory : Path, optional
            The weights become a file there that has no name, and goes with the array; without it they are in memory.
        """
        rows = self._identities.rows()
        shape = (len(rows), self.config.dimension)
        weights = np.empty(shape, np.float32) if directory is None or not len(rows) else mapped(directory, shape)
        accumulators = np.empty(len(rows), np.float32)
        for part in _pieces(len(rows)):
            self._vectors.read(rows[part], weights[part], accumulators[part])
        changed = self._entries[rows, MARK] != 0
        return {**self._small(rows), "weights": weights, "accumulators": accumulators, "changed": changed, "deleted": self.deleted}

    @classmethod
    def from_state(cls, config: TableConfig, state: State, spill: Spill | None = None) -> Self:
        """The table that a state was taken of.

        Parameters
        ----------
        config : TableConfig
        state : mapping
            The weights need only have slices.
        spill : Spill, optional

        Raises
        ------
        TableError
            The arrays don't fit one another or the config.
        """
        check(config, state)
        table = cls(config, state["default"], spill)
        ids = state["ids"]
        table._vectors.accumulators[0] = state["default_accumulator"][0]
        table._deleted = [state["deleted"].copy()]
        # A piece at a time: what is cold leaves memory once, and whole.
        for part in _pieces(len(ids), min(_PIECE, table._vectors.most)):
            rows = table._admit(ids[part], state["last_seen"][part], 1)
            slots = table._vectors.slots(rows, writing=True)
            table._vectors.weights[slots] = _finite(np.asarray(state["weights"][part]), "weights")
            table._vectors.accumulators[slots] = state["accumulators"][part]
            table._entries[rows, COUNT] = state["counts"][part]
            table._entries[rows, MARK] = np.where(state["changed"][part], CHANGED, 0)
        table._identities.put_candidates(state)
        return table

    def digest(self) -> str:
        """Hex digest of what the table knows, in the order of IDs: the same for every history that leads to it.

        Covers the config, vectors, accumulators, counts, times, candidates and the default row; not row numbers, nor what `take_changed` has yet
        to tell.
        """
        rows = self._identities.rows()
        hashes = Hashes(self.config)
        for name, array in self._small(rows).items():
            hashes.add(name, array)
        weights, accumulators = np.empty((_PIECE, self.config.dimension), np.float32), np.empty(_PIECE, np.float32)
        for part in _pieces(len(rows)):
            n = len(rows[part])
            self._vectors.read(rows[part], weights[:n], accumulators[:n])
            hashes.add("weights", weights[:n])
            hashes.add("accumulators", accumulators[:n])
        return hashes.digest()

    def memory_bytes(self) -> int:
        """What the table holds in memory. With `Spill`, vectors are bounded by it; an ID with a row takes 70 to 150 bytes beside its vector."""
        return self._vectors.memory_bytes() + self._identities.memory_bytes()

    def close(self) -> None:
        """Let go of cold rows' files; the table can't be used any more."""
        self._vectors.close()

    @property
    def _entries(self) -> np.ndarray:
        return self._identities.entries

    def _small(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """A state but for vectors and what has changed."""
        return {**self._identities.state(rows), "default": self.default, "default_accumulator": self._vectors.accumulators[:1].copy()}

    def _known(self, rows: np.ndarray) -> np.ndarray:
        rows = arguments.integers(rows, "rows")
        bad = updates.first_outside(rows, self._identities.handed)
        if bad >= 0:
            raise TableError(f"embedding table: there is no row {rows[bad]} (place {bad} of the batch); give rows of `rows_of` or `admit`")
        return rows

    def _name(self, row: np.int64) -> str:
        return f"ID {self._entries[row, ID]}" if row else "the default row"

    def _parts(self, n: int) -> Iterator[slice]:
        """A batch in parts of as many rows as can be in memory at once."""
        return _pieces(n, self._vectors.most)

    def _admit(self, ids: np.ndarray, times: np.ndarray, admit_after: int) -> np.ndarray:
        rows, admitted = self._identities.admit(ids, times, admit_after)
        self._vectors.reserve(len(self._entries))
        for part in self._parts(len(admitted)):
            slots = self._vectors.slots(admitted[part], writing=True)
            self._vectors.weights[slots] = self._vectors.weights[0]
            self._vectors.accumulators[slots] = self.config.initial_accumulator
        return rows

    def _drop(self, rows: np.ndarray) -> np.ndarray:
        ids = self._identities.drop(rows)
        if len(rows):
            self._vectors.forget(rows)
            self._deleted.append(ids)
        return ids


def _pieces(n: int, size: int = _PIECE) -> Iterator[slice]:
    return (slice(begin, min(begin + size, n)) for begin in range(0, n, size))


def _finite(weights: np.ndarray, name: str) -> np.ndarray:
    if not np.isfinite(weights).all():
        raise TableError(f"embedding table: {name} hold a value that is not finite; a vector is of numbers")
    return weights
