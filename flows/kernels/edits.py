"""How far two sequences are apart."""

from __future__ import annotations

import numpy as np

from flows.compiled import compiled


@compiled
def edits(served: np.ndarray, recomputed: np.ndarray) -> tuple[int, int]:
    """What makes one sequence of another: the fewest entries to insert and to delete.

    Parameters
    ----------
    served : int64[n, k]
        Entries; two are the same if all their columns are.
    recomputed : int64[m, k]

    Returns
    -------
    inserted, deleted : int
        Entries that the recomputed one has in addition, and that it lacks (by a longest common subsequence).
    """
    n, m = len(served), len(recomputed)
    # Of a table of common lengths, the row before and this one.
    above = np.zeros(m + 1, np.int64)
    here = np.zeros(m + 1, np.int64)
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            same = True
            for column in range(served.shape[1]):
                if served[i - 1, column] != recomputed[j - 1, column]:
                    same = False
                    break
            here[j] = above[j - 1] + 1 if same else max(above[j], here[j - 1])
        above, here = here, above
    common = above[m]
    return m - common, n - common
