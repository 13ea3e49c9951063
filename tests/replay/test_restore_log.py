"""A damaged log is made anew from what is sound of it and from its archive: every offset as it was, or it is refused and nothing is changed."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import pytest

from flows import directories
from flows.log import LocalLog
from flows.outputs import ACTIONS, LATE, OUTPUTS, REVISITS
from flows.state.task import task_path
from tests.processes import Simulated, front_door, settings_of, tidemark
from tests.replay.site import Site, killing
from tests.sparing import first

Records = dict[tuple[str, int], list[Any]]


@dataclass(frozen=True)
class Archived(Site):
    """All of its logs are archived, and this is what they hold."""

    records: Records
    simulated: Simulated


def records(data: Path, name: str) -> Records:
    with LocalLog.open(data / "logs", name, read_only=True) as log:
        return {
            (name, p): [row for batch in log.read(p, 0, 1 << 30) for row in batch.records.to_pylist()] if log.end_position(p) else []
            for p in range(log.partitions)
        }


@pytest.fixture(scope="module")
def site(simulated: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Archived:
    data = tmp_path_factory.mktemp("archived") / "data"
    shutil.copytree(simulated.run, data)
    tidemark("archive", "run", data=data)
    for name in (ACTIONS, *OUTPUTS):
        # Closed by the last of its readers and writers, so that all lies in the file itself.
        sqlite3.connect(data / f"logs/{name}.db").execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return Archived(
        data, simulated.clean, {key: rows for name in (ACTIONS, *OUTPUTS) for key, rows in records(data, name).items()}, simulated
    )


def change(data: Path, name: str, *statements: str) -> None:
    connection = sqlite3.connect(data / f"logs/{name}.db", isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def flip_page(path: Path, table: str, rng: Random) -> None:
    """A bit of what a table's or an index's first page holds."""
    connection = sqlite3.connect(path)
    [root] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    [size] = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    data = bytearray(path.read_bytes())
    page = data[(root - 1) * size : root * size]
    content = int.from_bytes(page[5:7], "big") or 65_536
    data[(root - 1) * size + rng.choice([rng.randrange(8), rng.randrange(content, size)])] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def problems(data: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    done = front_door("replay", "verify", "--json", monkeypatch=monkeypatch, code=None, data=data)
    found: list[dict[str, str]] = json.loads(done.out)["problems"]
    assert (done.code == 1) == bool(found)
    return found


def restored(data: Path, name: str, monkeypatch: pytest.MonkeyPatch, *more: str, code: int = 0) -> Any:
    done = front_door("replay", "restore", "--log", name, "--json", *more, monkeypatch=monkeypatch, code=code, data=data)
    return json.loads(done.out)["logs"][0] if code == 0 else done.err


def check_whole(site: Archived, data: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(data, monkeypatch) == []
    assert records(data, name) == {key: rows for key, rows in site.records.items() if key[0] == name}
    site.check(data, tmp_path / "exports")


@pytest.mark.parametrize("name", [ACTIONS, *OUTPUTS])
def test_a_batch_that_is_damaged_comes_from_the_archive(site: Archived, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = site.copy(tmp_path / "data")
    change(data, name, "UPDATE batches SET bytes = zeroblob(40) WHERE rowid = (SELECT min(rowid) FROM batches WHERE partition = 1)")
    assert f"log {name}/1" in {problem["where"] for problem in problems(data, monkeypatch)}
    done = restored(data, name, monkeypatch)
    assert done["damaged"] == 1
    assert list(done["archived"]) == ["1"]
    check_whole(site, data, name, tmp_path, monkeypatch)
    assert restored(data, name, monkeypatch)["sound"]


@pytest.mark.parametrize("table", first(2, ["batches", "ends", "batches_by_end", "batches_by_time"]))
def test_a_page_that_is_damaged_is_found_and_made_anew(site: Archived, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = site.copy(tmp_path / "data")
    path = data / f"logs/{ACTIONS}.db"
    whole, found = path.read_bytes(), 0
    for seed in range(12):
        path.write_bytes(whole)
        flip_page(path, table, Random(seed))
        damaged = [problem for problem in problems(data, monkeypatch) if problem["kind"] == "log"]
        found += bool(damaged)
        # A bit that means nothing may stay; what means something is never left.
        assert restored(data, ACTIONS, monkeypatch)["sound"] != bool(damaged), seed
        assert records(data, ACTIONS) == {key: rows for key, rows in site.records.items() if key[0] == ACTIONS}, seed
    assert found > 6
    check_whole(site, data, ACTIONS, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", [ACTIONS, REVISITS])
def test_a_tail_that_is_lost_comes_from_the_archive(site: Archived, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = site.copy(tmp_path / "data")
    change(
        data,
        name,
        "DELETE FROM batches WHERE rowid = (SELECT max(rowid) FROM batches WHERE partition = 2)",
        "UPDATE ends SET end_offset = coalesce((SELECT max(end_offset) FROM batches WHERE partition = 2), 0) WHERE partition = 2",
    )
    [problem] = [problem for problem in problems(data, monkeypatch) if problem["kind"] == "log"]
    assert f"restore --log {name}" in problem["remedy"]
    restored(data, name, monkeypatch)
    check_whole(site, data, name, tmp_path, monkeypatch)


def test_a_log_that_is_gone_comes_from_the_archive(site: Archived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = site.copy(tmp_path / "data")
    (data / f"logs/{ACTIONS}.db").unlink()
    said = front_door("replay", "verify", monkeypatch=monkeypatch, code=1, data=data).err
    assert "tidemark replay restore --log actions" in said
    done = restored(data, ACTIONS, monkeypatch)
    assert not done["readable"]
    assert not done["ledger_whole"]
    check_whole(site, data, ACTIONS, tmp_path, monkeypatch)


def test_of_actions_nothing_may_be_missing(site: Archived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = site.copy(tmp_path / "data")
    shutil.rmtree(data / "archive")
    change(data, ACTIONS, "UPDATE batches SET bytes = zeroblob(40) WHERE rowid = (SELECT min(rowid) FROM batches WHERE partition = 1)")
    before = (data / f"logs/{ACTIONS}.db").read_bytes()
    said = restored(data, ACTIONS, monkeypatch, code=1)
    assert "offsets 0 to" in said
    assert "of partition 1 are neither in its file nor in its archive" in said
    assert (data / f"logs/{ACTIONS}.db").read_bytes() == before


def test_of_actions_no_tail_may_be_missing_that_was_applied(site: Archived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = site.copy(tmp_path / "data")
    shutil.rmtree(data / "archive")
    change(
        data,
        ACTIONS,
        "DELETE FROM batches WHERE rowid = (SELECT max(rowid) FROM batches WHERE partition = 2)",
        "UPDATE ends SET end_offset = coalesce((SELECT max(end_offset) FROM batches WHERE partition = 2), 0) WHERE partition = 2",
    )
    assert "of partition 2 are neither" in restored(data, ACTIONS, monkeypatch, code=1)


@pytest.mark.parametrize("seed", first(1, range(3)))
def test_what_follows_from_actions_is_put_out_again(site: Archived, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of output that has lost records for good: it is cut, and the tasks that wrote it are put back to before that."""
    data = site.copy(tmp_path / "data")
    shutil.rmtree(data / "archive")
    rowids = [row[0] for row in sqlite3.connect(data / f"logs/{REVISITS}.db").execute("SELECT rowid FROM batches")]
    change(data, REVISITS, f"UPDATE batches SET bytes = zeroblob(40) WHERE rowid = {Random(seed).choice(rowids)}")
    done = restored(data, REVISITS, monkeypatch)
    assert done["cut"]
    [(partition, (end, ended))] = done["cut"].items()
    found = {problem["where"] for problem in problems(data, monkeypatch)}
    assert f"state revisits/{partition}" in found
    assert any(where.startswith("state actions/") for where in found)
    tidemark("replay", "restore", data=data)
    assert problems(data, monkeypatch) == []
    with LocalLog.open(data / "logs", REVISITS, read_only=True) as log:
        assert log.end_position(int(partition)) >= ended > end
    site.check(data, tmp_path / "exports")


