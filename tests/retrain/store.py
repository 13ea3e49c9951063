"""A data directory with an offline store of made-up examples, and what a retrain of it is asked for. Small models, so that one takes a moment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._example_stream import partitioned, stream
from benchmarks._examples import START, examples
from flows.examples.record import EXAMPLES, Kind
from flows.examples.rows import ExampleRows, batch_of
from flows.log import LocalLog
from flows.settings import DAY_MS, HOUR_MS, Settings
from flows.state.actions_task import state_fingerprint
from online_model.registry.registry import Registry
from online_model.retrain.gate import Rule
from online_model.retrain.plan import Request
from online_model.retrain.run import Outcome, retrain
from online_model.retrain.spans import HeldBack

DAYS, PARTITIONS = 14, 2
END = START + DAYS * DAY_MS
SMALL = {
    "model": {
        "dim": 4,
        "action_dim": 3,
        "surface_dim": 2,
        "cross_rank": 4,
        "experts": 2,
        "expert_hidden": 6,
        "slots": 8,
        "sequence_length": 5,
    },
    "training": {"batch_size": 64, "checkpoint_every": 5},
    "table": {"admit_after": 1},
}
LEARNER = {"batch_rows": 64, "batch_ms": 6 * HOUR_MS}
SCRATCH = Request(HeldBack(DAY_MS, DAY_MS // 2), Rule("click", "auc", 0.02), from_scratch=True, seed=3, learner=LEARNER, **SMALL)  # type: ignore[arg-type]
AGAIN = Request(HeldBack(12 * HOUR_MS, 12 * HOUR_MS), Rule("click", "auc", 0.2), seed=3, learner=LEARNER)
MEMORY = 1 << 30


def settings_of(directory: Path) -> Settings:
    return Settings(data=directory, partitions=PARTITIONS)


def records(settings: Settings, n: int = 1_800, seed: int = 5) -> ExampleRows:
    """All records of some examples over DAYS, by when they became known."""
    made = stream(examples(n, users=60, pins=80, per_request=6, actions=8, days=DAYS, seed=seed), seed)
    return replace(made, fingerprints=(state_fingerprint(settings, settings.load_vocabulary()),))


def append(settings: Settings, rows: ExampleRows) -> None:
    """Put records into EXAMPLES, each into its user's partition, behind what is there."""
    with LocalLog.open(settings.logs, EXAMPLES, PARTITIONS, create=True) as log:
        for partition, part in enumerate(partitioned(rows, PARTITIONS)):
            if len(part):
                log.append([(partition, batch_of(part, 1, partition, log.end_position(partition)))])


def data(directory: Path, kinds: tuple[Kind, ...] = tuple(Kind), **made: Any) -> Settings:
    """A data directory with records of these kinds."""
    settings = settings_of(directory)
    rows = records(settings, **made)
    append(settings, rows.take(np.isin(rows.kind, [int(kind) for kind in kinds])))
    return settings


def run(settings: Settings, request: Request, day: float, **changes: Any) -> Outcome:
    """A retrain as of so many days after the beginning."""
    asked: dict[str, Any] = {"go_on": False, "now": lambda: 1, "memory_bytes": MEMORY} | changes
    return retrain(settings, request, as_of=START + round(day * DAY_MS), **asked)


def files_of(settings: Settings, base: int) -> dict[str, bytes]:
    """A base's files but its manifest, which has its number."""
    path = Registry.of(settings).bases.open(base).path
    return {file.name: file.read_bytes() for file in sorted(path.iterdir()) if file.is_file() and file.name != "manifest.json"}
