"""From a base that passed the gate to one that is served: in shadow it learns what came since its window, then base and rows switch together.

Until that one switch whoever serves has the old base with the old rows. A kill at any instant leaves the old one, or the new one caught up.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from flows import stopping
from flows.examples.store import Examples
from flows.log import Log
from flows.open_log import open_log
from flows.outputs import EMBEDDINGS
from flows.settings import Settings
from online_model.deltas.record import PARTITION, Closing, Rows
from online_model.deltas.writer import DeltaWriter, fence
from online_model.model.config import ModelConfig
from online_model.registry.bases import Base
from online_model.registry.current import Current, Start
from online_model.registry.errors import NoModelError
from online_model.registry.registry import Registry
from online_model.registry.snapshots import Point, write_snapshot
from online_model.retrain.gate import Told
from online_model.retrain.sides import LearnerOf, Model, merged
from online_model.retrain.spans import learned_by
from online_model.training.epoch import reproducible
from online_model.training.errors import TrainingStoppedError
from online_model.training.tables import Tables

DELTA_RECORDS = 262_144
"""Records of EXAMPLES that a delta of the catching up is of: what is held of changed rows stays small."""


def switch_to(
    settings: Settings,
    registry: Registry,
    base: Base,
    examples: Examples,
    learner: LearnerOf,
    as_of: int,
    told: Told = lambda stage, done, total: None,
) -> Current:
    """Catch up in shadow, and serve the base from now on with the rows that it has come to.

    Parameters
    ----------
    base : Base
        Published, and served to nobody yet.
    examples : Examples
    learner : LearnerOf
    as_of : int
        The moment of the switch, ms, as it is remembered.
    told : callable

    Raises
    ------
    TrainingStoppedError
        The process was asked to stop: the old base is served still, and the same call goes on.
    """
    with open_log(settings, EMBEDDINGS, create=True) as log:
        served = _served(registry)
        if served is not None and all(other.base != base.number for other in served.candidates):
            # Consumers of the base that is served pass over what this one puts out.
            registry.announce(registry.start_for(base, log.end_position(PARTITION), lambda snapshot: False))
        start = _caught_up(registry, base, examples, learner, log, told)
        # From here on the old base's learner is refused, so that nothing of its deltas lies behind the switch.
        end = log.end_position(PARTITION) if served is None else fence(log, served.base)
        return registry.switch(start(end), as_of, f"retrained as of {base.manifest.about.made_as_of}")


def _served(registry: Registry) -> Current | None:
    try:
        return registry.current()
    except NoModelError:
        return None


def _caught_up(registry: Registry, base: Base, examples: Examples, learner: LearnerOf, log: Log, told: Told) -> Callable[[int], Start]:
    """Learn whole batches until there are no more, putting out deltas, and keep the rows as a snapshot."""
    config = ModelConfig.from_dict(base.manifest.about.config["model"])
    model = Model.load(base.path, config)
    tables = model.tables
    learning = learner.make(model.ranker, tables)
    for table in (tables.users, tables.pins):
        # What the training changed is in the base.
        table.take_changed()
    # Killed before, it may have put out deltas of a part: then the first of these holds every row that has changed since the base.
    writer = DeltaWriter.open(log, base.number, base.digest)
    positions = learned_by(base).positions
    done, total = 0, sum(examples.end_positions()) - sum(positions)
    pending, ready = 0, -1
    last: Closing | None = None
    with reproducible(torch.device("cpu")):
        for batch in merged(examples, positions, learner.batch_rows, base.manifest.about.feature_fingerprint, ended=False):
            if stopping.requested():
                raise TrainingStoppedError("retrain: stopped while the new base was catching up; the same command goes on")
            learning.learn(batch.rows)
            positions, ready = tuple(batch.positions), max(ready, int(batch.rows.ready_time.max()))
            pending += len(batch)
            done += len(batch)
            told("catching up", done, total)
            if pending >= DELTA_RECORDS:
                last, pending = writer.append(changed_rows(tables), positions, learning.time, ready), 0
    if pending:
        last = writer.append(changed_rows(tables), positions, learning.time, ready)
    if last is None:
        return lambda end: registry.start_for(base, end)
    point = _point(last)
    snapshot = write_snapshot(base, point, {"user": tables.users.state(), "pin": tables.pins.state()})
    return snapshot.start


def changed_rows(tables: Tables) -> Rows:
    """What has changed since this was last asked, as a delta's rows."""
    changed: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    deleted: dict[str, np.ndarray] = {}
    for name, table in (("user", tables.users), ("pin", tables.pins)):
        ids, deleted[name] = table.take_changed()
        changed[name] = (ids, table.gather(table.rows_of(ids)))
    return Rows.of(changed, deleted, tables.users.config.dimension)


def _point(last: Closing) -> Point:
    return Point(last.base, last.delta, last.digest, last.position, last.positions, last.newest_event_time)
