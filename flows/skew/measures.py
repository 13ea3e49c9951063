"""How far two columns, two sequences or two periods are apart.

Chronon's consistency metrics compare row by row (counts of nulls on either side, of mismatches, SMAPE, insertions and deletions of lists); PSI and
Kolmogorov-Smirnov compare distributions, as Hopsworks, TFDV and Evidently do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 10
"""Of a PSI."""

# A share of nothing would make a PSI infinite. Evidently and Hopsworks take about as much.
_LEAST_SHARE = 1e-4


@dataclass(frozen=True)
class Compared:
    """Two columns, row by row.

    Attributes
    ----------
    rows : int
    equal : int
        Rows that are the same to the bit, nothing on both sides included.
    missing, extra : int
        Rows that have a value on the right alone (served nothing), on the left alone.
    differing : int
        Rows with two values that differ.
    max_difference : float
        The greatest absolute difference; 0 if there is none.
    smape : float
        Mean of 2 |a - b| / (|a| + |b|) over rows that have both: 0 to 2.
    """

    rows: int
    equal: int
    missing: int
    extra: int
    differing: int
    max_difference: float
    smape: float


def compare(served: np.ndarray, there: np.ndarray, recomputed: np.ndarray, known: np.ndarray) -> tuple[Compared, np.ndarray]:
    """Compare what was served with what the log says.

    Parameters
    ----------
    served, recomputed : int64[n] or float64[n]
        Of one type.
    there, known : bool[n]
        Whether there is a value.

    Returns
    -------
    compared : Compared
    wrong : bool[n]
        Rows that aren't equal.
    """
    both = there & known
    same_bits = _bits(served) == _bits(recomputed)
    wrong = (there != known) | (both & ~same_bits)
    a, b = served[both].astype(np.float64), recomputed[both].astype(np.float64)
    # Of int64 the difference is exact only where it is taken before the conversion; then it may overflow, and that is right as uint64.
    if served.dtype.kind == "i" and recomputed.dtype.kind == "i":
        low, high = np.minimum(served[both], recomputed[both]), np.maximum(served[both], recomputed[both])
        apart = (high.view(np.uint64) - low.view(np.uint64)).astype(np.float64)
    else:
        with np.errstate(invalid="ignore", over="ignore"):
            apart = np.where(same_bits[both], 0.0, np.abs(a - b))
    # Of halves, whose sum is never too large.
    size = np.abs(a) / 2 + np.abs(b) / 2
    with np.errstate(invalid="ignore"):
        relative = np.where(apart == 0, 0.0, 2 * np.minimum(apart / 2 / np.where(size == 0, 1.0, size), 1.0))
    return (
        Compared(
            rows=len(served),
            equal=int((~wrong).sum()),
            missing=int((~there & known).sum()),
            extra=int((there & ~known).sum()),
            differing=int((both & ~same_bits).sum()),
            max_difference=float(apart.max(initial=0.0)),
            smape=float(relative.mean()) if len(relative) else 0.0,
        ),
        wrong,
    )


def _bits(values: np.ndarray) -> np.ndarray:
    # As bits, -0.0 is not 0.0, and a NaN is itself.
    return values.view(np.int64) if values.dtype.itemsize == 8 else values


def psi(reference: np.ndarray, current: np.ndarray, bins: int = BINS) -> float:
    """Population stability index of two samples of a number.

    The bins are quantiles of the reference; equal bounds fall together, so a counter that is nearly always 0 has a bin for 0 and some for the rest.
    Below 0.1 nothing is said to have moved, above 0.2 much has.

    Parameters
    ----------
    reference, current : number[n], number[m]

    Returns
    -------
    float
        The sum over bins of (p - q) ln(p / q), with shares of at least 0.0001; NaN where a sample is empty.
    """
    if not len(reference) or not len(current):
        return float("nan")
    # The least value below or at which i in `bins` of the sample lie, in whole numbers: np.quantile's shares are rounded.
    bounds = np.unique(np.sort(reference)[np.maximum(-(-np.arange(bins + 1) * len(reference) // bins) - 1, 0)])
    # A value belongs to the first bound that is not below it; what lies above all has a bin of its own.
    shares = []
    for sample in (reference, current):
        counts = np.bincount(np.searchsorted(bounds, sample, side="left"), minlength=len(bounds) + 1)
        shares.append(np.maximum(counts / len(sample), _LEAST_SHARE))
    p, q = shares
    return float(((p - q) * np.log(p / q)).sum())


def psi_of_shares(reference: np.ndarray, current: np.ndarray) -> float:
    """The same, of counts by category: int64[n] each, in the same order."""
    if not reference.sum() or not current.sum():
        return float("nan")
    p, q = (np.maximum(counts / counts.sum(), _LEAST_SHARE) for counts in (reference, current))
    return float(((p - q) * np.log(p / q)).sum())


def kolmogorov_smirnov(reference: np.ndarray, current: np.ndarray) -> float:
    """The greatest distance of two samples' distribution functions, 0 to 1; NaN where a sample is empty."""
    if not len(reference) or not len(current):
        return float("nan")
    values = np.concatenate([reference, current])
    below = [np.searchsorted(np.sort(sample), values, side="right") / len(sample) for sample in (reference, current)]
    return float(np.abs(below[0] - below[1]).max())
