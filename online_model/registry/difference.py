"""What two bases say differently: how they were made, what they are worth, which weights and rows moved and how far. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from online_model.registry.bases import Base
from online_model.registry.manifest import DENSE, TABLES

_ABOUT = ("feature_fingerprint", "vocabulary_fingerprint", "parent", "made_as_of")


@dataclass(frozen=True)
class RowsChanged:
    """Of one table: how many IDs have come, have gone, or have another row; the greatest change of a weight of those, and of the default row."""

    rows: tuple[int, int]
    added: int
    removed: int
    changed: int
    max_change: float
    default_change: float

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.default_change)


@dataclass(frozen=True)
class Difference:
    """What differs between base a and base b.

    Attributes
    ----------
    about, config, cut, build, metrics : mapping of str to (a, b)
        Only what differs; None where one doesn't say.
    tables : mapping of str to RowsChanged
    dense : mapping of str to float
        Tensors that differ, with the greatest change of a weight; inf where shapes differ or one has none.
    calibrators : bool
        Whether they differ.
    """

    about: Mapping[str, tuple[Any, Any]]
    config: Mapping[str, tuple[Any, Any]]
    cut: Mapping[str, tuple[Any, Any]]
    build: Mapping[str, tuple[Any, Any]]
    metrics: Mapping[str, tuple[Any, Any]]
    tables: Mapping[str, RowsChanged]
    dense: Mapping[str, float]
    calibrators: bool

    def __bool__(self) -> bool:
        described = (self.about, self.config, self.cut, self.build, self.metrics)
        return any(described) or any(self.tables.values()) or bool(self.dense) or self.calibrators


def difference(a: Base, b: Base) -> Difference:
    """Compare two bases.

    Raises
    ------
    DamagedModelError
    """
    one, other = a.manifest.about, b.manifest.about
    return Difference(
        about={name: (x, y) for name in _ABOUT if (x := getattr(one, name)) != (y := getattr(other, name))},
        config=_differing(one.config, other.config),
        cut=_differing(one.cut, other.cut),
        build=_differing(asdict(one.build), asdict(other.build)),
        metrics=_differing(one.metrics, other.metrics),
        tables={table: _rows(a.table(table), b.table(table)) for table in TABLES},
        dense=_dense(a.tensors(DENSE), b.tensors(DENSE)),
        calibrators=a.calibrators() != b.calibrators(),
    )


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted names."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        out |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else {f"{prefix}{name}": value}
    return out


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    one, other = flat(a), flat(b)
    return {name: (one.get(name), other.get(name)) for name in dict.fromkeys((*one, *other)) if one.get(name) != other.get(name)}


def _rows(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> RowsChanged:
    in_a, in_b = np.isin(a["ids"], b["ids"]), np.isin(b["ids"], a["ids"])
    counts = (len(a["ids"]), len(b["ids"]))
    if a["default"].shape != b["default"].shape:
        return RowsChanged(counts, int((~in_b).sum()), int((~in_a).sum()), int(in_a.sum()), float("inf"), float("inf"))
    # IDs of both, in one order.
    ours, theirs = np.flatnonzero(in_a), np.flatnonzero(in_b)
    ours, theirs = ours[np.argsort(a["ids"][ours])], theirs[np.argsort(b["ids"][theirs])]
    moved = np.abs(a["weights"][ours].astype(np.float64) - b["weights"][theirs]).max(axis=1, initial=0.0)
    default = np.abs(a["default"].astype(np.float64) - b["default"]).max(initial=0.0)
    return RowsChanged(
        counts, int((~in_b).sum()), int((~in_a).sum()), int((moved > 0).sum()), float(moved.max(initial=0.0)), float(default)
    )


def _dense(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> dict[str, float]:
    out: dict[str, float] = {}
    for name in sorted({*a, *b}):
        if name not in a or name not in b or a[name].shape != b[name].shape or a[name].dtype != b[name].dtype:
            out[name] = float("inf")
        elif a[name].tobytes() != b[name].tobytes():
            out[name] = float(np.abs(a[name].astype(np.float64) - b[name].astype(np.float64)).max(initial=0.0))
    return out
