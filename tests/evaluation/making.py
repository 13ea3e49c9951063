"""Scored rows for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from online_model.evaluation.scored import ScoredRows, scored_rows

DAY = 86_400_000


def columns(
    seed: int,
    users: int = 60,
    requests: int = 3,
    shown: int = 8,
    heads: Sequence[str] = ("save", "hide"),
    noise: float = 0.5,
    scores: int = 0,
) -> dict[str, np.ndarray]:
    """Rows as a file has them: the labels and the truth of a seed, scored with noise, in a shuffled order.

    Files of one seed have the same rows; `scores` tells their scorings apart.
    """
    rng, own = np.random.default_rng(seed), np.random.default_rng((seed, scores))
    n = users * requests * shown
    request = np.arange(n) // shown
    user = request // requests
    liking = rng.normal(0, 0.5, users)[user]
    out: dict[str, np.ndarray] = {
        "user_id": user * 7 + 3,
        "request_id": np.array([f"r{i:05d}" for i in request]),
        "pin_id": rng.permutation(10 * n)[:n],
        "request_time": 1_700_000_000_000 + rng.integers(0, 20 * DAY, request[-1] + 1)[request],
        "topic": np.array(["cats", "bread", "tools & <things>", "房间"])[rng.integers(0, 4, n)],
    }
    for i, head in enumerate(heads):
        logit = liking + rng.normal(0, 1, n) - 1.5 - i
        out[f"label_{head}"] = np.where(rng.random(n) < 0.1, -1, rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.int8)
        out[f"score_{head}"] = (1 / (1 + np.exp(-logit - noise * own.normal(0, 1, n)))).astype(np.float32)
    order = own.permutation(n)
    return {name: values[order] for name, values in out.items()}


def rows_of(table: dict[str, np.ndarray], score: np.ndarray | None = None) -> ScoredRows:
    """The same as the rows that are measured."""
    topics, topic = np.unique(table["topic"], return_inverse=True)
    return scored_rows(
        **{name: table[name] for name in ("user_id", "pin_id", "request_time")},
        request_id=pa.array(table["request_id"].tolist(), pa.string()),
        labels={name.removeprefix("label_"): values for name, values in table.items() if name.startswith("label_")},
        probabilities={name.removeprefix("score_"): values for name, values in table.items() if name.startswith("score_")},
        topic=(topic.astype(np.int32), tuple(topics.tolist())),
        score=score,
    )


def write(path: Path, table: dict[str, np.ndarray]) -> Path:
    pq.write_table(
        pa.table({name: pa.array(values.tolist() if values.dtype.kind == "U" else values) for name, values in table.items()}), path
    )
    return path
