"""Damage to the state of a task."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from random import Random

from flows.log import LocalLog
from flows.open_log import open_log
from flows.outputs import ACTIONS, DEADLETTERS, LATE, REVISITS
from flows.state.actions_task import ActionsTask
from flows.state.copy import write_state
from flows.state.task import task_path
from replay.checkpoints.check import pairs
from replay.checkpoints.manifest import listed, read
from replay.drill.bytes import cut, flip
from replay.drill.operator import DrillError
from replay.drill.site import Site
from replay.status import standing
from replay.tasks import TaskName, every


def bit_in_table(site: Site, rng: Random) -> str:
    """A bit of one of a task's SST files turns over."""
    path = _file(site, rng, "*.sst")
    return f"{_task(path)}: {flip(path, rng)}"


def log_cut(site: Site, rng: Random) -> str:
    """The end of a task's write-ahead log is lost, and commits with it."""
    path = _file(site, rng, "*.log")
    return f"{_task(path)}: {cut(path, rng)}"


def file_gone(site: Site, rng: Random) -> str:
    """A file is deleted that something rests on: a table, the manifest, CURRENT, all of a task's state, or a segment of the archive."""
    kind = rng.choice(("*.sst", "MANIFEST-*", "CURRENT", "", "segment"))
    if kind == "segment":
        path = rng.choice(sorted(site.settings.archives.glob("*/*/*.parquet")))
        path.unlink()
        return f"archive {path.parent.parent.name}/{int(path.parent.name)}: {path.name} deleted"
    path = _file(site, rng, kind or "CURRENT")
    if kind:
        path.unlink()
        return f"{_task(path)}: {path.name} deleted"
    shutil.rmtree(path.parent)
    return f"{_task(path)}: all of its state deleted"


def behind(site: Site, rng: Random) -> str:
    """An old copy of a task's state is put where the state was."""
    task, position = older(site, rng)
    put_back(site, task, -1)
    return f"{task}: state of position {position:,} put back by hand"


def other_settings(site: Site, rng: Random) -> str:
    """A task's state was made under other settings than those of the data directory."""
    partition = rng.choice([p for p, end in enumerate(_ends(site)) if end])
    settings = replace(site.settings, data=site.data.parent / "other", allowed_lateness_ms=site.settings.allowed_lateness_ms + 1)
    outputs = {name: LocalLog.open(settings.logs, name, settings.partitions, create=True) for name in (REVISITS, LATE, DEADLETTERS)}
    with open_log(site.settings, ACTIONS, read_only=True) as log:
        task = ActionsTask(settings, partition, settings.load_vocabulary(), log, outputs)
        task.catch_up(log.end_position(partition))
        task.close()
    for output in outputs.values():
        output.close()
    path = task_path(site.settings, ACTIONS, partition)
    shutil.rmtree(path)
    task_path(settings, ACTIONS, partition).rename(path)
    shutil.rmtree(settings.data)
    return f"{ACTIONS}/{partition}: state made with an allowed lateness of {settings.allowed_lateness_ms} ms put in its place"


def older(site: Site, rng: Random) -> tuple[TaskName, int]:
    """A task that has moved since its oldest checkpoint, and that one's position."""
    found = []
    for task in every(site.settings):
        with open_log(site.settings, task.flow, read_only=True) as log:
            stands, kept = standing(site.settings, site.place, task, log), listed(site.place, task.flow, task.partition)
        if kept and stands.position is not None and kept[-1].position < stands.position:
            found.append((task, kept[-1].position))
    if not found:
        raise DrillError("no task has moved since its oldest checkpoint: too few events for this drill")
    return rng.choice(found)


def put_back(site: Site, task: TaskName, which: int) -> None:
    """Put one of a task's checkpoints, counted from the newest, where its state was."""
    path = task_path(site.settings, task.flow, task.partition)
    shutil.rmtree(path)
    write_state(path, pairs(site.place, read(site.place, listed(site.place, task.flow, task.partition)[which])))


def _file(site: Site, rng: Random, pattern: str) -> Path:
    found = sorted(path for path in site.settings.state.glob(f"*/[0-9]*/{pattern}") if path.stat().st_size)
    if not found:
        raise DrillError(f"no task's state has a file {pattern}: too few events for this drill")
    return rng.choice(found)


def _task(path: Path) -> str:
    return f"{path.parent.parent.name}/{int(path.parent.name)}"


def _ends(site: Site) -> list[int]:
    with open_log(site.settings, ACTIONS, read_only=True) as log:
        return log.end_positions()
