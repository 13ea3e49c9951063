"""Windows of users' actions as padded tensors. A window is a stretch of one user's actions; what a row holds never depends on its neighbours."""

from __future__ import annotations

import numpy as np
import torch

from online_model.embedding.model import ActionBatch
from online_model.embedding.sequences import UserSequences


class Windows:
    """Makes batches of some sequences.

    Parameters
    ----------
    sequences : UserSequences
    vector_of : int64[m]
        The row of each pin's vector (`sequences.pin_ids`), or the number of vectors for a pin without one.
    """

    def __init__(self, sequences: UserSequences, vector_of: np.ndarray) -> None:
        s = sequences
        self._columns = (vector_of[s.pin], s.action, s.surface, s.duration_ms, s.time_ms)

    def batch(self, first: np.ndarray, last: np.ndarray, length: int, rows: int | None = None) -> ActionBatch:
        """Actions first[i] up to, but not with, last[i] of all that the sequences hold.

        Parameters
        ----------
        first, last : int64[B]
            At most `length` apart.
        length : int
            To which rows are padded.
        rows : int, optional
            To how many rows the batch is padded.
        """
        empty = np.zeros((rows or len(first)) - len(first), np.int64)
        first, last = np.concatenate([first, empty]), np.concatenate([last, empty])
        at = first[:, None] + np.arange(length)
        valid = at < last[:, None]
        at[~valid] = 0
        if not len(self._columns[0]):
            columns = [np.zeros(at.shape, np.int64) for _ in self._columns]
        else:
            columns = [np.where(valid, column[at], 0).astype(np.int64) for column in self._columns]
        pin, action, surface, duration, time = map(torch.from_numpy, columns)
        return ActionBatch(pin, action, surface, duration, time, torch.from_numpy(last - first))


def vector_rows(found: np.ndarray, vectors: int) -> np.ndarray:
    """Rows of vectors as `PinVectors.rows_of` gives them, with the number of vectors in place of −1."""
    return np.where(found < 0, vectors, found)
