"""The stream of a benchmark: simulated events, ingested into the ACTIONS log of a data directory that runs copy, and read back as columns."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flows.decode import Columns, Decoder
from flows.ingest.options import IngestOptions
from flows.ingest.producer import check_file, ingest_file
from flows.kernels.actions import WorkingSet
from flows.kernels.layout import ACCEPTED, DUPLICATE
from flows.log import LocalLog
from flows.outputs import ACTIONS
from flows.settings import Settings
from flows.simulate import simulate


@dataclass(frozen=True)
class Stretch:
    """Decoded records of one partition, as many as a task takes at once."""

    partition: int
    offsets: np.ndarray
    columns: Columns


def make(
    directory: Path, events: int, users: int, seed: int, partitions: int = 8, rates: dict[str, float] | None = None, pins: int | None = None
) -> Settings:
    """A data directory with nothing but a filled ACTIONS log of 30 days.

    Parameters
    ----------
    rates : dict, optional
        The simulator's, of late, disordered, doubled and malformed records.
    pins : int, optional
        As many as users by default.
    """
    settings = Settings(data=directory / "data", partitions=partitions)
    given: dict[str, Any] = dict(rates or {})
    simulate(directory / "events", users=users, pins=pins or users, days=30, events=events, seed=seed, partitions=partitions, **given)
    options = IngestOptions.parse(settings.load_vocabulary())
    with LocalLog.open(settings.logs, ACTIONS, settings.partitions, create=True) as log:
        for path in sorted((directory / "events").glob("events-*.parquet")):
            ingest_file(log, check_file(path, options), options)
    shutil.rmtree(directory / "events")
    return settings


def fresh(settings: Settings, data: Path) -> Settings:
    """A copy of a data directory's logs under another path, with nothing left for the disk to write."""
    shutil.rmtree(data, ignore_errors=True)
    shutil.copytree(settings.logs, data / "logs")
    os.sync()
    return replace(settings, data=data)


def stretches(settings: Settings) -> list[Stretch]:
    """All records, partition by partition, in the pieces in which a task takes them."""
    out = []
    with LocalLog.open(settings.logs, ACTIONS, read_only=True) as log:
        for partition in range(settings.partitions):
            decoder = Decoder(settings.load_vocabulary())
            at, end = 0, log.end_position(partition)
            while at < end:
                batches = log.read(partition, at, settings.batch_records)
                offsets = np.concatenate([b.offsets_of_records() for b in batches])
                out.append(Stretch(partition, offsets, decoder.decode(*(b.records for b in batches))))
                at = batches[-1].end_offset
    return out


def records(settings: Settings) -> pd.DataFrame:
    """The log as the oracles take it, in order of arrival over all partitions, with the fate of each record.

    Columns partition, offset, event_id, user_id, pin_id, action, surface, event_time, duration_ms, topic, timestamp, arrival, bad, and
    ``usable`` (neither malformed nor of the future) and ``watermark`` (before the record; a very small number if there is none).
    """
    vocabulary = settings.load_vocabulary()
    actions, surfaces = vocabulary.action_names(), vocabulary.surface_names()
    frames = []
    for partition in range(settings.partitions):
        decoder = Decoder(vocabulary)
        with LocalLog.open(settings.logs, ACTIONS, read_only=True) as log:
            end = log.end_position(partition)
            if not end:
                continue
            c = decoder.decode(*(b.records for b in log.read(partition, 0, end)))
        judge = WorkingSet(settings.allowed_lateness_ms, settings.dedup_horizon_ms, settings.clock_skew_ms)
        roles = c.role
        status = judge.judge(c.event_id, c.user_id, c.pin_id, c.event_time, roles, c.surface, c.topic, c.timestamp, c.bad).status
        reached = np.maximum.accumulate(np.where(status == ACCEPTED, c.event_time, -(2**62)))
        frames.append(
            pd.DataFrame(
                {
                    "partition": partition,
                    "offset": np.arange(len(c)),
                    "event_id": c.event_id,
                    "user_id": c.user_id,
                    "pin_id": c.pin_id,
                    "action": [actions[code] for code in c.action.tolist()],
                    "surface": [surfaces[code] for code in c.surface.tolist()],
                    "event_time": c.event_time,
                    "duration_ms": c.duration_ms,
                    "topic": [decoder.topics.get(topic, "") for topic in c.topic.tolist()],
                    "timestamp": c.timestamp,
                    "bad": c.bad,
                    "arrival": np.maximum.accumulate(c.timestamp),
                    "usable": (status == ACCEPTED) | (status == DUPLICATE),
                    "watermark": np.concatenate([[-(2**62)], reached[:-1]]),
                }
            )
        )
    return pd.concat(frames).sort_values(["arrival", "partition", "offset"], ignore_index=True)
