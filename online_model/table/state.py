"""A table as plain arrays: their names, what they must be to one another, and their digest.

Rows are in the order of their IDs, so equal content is equal arrays whatever the history. Of n IDs with a row, and vectors of d values:

| array | |
|---|---|
| `ids` | int64[n], ascending |
| `weights`, `accumulators` | f32[n, d], f32[n] |
| `counts`, `last_seen` | int32[n] sightings (no more than an int32 holds), int64[n] greatest event time, ms |
| `default`, `default_accumulator` | f32[d], f32[1] |
| `newer_ids`, `newer_counts`, `older_ids`, `older_counts` | the two generations of candidates: int64 ascending, int32 |
| `changed`, `deleted` | bool[n] and int64[k]: what `take_changed` has yet to tell; not part of the digest |
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from flows.directories import translated
from online_model.table.config import TableConfig
from online_model.table.errors import TableError

State = Mapping[str, Any]
"""Name to array; of the weights, something that has `shape`, `dtype` and slices will do."""

_I64, _I32, _F32, _BOOL = (np.dtype(kind) for kind in (np.int64, np.int32, np.float32, np.bool_))
DTYPES = {
    "ids": _I64,
    "weights": _F32,
    "accumulators": _F32,
    "counts": _I32,
    "last_seen": _I64,
    "default": _F32,
    "default_accumulator": _F32,
    "newer_ids": _I64,
    "newer_counts": _I32,
    "older_ids": _I64,
    "older_counts": _I32,
    "changed": _BOOL,
    "deleted": _I64,
}


class Hashes:
    """A digest over named arrays that may come in pieces, wherever these are cut.

    Parameters
    ----------
    config : TableConfig
        Part of what is digested.
    """

    def __init__(self, config: TableConfig) -> None:
        self._config = orjson.dumps(config.as_dict(), option=orjson.OPT_SORT_KEYS)
        self._by_name = {name: hashlib.blake2b(digest_size=16) for name in DTYPES}

    def add(self, name: str, piece: np.ndarray) -> None:
        """The next rows of an array."""
        self._by_name[name].update(np.ascontiguousarray(piece).data)

    def digest(self) -> str:
        """Hex, of all that was added."""
        total = hashlib.blake2b(self._config, digest_size=16)
        for name in sorted(self._by_name):
            total.update(self._by_name[name].digest())
        return total.hexdigest()


def check(config: TableConfig, state: State) -> None:
    """Refuse arrays that are no table of this config.

    Raises
    ------
    TableError
    """
    if missing := DTYPES.keys() ^ state.keys():
        raise TableError(f"embedding table: a state has the arrays {', '.join(DTYPES)}; missing or too many: {', '.join(sorted(missing))}")
    n, d = len(state["ids"]), config.dimension
    shapes: dict[str, tuple[int, ...]] = {"weights": (n, d), "default": (d,), "default_accumulator": (1,)}
    for side in ("newer", "older"):
        shapes |= {f"{side}_{name}": (len(state[f"{side}_ids"]),) for name in ("ids", "counts")}
    shapes["deleted"] = (len(state["deleted"]),)
    for name, dtype in DTYPES.items():
        shape = shapes.get(name, (n,))
        if state[name].dtype != dtype or tuple(state[name].shape) != shape:
            raise TableError(
                f"embedding table: a state's {name} are {state[name].dtype}{list(state[name].shape)}; with {n} IDs of dimension {d} "
                f"they are {dtype}{list(shape)}"
            )
    for name in ("ids", "newer_ids", "older_ids"):
        if (state[name][1:] <= state[name][:-1]).any():
            raise TableError(f"embedding table: a state's {name} do not ascend")
    candidates = np.concatenate([state["newer_ids"], state["older_ids"]])
    room = max(1, config.candidates // 2) if config.admit_after > 1 else 0
    if max(len(state["newer_ids"]), len(state["older_ids"])) > room or len(np.unique(np.concatenate([candidates, state["ids"]]))) != len(
        candidates
    ) + len(state["ids"]):
        raise TableError("embedding table: a state's candidates are too many, or some have a row or come twice")
    for name in ("counts", "newer_counts", "older_counts"):
        if (state[name] < 1).any():
            raise TableError(f"embedding table: a state's {name} are not all above 0")
    for name in ("accumulators", "default_accumulator"):
        if not (np.isfinite(state[name]) & (state[name] >= 0)).all():
            raise TableError(f"embedding table: a state's {name} are not all finite numbers from 0 on")


def mapped(directory: Path, shape: tuple[int, int]) -> np.ndarray:
    """Room for f32 in a file without a name, which goes with the array."""
    with translated(f"embedding table: scratch file in {directory}"), tempfile.TemporaryFile(dir=directory) as file:
        file.truncate(4 * shape[0] * shape[1])
        return np.memmap(file, np.float32, "r+", shape=shape)
