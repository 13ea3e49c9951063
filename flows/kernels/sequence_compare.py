"""Two columns of sequences, row by row."""

from __future__ import annotations

from flows.compiled import compiled
from flows.kernels.edits import edits


@compiled
def equal_fields(served, served_offsets, recomputed, recomputed_offsets, equal):  # type: ignore[no-untyped-def]
    """Which fields of each sequence are the same, entry by entry.

    Parameters
    ----------
    served, recomputed : int64[s, k], int64[r, k]
    served_offsets, recomputed_offsets : int64[n + 1]
    equal : bool[n, k]
        Filled in.
    """
    for i in range(equal.shape[0]):
        a, b = served_offsets[i], recomputed_offsets[i]
        size = served_offsets[i + 1] - a
        if size != recomputed_offsets[i + 1] - b:
            equal[i, :] = False
            continue
        equal[i, :] = True
        for j in range(size):
            for c in range(equal.shape[1]):
                if served[a + j, c] != recomputed[b + j, c]:
                    equal[i, c] = False


@compiled
def field_edits(served, served_offsets, recomputed, recomputed_offsets, rows, totals):  # type: ignore[no-untyped-def]
    """Add up the edits of sequences: field by field, and of whole entries.

    Parameters
    ----------
    rows : int64[m]
        Which sequences.
    totals : int64[k + 1, 2]
        Inserted and deleted entries, of each field alone and at last of all fields together; added to.
    """
    fields = served.shape[1]
    for row in rows:
        a = served[served_offsets[row] : served_offsets[row + 1]]
        b = recomputed[recomputed_offsets[row] : recomputed_offsets[row + 1]]
        for c in range(fields):
            inserted, deleted = edits(a[:, c : c + 1], b[:, c : c + 1])
            totals[c, 0] += inserted
            totals[c, 1] += deleted
        inserted, deleted = edits(a, b)
        totals[fields, 0] += inserted
        totals[fields, 1] += deleted