def test_ledger_and_groups_stay(site: Archived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = site.copy(tmp_path / "data")

    def kept() -> list[Any]:
        connection = sqlite3.connect(data / f"logs/{ACTIONS}.db")
        return [connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in ("groups", "ledger", "ends")]

    before = kept()
    change(data, ACTIONS, "UPDATE batches SET bytes = zeroblob(40) WHERE rowid = 1")
    assert restored(data, ACTIONS, monkeypatch)["ledger_whole"]
    assert kept() == before
    front_door("ingest", *site.simulated.files, monkeypatch=monkeypatch, data=data)
    assert records(data, ACTIONS) == {key: rows for key, rows in site.records.items() if key[0] == ACTIONS}


def test_who_has_it_open_is_not_disturbed(site: Archived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = site.copy(tmp_path / "data")
    change(data, ACTIONS, "UPDATE batches SET bytes = zeroblob(40) WHERE rowid = 1")
    with LocalLog.open(data / "logs", ACTIONS) as log:
        assert "is open in another process" in restored(data, ACTIONS, monkeypatch, code=1)
        log.end_positions()
    restored(data, ACTIONS, monkeypatch)


def test_a_dry_run_says_the_same_and_changes_nothing(site: Archived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = site.copy(tmp_path / "data")
    change(data, ACTIONS, "UPDATE batches SET bytes = zeroblob(40) WHERE rowid = 1")
    before = (data / f"logs/{ACTIONS}.db").read_bytes()
    plan = restored(data, ACTIONS, monkeypatch, "--dry-run")
    assert (data / f"logs/{ACTIONS}.db").read_bytes() == before
    assert restored(data, ACTIONS, monkeypatch) == plan


@pytest.mark.parametrize("step", range(9))
def test_killed_anywhere_it_can_be_done_again(site: Archived, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = site.copy(tmp_path / "data")
    change(data, ACTIONS, "UPDATE batches SET bytes = zeroblob(40) WHERE rowid = 1")
    kills = partial(killing, iter(range(step)))
    with (
        mock.patch("replay.restore_log._build", kills(__import__("replay.restore_log").restore_log._build)),
        mock.patch.object(LocalLog, "commit_group", kills(LocalLog.commit_group)),
        mock.patch("replay.restore_log.os.link", kills(os.link)),
        mock.patch.object(Path, "rename", kills(Path.rename)),
        mock.patch("replay.restore_log.sync", kills(directories.sync)),
    ):
        said = restored(data, ACTIONS, monkeypatch, code=130)
    assert said.strip().startswith("interrupted")
    if (data / f"logs/.{ACTIONS}.restored").exists():
        assert "completes it" in front_door("status", monkeypatch=monkeypatch, code=1, data=data).err
    restored(data, ACTIONS, monkeypatch)
    check_whole(site, data, ACTIONS, tmp_path, monkeypatch)


def test_a_full_disk_is_said_and_nothing_is_lost(site: Archived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = site.copy(tmp_path / "data")
    change(data, ACTIONS, "UPDATE batches SET bytes = zeroblob(40) WHERE rowid = 1")
    with mock.patch("replay.restore_log.sync", side_effect=OSError(28, "No space left on device")):
        assert "the disk is full" in restored(data, ACTIONS, monkeypatch, code=1)
    restored(data, ACTIONS, monkeypatch)
    check_whole(site, data, ACTIONS, tmp_path, monkeypatch)


def test_what_an_earlier_restore_replaced_goes_once_the_new_file_is_whole(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = site.copy(tmp_path / "data")
    log, old = data / f"logs/{LATE}.db", data / f"logs/{LATE}.db.replaced"
    damaged = []
    for _ in range(2):
        change(data, LATE, "UPDATE batches SET bytes = zeroblob(40) WHERE rowid = 1", "PRAGMA wal_checkpoint(TRUNCATE)")
        damaged.append(log.read_bytes())
        with mock.patch("replay.restore_log.sync", side_effect=OSError(28, "No space left on device")):
            assert "the disk is full" in restored(data, LATE, monkeypatch, code=1)
        assert [old.read_bytes()] if old.exists() else damaged[:-1] == []
        assert not (data / f"logs/.{LATE}.restoring").exists(), "what was begun fills no disk"
        # Killed at the last step but one: the file that is whole now is put in place by the next.
        with mock.patch("replay.restore_log.os.link", side_effect=KeyboardInterrupt):
            restored(data, LATE, monkeypatch, code=130)
        restored(data, LATE, monkeypatch)
        assert old.read_bytes() == damaged[-1]
    assert records(data, LATE) == {key: rows for key, rows in site.records.items() if key[0] == LATE}


def test_state_is_where_it_was(site: Site) -> None:
    """What the other tests rest on: the state of this site is at the logs' end."""
    assert site.clean.lag == 0
    assert (task_path(settings_of(site.data), ACTIONS, 0) / "CURRENT").exists()
