"""A site with a model side: pins that were served to those who saw them, examples of these, two bases, and what a learner has put out on the second.

The bases have learned nothing: what is drilled is whether they are whole, and whose rows are served.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from flows.answers import SequenceRows
from flows.events import EVENT_SCHEMA
from flows.examples.record import EXAMPLES
from flows.features import PIN_COUNTERS, SEQUENCE_FIELDS, TOPIC_STATS, USER_COUNTERS
from flows.log import LocalLog
from flows.open_log import open_log
from flows.outputs import ACTIONS, EMBEDDINGS, SERVED
from flows.served import Status
from flows.served_rows import Served, batches_of
from flows.served_versions import heartbeat
from flows.settings import Settings
from flows.state.actions_task import state_fingerprint
from flows.vocabulary import IMPRESSION, OWN_PROFILE
from online_model.model.calibration import Calibrators
from online_model.model.config import ModelConfig
from online_model.model.dense import save_dense
from online_model.model.ranker import Ranker
from online_model.registry.bases import SNAPSHOTS, Base
from online_model.registry.build import build_of
from online_model.registry.manifest import CALIBRATORS, DENSE, Described
from online_model.registry.registry import Registry
from online_model.table import EmbeddingTable, TableConfig
from online_model.training.tables import Tables
from replay.drill.models import CANDIDATE
from replay.drill.operator import DrillError, Type, must
from replay.drill.site import Site

_REQUESTS = 500
_BATCH_BYTES = 4 << 20
_DIM = 4
_LEARN = ("learn", "--batch", 64, "--json")


def with_models(site: Site, to: Path, tidemark: Type) -> Site:
    """Make a copy of a site that has a model side, in two stages, so that there are deltas, snapshots and checkpoints on the way.

    Raises
    ------
    DrillError
        Nobody saw anything under a request, so there is nothing to learn from.
    """
    made = site.copied(to)
    served = _served(made)
    if len(served) < 4:
        raise DrillError("no impression names a request, so there is nothing to learn from: drill a simulated population (--events)")
    times = sorted(one.timestamp for one in served)
    bounds = (times[len(times) // 2], times[-1])
    before = -1
    for stage, bound in enumerate(bounds):
        batches = batches_of([one for one in served if before < one.timestamp <= bound], made.settings.partitions, _BATCH_BYTES)
        with open_log(made.settings, SERVED, create=True) as log:
            log.append([*batches, *((p, heartbeat(bound + 1)) for p in range(made.settings.partitions))])
        before = bound
        must(tidemark(made.settings, "examples", "run", "--json"), "tidemark examples run")
        if not stage:
            must(tidemark(made.settings, "replay", "checkpoint", "--task", EXAMPLES, "--json"), "tidemark replay checkpoint")
            _publish_bases(made.settings)
        learned = must(tidemark(made.settings, *_LEARN), "tidemark learn").json()
        if not learned["deltas"]:
            raise DrillError("nothing was learned from what was seen: too few events for this drill")
    must(tidemark(made.settings, "archive", "run", "--json"), "tidemark archive run")
    return made


def _publish_bases(settings: Settings) -> None:
    """Two bases, of which the second is served; and a copy of it that could be published."""
    registry = Registry.of(settings)
    with LocalLog.open(settings.logs, EMBEDDINGS, settings.partitions, create=True) as log:
        for seed in range(2):
            base = _publish(registry, settings.partitions, seed)
            registry.switch(registry.start_for(base, log.end_position(0)), seed, "drill")
    shutil.copytree(base.path, settings.data / CANDIDATE, ignore=shutil.ignore_patterns(SNAPSHOTS))


def _publish(registry: Registry, partitions: int, seed: int) -> Base:
    config = ModelConfig(dim=_DIM, action_dim=2, surface_dim=2, cross_rank=4, experts=2, expert_hidden=8, sequence_length=4, seed=seed)
    expected = registry.bases.expected
    with registry.draft() as draft:
        save_dense(Ranker(config), draft / DENSE)
        Tables(*(EmbeddingTable(TableConfig(_DIM, admit_after=1)) for _ in range(2))).save(draft)
        Calibrators.none(config.heads).save(draft / CALIBRATORS)
        about = Described(
            config={"model": config.to_dict()},
            feature_fingerprint=expected.features,
            vocabulary_fingerprint=expected.vocabulary,
            cut={"positions": [0] * partitions},
            parent=None,
            build=build_of(seed),
            metrics={},
            made_as_of=seed,
        )
        return registry.publish(draft, about)


def _served(site: Site) -> list[Served]:
    """Of the newest requests of each partition: that their pins were served when the first of them was seen; features are those of nobody."""
    mark = state_fingerprint(site.settings, site.settings.load_vocabulary())
    return [_one(mark, rows) for seen in _impressions(site) for rows in _newest(seen)]


def _newest(seen: pd.DataFrame) -> list[pd.DataFrame]:
    """The newest requests, each as its impressions."""
    requests = [rows for _, rows in seen.groupby(["user_id", "request_id"], sort=True)]
    return sorted(requests, key=lambda rows: int(rows["event_time"].min()))[-_REQUESTS:]


def _impressions(site: Site) -> Iterator[pd.DataFrame]:
    """Of each partition, those that name a request."""
    wanted = ["user_id", "pin_id", "event_time", "request_id", "action", "surface"]
    with open_log(site.settings, ACTIONS, read_only=True) as log:
        for partition in range(log.partitions):
            typed = [
                batch.records.select(wanted).to_pandas()
                for batch in log.read(partition, 0, max(1, log.end_position(partition)))
                if batch.records.schema.equals(EVENT_SCHEMA)
            ]
            if not typed:
                continue
            events = pd.concat([frame.astype({"action": str, "surface": str}) for frame in typed])
            yield events[(events["action"] == IMPRESSION) & (events["surface"] != OWN_PROFILE) & events["request_id"].notna()]


def _one(mark: str, seen: pd.DataFrame) -> Served:
    time, user, request = int(seen["event_time"].min()), int(seen["user_id"].iloc[0]), str(seen["request_id"].iloc[0])
    pins = seen["pin_id"].unique()
    nothing = np.empty(0, np.int64)
    sequences = SequenceRows(
        offsets=np.zeros(2, np.int64),
        **{name: nothing.astype(np.int16) if name in ("action", "surface") else nothing for name in SEQUENCE_FIELDS},
        found=np.zeros(1, np.bool_),
        as_of=time - 1,
    )
    return Served(
        timestamp=time,
        request_id=request,
        surface=None,
        fingerprint=mark,
        as_of=time - 1,
        positions=None,
        user_id=np.array([user]),
        user_status=np.full(1, Status.NOT_FOUND, np.int8),
        sequences=sequences,
        user_counters=np.zeros((1, len(USER_COUNTERS)), np.int64),
        pin_id=pins.astype(np.int64),
        pin_status=np.full(len(pins), Status.NOT_FOUND, np.int8),
        pin_counters=np.zeros((len(pins), len(PIN_COUNTERS)), np.int64),
        topic=(),
        topic_status=np.empty(0, np.int8),
        topic_stats=np.empty((0, len(TOPIC_STATS))),
    )
