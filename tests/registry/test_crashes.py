"""Whoever publishes, switches, rolls back or sweeps may be stopped before any change of the disk: what was served before is served still, or what was
to be served is; it is whole, and its own.

Stopped in three ways: by an error, which is cleaned up after; by the end of the process, which is not; and by the power, after which of what was
not synced anything may be left (`tests.power.disk`).
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.errors import TidemarkError
from online_model.registry import durable, snapshots
from online_model.registry.errors import NoModelError
from online_model.registry.manifest import TABLES
from online_model.registry.registry import Registry
from online_model.registry.snapshots import Point, write_snapshot
from tests.power.cuts import entries_of
from tests.power.disk import Disk, Least, build_shim, entries, shim_environment
from tests.processes import ROOT, environment
from tests.registry.making import publish, registry_in, serve, state

CHANGES = ("open", "fsync", "rename", "unlink", "rmdir", "mkdir")


def fail() -> None:
    """As a disk does."""
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def rows_of(registry: Registry, base: int, delta: int) -> dict[str, bytes]:
    """What a base, or its snapshot, holds; every number of it follows from these two."""
    seed = base if not delta else 1000 * base + delta
    made = {table: state(2 * seed + i) for i, table in enumerate(TABLES)}
    return {table: made[table]["weights"].tobytes() for table in TABLES}


def snapshot(registry: Registry, base: int, delta: int) -> None:
    seed = 1000 * base + delta
    tables = {table: state(2 * seed + i) for i, table in enumerate(TABLES)}
    write_snapshot(registry.base(base), Point(base, delta, f"{seed:032x}", 10 * delta, (delta,), delta), tables)


def check_loadable(registry: Registry) -> tuple[int, int] | None:
    """What is served can be loaded, and its rows are those of its own base and delta; None if nothing was ever served.

    And whatever bears a number is whole: a base or a snapshot is never half there.
    """
    for number in registry.bases.numbers():
        base = registry.base(number)
        assert [s.point.delta for s in snapshots.sound(base)] == snapshots.numbers(base)
    try:
        start = registry.current().start
    except NoModelError:
        return None
    base, tables = registry.load(start)
    assert base.number == start.base
    assert base.manifest.about.metrics == {"seed": start.base}
    assert {table: rows["weights"].tobytes() for table, rows in tables.items()} == rows_of(registry, start.base, start.delta)
    return start.base, start.delta


STEPS: dict[str, Callable[[Registry], object]] = {
    "publish": lambda r: publish(r, max(r.bases.numbers(), default=0) + 1),
    "serve": lambda r: serve(r, r.bases.numbers()[-1], 100),
    "snapshot": lambda r: snapshot(r, r.current().base, max(snapshots.numbers(r.base(r.current().base)), default=0) + 1),
    "serve snapshot": lambda r: serve(r, r.current().base, 100),
    "rollback": lambda r: r.rollback(5, 100),
    "canary": lambda r: r.give("canary", r.start_for(r.base(r.bases.numbers()[0]), 100), 0.1),
    "sweep": lambda r: r.sweep(keep=1, keep_snapshots=1),
}


def stopped_at(monkeypatch: pytest.MonkeyPatch, number: int, stop: Callable[[], None]) -> Callable[[], int]:
    """Before the n-th change of the disk by anybody, stop; gives how many there have been."""
    count = [0]

    def wrapped(real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            # What is only read changes nothing.
            if name != "open" or arguments[1] & os.O_CREAT:
                count[0] += 1
                if count[0] == number:
                    stop()
            return real(*arguments, **named)

        return call

    for name in CHANGES:
        monkeypatch.setattr(os, name, wrapped(getattr(os, name), name))
    return lambda: count[0]


def prepared(directory: Path) -> Registry:
    """Two bases that were served, snapshots of the second, and one that is new."""
    registry = registry_in(directory)
    for seed in (1, 2):
        publish(registry, seed)
        serve(registry, seed, 100)
    snapshot(registry, 2, 1)
    snapshot(registry, 2, 2)
    publish(registry, 3)
    return registry


@pytest.mark.parametrize("step", sorted(STEPS))
def test_an_error_at_any_change(step: str, tmp_path: Path) -> None:
    """And then the same again: it is done as if nothing had been."""
    template = prepared(tmp_path / "template")
    before = check_loadable(template)
    STEPS[step](registry_in(Path(shutil.copytree(tmp_path / "template", tmp_path / "clean"))))
    clean = check_loadable(registry_in(tmp_path / "clean"))
    number, done = 0, False
    while not done:
        number += 1
        directory = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "template", directory)
        registry = registry_in(directory)
        with pytest.MonkeyPatch.context() as monkeypatch:
            changes = stopped_at(monkeypatch, number, fail)
            failed = True
            with suppress(TidemarkError):
                STEPS[step](registry)
                failed = False
            done = changes() < number
        found = check_loadable(registry_in(directory))
        assert found in (before, clean)
        # An error while something is cleaned up may be of no matter; and one of the last sync comes when all is done.
        if failed and found == before:
            STEPS[step](registry_in(directory))
        assert check_loadable(registry_in(directory)) == clean
    assert number > 3


@pytest.mark.parametrize("step", sorted(STEPS))
def test_a_kill_at_any_change(step: str, tmp_path: Path) -> None:
    """Nothing is cleaned up: the process ends where it is."""
    prepared(tmp_path / "template")
    number, code = 0, 9
    while code == 9:
        number += 1
        directory = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "template", directory)
        child = os.fork()
        if not child:
            try:
                with pytest.MonkeyPatch.context() as monkeypatch:
                    stopped_at(monkeypatch, number, lambda: os._exit(9))
                    STEPS[step](registry_in(directory))
                os._exit(0)
            except BaseException:
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        registry = registry_in(directory)
        assert check_loadable(registry) is not None
        # Everybody goes on: what was left behind stands in nobody's way.
        latest = max(registry.bases.numbers()) + 1
        assert publish(registry, latest).number == latest
        serve(registry, latest, 100)
        assert check_loadable(registry) == (latest, 0)
        left = [name for name in os.listdir(registry.bases.directory) if durable.is_leftover(name)]
        assert left == []
    assert code == 0
    assert number > 3


@given(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(1, 40)), min_size=1, max_size=8))
@settings(max_examples=25)
def test_any_history_of_stopped_changes(tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, int]]) -> None:
    """At every moment what is served is loadable and right, and only what was done or stopped can have changed it."""
    registry = registry_in(tmp_path_factory.mktemp("history"))
    before = None
    for step, number in history:
        with pytest.MonkeyPatch.context() as monkeypatch:
            stopped_at(monkeypatch, number, fail)
            with suppress(TidemarkError, IndexError):
                STEPS[step](registry)
        found = check_loadable(registry)
        assert found == before or step in ("serve", "serve snapshot", "rollback")
        assert found is not None or before is None
        before = found


def work(directory: Path) -> None:
    """What the power interrupts."""
    registry = registry_in(directory)
    for step in (
        "publish",
        "serve",
        "publish",
        "snapshot",
        "serve snapshot",
        "serve",
        "snapshot",
        "serve snapshot",
        "rollback",
        "publish",
        "sweep",
    ):
        STEPS[step](registry)


@pytest.mark.cc
def test_a_power_failure_at_any_moment(tmp_path: Path) -> None:
    root, journal = tmp_path / "root", tmp_path / "journal"
    root.mkdir()
    journal.touch()
    shim = shim_environment(build_shim(tmp_path), root, journal)
    code = f"from tests.registry.test_crashes import work; from pathlib import Path; work(Path({str(root)!r}))"
    done = os.spawnve(os.P_WAIT, sys.executable, [sys.executable, "-c", code], environment() | shim | {"PYTHONPATH": str(ROOT)})
    assert done == 0
    disk = Disk(root, empty=True)
    total = entries_of(journal)
    assert total > 150
    seen = set()
    for at, entry in enumerate(entries(journal)):
        disk.apply(entry)
        # Names appear by renames and syncs: there it is tried in more ways.
        for rng in (
            [Least(), *(Random(f"{at} {i}") for i in range(2 if entry.kind in "RDS" else 0))] if entry.kind in "RDSU" or at % 7 == 0 else []
        ):
            image = tmp_path / "image"
            shutil.rmtree(image, ignore_errors=True)
            disk.write(image, rng)
            found = check_loadable(registry_in(image))
            seen.add(found)
            assert found is not None or (None in seen and len(seen) == 1) or at < total / 2, at
    assert {(1, 0), (2, 0)} <= seen
