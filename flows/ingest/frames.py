"""The form in which every kind of file hands over its rows, and what a kind of file must do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from flows.ingest.convert import Column

# Cut into partitions, it should still make large batches: readers pay for each.
CHUNK_ROWS = 524_288


@dataclass(frozen=True)
class Frame:
    """Rows whose columns have one type each: their numbers in the file, ascending, and the columns by the contract's names."""

    rows: np.ndarray
    columns: Mapping[str, Column]


@dataclass(frozen=True)
class Chunk:
    """Rows [first, end) of a file. Each is in one of the frames, or it could not even be taken apart and is here as bytes."""

    first: int
    end: int
    frames: list[Frame]
    unreadable: list[tuple[int, bytes]]


class Source(Protocol):
    """A file that has been opened far enough to know its columns."""

    path: Path
    names: dict[str, str]  # contract's column to file's column
    digits: bool  # text may stand for a number: the file has no types of its own

    def check(self) -> int:
        """Read all of it and return the number of rows; `flows.errors.InputError` if it can't be read to its end."""

    def chunks(self, start: int) -> Iterator[Chunk]:
        """Rows from number `start` on. A row has the same number in every run."""
