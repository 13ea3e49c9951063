"""Answers that come entity by entity, kept until they are taken row by row: in memory, or in files of a temporary directory.

What lies in files is mapped, not read, so that taking a stretch of rows costs that stretch and no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from flows.errors import StorageFullError


@dataclass(eq=False)
class _Part:
    rows: np.ndarray
    answers: pa.RecordBatch
    path: Path | None


class Shelf:
    """Columns of answers.

    Parameters
    ----------
    schema : Schema
    directory : Path or None
        Where files go; None keeps all in memory.
    name : str
        Begins the names of the files.
    """

    def __init__(self, schema: pa.Schema, directory: Path | None, name: str) -> None:
        self._schema, self._directory, self._name = schema, directory, name
        self._parts: list[_Part] = []
        self._filed = 0

    def put(self, rows: np.ndarray, answers: pa.RecordBatch) -> None:
        """Answers to some rows.

        Parameters
        ----------
        rows : int64[k]
            Which ones, ascending.
        answers : RecordBatch
            A row for each.
        """
        if not len(rows):
            return
        path = None
        if self._directory is not None:
            path = self._directory / f"{self._name}-{self._filed}.arrow"
            self._filed += 1
            answers = self._in_file(path, answers)
        self._parts.append(_Part(rows, answers, path))

    def take(self, begin: int, end: int) -> pa.Table:
        """The answers to the rows from `begin` to `end`, all of which must have been put; they are gone then, and so is what comes before them."""
        found, rows = [], []
        for part in self._parts:
            low, high = np.searchsorted(part.rows, [begin, end]).tolist()
            if low < high:
                rows.append(part.rows[low:high])
                found.append(part.answers.slice(low, high - low))
        if not found:
            return self._schema.empty_table()
        # A copy, so that nothing holds a file that has been used up.
        table = pa.Table.from_batches(found, self._schema).combine_chunks().take(pa.array(np.argsort(np.concatenate(rows))))
        found.clear()
        for part in [part for part in self._parts if part.rows[-1] < end]:
            self._parts.remove(part)
            if part.path is not None:
                part.path.unlink()
        return table

    def _in_file(self, path: Path, answers: pa.RecordBatch) -> pa.RecordBatch:
        try:
            with pa.ipc.new_file(str(path), self._schema) as writer:
                writer.write_batch(answers)
        except OSError as error:
            raise StorageFullError(
                f"{path.parent}: what a historical read puts aside can't be written there ({error.strerror or error}); "
                "free space, or let TMPDIR name another place"
            ) from error
        return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
