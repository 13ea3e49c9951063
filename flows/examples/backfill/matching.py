"""Rows that are equal in several columns, found by one sort."""

from __future__ import annotations

import numpy as np


def numbered(*columns: np.ndarray) -> tuple[np.ndarray, int]:
    """A number for each row, equal where all columns are: int64[n], and how many there are."""
    n = len(columns[0])
    if n == 0:
        return np.zeros(0, np.int64), 0
    order = np.lexsort(columns[::-1])
    new = np.zeros(n, np.bool_)
    for column in columns:
        in_order = column[order]
        new[1:] |= in_order[1:] != in_order[:-1]
    out = np.empty(n, np.int64)
    out[order] = np.cumsum(new)
    return out, int(np.count_nonzero(new)) + 1


def first_of(*columns: np.ndarray) -> np.ndarray:
    """The first row of each that are equal, ascending: int64[k]."""
    number, count = numbered(*columns)
    first = np.empty(count, np.int64)
    first[number[::-1]] = np.arange(len(number))[::-1]
    return np.sort(first)


def found_in(wanted: tuple[np.ndarray, ...], given: tuple[np.ndarray, ...]) -> np.ndarray:
    """The first given row that equals each wanted one, -1: none: int64[n]."""
    m = len(given[0])
    number, count = numbered(*(np.concatenate([a, b]) for a, b in zip(given, wanted, strict=True)))
    first = np.full(count, -1, np.int64)
    first[number[:m][::-1]] = np.arange(m)[::-1]
    return first[number[m:]]
