"""A learner beside what arrives: examples appended at a rate, its deltas read back as they come, and how long each example took to be in one."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

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
from online_model.model.dense import DENSE, save_dense
from online_model.model.ranker import Ranker
from online_model.registry.bases import Base
from online_model.registry.manifest import Build, Described
from online_model.registry.registry import Registry
from online_model.table import EmbeddingTable, TableConfig
from online_model.training.tables import Tables
from online_model.training.train import CALIBRATORS, build_of

PARTITIONS = 4
_TICK_S = 0.1


def publish(registry: Registry, config: ModelConfig, partitions: int) -> Base:
    """A base with the first weights of a model, and no rows."""
    ranker = Ranker(config)
    with registry.draft() as draft:
        save_dense(ranker, draft / DENSE)
        Tables(*(EmbeddingTable(TableConfig(config.dim)) for _ in range(2))).save(draft)
        Calibrators.none(config.heads).save(draft / CALIBRATORS)
        expected = registry.bases.expected
        build = Build(**build_of(torch.device("cpu"), config.seed))
        cut = {"positions": [0] * partitions}
        about = Described({"model": config.to_dict()}, expected.features, expected.vocabulary, cut, None, build, {}, 0)
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
        begun = time.monotonic()
        while (now := time.monotonic() - begun) < seconds + 2.5 * publish_every_s + 10:
            share = min(1.0, now / seconds)
            stamp = time.time_ns() // 1_000_000
            batches = []
            for p, rows in enumerate(parts):
                low, high = written[p], int(len(rows) * share)
                if high > low:
                    some = rows.take(np.arange(low, high))
                    batches.append((p, batch_of(replace(some, ready_time=np.full(high - low, stamp)), 0, p, low)))
                    appended[p][low:high], written[p] = now, high
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
    known = took[~np.isnan(took)]
    # What the last span of time holds waits for records behind it, which this benchmark never appends.
    if len(known) < 0.5 * len(took):
        raise CheckFailedError(
            f"only {len(known)} of {len(took)} examples were in a delta; the learner is behind, or the run was too short"
        )
    return {
        "records_per_s": rate,
        "publish_every_s": publish_every_s,
        "examples": len(known),
        "deltas": done["deltas"],
        "freshness_s": {f"p{q}": round(float(np.percentile(known, q)), 2) for q in (50, 90, 99)},
        "keep_up": done["keep_up"],
    }
