"""A drill that all tests of a process share: its report, and what its systems have left behind."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows.log import LocalLog
from flows.outputs import SERVED
from flows.settings import Settings
from flows.skew.drill.runner import PARTITIONS
from tests.processes import Ended, refused, tidemark

SEED = 11


@dataclass(frozen=True)
class Drill:
    """Where it worked, and what it said."""

    directory: Path
    said: dict[str, Any]

    def data(self, to: Path, *kinds: str) -> Path:
        """A data directory of the sound system's, with what systems have served: "sound", or the kinds of their mistakes."""
        shutil.copytree(self.directory / "sound", to)
        with LocalLog.open(to / "logs", SERVED, PARTITIONS, create=True) as log:
            for kind in kinds:
                with LocalLog.open(self.directory / "served" / kind, SERVED, PARTITIONS, read_only=True) as served:
                    for partition in range(PARTITIONS):
                        log.append([(partition, batch.records) for batch in served.read(partition, 0, 1 << 20)])
        return to


@pytest.fixture(scope="session")
def drill(tmp_path_factory: pytest.TempPathFactory) -> Drill:
    directory = tmp_path_factory.mktemp("drill") / "scratch"
    done = tidemark(
        "skew", "drill", "--seed", SEED, "--rows", 4000, "--keep", directory, "--json", data=directory.parent / "none", code=None
    )
    return Drill(directory, done.json())


@pytest.fixture(scope="session")
def sound(drill: Drill, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory from which nothing wrong was served."""
    return drill.data(tmp_path_factory.mktemp("sound") / "data", "sound")


@pytest.fixture(scope="session")
def mistaken(drill: Drill, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One from which four kinds of systems served."""
    kinds = ("late_event_ignored", "stale_tile", "other_fingerprint", "feature_defaulted")
    return drill.data(tmp_path_factory.mktemp("mistaken") / "data", *kinds)


def skew(*arguments: object, data: Path, code: int | None = 0) -> Ended:
    return tidemark("skew", *arguments, data=data, code=code, partitions=PARTITIONS)


def refused_skew(*arguments: object, data: Path) -> str:
    return refused("skew", *arguments, data=data, partitions=PARTITIONS)


def settings_of(data: Path) -> Settings:
    return Settings(data=data, partitions=PARTITIONS)
