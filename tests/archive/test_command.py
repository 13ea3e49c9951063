"""`tidemark archive` as an operator has it: runs, kills, stops, a follower, what is refused, and what verify finds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flows.archive.archive import Archive
from flows.archive.checking import verify
from flows.archive.names import DRAFT
from flows.examples.record import EXAMPLES
from flows.log import LocalLog
from flows.outputs import ACTIONS, CORRECTIONS, EMBEDDINGS, LOGS, SERVED
from tests.archive.making import rows, typed
from tests.archive.test_segments import DAMAGES
from tests.processes import (
    PARTITIONS,
    ROOT,
    Simulated,
    await_true,
    ended,
    front_door,
    kill,
    refused,
    settings_of,
    start,
    tidemark,
    workers_of,
)

# What lies in a data directory in which nothing was ever corrected, served or learned.
RUN_WRITES = tuple(name for name in LOGS if name not in (CORRECTIONS, SERVED, EXAMPLES, EMBEDDINGS))


@pytest.fixture
def data(simulated: Simulated, tmp_path: Path) -> Path:
    """A data directory in which both flows have run."""
    return Path(shutil.copytree(simulated.run, tmp_path / "data"))


def check_whole(data: Path) -> None:
    """The archive holds just what the logs do, and verify says so too."""
    for name in RUN_WRITES:
        with LocalLog.open(data / "logs", name, read_only=True) as log:
            archive = Archive(data / "archive", name, log.partitions)
            for partition, end in enumerate(log.end_positions()):
                assert archive.covered(partition) == ([(0, end)] if end else [])
                assert rows(archive.read(partition, 0, end + 1)) == rows(log.read(partition, 0, 1 << 30))
                found = list(verify(settings_of(data), log, partition, compare=True))
                assert [f.problem for f in found if f.problem] == []
                assert sum(f.compared for f in found) == sum(f.records for f in found) == end


def test_all_logs_are_archived_once(data: Path, simulated: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    done = tidemark("archive", "run", "--workers", 2, "--json", data=data).json()
    assert (done["stopped"], done["workers"], done["records"]["actions"]) == (False, 2, simulated.records)
    assert done["total"] == sum(done["records"].values())
    assert all(done["records"][name] > 0 for name in RUN_WRITES)
    assert "nothing new to archive; the archive is up to date" in tidemark("archive", "run", data=data).out
    check_whole(data)
    told = front_door("archive", "status", "--json", data=data, monkeypatch=monkeypatch).json()
    assert told["archive"] == str(data / "archive")
    for row in told["partitions"]:
        assert (row["start"], row["end"], row["lag"], row["missing"]) == (0, row["live_end"], 0, [])
        assert row["segments"] == (row["live_end"] > 0)
    assert [(row["log"], row["partition"]) for row in told["partitions"]] == [(name, p) for name in RUN_WRITES for p in range(PARTITIONS)]
    # Lag tools see it too.
    with LocalLog.open(data / "logs", ACTIONS, read_only=True) as log:
        assert log.group_positions("archive") == dict(enumerate(log.end_positions()))


def test_only_the_log_that_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tidemark("archive", "run", "--log", "late", data=data)
    assert os.listdir(data / "archive") == ["late"]
    told = front_door("archive", "status", "--log", "late", "--json", data=data, monkeypatch=monkeypatch).json()
    assert {row["log"] for row in told["partitions"]} == {"late"}
    assert front_door("archive", "verify", "--log", "late", data=data, monkeypatch=monkeypatch).out.endswith("; 0 problems\n")


def test_the_archive_may_lie_elsewhere(data: Path, tmp_path: Path) -> None:
    tidemark("archive", "run", "--log", "actions", data=data, archive=tmp_path / "far")
    assert not (data / "archive").exists()
    assert tidemark("archive", "verify", "--json", data=data, archive=tmp_path / "far").json()["segments"] == PARTITIONS


def test_more_is_archived_when_there_is_more(simulated: Simulated, tmp_path: Path) -> None:
    data = simulated.copy(tmp_path / "data")
    assert set(tidemark("archive", "run", "--json", data=data).json()["records"]) == {ACTIONS}, "the others are not there yet"
    tidemark("run", data=data)
    done = tidemark("archive", "run", "--json", data=data).json()
    assert done["records"]["actions"] == 0
    assert done["records"]["revisits"] > 0
    check_whole(data)


def test_without_a_log_or_with_too_many_workers(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ("run", "status", "verify"):
        assert "`tidemark ingest` makes one" in refused("archive", command, data=tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert "5 workers for 4 partitions" in refused("archive", "run", "--workers", 5, data=data)
    said = front_door("archive", "run", "--help", monkeypatch=monkeypatch).out
    assert "tidemark archive run --follow --max-delay 900" in " ".join(said.split())


# Ended anyhow --------------------------------------------------------------------------------------------------------------------------

_ARCHIVER = """
import sys
from pathlib import Path
import flows.archive.writing as writing
from flows.log import LocalLog
from tests.archive.making import archive_all
writing.SEGMENT_BYTES, writing.ROW_GROUP_BYTES = 40_000, 10_000
print("begun", flush=True)
with LocalLog.open(sys.argv[1] + "/logs", "actions", read_only=True) as log:
    archive_all(Path(sys.argv[1]) / "archive", log, most=500)
