"""A learner beside what arrives: examples appended at a rate, its deltas read back as they come, and how long each example took to be in one."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._example_stream import partitioned, stream
from benchmarks._examples import examples
from benchmarks._measure import CheckFailedError
from benchmarks._process import started, told
from flows.examples.record import EXAMPLES
from flows.examples.rows import batch_of
from flows.log import LocalLog
from flows.outputs import EMBEDDINGS
from flows.settings import Settings
from online_model.deltas.follower import Follower
from online_model.model.calibration import Calibrators
from online_model.model.config import Encoder, ModelConfig
from online_model.model.dense import save_dense
from online_model.model.ranker import Ranker
from online_model.registry.bases import Base
from online_model.registry.build import build_of
from online_model.registry.manifest import CALIBRATORS, DENSE, Described
from online_model.registry.registry import Registry
from online_model.table import EmbeddingTable, TableConfig
from online_model.training.tables import Tables

PARTITIONS = 4
_TICK_S = 0.1
_PATIENCE_S = 60
# Of a record that says no more than that time has gone on.
_BEAT = 9


def publish(registry: Registry, config: ModelConfig, partitions: int) -> Base:
    """A base with the first weights of a model, and no rows."""
    ranker = Ranker(config)
    with registry.draft() as draft:
        save_dense(ranker, draft / DENSE)
        Tables(*(EmbeddingTable(TableConfig(config.dim)) for _ in range(2))).save(draft)
        Calibrators.none(config.heads).save(draft / CALIBRATORS)
        expected = registry.bases.expected
        cut = {"positions": [0] * partitions}
        about = Described({"model": config.to_dict()}, expected.features, expected.vocabulary, cut, None, build_of(config.seed), {}, 0)
        return registry.publish(draft, about)


def live(directory: Path, encoder: str, rate: int, seconds: float, publish_every_s: int, seed: int) -> dict[str, Any]:
    """Append for so long, and say how fresh deltas were.

    Parameters
    ----------
    rate : int
        Records a second.

    Raises
    ------
    CheckFailedError
        The learner has failed, or the rows that were read back are of other examples than those that it says.
    """
    settings = Settings(data=directory, partitions=PARTITIONS)
    registry = Registry.of(settings)
    n = int(rate * seconds)
    made = examples(max(64, n // 2), users=2_000, pins=5_000, seed=seed)
    whole = stream(replace(made, fingerprints=(registry.bases.expected.features,)), seed)
    parts = partitioned(whole.take(np.arange(min(n, len(whole)))), PARTITIONS)
    with (
        LocalLog.open(settings.logs, EXAMPLES, PARTITIONS, create=True) as log,
        LocalLog.open(settings.logs, EMBEDDINGS, PARTITIONS, create=True) as embeddings,
    ):
        base = publish(registry, ModelConfig(encoder=Encoder(encoder), seed=seed), PARTITIONS)
        registry.switch(registry.start_for(base, 0), 0, "benchmark")
        follower = Follower(registry, embeddings)
        process = started(settings, "learn", "--follow", "--publish-every", f"{publish_every_s}s")
        # When each offset was appended, and when it was in a delta that was read.
        appended = [np.full(len(rows), np.nan) for rows in parts]
        seen = [np.full(len(rows), np.nan) for rows in parts]
        written = [0] * PARTITIONS
        begun, ended = time.monotonic(), False
        patience = seconds + 3 * publish_every_s + _PATIENCE_S
        while (now := time.monotonic() - begun) < patience and any(np.isnan(one).any() for one in seen):
            share = min(1.0, now / seconds)
            stamp = time.time_ns() // 1_000_000
            batches = []
            for p, rows in enumerate(parts):
                low, high = written[p], int(len(rows) * share)
                if high > low:
                    some = rows.take(np.arange(low, high))
                    batches.append((p, batch_of(replace(some, ready_time=np.full(high - low, stamp)), 0, p, low)))
                    appended[p][low:high], written[p] = now, high
            if not batches and share == 1 and not ended:
                # Nothing else follows: that time goes on, which ends the last span.
                beat = [
                    replace(rows.take(np.arange(1)), kind=np.array([_BEAT], np.int8), ready_time=np.array([stamp + 60_000]))
                    for rows in parts
                ]
                batches = [(p, batch_of(one, 0, p, written[p])) for p, one in enumerate(beat)]
                ended = True
            if batches:
                log.append(batches)
            if follower.refresh():
                at = time.monotonic() - begun
                for p, position in enumerate(follower.served.positions):
                    fresh = np.isnan(seen[p][:position])
                    seen[p][:position][fresh] = at
            time.sleep(_TICK_S)
        process.send_signal(signal.SIGTERM)
        done = told(process)
        while follower.refresh():
            pass
        if sum(follower.served.positions) != done["records"] or follower.trouble is not None:
            raise CheckFailedError(f"deltas reflect {follower.served.positions}, and the learner has learned {done['records']} records")
    took = np.concatenate([s - a for s, a in zip(seen, appended, strict=True)])
    if np.isnan(took).any():
        raise CheckFailedError(
            f"{int(np.isnan(took).sum())} of {len(took)} examples were in no delta after {patience:.0f} s; the learner is behind"
        )
    return {
        "records_per_s": rate,
        "publish_every_s": publish_every_s,
        "examples": len(took),
        "deltas": done["deltas"],
        "freshness_s": {f"p{q}": round(float(np.percentile(took, q)), 2) for q in (50, 90, 99)},
        "keep_up": done["keep_up"],
    }
