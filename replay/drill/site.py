"""What is damaged: a data directory made anew of an ACTIONS log, with checkpoints at two positions on the way and an archive of all logs.

Made from the log alone, so that whoever runs on the data directory is not disturbed, and nothing is copied while it is being written.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from flows.log import LocalLog, Log, read_before
from flows.outputs import ACTIONS
from flows.settings import Settings
from flows.simulate import simulate
from replay.drill.operator import DrillError, Type, must
from replay.place import Place

_STAGES = 3
_READ_RECORDS = 262_144
_USERS_PER_EVENT = 10


@dataclass(frozen=True)
class Site:
    """A data directory of the drill's.

    Attributes
    ----------
    settings : Settings
        Those of the data directory that it is a copy of, but for places.
    """

    settings: Settings

    @property
    def data(self) -> Path:
        """The directory."""
        return self.settings.data

    @property
    def place(self) -> Place:
        """Where its checkpoints lie."""
        return Place(self.settings.checkpoint_place)

    def copied(self, to: Path) -> Site:
        """The same in another directory, which must not be there yet."""
        shutil.copytree(self.data, to)
        return at(self.settings, to)


def at(settings: Settings, data: Path) -> Site:
    """A site in a directory, under the settings of another."""
    return Site(replace(settings, data=data.absolute(), archive=None, checkpoints=None, kafka=None, kafka_options=None))


def simulated(settings: Settings, events: int, seed: int, directory: Path, tidemark: Type) -> Settings:
    """Simulate a population, and ingest what it does; the settings of the data directory."""
    site = at(settings, directory / "simulated")
    simulate(
        directory / "events",
        users=max(1, events // _USERS_PER_EVENT),
        pins=max(1, events // _USERS_PER_EVENT),
        days=30,
        events=events,
        seed=seed,
        partitions=settings.partitions,
        allowed_lateness_ms=settings.allowed_lateness_ms,
        dedup_horizon_ms=settings.dedup_horizon_ms,
        clock_skew_ms=settings.clock_skew_ms,
    )
    files = [*sorted((directory / "events").glob("events-*.parquet")), directory / "events" / "events-bad.jsonl"]
    must(tidemark(site.settings, "ingest", *files), "tidemark ingest")
    shutil.rmtree(directory / "events")
    return site.settings


def prepare(source: Log, settings: Settings, data: Path, tidemark: Type) -> Site:
    """Make a site of an ACTIONS log, in stages: each is appended and run, and all but the last have a checkpoint.

    Parameters
    ----------
    source : Log
        With its archive.

    Raises
    ------
    DrillError
        The log doesn't go back to its beginning, is empty, or a command failed on what isn't damaged.
    """
    site = at(settings, data)
    ends = source.end_positions()
    if any(source.start_positions()) or not source.dense:
        raise DrillError(f"log '{source.name}' lacks its beginning, or is a topic with holes: drill with a simulated population (--events)")
    if not any(ends):
        raise DrillError(f"log '{source.name}' is empty: ingest something, or drill with a simulated population (--events)")
    for stage in range(1, _STAGES + 1):
        with LocalLog.open(site.settings.logs, ACTIONS, source.partitions, create=True) as log:
            for partition, end in enumerate(ends):
                _copy(source, log, partition, end * stage // _STAGES)
        must(tidemark(site.settings, "run", "--json"), "tidemark run")
        if stage < _STAGES:
            must(tidemark(site.settings, "replay", "checkpoint", "--json"), "tidemark replay checkpoint")
    must(tidemark(site.settings, "archive", "run", "--json"), "tidemark archive run")
    return site


def _copy(source: Log, log: LocalLog, partition: int, end: int) -> None:
    at_ = log.end_position(partition)
    while at_ < end:
        batches = read_before(source, end, partition, at_, _READ_RECORDS)
        if not batches:
            raise DrillError(f"log '{source.name}', partition {partition}: nothing at offset {at_}, though it ends at {end}")
        log.append([(partition, batch.records) for batch in batches])
        at_ = batches[-1].end_offset
