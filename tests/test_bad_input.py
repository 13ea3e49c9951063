"""What can go wrong at a user's: each time one clear line, an exit code, no traceback; and once it is put right, the exact result."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import pytest

from flows.outputs import ACTIONS, REVISITS
from flows.settings import Settings
from tests.processes import (
    Simulated,
    assert_same,
    await_true,
    ended,
    ends,
    front_door,
    outcome,
    refused,
    settings_of,
    start,
    tidemark,
    watching,
)
from tidemark import cli

T = 1_700_000_000_000
GREATEST = 2**63 - 1


def check(data: Path, simulated: Simulated, tmp_path: Path) -> None:
    assert_same(outcome(settings_of(data), tmp_path / "exports"), simulated.clean)


def one_line(text: str) -> str:
    """The one line that an error is."""
    assert "Traceback" not in text, text
    lines = text.splitlines()
    assert len(lines) == 1, text
    return lines[0]


# Files ---------------------------------------------------------------------------------------------------------------------------------


def truncated(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.csv", b"", "empty.csv has no header"),
        ("empty.parquet", b"", "empty.parquet can't be read as Parquet"),
        ("text.parquet", b"user_id,pin_id\n1,2\n", "text.parquet can't be read as Parquet"),
        ("wrong.csv", b"user,pin_id,action,event_time\n1,2,save,3\n", "wrong.csv has no column 'user_id'"),
        ("header.csv", b"usr_id,pin_id,action,event_time\n", "did you mean 'usr_id'"),
        ("noise.csv", bytes(range(256)) * 40, "noise.csv"),
        ("noise.jsonl.gz", bytes(range(256)) * 40, "noise.jsonl.gz"),
        ("what.xls", b"1", "'.xls' names no format that is known"),
    ],
)
def test_a_file_that_can_not_be_taken_is_named_and_adds_nothing(
    tmp_path: Path, name: str, content: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(content)
    done = front_door("ingest", tmp_path / name, data=tmp_path / "data", monkeypatch=monkeypatch, code=1)
    assert message in one_line(done.err)
    assert ends(settings_of(tmp_path / "data"), ACTIONS) == 0


def test_a_truncated_parquet_file_among_others_leaves_nothing_half_done(
    simulated: Simulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(simulated.files[0], tmp_path / "half.parquet")
    truncated(tmp_path / "half.parquet")
    done = front_door("ingest", simulated.files[1], tmp_path / "half.parquet", data=tmp_path / "data", monkeypatch=monkeypatch, code=1)
    assert "half.parquet can't be read as Parquet" in one_line(done.err)
    assert ends(settings_of(tmp_path / "data"), ACTIONS) == 0


def test_an_empty_json_file_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.jsonl").touch()
    done = front_door("ingest", tmp_path / "empty.jsonl", data=tmp_path / "data", monkeypatch=monkeypatch)
    assert "0 rows added" in done.out
    tidemark("run", data=tmp_path / "data")
    assert settings_lag(settings_of(tmp_path / "data")) == 0


def settings_lag(settings: Settings) -> int:
    with watching(settings) as watch:
        return ends(settings, ACTIONS) - watch.position()


def test_garbage_among_good_lines_becomes_dead_letters_and_harms_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line in a hundred is garbage; IDs are texts, and numbers up to the last of int64."""
    rng = np.random.default_rng(11)
    garbage = [b"\xff\xfe\x00", b"{", b"[1,2]", b'{"user_id":"u1"}', b"null", b'"save"', b'{"user_id":9223372036854775808}', b"{}" * 40_000]
    users = ["anna", "Bö", "7", GREATEST, -GREATEST - 1, "9223372036854775808", ""]
    lines, wanted = [], Counter[object]()
    for i in range(1_000):
        user = users[int(rng.integers(len(users)))]
        wanted[user] += 1
        event = {"event_id": i, "user_id": user, "pin_id": GREATEST - i, "action": "closeup", "event_time": T + i}
        lines.append(json.dumps(event, ensure_ascii=False).encode())
        if i % 100 == 50:
            lines.append(garbage[i // 100 % len(garbage)])
    (tmp_path / "some.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    data = tmp_path / "data"
    tidemark("ingest", tmp_path / "some.jsonl", data=data)
    tidemark("run", data=data)
    counts = front_door("status", "--json", data=data, monkeypatch=monkeypatch).json()["counts"]
    assert (counts["records"], counts["accepted"]) == (1_010, 1_000)
    assert sum(n for name, n in counts.items() if name.startswith("deadletter.")) == 10
    for user, n in wanted.items():
        row = front_door("features", "user", user, "--json", data=data, monkeypatch=monkeypatch).json()
        assert len(row["sequence"]) == min(n, 100), user
        assert row["sequence"][0]["pin_id"] > GREATEST - 1_000


# Disks ---------------------------------------------------------------------------------------------------------------------------------


class Disk:
    """A small file system of its own, which can be filled and made larger."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def used(self) -> int:
        room = os.statvfs(self.path)
        return (room.f_blocks - room.f_bfree) * room.f_frsize

    def resize(self, size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=100m", "tidemark-test", str(path)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system can be mounted by root alone, and not in every container")
    yield Disk(path)
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_ingest_on_a_full_disk_is_continued_when_there_is_room(
    disk: Disk, simulated: Simulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = disk.path / "data"
    for size in (200_000, 700_000, 1_500_000):  # not even a log; not even an empty one; a few files
        disk.resize(size)
        done = front_door("ingest", *simulated.files, data=data, monkeypatch=monkeypatch, code=1)
        assert "the disk is full" in one_line(done.err)
    disk.resize(100_000_000)
    front_door("ingest", *simulated.files, data=data, monkeypatch=monkeypatch)
    assert ends(settings_of(data), ACTIONS) == simulated.records
    tidemark("run", data=data)
    check(data, simulated, tmp_path)


def test_run_on_a_full_disk_is_continued_when_there_is_room(disk: Disk, simulated: Simulated, tmp_path: Path) -> None:
    data = simulated.copy(disk.path / "data")
    ingested = disk.used()
    for room in (300_000, 3_000_000):  # not even the logs; somewhere in the middle
        disk.resize(ingested + room)
        line = refused("run", "--workers", 2, data=data, batch_records=100)
        assert "the disk is full" in line
        assert "free" in line
    disk.resize(100_000_000)
    tidemark("run", data=data)
    check(data, simulated, tmp_path)


def test_an_export_on_a_full_disk_leaves_no_file_and_the_old_one_alone(
    disk: Disk, simulated: Simulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = disk.path / "users.parquet"
    out.write_bytes(b"old")
    disk.resize(disk.used() + 8_192)
    export = ("features", "export", "--entity", "user", "--out", out)
    done = front_door(*export, data=simulated.run, monkeypatch=monkeypatch, code=1)
    assert "the disk is full" in one_line(done.err)
    assert (out.read_bytes(), os.listdir(disk.path)) == (b"old", ["users.parquet"])
    disk.resize(100_000_000)
    front_door(*export, data=simulated.run, monkeypatch=monkeypatch)
    assert out.read_bytes() == simulated.clean.exports["user"]


def at_most(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_files_that_may_not_grow_are_an_error_and_no_damage(simulated: Simulated, tmp_path: Path) -> None:
    """As a quota does, and without the rights that mounting needs."""
    data = tmp_path / "data"
    refused("ingest", *simulated.files, data=data, limits=at_most(400_000))
    tidemark("ingest", *simulated.files, data=data)
    refused("run", data=data, limits=at_most(10_000), batch_records=100)
    tidemark("run", data=data)
    refused("labels", "export", "--out", tmp_path / "labels", data=data, limits=at_most(3_000))
    check(data, simulated, tmp_path)


# Data directories ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ("run",),
        ("status",),
        ("features", "user", "1"),
        ("features", "export", "--entity", "pin", "--out", "pins.parquet"),
        ("labels", "export", "--out", "labels.parquet"),
        ("deadletters", "list"),
    ],
    ids=" ".join,
)
def test_without_a_log_there_is_an_error_and_nothing_is_made(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = front_door(*command, data=tmp_path / "data", monkeypatch=monkeypatch, code=1)
    assert "there is no log 'actions'" in one_line(done.err)
    assert "tidemark ingest" in done.err
    assert os.listdir(tmp_path) == []


def test_a_data_directory_in_use_is_refused_naming_the_process(simulated: Simulated, tmp_path: Path) -> None:
    data = simulated.copy(tmp_path / "data")
    process = start("run", "--follow", data=data)
    try:
        await_true(lambda: (data / "state" / "LOCK").exists() and (data / "state" / "LOCK").read_text().endswith("\n"), "it holds the lock")
        assert f"is in use by another run (process {process.pid}); stop it first" in refused("run", data=data)
    finally:
        process.send_signal(signal.SIGTERM)
        assert ended(process).code == 0
    tidemark("run", data=data)
    check(data, simulated, tmp_path)


def test_a_run_whose_process_was_killed_leaves_nobody_in_the_way(simulated: Simulated, tmp_path: Path) -> None:
    """Its workers, which follow the log, find that nobody listens and go."""
    data = simulated.copy(tmp_path / "data")
    process = start("run", "--follow", "--workers", 2, data=data)
    try:
        with watching(settings_of(data)) as watch:
            await_true(lambda: watch.position() == simulated.records, "all is applied, so that its workers have nothing to tell")
    finally:
        process.kill()
        ended(process)
    tidemark("run", data=data)
    check(data, simulated, tmp_path)


def test_other_settings_than_the_states_are_refused(simulated: Simulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = shutil.copytree(simulated.run, tmp_path / "data")
    assert "made under other features or settings" in refused("run", data=data, allowed_lateness_ms=5)
    done = front_door("status", data=data, allowed_lateness_ms=5, monkeypatch=monkeypatch, code=1)
    assert "made under other features or settings" in one_line(done.err)
    for command in (("run",), ("status",), ("ingest", simulated.files[0])):
        done = front_door(*command, data=data, partitions=7, monkeypatch=monkeypatch, code=1)
        assert "was made with 4 partitions, but the settings say 7" in one_line(done.err)
    check(data, simulated, tmp_path)


def test_more_workers_than_partitions_are_refused(simulated: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    done = front_door("run", "--workers", 5, data=simulated.run, monkeypatch=monkeypatch, code=2)
    assert "5 workers for 4 partitions: give 1 to 4" in one_line(done.err)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_may_not_be_written_is_an_error(simulated: Simulated, tmp_path: Path) -> None:
    data = simulated.copy(tmp_path / "data")
    data.chmod(0o500)
    try:
        assert "can't write to" in refused("run", data=data)
    finally:
        data.chmod(0o700)


@pytest.mark.parametrize("lost", ["actions/0001", "revisits", ""])
def test_state_that_was_deleted_is_made_again_from_the_logs(simulated: Simulated, lost: str, tmp_path: Path) -> None:
    data = shutil.copytree(simulated.run, tmp_path / "data")
    shutil.rmtree(data / "state" / lost)
    tidemark("run", data=data)
    check(data, simulated, tmp_path)


@pytest.mark.parametrize("lost", ["revisits", "late", "deadletters"])
def test_a_derived_log_that_was_lost_is_missed_and_made_again_with_the_state(simulated: Simulated, lost: str, tmp_path: Path) -> None:
    data = shutil.copytree(simulated.run, tmp_path / "data")
    (data / "logs" / f"{lost}.db").unlink()
    # Even where the state that was read from it has gone too, so that it looks as if there had never been anything.
    shutil.rmtree(data / "state" / REVISITS)
    line = refused("run", data=data)
    assert f"log '{lost}'" in line
    assert "the log has lost records" in line
    make_anew(data)
    tidemark("run", data=data)
    check(data, simulated, tmp_path)


def make_anew(data: Path) -> None:
    """What these messages advise."""
    shutil.rmtree(data / "state")
    for path in (data / "logs").glob("*.db*"):
        if not path.name.startswith("actions."):
            path.unlink()


def test_what_was_put_out_under_other_settings_is_not_taken_for_a_repeat(simulated: Simulated, tmp_path: Path) -> None:
    data = shutil.copytree(simulated.run, tmp_path / "data")
    changed = {"allowed_lateness_ms": 60_000, "dedup_horizon_ms": 60_000}
    shutil.rmtree(data / "state")
    assert "written under other features or settings" in refused("run", data=data, **changed)
    make_anew(data)
    tidemark("run", data=data, **changed)
    # Back again, where the logs are those of the changed settings.
    shutil.rmtree(data / "state")
    assert "written under other features or settings" in refused("run", data=data)
    make_anew(data)
    tidemark("run", "--workers", 2, data=data)
    check(data, simulated, tmp_path)


def test_damage_to_a_log_is_found_and_named(simulated: Simulated, tmp_path: Path) -> None:
    data = simulated.copy(tmp_path / "data")
    path = data / "logs" / "actions.db"
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(5)
    for at in rng.integers(len(content) // 2, len(content), 60):
        content[at] ^= 0xFF
    path.write_bytes(content)
    line = refused("run", data=data)
    assert "log 'actions'" in line
    assert "restore" in line


@pytest.mark.parametrize("name", ["CURRENT", "*.sst"])
def test_damage_to_state_is_found_and_named(simulated: Simulated, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = shutil.copytree(simulated.run, tmp_path / "data")
    for path in (data / "state" / "actions" / "0002").glob(name):
        content = bytearray(path.read_bytes())
        content[len(content) // 4] ^= 0xFF
        path.write_bytes(content)
    line = refused("status", "--digest", data=data)
    assert re.search(r"state .*actions/0002.*orrupt", line), line
    assert "restore" in line
    if name == "CURRENT":
        assert "actions/0002" in one_line(front_door("status", data=data, monkeypatch=monkeypatch, code=1).err)


# Commands ------------------------------------------------------------------------------------------------------------------------------


def leaves(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that does something."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


@pytest.mark.parametrize("command", [path for path, _ in leaves()], ids=" ".join)
def test_every_command_has_help_with_an_example(command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = front_door(*command, "--help", data=tmp_path, monkeypatch=monkeypatch)
    assert f"Example: tidemark {' '.join(command)}" in " ".join(done.out.split())
    assert done.err == ""


@pytest.mark.parametrize("command", [path for path, _ in leaves()], ids=" ".join)
def test_an_unknown_option_is_an_error_with_a_hint(command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = front_door(*command, "--nonsense=1", data=tmp_path, monkeypatch=monkeypatch, code=2)
    assert "nonsense" in done.err or "Missing argument" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("word", ["rum", "feature", "--dta", "9", "", "../x"])
def test_an_unknown_command_is_an_error(word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = front_door(word, data=tmp_path, monkeypatch=monkeypatch, code=2)
    assert "Traceback" not in done.err
    assert done.out == ""


def test_a_mistyped_command_is_told_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no command 'rum' (did you mean 'run'?)" in front_door("rum", data=tmp_path, monkeypatch=monkeypatch, code=2).err


# What each command is given where the rest of its line is in order.
LINES = [
    ("ingest", "rows.csv"),
    ("run",),
    ("status", "--digest"),
    ("features", "user", "1"),
    ("features", "pin", "-1"),
    ("features", "topic", "travel"),
    ("features", "export", "--entity", "user", "--out", "out.parquet"),
    ("labels", "export", "--out", "out.parquet"),
    ("deadletters", "list"),
    ("deadletters", "show", "1:1"),
    ("deadletters", "redrive", "--all"),
    ("report", "--out", "report.html"),
]


def data_is_a_file(data: Path) -> None:
    data.write_text("no directory")


def logs_is_a_file(data: Path) -> None:
    data.mkdir()
    (data / "logs").write_text("no directory")


def log_is_noise(data: Path) -> None:
    (data / "logs").mkdir(parents=True)
    (data / "logs" / "actions.db").write_bytes(bytes(range(256)) * 1000)


def log_is_empty(data: Path) -> None:
    (data / "logs").mkdir(parents=True)
    (data / "logs" / "actions.db").touch()


def log_is_a_directory(data: Path) -> None:
    (data / "logs" / "actions.db").mkdir(parents=True)


@pytest.mark.parametrize("spoil", [data_is_a_file, logs_is_a_file, log_is_noise, log_is_empty, log_is_a_directory])
@pytest.mark.parametrize("line", LINES, ids=lambda line: " ".join(line[:2]))
def test_a_spoilt_data_directory_is_one_line_from_every_command(
    line: tuple[str, ...], spoil: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text(f"user_id,pin_id,action,event_time\n1,2,save,{T}\n")
    spoil(tmp_path / "data")
    done = front_door(*line, data=tmp_path / "data", monkeypatch=monkeypatch, code=1)
    assert one_line(done.err).startswith("tidemark: ")
    assert str(tmp_path) in done.err


@pytest.mark.parametrize("as_of", ["-1", "1.5", "now", "9" * 30])
@pytest.mark.parametrize(
    "line", [("features", "user", "1"), ("features", "export", "--entity", "pin", "--out", "o"), ("labels", "export", "--out", "o")]
)
def test_an_impossible_as_of_is_refused(
    line: tuple[str, ...], as_of: str, simulated: Simulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = front_door(*line, "--as-of", as_of, data=simulated.run, monkeypatch=monkeypatch, code=2)
    assert "--as-of" in done.err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("out", ["no/such/out.parquet", ".", ""])
def test_an_export_that_can_not_be_written_is_refused(
    out: str, simulated: Simulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in (("features", "export", "--entity", "user"), ("labels", "export")):
        done = front_door(*line, "--out", out, data=simulated.run, monkeypatch=monkeypatch, code=None)
        assert done.code in (1, 2)
        assert "Traceback" not in done.err
        assert os.listdir(tmp_path) == []


def test_output_that_nobody_reads_ends_in_silence(simulated: Simulated) -> None:
    with start("status", "--json", data=simulated.run) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert (said, process.returncode > 0) == ("", True)
