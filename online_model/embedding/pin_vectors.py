"""Vectors of pins, the input of both towers: the user's own, from Parquet, checked before anything is made of them (the paper's are PinSage's).

Where there are none, `learned_vectors` makes some of the log.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as dataset

from online_model.embedding.errors import VectorsError

_ADVICE = "give a Parquet file with the columns pin_id (int64) and vector (list<float>)"
_LONGEST = 1e30


@dataclass(frozen=True, eq=False)
class PinVectors:
    """A vector for each of m pins.

    Attributes
    ----------
    ids : int64[m]
        Ascending.
    vectors : float32[m, d]
    """

    ids: np.ndarray
    vectors: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dim(self) -> int:
        """How many numbers a vector has."""
        return self.vectors.shape[1]

    def rows_of(self, pin_ids: np.ndarray) -> np.ndarray:
        """Where the vector of each pin is, -1 where it has none: int64[n]."""
        if not len(self.ids):
            return np.full(len(pin_ids), -1, np.int64)
        at = np.minimum(np.searchsorted(self.ids, pin_ids), len(self.ids) - 1)
        return np.where(self.ids[at] == pin_ids, at, -1)

    def digest(self) -> str:
        """BLAKE2b, 16 bytes in hex, of IDs and vectors."""
        found = hashlib.blake2b(np.ascontiguousarray(self.ids).data, digest_size=16)
        found.update(np.ascontiguousarray(self.vectors).data)
        return found.hexdigest()


def read_vectors(path: Path, dim: int | None = None) -> PinVectors:
    """Vectors that a user gave.

    Parameters
    ----------
    path : Path
        A Parquet file or a directory of them.
    dim : int, optional
        What every vector must have; without it, that of the first.

    Raises
    ------
    VectorsError
        The file can't be read, lacks a column, a pin_id is none, or a vector is missing, of another size, not finite, zero, or one of several of its
        pin.
    """
    try:
        found = dataset.dataset(path, format="parquet")
        missing = [name for name in ("pin_id", "vector") if name not in found.schema.names]
        table = found.to_table(columns=["pin_id", "vector"]) if not missing else None
    except FileNotFoundError:
        raise VectorsError(f"vectors {path}: there is no such file; {_ADVICE}") from None
    except (OSError, pa.ArrowException) as error:
        raise VectorsError(f"vectors {path}: can't be read ({str(error).splitlines()[0]}); {_ADVICE}") from error
    if table is None:
        raise VectorsError(f"vectors {path}: there is no column '{missing[0]}'; {_ADVICE}")
    ids, lists = table.column("pin_id").combine_chunks(), table.column("vector").combine_chunks()
    if not pa.types.is_integer(ids.type):
        raise VectorsError(f"vectors {path}: pin_id is {ids.type}; {_ADVICE}")
    if not (pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type) or pa.types.is_fixed_size_list(lists.type)):
        raise VectorsError(f"vectors {path}: vector is {lists.type}; {_ADVICE}")
    if not pa.types.is_floating(lists.type.value_type):
        raise VectorsError(f"vectors {path}: vector holds {lists.type.value_type}; {_ADVICE}")
    for name, column in (("pin_id", ids), ("vector", lists)):
        if column.null_count:
            raise VectorsError(f"vectors {path}: row {_first(pc.is_null(column))} has no {name}; leave out pins without a vector")
    pins = ids.to_numpy(zero_copy_only=False)
    if len(beyond := np.flatnonzero(pins > np.iinfo(np.int64).max)):
        raise VectorsError(
            f"vectors {path}: pin {pins[beyond[0]]} (row {beyond[0]}) is no ID, for IDs are of 64 bits with a sign; give another"
        )
    pins = pins.astype(np.int64)
    sizes = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    if not len(pins):
        raise VectorsError(f"vectors {path}: there are none; {_ADVICE}")
    dim = int(sizes[0]) if dim is None else dim
    if not dim or (sizes != dim).any():
        row = int(np.flatnonzero(sizes != dim)[0]) if dim else 0
        raise VectorsError(
            f"vectors {path}: pin {pins[row]} (row {row}) has a vector of {sizes[row]}, not of {dim}; all must have one size"
        )
    values = lists.flatten()
    if values.null_count:
        row = _first(pc.is_null(values)) // dim
        raise VectorsError(f"vectors {path}: pin {pins[row]} (row {row}) has a vector with nulls; leave out pins without a vector")
    given = values.to_numpy(zero_copy_only=False).reshape(len(pins), dim)
    bad = np.flatnonzero(~np.isfinite(given).all(axis=1))
    if len(bad):
        raise VectorsError(
            f"vectors {path}: pin {pins[bad[0]]} (row {bad[0]}) has a vector that is not finite (NaN, infinite); so have {len(bad) - 1:,} others"
        )
    largest = np.abs(given).max(axis=1).astype(np.float64)
    bad = np.flatnonzero(largest == 0)
    if len(bad):
        raise VectorsError(
            f"vectors {path}: pin {pins[bad[0]]} (row {bad[0]}) has a vector of zeros, which has no direction; so have {len(bad) - 1:,} others: "
            "leave out pins without a vector"
        )
    with np.errstate(over="ignore"):
        vectors = given.astype(np.float32)
    # Directions alone count: what float32 doesn't hold, or holds badly, is brought to its middle by a power of two.
    far = np.flatnonzero((largest > _LONGEST) | (largest < 1 / _LONGEST))
    vectors[far] = np.ldexp(given[far].astype(np.float64), -np.frexp(largest[far])[1][:, None])
    order = np.argsort(pins, kind="stable")
    pins, vectors = pins[order], vectors[order]
    twice = np.flatnonzero(pins[1:] == pins[:-1])
    if len(twice):
        raise VectorsError(
            f"vectors {path}: pin {pins[twice[0]]} has more than one vector, and so have {len(twice) - 1:,} others; keep one each"
        )
    return PinVectors(pins, vectors)


def _first(marked: pa.Array) -> int:
    return int(np.flatnonzero(marked.to_numpy(zero_copy_only=False))[0])
