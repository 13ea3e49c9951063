"""Which ID has which row, how often and when it was last seen, and who is a candidate for one.

Sightings count in their order, wherever a batch is cut. What a row's vector is, this module does not know.
"""

from __future__ import annotations

import numpy as np

from online_model.table.config import TableConfig
from online_model.table.kernels import index as kernel
from online_model.table.state import State

_FIRST_ROWS = 1_024
# IDs that are looked up together: few enough that what is kept of them stays in the nearest cache.
_TOGETHER = 256


class Identities:
    """IDs and their rows.

    Parameters
    ----------
    config : TableConfig

    Attributes
    ----------
    entries : int64[rows, 4]
        What is known of each row; the columns are those of `kernels/index.py`.
    """

    def __init__(self, config: TableConfig) -> None:
        self._index = np.zeros((2 * _FIRST_ROWS, 2), np.int64)
        self.entries = np.zeros((_FIRST_ROWS, 4), np.int64)
        self._free = np.zeros(_FIRST_ROWS, np.int64)
        self._room = max(1, config.candidates // 2)
        size = 1 << (2 * self._room - 1).bit_length() if config.admit_after > 1 else 2
        self._candidates = np.zeros((2, size, 2), np.int64)
        self._tally = np.zeros(6, np.int64)
        self._tally[kernel.HANDED] = 1

    def __len__(self) -> int:
        """How many IDs have a row."""
        return int(self._tally[kernel.LIVE])

    @property
    def handed(self) -> int:
        """Rows are numbered below this."""
        return int(self._tally[kernel.HANDED])

    def look_up(self, ids: np.ndarray) -> np.ndarray:
        """The row of each ID, 0 for one that has none: int64[n]."""
        rows = np.empty(len(ids), np.int64)
        kernel.look_up(self._index, ids, rows, np.empty((2, _TOGETHER), np.int64))
        return rows

    def admit(self, ids: np.ndarray, times: np.ndarray, admit_after: int) -> tuple[np.ndarray, np.ndarray]:
        """Count sightings.

        Returns
        -------
        rows : int64[n]
            As of each sighting.
        new : int64[m]
            Those that were handed out, in order.
        """
        rows, new = self.look_up(ids), np.empty(len(ids), np.int64)
        tally, at = self._tally, 0
        tally[kernel.ADMITTED] = 0
        while at < len(ids):
            at = kernel.admit(
                self._index, self.entries, self._free, self._candidates, tally, ids, times, at, admit_after, self._room, rows, new
            )
            if at < len(ids):
                self._grow()
        return rows, new[: tally[kernel.ADMITTED]]

    def drop(self, rows: np.ndarray) -> np.ndarray:
        """Take rows from their IDs, which are returned: int64[n]."""
        ids = self.entries[rows, kernel.ID]
        kernel.drop(self._index, self.entries, self._free, self._tally, rows)
        return ids

    def forget_candidates(self, ids: np.ndarray) -> None:
        """Nobody is a candidate who gets a row otherwise."""
        kernel.forget_candidates(self._candidates, self._tally, ids)

    def rows(self) -> np.ndarray:
        """All rows that an ID has, in the order of IDs: int64[n]."""
        rows = kernel.live_rows(self.entries, self.handed, len(self))
        return rows[np.argsort(self.entries[rows, kernel.ID])]

    def state(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """What `from_state` needs of it, but for what has changed; of all rows, as `rows` gives them."""
        newer = int(self._tally[kernel.NEWER])
        out = {
            "ids": self.entries[rows, kernel.ID],
            "counts": np.minimum(self.entries[rows, kernel.COUNT], np.iinfo(np.int32).max).astype(np.int32),
            "last_seen": self.entries[rows, kernel.LAST_SEEN],
        }
        for name, table in (("newer", self._candidates[newer]), ("older", self._candidates[1 - newer])):
            found = table[table[:, 1] != 0]
            found = found[np.argsort(found[:, 0])]
            out |= {f"{name}_ids": np.ascontiguousarray(found[:, 0]), f"{name}_counts": found[:, 1].astype(np.int32)}
        return out

    def put_candidates(self, state: State) -> None:
        """Those of a state, where there are none yet."""
        for generation, name in enumerate(("newer", "older")):
            kernel.put_all(self._candidates[generation], state[f"{name}_ids"], state[f"{name}_counts"].astype(np.int64))
        self._tally[kernel.IN_NEWER] = len(state["newer_ids"])

    def memory_bytes(self) -> int:
        """What is held."""
        return sum(array.nbytes for array in (self._index, self.entries, self._free, self._candidates))

    def _grow(self) -> None:
        if 2 * (len(self) + 1) > len(self._index):
            index = np.zeros((2 * len(self._index), 2), np.int64)
            kernel.copy_all(self._index, index)
            self._index = index
        if self._tally[kernel.FREE] == 0 and self.handed == len(self.entries):
            more = len(self.entries)
            self.entries = np.concatenate([self.entries, np.zeros((more, 4), np.int64)])
            self._free = np.concatenate([self._free, np.zeros(more, np.int64)])
