"""What a table's methods are given, as the compiled loops need it, or an error that says what is wrong. Nothing is changed to make it fit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from online_model.table.errors import TableError


def integers(values: Any, name: str) -> np.ndarray:
    """int64[n] of whole numbers of any integer type that an int64 holds."""
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and not np.can_cast(array.dtype, np.int64, "safe")) or array.dtype == np.bool_:
        raise TableError(f"embedding table: {name} are {array.dtype}{list(array.shape)}; give int64[n]")
    return np.ascontiguousarray(array, np.int64)


def vectors(values: Any, name: str, rows: int, dimension: int) -> np.ndarray:
    """f32[rows, dimension]."""
    array = np.asarray(values)
    if array.dtype != np.float32 or array.shape != (rows, dimension):
        raise TableError(f"embedding table: {name} are {array.dtype}{list(array.shape)}; give float32[{rows}, {dimension}]")
    return np.ascontiguousarray(array)


def same_length(one: np.ndarray, other: np.ndarray, names: str) -> None:
    """Columns of one batch."""
    if len(one) != len(other):
        raise TableError(f"embedding table: {names} are {len(one)} and {len(other)}; give one for each")


def positive(value: float, name: str, most: float) -> np.float32:
    """A number above 0 and up to a limit."""
    if not (math.isfinite(value) and 0 < value <= most):
        raise TableError(f"embedding table: {name} is {value!r}; give a number above 0, at most {most:g}")
    return np.float32(value)