"""


def test_killed_for_real_it_leaves_a_prefix_each_time(tmp_path: Path) -> None:
    with LocalLog.open(tmp_path / "logs", ACTIONS, 2, create=True) as log:
        for k in range(30):
            log.append([(k % 2, typed(1_000, k * 1_000))])
        ends = log.end_positions()
    rng = np.random.default_rng(0)
    reached, kills = 0, 0
    while True:
        process = subprocess.Popen([sys.executable, "-c", _ARCHIVER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert process.stdout is not None
        process.stdout.readline()
        archive = Archive(tmp_path / "archive", ACTIONS, 2)
        wanted = reached + int(rng.integers(1, 9_000))
        await_true(lambda: process.poll() is not None or archive.end(0) + archive.end(1) >= wanted, "it gets on")  # noqa: B023
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        kills += process.returncode != 0
        for partition in range(2):
            assert archive.covered(partition) in ([], [(0, archive.end(partition))])
        assert archive.end(0) + archive.end(1) >= reached
        reached = archive.end(0) + archive.end(1)
        if reached == sum(ends):
            break
        assert process.returncode != 0
    assert kills >= 3
    # The one that came to the end may have been killed before it could tell the log so; the command finds nothing left to do but that.
    assert "nothing new to archive; the archive is up to date" in tidemark("archive", "run", data=tmp_path, partitions=2).out
    with LocalLog.open(tmp_path / "logs", ACTIONS) as log:
        for partition in range(2):
            assert rows(archive.read(partition, 0, 1 << 30)) == rows(log.read(partition, 0, 1 << 30))
    assert not list((tmp_path / "archive").rglob(DRAFT))


def test_a_follower_takes_what_comes_and_publishes_in_time_and_when_it_is_stopped(simulated: Simulated, tmp_path: Path) -> None:
    data = tmp_path / "data"
    tidemark("ingest", simulated.files[0], data=data)
    process = start("archive", "run", "--follow", "--max-delay", 1, "--json", data=data)
    try:
        archive = Archive(data / "archive", ACTIONS, PARTITIONS)

        def archived() -> int:
            return sum(map(archive.end, range(PARTITIONS)))

        def logged() -> int:
            with LocalLog.open(data / "logs", ACTIONS, read_only=True) as log:
                return sum(log.end_positions())

        await_true(lambda: archived() == logged(), "the first file is archived")
        tidemark("ingest", simulated.files[1], data=data)
        await_true(lambda: archived() == logged(), "the second file is archived")
        assert "is being written by another `tidemark archive run`" in refused("archive", "run", data=data)
    finally:
        process.send_signal(signal.SIGTERM)
        done = ended(process)
    assert done.code == 0
    assert json.loads(done.out)["records"]["actions"] == logged()
    tidemark("run", data=data)
    tidemark("archive", "run", data=data)
    check_whole(data)


def test_stopped_a_follower_publishes_what_it_holds(data: Path) -> None:
    process = start("archive", "run", "--follow", "--log", "actions", "--json", data=data)
    with LocalLog.open(data / "logs", ACTIONS, read_only=True) as log:
        ends = log.end_positions()
    archive = Archive(data / "archive", ACTIONS, PARTITIONS)

    def has_read() -> bool:
        """It says so with the first record that comes a second after others."""
        with LocalLog.open(data / "logs", ACTIONS) as log:
            log.append([(0, typed(1))])
            return bool(log.group_positions("archive"))

    try:
        await_true(has_read, "it has read")
        assert [archive.covered(p) for p in range(PARTITIONS)] == [[]] * PARTITIONS, "an hour has not gone by"
    finally:
        process.send_signal(signal.SIGTERM)
        done = ended(process)
    assert done.code == 0
    for partition, end in enumerate(ends):
        [(low, high)] = archive.covered(partition)
        assert low == 0
        assert high >= end
    tidemark("archive", "run", data=data)
    check_whole(data)


def test_a_run_that_is_killed_leaves_nothing_behind(data: Path) -> None:
    process = start("archive", "run", "--follow", "--max-delay", 1, "--workers", 2, data=data)
    archive = Archive(data / "archive", ACTIONS, PARTITIONS)
    try:
        await_true(lambda: any(archive.end(p) for p in range(PARTITIONS)), "it has begun")
        assert len(workers_of(process)) == 2
    finally:
        kill(process.pid)
        ended(process)
    # Its workers notice, publish what they hold, and let go.
    tidemark("archive", "run", "--workers", 3, data=data)
    check_whole(data)


# What verify finds ---------------------------------------------------------------------------------------------------------------------


def verified(data: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> list[str]:
    said = front_door("archive", "verify", "--json", *options, data=data, monkeypatch=monkeypatch, code=None)
    problems: list[str] = said.json()["problems"]
    assert said.code == (1 if problems else 0)
    return problems


@pytest.fixture(scope="module")
def two_logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two logs of equal records, archived."""
    data = tmp_path_factory.mktemp("two") / "data"
    for name in (ACTIONS, "late"):
        with LocalLog.open(data / "logs", name, 2, create=True) as log:
            log.append([(p, typed(100)) for p in range(2)])
    tidemark("archive", "run", data=data, partitions=2)
    return data


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_found(two_logs: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Path(shutil.copytree(two_logs, tmp_path / "data"))
    monkeypatch.setattr(sys.modules[__name__], "PARTITIONS", 2)
    assert front_door("archive", "verify", data=data, partitions=2, monkeypatch=monkeypatch).code == 0
    [path] = (data / "archive" / "actions" / "0000").iterdir()
    DAMAGES[name](path)
    said = front_door("archive", "verify", "--json", data=data, partitions=2, monkeypatch=monkeypatch, code=1).json()
    assert said["problems"]
    assert all("actions" in problem for problem in said["problems"])
    assert said["segments"] == 3
    assert (
        front_door("archive", "verify", data=data, partitions=2, monkeypatch=monkeypatch, code=1)
        .out.splitlines()[-1]
        .endswith(f"{len(said['problems'])} problem{'s' * (len(said['problems']) != 1)}")
    )


def test_what_is_missing_or_strange_is_found(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tidemark("archive", "run", data=data)
    assert verified(data, monkeypatch) == []
    directory = data / "archive" / "actions" / "0001"
    [path] = directory.iterdir()
    (directory / "notes.txt").write_text("mine")
    [problem] = verified(data, monkeypatch)
    assert "notes.txt is no segment's name" in problem
    (directory / "notes.txt").unlink()
    path.rename(path.with_name("x" + path.name))
    [problem] = verified(data, monkeypatch)
    assert f"x{path.name} is no segment's name" in problem
    path.with_name("x" + path.name).unlink()
    tidemark("archive", "run", data=data)
    assert verified(data, monkeypatch) == []
    # A part of another archive of the same offsets: only the log itself tells.
    other = data.parent / "other"
    with LocalLog.open(data / "logs", ACTIONS) as log:
        end = log.end_positions()[1]
        with LocalLog.open(other / "logs", ACTIONS, PARTITIONS, create=True) as twin:
            twin.append([(1, typed(end))])
    tidemark("archive", "run", data=other)
    path.unlink()
    [twin_path] = (other / "archive" / "actions" / "0001").iterdir()
    shutil.copy(twin_path, directory / twin_path.name)
    assert verified(data, monkeypatch) == []
    [problem] = verified(data, monkeypatch, "--compare")
    assert "from offset 0 on" in problem
    assert "is not what the log holds" in problem
    with LocalLog.open(data / "logs", ACTIONS) as log:
        log.append([(1, typed(1))])
    assert "doesn't hold what the log holds" in refused("archive", "run", data=data)


def test_a_log_made_anew_is_refused_everywhere(data: Path) -> None:
    tidemark("archive", "run", data=data)
    for path in (data / "logs").glob("actions.db*"):
        path.unlink()
    settings = settings_of(data)
    LocalLog.open(settings.logs, ACTIONS, PARTITIONS, create=True).close()
    for command in (("run",), ("status",), ("archive", "run")):
        assert "the log has lost records, or was made anew" in refused(*command, data=data)
    said = tidemark("archive", "verify", "--json", "--log", "actions", data=data, code=1).json()
    assert len(said["problems"]) == PARTITIONS
