"""Small models that are made in a moment: drafts, tables, descriptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson

from online_model.registry import tensors
from online_model.registry.bases import Base, Expected
from online_model.registry.manifest import CALIBRATORS, DENSE, TABLES, Build, Described
from online_model.registry.registry import Registry

EXPECTED = Expected("f" * 16, "e" * 16)
D = 4


def registry_in(directory: Path, expected: Expected = EXPECTED) -> Registry:
    return Registry(directory / "models", expected)


def about(expected: Expected = EXPECTED, **changes: Any) -> Described:
    values: dict[str, Any] = {
        "config": {"encoder": "mean", "dimension": D, "mmoe": {"experts": 4}},
        "feature_fingerprint": expected.features,
        "vocabulary_fingerprint": expected.vocabulary,
        "cut": {"positions": [10, 20], "until": 1_700_000_000_000},
        "parent": None,
        "build": Build("2.13.0", "AVX2", 1, "cpu", 7),
        "metrics": {"auc": {"save": 0.75}},
        "made_as_of": 1_700_000_000_000,
    }
    return Described(**(values | changes))


def state(seed: int, rows: int = 5, d: int = D) -> dict[str, np.ndarray]:
    """A table of some rows, whatever order they are in."""
    rng = np.random.default_rng(seed)
    return {
        "ids": rng.permutation(np.arange(1, 1 + rows) * 7 - 20).astype(np.int64),
        "weights": rng.standard_normal((rows, d)).astype(np.float32),
        "accumulators": rng.random(rows).astype(np.float32),
        "counts": rng.integers(1, 9, rows).astype(np.int32),
        "last_seen": rng.integers(0, 1 << 40, rows),
        "default": rng.standard_normal(d).astype(np.float32),
    }


def fill(draft: Path, seed: int) -> None:
    """A draft's files; every number in them follows from the seed."""
    rng = np.random.default_rng(seed)
    (draft / DENSE).write_bytes(tensors.to_bytes({"head.weight": rng.standard_normal((3, D)).astype(np.float32)}))
    for i, name in enumerate(TABLES.values()):
        (draft / name).write_bytes(tensors.to_bytes(state(2 * seed + i)))
    (draft / CALIBRATORS).write_bytes(orjson.dumps({"save": [seed, 1.0]}))


def publish(registry: Registry, seed: int, **changes: Any) -> Base:
    """A new base, made of a seed."""
    with registry.draft() as draft:
        fill(draft, seed)
        return registry.publish(draft, about(registry.bases.expected, **({"metrics": {"seed": seed}} | changes)))


def serve(registry: Registry, number: int, end: int = 0) -> None:
    registry.switch(registry.start_for(registry.base(number), end), 1_700_000_000_000 + number, "published")
