"""Which requests of a history were served by Tidemark itself: SERVED has their features, so the join makes their examples and a backfill none.

It looks at a prefix of SERVED, and never at what a request was answered.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from flows.decode_values import hash_texts
from flows.errors import CorruptionError
from flows.examples.backfill.matching import found_in
from flows.log import Log, read_before
from flows.outputs import SERVED
from flows.served_versions import as_newest

_RECORDS = 2_048


class OurRequests:
    """The requests in SERVED.

    Parameters
    ----------
    log : Log
        SERVED.
    ends : sequence of int
        How many positions of each partition count.
    """

    def __init__(self, log: Log, ends: Sequence[int]) -> None:
        self._log, self._ends = log, ends
        self._held: tuple[int, np.ndarray, np.ndarray] | None = None

    def hold(self, partition: int, users: np.ndarray, request: np.ndarray, names: pa.StringArray) -> np.ndarray:
        """Whether they hold some requests of a partition: bool[n].

        Parameters
        ----------
        users, request : int64[n]
            The second are numbers of `names`; -1, a request without a name, is in none.
        """
        if self._held is None or self._held[0] != partition:
            self._held = (partition, *self._read(partition))
        hashes = np.append(hash_texts(names), 0)[request]
        return (found_in((users, hashes), self._held[1:]) >= 0) & (request >= 0)

    def _read(self, partition: int) -> tuple[np.ndarray, np.ndarray]:
        """Users, and hashes of the requests' names."""
        where, end, at = f"log '{SERVED}', partition {partition}", self._ends[partition], 0
        users, requests = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        while at < end:
            batches = read_before(self._log, end, partition, at, _RECORDS)
            if not batches:
                raise CorruptionError(f"{where}: records from offset {at} on are missing; restore the log")
            for batch in batches:
                records = as_newest(batch.records, where)
                known = records.column("user_id").is_valid()
                users.append(records.column("user_id").filter(known).to_numpy(zero_copy_only=False))
                requests.append(hash_texts(records.column("request_id").filter(known)))
            at = batches[-1].end_offset
        return np.concatenate(users), np.concatenate(requests)
