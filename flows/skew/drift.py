"""How far the distributions of features have moved from one side to another. That is no mistake by itself: values may all be right.

PSI below 0.1 is taken for no move, above 0.2 for a large one, as is customary; a Kolmogorov-Smirnov distance and coverage stand beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.skew.measures import kolmogorov_smirnov, psi, psi_of_shares
from flows.skew.names import COLUMNS, KINDS, SEQUENCE, VIEWS
from flows.skew.sides import ACTION, SEQUENCE_NUMBERS, SURFACE, Coverage, Side, name_of

MOVING, MOVED = 0.1, 0.2
"""PSI from which a feature is said to be moving, and to have moved."""
ENOUGH = 100
"""Records of a side from which on a PSI says something: of a few, chance alone makes it large."""


@dataclass(frozen=True, eq=False)
class Moved:
    """Of one feature.

    Attributes
    ----------
    name : str
    psi : float
        NaN where a side has no value.
    ks : float or None
        None of categories.
    reference, current : Coverage or None
        None of categories.
    samples : (float64[n], float64[m]) or None
        The values compared, for plots.
    shares : dict of str to (float, float) or None
        Of categories: the share of each on both sides.
    """

    name: str
    psi: float
    ks: float | None
    reference: Coverage | None = None
    current: Coverage | None = None
    samples: tuple[np.ndarray, np.ndarray] | None = None
    shares: dict[str, tuple[float, float]] | None = None

    @property
    def verdict(self) -> str:
        """stable, moving, moved, or unknown."""
        if math.isnan(self.psi):
            return "unknown"
        return "stable" if self.psi < MOVING else "moving" if self.psi < MOVED else "moved"


@dataclass(frozen=True)
class Shares:
    """Shares of actions over time.

    Attributes
    ----------
    bucket_ms : int
    actions : tuple of str
        The most frequent first.
    starts : int64[b]
        First ms of each stretch.
    counts : int64[b, actions]
    psi : float64[b]
        Of each stretch against the reference.
    """

    bucket_ms: int
    actions: tuple[str, ...]
    starts: np.ndarray
    counts: np.ndarray
    psi: np.ndarray


@dataclass(frozen=True)
class Drift:
    """All of it.

    Attributes
    ----------
    reference, current : str
        What was compared with what.
    records : (int, int)
    features : tuple of Moved
        Those that moved most first.
    over_time : Shares
        Of both sides together where both are periods.
    """

    reference: str
    current: str
    records: tuple[int, int]
    features: tuple[Moved, ...]
    over_time: Shares

    @property
    def few(self) -> str:
        """That the sides are too small, where one is; otherwise empty."""
        if min(self.records) >= ENOUGH:
            return ""
        return f"{self.records[0]:,} and {self.records[1]:,} records are too few to say what moved; {ENOUGH} a side are wanted"

    def above(self, threshold: float) -> list[Moved]:
        """Features whose PSI is greater."""
        return [one for one in self.features if one.psi > threshold]


def drift(reference: Side, current: Side) -> Drift:
    """Compare two sides.

    Parameters
    ----------
    reference, current : Side
    """
    features = [*_numbers(reference, current), *_categories(reference, current)]
    features.sort(key=lambda one: (math.isnan(one.psi), -one.psi, one.name))
    return Drift(reference.name, current.name, (reference.records, current.records), tuple(features), _over_time(reference, current))


def _numbers(reference: Side, current: Side) -> list[Moved]:
    out = []
    for kind in KINDS:
        a, b = reference.kept[kind].rows(), current.kept[kind].rows()
        for column in range(len(SEQUENCE_NUMBERS) if kind == SEQUENCE else len(COLUMNS[kind])):
            before, after = reference.coverage.get((kind, column), Coverage()), current.coverage.get((kind, column), Coverage())
            if not before.rows and not after.rows:
                continue
            left, right = (side[~np.isnan(side[:, column]), column] for side in (a, b))
            out.append(Moved(name_of(kind, column), psi(left, right), kolmogorov_smirnov(left, right), before, after, (left, right)))
    return out


def _categories(reference: Side, current: Side) -> list[Moved]:
    out = []
    for name, a, b in ((ACTION, reference.actions, current.actions), (SURFACE, reference.surfaces, current.surfaces)):
        names = sorted(set(a) | set(b))
        if not names:
            continue
        left, right = (np.array([side[n] for n in names], np.int64) for side in (a, b))
        shares = {
            n: (int(x) / max(1, int(left.sum())), int(y) / max(1, int(right.sum()))) for n, x, y in zip(names, left, right, strict=True)
        }
        out.append(Moved(f"{VIEWS[SEQUENCE]}:{name}", psi_of_shares(left, right), None, shares=shares))
    return out


def _over_time(reference: Side, current: Side) -> Shares:
    bucket = max(reference.bucket_ms, current.bucket_ms)
    at: dict[int, dict[str, int]] = {}
    for side in (reference, current):
        for start, found in side.actions_at.items():
            into = at.setdefault(start // bucket * bucket, {})
            for name, n in found.items():
                into[name] = into.get(name, 0) + n
    total = reference.actions + current.actions
    actions = tuple(name for name, _ in sorted(total.items(), key=lambda item: (-item[1], item[0])))
    # Where no sequence has an entry, no stretch says anything.
    starts = np.array(sorted(at) if actions else [], np.int64)
    counts = np.array([[at[start].get(name, 0) for name in actions] for start in starts.tolist()], np.int64).reshape(
        len(starts), len(actions)
    )
    base = np.array([reference.actions[name] for name in actions], np.int64)
    return Shares(bucket, actions, starts, counts, np.array([psi_of_shares(base, row) for row in counts], np.float64))


def as_json(found: Drift) -> dict[str, Any]:
    """Everything, as JSON can say it."""
    return {
        "reference": found.reference,
        "current": found.current,
        "records": {"reference": found.records[0], "current": found.records[1]},
        "thresholds": {"moving": MOVING, "moved": MOVED},
        "too_few": bool(found.few),
        "features": [_as_json(one) for one in found.features],
        "actions_over_time": {
            "bucket_ms": found.over_time.bucket_ms,
            "rows": [
                {"from": int(start), "psi": _finite(value), "entries": dict(zip(found.over_time.actions, row.tolist(), strict=True))}
                for start, value, row in zip(found.over_time.starts, found.over_time.psi, found.over_time.counts, strict=True)
            ],
        },
    }


def _as_json(one: Moved) -> dict[str, Any]:
    out: dict[str, Any] = {"feature": one.name, "psi": _finite(one.psi), "verdict": one.verdict}
    if one.ks is not None:
        out["ks"] = _finite(one.ks)
    for side, covered in (("reference", one.reference), ("current", one.current)):
        if covered is not None:
            out[side] = {
                "rows": covered.rows,
                "found": covered.share(covered.found),
                "nonzero": covered.share(covered.nonzero),
                "null": covered.share(covered.rows - covered.found),
                "defaulted": covered.share(covered.defaulted),
            }
    if one.shares is not None:
        out["shares"] = {name: {"reference": a, "current": b} for name, (a, b) in one.shares.items()}
    return out


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
