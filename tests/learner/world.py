"""A data directory with examples, a base and a log of deltas, all small; and what is in it, plainly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from benchmarks._example_stream import partitioned, stream
from benchmarks._examples import examples
from flows.examples.record import EXAMPLES
from flows.examples.rows import ExampleRows, batch_of
from flows.log import LocalLog
from flows.outputs import EMBEDDINGS
from online_model.deltas.follower import Follower
from online_model.learner.config import LearnerConfig
from online_model.learner.course import Course
from online_model.learner.learner import Learner, Site, begin_of, course_of
from online_model.model.calibration import Calibrators
from online_model.model.dense import save_dense
from online_model.model.embedding_input import TakenEmbedding
from online_model.registry.bases import Base
from online_model.registry.build import build_of
from online_model.registry.manifest import CALIBRATORS, DENSE
from online_model.registry.registry import Registry
from tests.learner.test_step import model, shaken, tables
from tests.oracles import deltas as naive
from tests.registry.making import EXPECTED, about

PARTITIONS = 2
CONFIG = LearnerConfig(batch_rows=16, batch_ms=20_000, learning_rate=0.1)


def rows_for(seed: int = 0, n: int = 120, fingerprint: str = EXPECTED.features) -> list[ExampleRows]:
    """Records of each partition."""
    made = examples(n, users=9, pins=20, per_request=4, actions=6, days=0.02, seed=seed)
    return partitioned(stream(replace(made, fingerprints=(fingerprint,)), seed), PARTITIONS)


class World:
    """See the module.

    Parameters
    ----------
    directory : Path
    seed : int
    """

    def __init__(self, directory: Path, seed: int = 0, n: int = 120, registry: Registry | None = None, logs: Path | None = None) -> None:
        self.rows = rows_for(seed, n, registry.bases.expected.features if registry else EXPECTED.features)
        logs = logs or directory / "logs"
        self.examples = LocalLog.open(logs, EXAMPLES, PARTITIONS, create=True)
        self.embeddings = LocalLog.open(logs, EMBEDDINGS, PARTITIONS, create=True)
        self.registry = registry or Registry(directory / "models", EXPECTED)
        self.site = Site(self.registry, self.examples, self.embeddings)
        self._written = [0] * PARTITIONS

    def write(self, share: float = 1.0) -> None:
        """Append up to a share of each partition's records."""
        for p, rows in enumerate(self.rows):
            low, high = self._written[p], max(self._written[p], int(len(rows) * share))
            if high > low:
                self.examples.append([(p, batch_of(rows.take(np.arange(low, high)), 0, p, low))])
            self._written[p] = high

    def publish(
        self,
        encoder: str = "mean",
        serve: bool = True,
        positions: tuple[int, ...] | None = (0,) * PARTITIONS,
        taken: TakenEmbedding | None = None,
    ) -> Base:
        """A new base."""
        ranker = shaken(model(encoder) if taken is None else model(encoder, user_embedding=taken.dim))
        begun = tables(admit_after=2)
        ids = np.arange(3, dtype=np.int64)
        for table in (begun.users, begun.pins):
            table.put(ids, np.full((3, table.config.dimension), 0.5, np.float32))
        with self.registry.draft() as draft:
            save_dense(ranker, draft / DENSE)
            begun.save(draft)
            Calibrators.none(ranker.config.heads).save(draft / CALIBRATORS)
            config = {"model": ranker.config.to_dict()} | ({} if taken is None else taken.to_config())
            cut = {} if positions is None else {"positions": list(positions)}
            base = self.registry.publish(draft, about(self.registry.bases.expected, config=config, cut=cut, build=build_of(0)))
        if serve:
            self.registry.switch(self.registry.start_for(base, self.embeddings.end_position(0)), 1, "test")
        return base

    def course(self, config: LearnerConfig | None = None, base: int = 1) -> Course:
        asked = {} if config is None else {one.name: getattr(config, one.name) for one in fields(config)}
        return course_of(self.site, base, lambda one: begin_of(one, PARTITIONS), asked)

    def learner(self, config: LearnerConfig | None = None, base: int = 1) -> Learner:
        return Learner.open(self.site, self.course(config, base))

    def begun(self, config: LearnerConfig = CONFIG) -> Learner:
        """The first learner of the first base."""
        return self.learner(config)

    def consumer(self) -> Follower:
        return Follower(self.registry, self.embeddings)

    def close(self) -> None:
        self.examples.close()
        self.embeddings.close()


def told(learner: Learner) -> naive.Rows:
    """A learner's rows, plainly."""
    out: naive.Rows = {}
    for name, table in (("user", learner.tables.users), ("pin", learner.tables.pins)):
        ids = table.ids
        for i, row in zip(ids.tolist(), table.gather(table.rows_of(ids)), strict=True):
            out[name, i] = row.tobytes()
    return out


def served(follower: Follower) -> naive.Rows:
    """A consumer's, once it has read all."""
    while follower.refresh():
        pass
    assert follower.trouble is None, follower.trouble
    return plain({name: (table.ids, table.weights) for name, table in follower.served.tables.items()})


def plain(rows: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> naive.Rows:
    return {(name, int(i)): row.tobytes() for name, (ids, weights) in rows.items() for i, row in zip(ids, weights, strict=True)}


def digests(learner: Learner) -> tuple[str, str]:
    return learner.tables.users.digest(), learner.tables.pins.digest()


def state_of(learner: Learner) -> tuple[object, ...]:
    """All that decides what comes next."""
    return (*digests(learner), learner.positions, learner.newest_event_time)


def learn_all(
    learner: Learner, publish_every: int = 0, snapshot_every: int = 0, ended: bool = False, read_records: int | None = None
) -> int:
    """Learn what is there; put out after every so many micro-batches, and keep after every so many deltas. How many batches there were."""
    batches = learner.batches(read_records)
    n = 0
    while (ready := batches.next(ended)) is not None:
        learner.learn(ready)
        n += 1
        if publish_every and n % publish_every == 0:
            learner.publish()
            if snapshot_every and learner.delta % snapshot_every == 0:
                learner.snapshot()
    return n
