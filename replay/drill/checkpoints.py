"""Damage to checkpoints, where one is needed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from random import Random

from flows.state.task import task_path
from replay.checkpoints.manifest import directory, listed, read
from replay.drill.bytes import flip
from replay.drill.site import Site
from replay.drill.state import older
from replay.tasks import TaskName, every


def stale(site: Site, rng: Random) -> str:
    """A task's state is gone, and its newest checkpoint is of no use: damaged, another task's, or ahead of the log."""
    task, _ = older(site, rng)
    shutil.rmtree(task_path(site.settings, task.flow, task.partition))
    how = rng.choice((_damaged, _of_another, _ahead))
    return f"{task}: its state is gone, and {how(site, task, rng)}"


def _damaged(site: Site, task: TaskName, rng: Random) -> str:
    manifest = read(site.place, listed(site.place, task.flow, task.partition)[0])
    path = site.data / "checkpoints" / directory(task.flow, task.partition) / "pieces" / rng.choice(manifest.pieces).name
    return f"of its newest checkpoint {flip(path, rng)}"


def _of_another(site: Site, task: TaskName, rng: Random) -> str:
    other = rng.choice([one for one in every(site.settings) if one.flow == task.flow and one != task] or [task])
    return _put(site, task, other, read(site.place, listed(site.place, other.flow, other.partition)[0]).position, f"{other}'s in its place")


def _ahead(site: Site, task: TaskName, rng: Random) -> str:
    return _put(site, task, task, 1 << 40, "one of a longer log beside it")


def _put(site: Site, task: TaskName, source: TaskName, position: int, what: str) -> str:
    """A checkpoint that is whole, and says that it is a task's, at a position; what it holds is another's."""
    manifest = read(site.place, listed(site.place, source.flow, source.partition)[0])
    lie = replace(manifest, partition=task.partition, position=position, made_at=manifest.made_at + 1)
    into = site.data / "checkpoints" / directory(task.flow, task.partition)
    if source != task:
        shutil.rmtree(into)
        shutil.copytree(site.data / "checkpoints" / directory(source.flow, source.partition), into)
        for path in into.glob("*.json"):
            path.unlink()
    site.place.write(f"{directory(task.flow, task.partition)}/{lie.file_name()}", lie.to_bytes())
    return f"the newest checkpoint is {what}"
