"""Bad input, a full disk, a stop or a kill at any moment, two at once: a line that says so, nothing lost, and the same command again does it."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import sqlite3
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from flows.outputs import ACTIONS, REVISITS
from replay.checkpoints.manifest import listed
from replay.place import Place
from tests.processes import Simulated, await_true, ended, ends_within, front_door, outcome, settings_of, start, tidemark, tidemark_process
from tests.replay.site import SMALL, Site
from tests.sparing import first


@dataclass(frozen=True)
class Kept(Site):
    """With a checkpoint of each task on the way, and an archive of all but the last part."""

    seconds: float
    """That a restore of all takes."""


@pytest.fixture(scope="module")
def site(simulated: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    directory = tmp_path_factory.mktemp("hostile")
    data = directory / "data"
    tidemark("ingest", *simulated.files[:3], data=data, **SMALL)
    tidemark("run", data=data, **SMALL)
    tidemark("replay", "checkpoint", data=data, **SMALL)
    tidemark("archive", "run", data=data, **SMALL)
    tidemark("ingest", *simulated.files[3:], data=data, **SMALL)
    tidemark("run", data=data, **SMALL)
    clean = outcome(settings_of(data), directory / "exports")
    again = directory / "again"
    shutil.copytree(data, again)
    began = time.perf_counter()
    tidemark_process("replay", "restore", "--all", data=again, **SMALL)
    return Kept(data, clean, time.perf_counter() - began)


def one_line(err: str) -> str:
    [line] = err.splitlines()
    assert line.startswith("tidemark: "), err
    return line


def test_without_a_checkpoint_the_log_is_enough_and_it_is_said(site: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = site.copy(tmp_path / "data")
    shutil.rmtree(data / "checkpoints")
    shutil.rmtree(data / "state/actions/0001")
    [row] = json.loads(front_door("replay", "restore", "--json", monkeypatch=monkeypatch, data=data, **SMALL).out)["restored"]
    assert (row["task"], row["position"], row["made_at"]) == ("actions/1", 0, None)
    site.check(data, tmp_path / "exports")


def test_under_other_settings_nothing_is_put_back(site: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = site.copy(tmp_path / "data")
    done = front_door("run", monkeypatch=monkeypatch, code=1, data=data, allowed_lateness_ms=1, **SMALL)
    assert "put the settings back" in one_line(done.err)
    said = front_door("replay", "verify", monkeypatch=monkeypatch, code=1, data=data, allowed_lateness_ms=1, **SMALL).out
    assert "made under other features or settings" in said
    site.check(data, tmp_path / "exports")


def test_an_archive_with_a_hole_is_said_and_what_it_lacks_is_not_put_back(
    site: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that needs it is refused with the offsets named; with the segment back, the same command does it."""
    data = site.copy(tmp_path / "data")
    [segment] = (data / "archive/actions/0001").glob("*.parquet")
    shutil.move(segment, tmp_path / segment.name)
    log = data / "logs/actions.db"
    log.unlink()
    said = front_door("replay", "restore", "--log", ACTIONS, monkeypatch=monkeypatch, code=1, data=data, **SMALL).err
    assert "of partition 1" in one_line(said)
    assert "put the archive's segments back from a copy" in said
    assert not log.exists()
    shutil.copy(site.data / "logs/actions.db", log)
    shutil.move(tmp_path / segment.name, segment)
    assert front_door("replay", "restore", "--log", ACTIONS, monkeypatch=monkeypatch, data=data, **SMALL).out == (
        "log actions is sound: nothing to restore\n"
    )
    site.check(data, tmp_path / "exports")


@pytest.mark.parametrize("size", [pytest.param(0, marks=pytest.mark.soak), 4_000])
@pytest.mark.parametrize("command", [("checkpoint",), ("restore", "--all", "--no-run"), ("restore", "--log", "revisits")])
def test_files_that_may_not_grow_are_an_error_and_no_damage(site: Kept, command: tuple[str, ...], size: int, tmp_path: Path) -> None:
    """A disk that is full in the middle, as far as that can be made without the rights that mounting needs."""
    data = site.copy(tmp_path / "data")
    if command[-1] == REVISITS:
        flip(data / "logs/revisits.db", Random(size))

    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    done = tidemark_process("replay", *command, data=data, code=None, limits=limits, **SMALL)
    assert done.code == 1, done
    assert "disk is full" in done.err or "too large" in done.err or "readonly" in done.err or "disk I/O" in done.err, done.err
    again = tidemark("replay", *command, data=data, **SMALL)
    assert again.code == 0
    if command[-1] == REVISITS:
        tidemark("replay", "restore", data=data, **SMALL)
    tidemark("run", data=data, **SMALL)
    site.check(data, tmp_path / "exports")


def flip(path: Path, rng: Random) -> None:
    """A bit of the newest batch, which nobody has archived."""
    connection = sqlite3.connect(path, isolation_level=None)
    rowid, blob = connection.execute("SELECT rowid, bytes FROM batches ORDER BY rowid DESC LIMIT 1").fetchone()
    at = rng.randrange(len(blob))
    connection.execute("UPDATE batches SET bytes = ? WHERE rowid = ?", (blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :], rowid))
    connection.close()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 12))])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_or_killed_at_any_moment_the_same_command_does_it(
    site: Kept, number: signal.Signals, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a restore of everything with its run, and a checkpoint after it."""
    data = site.copy(tmp_path / "data")
    rng = Random(f"{number}-{seed}")
    for command in (("restore", "--all"), ("checkpoint",)):
        process = start("replay", *command, data=data, **SMALL)
        # Before that Python loads what handles a stop, and just ends.
        await_true(lambda process=process: loaded(process) or process.poll() is not None, "the command begins")  # type: ignore[misc]
        if not ends_within(process, rng.uniform(0, site.seconds * (1.0 if command[0] == "restore" else 0.3))):
            process.send_signal(number)
        ended(process)
        front_door("replay", *command, monkeypatch=monkeypatch, data=data, **SMALL)
    assert '"problems": []' in front_door("replay", "verify", "--json", monkeypatch=monkeypatch, data=data, **SMALL).out
    place = Place(str(data / "checkpoints"))
    assert all(len(listed(place, flow, p)) >= 1 for flow in (ACTIONS, REVISITS) for p in range(4))
    site.check(data, tmp_path / "exports")


def loaded(process: subprocess.Popen[str]) -> bool:
    try:
        return "rocksdict" in Path(f"/proc/{process.pid}/maps").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("second", first(1, [(("restore", "--all"),), (("checkpoint",),), (("restore", "--log", "actions"),)]))
def test_two_operators_at_once(site: Kept, second: tuple[str, ...], tmp_path: Path) -> None:
    """Either does what it was asked, or is refused with a line that says who is at it; then all is as it should be."""
    data = site.copy(tmp_path / "data")
    commands: tuple[tuple[str, ...], ...] = (("restore", "--all"), second)
    done = [ended(process) for process in [start("replay", *command, data=data, **SMALL) for command in commands]]
    assert any(one.code == 0 for one in done), done
    for one in done:
        if one.code:
            assert any(text in one.err for text in ("in use", "another process", "still held", "by another command")), one.err
    tidemark("replay", "restore", data=data, **SMALL)
    tidemark("run", data=data, **SMALL)
    site.check(data, tmp_path / "exports")
