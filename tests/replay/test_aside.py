"""One task is damaged, restored or handed over while all others of a live run go on, and in the end everything is as if nothing had happened."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.dataflow.aside import LeftOut
from flows.errors import StateError
from flows.log import LocalLog
from flows.open_log import open_log
from flows.outputs import ACTIONS, REVISITS
from flows.partition import partition_of
from flows.settings import Settings
from flows.state.handover import task_taken
from flows.state.lock import run_is_on
from flows.state.task import task_path
from flows.state.view import TaskView
from tests import driving
from tests.processes import (
    Outcome,
    Simulated,
    assert_same,
    await_true,
    end_all,
    outcome,
    refused,
    settings_of,
    start,
    start_bytewax,
    tidemark,
)
from tests.sparing import first
from tests.state.test_handover import taking

PARTITIONS = 8
SMALL: dict[str, Any] = {"partitions": PARTITIONS, "batch_records": 100, "anchor_records": 150}
DAMAGED = 3
LIVE = [("--follow",), ("--follow", "--workers", 2), ("flows.all:flow(follow=True)", "-w", 2)]


@pytest.fixture(scope="module")
def files(simulated: Simulated) -> list[Path]:
    """A stream in files; what comes live is the last ones."""
    return simulated.files


@pytest.fixture(scope="module")
def begun(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that has come to the end of what was there, with a checkpoint on the way."""
    data = tmp_path_factory.mktemp("begun") / "data"
    tidemark("ingest", files[0], data=data, **SMALL)
    tidemark("run", data=data, **SMALL)
    tidemark("replay", "checkpoint", data=data, **SMALL)
    tidemark("ingest", files[1], data=data, **SMALL)
    tidemark("run", data=data, **SMALL)
    return data


@pytest.fixture
def data(begun: Path, tmp_path: Path) -> Path:
    return shutil.copytree(begun, tmp_path / "data")


def settings_at(data: Path) -> Settings:
    return settings_of(data, **SMALL)


class Live:
    """A run that goes on, and what it says."""

    def __init__(self, data: Path, *arguments: object, **options: Any) -> None:
        self.data, self._options = data, options or SMALL
        self.settings = Settings(data=data, **self._options)
        bare = str(arguments[0]).startswith("flows.")
        starting, first = (start_bytewax, ()) if bare else (start, ("run",))
        self.process = starting(*first, *arguments, data=data, **self._options)
        self.lines: list[str] = []
        assert self.process.stderr is not None
        self._reading = threading.Thread(target=lambda: self.lines.extend(self.process.stderr), daemon=True)  # type: ignore[arg-type]
        self._reading.start()

    def begins(self) -> None:
        """Wait until the data directory is its own."""
        await_true(lambda: run_is_on(self.settings.state) or self.process.poll() is not None, "it has begun")
        assert self.process.poll() is None, "".join(self.lines)

    def says(self, text: str, times: int = 1) -> None:
        """Wait until it has said something."""
        await_true(lambda: self.said(text) >= times or self.process.poll() is not None, f"it says '{text}'")
        assert self.said(text) >= times, "".join(self.lines)

    def said(self, text: str) -> int:
        return sum(text in line for line in list(self.lines))

    def goes_on(self, file: Path, away: tuple[tuple[str, int], ...] = ()) -> None:
        """New events come, and every task commits them but those that are away."""
        tidemark("ingest", file, data=self.data, **self._options)
        self.catches_up(away)

    def catches_up(self, away: tuple[tuple[str, int], ...] = ()) -> None:
        tasks = [(flow, p) for flow in (ACTIONS, REVISITS) for p in range(self.settings.partitions) if (flow, p) not in away]

        def all_there() -> bool:
            ends = {name: ends_of(self.settings, name) for name in (ACTIONS, REVISITS)}
            return self.process.poll() is not None or all(position(self.settings, *task) == ends[task[0]][task[1]] for task in tasks)

        await_true(all_there, "all tasks that are there have caught up")
        assert self.process.poll() is None, "".join(self.lines)

    def stop(self, code: int = 0) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.ends(code)

    def ends(self, code: int = 0) -> None:
        self.process.wait(120)
        self._reading.join(10)
        assert "Traceback" not in "".join(self.lines)
        assert self.process.returncode == code, "".join(self.lines)


@contextmanager
def living(data: Path, *arguments: object, **options: Any) -> Iterator[Live]:
    live = Live(data, *arguments, **options)
    try:
        yield live
    finally:
        end_all(live.process)
        live.process.communicate()


def ends_of(settings: Settings, name: str) -> list[int]:
    with open_log(settings, name, read_only=True) as log:
        return log.end_positions()


def position(settings: Settings, flow: str, partition: int) -> int:
    path = task_path(settings, flow, partition)
    if not (path / "CURRENT").exists():
        return 0
    view = TaskView(path)
    try:
        return view.meta.position if view.meta is not None else 0
    finally:
        view.close()


def lose_a_table(data: Path, flow: str, partition: int) -> None:
    """Delete a file that RocksDB needs as soon as it opens the task."""
    min(task_path(Settings(data=data), flow, partition).glob("*.sst")).unlink()


def overwrite_tables(data: Path, flow: str, partition: int) -> None:
    """Damage what RocksDB reads only once it has the task open."""
    for path in task_path(Settings(data=data), flow, partition).glob("*.sst"):
        with path.open("r+b") as file:
            file.write(b"\xde\xad\xbe\xef" * (path.stat().st_size * 3 // 16))


def spoil(data: Path, flow: str, partition: int) -> None:
    """Damage what RocksDB has open, and will read when it next merges rows."""
    for file in task_path(settings_at(data), flow, partition).glob("*.sst"):
        os.truncate(file, 10)


def clean(data: Path, tmp_path: Path) -> Outcome:
    """What tasks make of the same log that nothing has ever happened to."""
    anew = tmp_path / "clean"
    (anew / "logs").mkdir(parents=True)
    for file in (data / "logs").glob(f"{ACTIONS}.db*"):
        shutil.copy(file, anew / "logs")
    driving.apply(settings_at(anew), np.random.default_rng(0))
    return outcome(settings_at(anew), tmp_path / "clean-exports")


def check(data: Path, tmp_path: Path) -> None:
    assert_same(outcome(settings_at(data), tmp_path / "exports"), clean(data, tmp_path))


def restore(data: Path, *arguments: object, code: int = 0) -> Any:
    done = tidemark("replay", "restore", *arguments, "--json", data=data, code=code, **SMALL)
    return done.json() if code == 0 else done.err


@pytest.mark.parametrize(
    ("flow", "workers", "harm"),
    [
        (ACTIONS, 1, lose_a_table),
        (ACTIONS, 1, overwrite_tables),
        pytest.param(ACTIONS, 2, lose_a_table, marks=pytest.mark.soak),
        (REVISITS, 2, lose_a_table),
    ],
)
def test_a_damaged_task_is_set_aside_and_restored_while_others_go_on(
    data: Path, files: list[Path], flow: str, workers: int, harm: Callable[[Path, str, int], None], tmp_path: Path
) -> None:
    harm(data, flow, DAMAGED)
    damaged = sorted(task_path(settings_at(data), flow, DAMAGED).glob("*.sst"))
    with living(data, "--follow", "--workers", workers) as live:
        live.says(f"{flow}/{DAMAGED} is set aside")
        assert live.said(f"`tidemark replay restore --task {flow}/{DAMAGED}`")
        live.goes_on(files[2], away=((flow, DAMAGED),))
        assert set(damaged) <= set(task_path(settings_at(data), flow, DAMAGED).glob("*.sst")), "nothing is done to what is damaged"
        done = restore(data, "--task", f"{flow}/{DAMAGED}")
        assert (done["beside_run"], done["ran"]) == (True, None)
        [row] = done["restored"]
        assert row["to_replay"] > 0 < row["position"]
        assert position(live.settings, flow, DAMAGED) >= row["log_end"], "the run has caught up by then"
        live.says(f"{flow}/{DAMAGED} has caught up")
        assert live.said("is set aside") == 1 or live.said("is back") == 1
        for file in files[3:]:
            live.goes_on(file)
        live.stop()
    check(data, tmp_path)


@pytest.mark.parametrize("arguments", first(1, [(one,) for one in LIVE[1:]]), ids=["2 workers", "2 threads"])
def test_a_sound_task_is_handed_over_and_taken_again(data: Path, files: list[Path], arguments: tuple[object, ...], tmp_path: Path) -> None:
    with living(data, *arguments) as live:
        live.catches_up()
        for flow in (ACTIONS, REVISITS):
            with task_taken(live.settings, flow, DAMAGED) as path:
                before = position(live.settings, flow, DAMAGED)
                live.goes_on(files[2 if flow == ACTIONS else 3], away=((flow, DAMAGED),))
                assert position(live.settings, flow, DAMAGED) == before
                assert path.is_dir()
                assert not live.said(f"{flow}/{DAMAGED} is back")
            live.says(f"{flow}/{DAMAGED} has caught up")
            live.catches_up()
        live.goes_on(files[4])
        live.stop()
    check(data, tmp_path)


def test_damage_that_is_met_while_it_runs(data: Path, files: list[Path], tmp_path: Path) -> None:
    """By the thread that commits for all tasks of the process."""
    busiest = max(range(PARTITIONS), key=lambda p: position(settings_at(data), ACTIONS, p))
    with living(data, "--follow") as live:
        live.catches_up()
        spoil(data, ACTIONS, busiest)
        for file in files[2:]:
            live.goes_on(file, away=((ACTIONS, busiest),))
        live.says(f"{ACTIONS}/{busiest} is set aside")
        restore(data)
        live.says(f"{ACTIONS}/{busiest} has caught up")
        live.catches_up()
        live.stop()
    check(data, tmp_path)


def test_what_heals_by_itself_is_taken_again(data: Path, files: list[Path], tmp_path: Path) -> None:
    """Such as a file that a disk couldn't give for a while."""
    table = min(task_path(settings_at(data), ACTIONS, DAMAGED).glob("*.sst"))
    away = table.rename(tmp_path / "table")
    with living(data, "--follow") as live:
        live.says(f"{ACTIONS}/{DAMAGED} is set aside")
        live.goes_on(files[2], away=((ACTIONS, DAMAGED),))
        away.rename(table)
        live.says(f"{ACTIONS}/{DAMAGED} has caught up")
        live.goes_on(files[3])
        live.stop()
    check(data, tmp_path)


def test_whoever_asks_where_tasks_stand_is_told_what_only_the_run_knows(data: Path, files: list[Path]) -> None:
    """A saved working set lies where readers of features don't look."""
    for saved in task_path(settings_at(data), ACTIONS, DAMAGED).glob("anchor-*"):
        saved.write_bytes(saved.read_bytes()[:-1])
    assert tidemark("status", data=data, **SMALL).code == 0
    with living(data, "--follow") as live:
        live.says(f"{ACTIONS}/{DAMAGED} is set aside")
        live.goes_on(files[2], away=((ACTIONS, DAMAGED),))
        told = tidemark("status", "--json", data=data, code=1, **SMALL)
        assert f"{ACTIONS}/{DAMAGED} is set aside by the run that is on" in told.err
        assert f"`tidemark replay restore --task {ACTIONS}/{DAMAGED}`" in told.err
        rows = {(row["flow"], row["partition"]): row for row in told.json()["tasks"]}
        assert [task for task, row in rows.items() if row["problem"] is not None] == [(ACTIONS, DAMAGED)]
        assert rows[ACTIONS, DAMAGED]["lag"] > 0
        assert "is set aside by the run that is on" in tidemark("replay", "status", data=data, **SMALL).out
        for partition in (DAMAGED, DAMAGED + 1):
            user = next(id for id in range(1000) if partition_of(np.array([id], np.int64), PARTITIONS)[0] == partition)
            old = tidemark("features", "user", user, "--json", data=data, **SMALL)
            assert ("these features get no newer" in old.err) == (partition == DAMAGED)
        live.process.kill()
        await_true(lambda: not run_is_on(live.settings.state), "its workers are gone, too")
    left = live.settings.state / ACTIONS / f"{DAMAGED:04}.aside"
    left.write_text("what a worker leaves that is killed")
    assert tidemark("status", data=data, **SMALL).code == 0, "nobody runs it: nobody has set anything aside"
    with living(data, "--follow") as live:
        live.says(f"{ACTIONS}/{DAMAGED} is set aside")
        restore(data, "--task", f"{ACTIONS}/{DAMAGED}")
        live.says(f"{ACTIONS}/{DAMAGED} has caught up")
        assert tidemark("status", data=data, **SMALL).code == 0
        live.stop()
    assert not left.exists()


def test_a_run_that_is_stopped_while_a_task_is_aside_says_so(data: Path) -> None:
    lose_a_table(data, ACTIONS, DAMAGED)
    with living(data, "--follow") as live:
        live.says("is set aside")
        live.stop(code=1)
        assert live.said(f"{ACTIONS}/{DAMAGED} was left out") == 1
    assert not list(live.settings.state.glob("*/*.aside")), "a run of other tasks, after it, has set nothing aside"


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_a_bounded_run_does_what_there_is_and_fails(data: Path, files: list[Path], workers: int, tmp_path: Path) -> None:
    lose_a_table(data, ACTIONS, DAMAGED)
    lose_a_table(data, REVISITS, DAMAGED)
    told = group_positions(settings_at(data))
    for file in files[2:]:
        tidemark("ingest", file, data=data, **SMALL)
    line = refused("run", "--workers", workers, data=data, **SMALL)
    assert f"{ACTIONS}/{DAMAGED} and {REVISITS}/{DAMAGED} were left out" in line
    assert f"`tidemark replay restore --task {ACTIONS}/{DAMAGED} --task {REVISITS}/{DAMAGED}`" in line
    ends, now = {flow: ends_of(settings_at(data), flow) for flow in told}, group_positions(settings_at(data))
    for flow, left_out in ((ACTIONS, DAMAGED), (REVISITS, DAMAGED)):
        for partition in range(PARTITIONS):
            if partition != left_out:
                assert position(settings_at(data), flow, partition) == ends[flow][partition]
                assert now[flow][partition] == ends[flow][partition]
        assert now[flow][left_out] == told[flow][left_out], "nothing is told of what was left out"
    assert restore(data, "--task", f"{ACTIONS}/{DAMAGED}", "--task", f"{REVISITS}/{DAMAGED}")["ran"]["changes"]
    check(data, tmp_path)


def test_a_bounded_run_by_bytewax_itself_fails_at_its_very_end(data: Path, files: list[Path]) -> None:
    lose_a_table(data, ACTIONS, DAMAGED)
    tidemark("ingest", files[2], data=data, **SMALL)
    process = start_bytewax("flows.all:flow", "-w", 2, data=data, **SMALL)
    try:
        _, said = process.communicate(timeout=120)
    finally:
        end_all(process)
    assert process.returncode != 0
    assert f"{ACTIONS}/{DAMAGED} was left out" in said
    for flow in (ACTIONS, REVISITS):
        ends = ends_of(settings_at(data), flow)
        assert [p for p in range(PARTITIONS) if position(settings_at(data), flow, p) != ends[p]] == [DAMAGED] * (flow == ACTIONS)


def group_positions(settings: Settings) -> dict[str, dict[int, int]]:
    positions = {}
    for flow in (ACTIONS, REVISITS):
        with LocalLog.open(settings.logs, flow, read_only=True) as log:
            positions[flow] = log.group_positions(flow)
    return positions


@pytest.mark.parametrize(
    "arguments", [("--workers", 2), pytest.param(("flows.all:flow", "-w", 2), marks=pytest.mark.soak)], ids=["2 workers", "2 threads"]
)
def test_a_bounded_run_waits_for_a_task_that_somebody_has(
    data: Path, files: list[Path], arguments: tuple[object, ...], tmp_path: Path
) -> None:
    """What other tasks have to do is done meanwhile."""
    for file in files[2:]:
        tidemark("ingest", file, data=data, **SMALL)
    settings = settings_at(data)
    ends = ends_of(settings, ACTIONS)
    with ExitStack() as taken:
        path = taken.enter_context(task_taken(settings, ACTIONS, DAMAGED))
        with living(data, *arguments) as live:
            others = [p for p in range(PARTITIONS) if p != DAMAGED]
            await_true(
                lambda: live.process.poll() is not None or all(position(settings, ACTIONS, p) == ends[p] for p in others),
                "the others are at their ends",
            )
            assert live.process.poll() is None, live.lines
            assert position(settings, ACTIONS, DAMAGED) < ends[DAMAGED]
            # Where there is nothing for a moment, nobody makes anything.
            elsewhere = path.rename(tmp_path / "elsewhere")
            elsewhere.rename(path)
            taken.close()
            live.ends()
    check(data, tmp_path)


def test_a_bounded_run_takes_back_what_is_restored_beside_it(data: Path, files: list[Path], tmp_path: Path) -> None:
    """As long as it has something else to do."""
    for file in files[2:]:
        tidemark("ingest", file, data=data, **SMALL)
    lose_a_table(data, ACTIONS, DAMAGED)
    with ExitStack() as taken:
        taken.enter_context(task_taken(settings_at(data), ACTIONS, 0))
        with living(data, "--until-end") as live:
            # Not on a terminal, where it would say that the task is set aside.
            await_true(lambda: position(live.settings, ACTIONS, 1) == ends_of(live.settings, ACTIONS)[1], "it is at work")
            done = restore(data, "--task", f"{ACTIONS}/{DAMAGED}")
            assert (done["beside_run"], done["ran"]) == (True, None)
            taken.close()
            live.ends()
    check(data, tmp_path)


def test_an_operator_who_is_killed_leaves_nothing_taken(data: Path, files: list[Path], tmp_path: Path) -> None:
    with living(data, "--follow") as live:
        live.catches_up()
        operator = taking(data, DAMAGED)
        try:
            live.says(f"{ACTIONS}/{DAMAGED} is in the hands of another command")
            live.goes_on(files[2], away=((ACTIONS, DAMAGED),))
            # In the middle of a restore: the old state is away, the new one not there yet.
            path = task_path(live.settings, ACTIONS, DAMAGED)
            path.rename(path.with_name("0003.replaced"))
            operator.send_signal(signal.SIGKILL)
            operator.wait()
        finally:
            operator.kill()
            operator.communicate()
        live.says(f"{ACTIONS}/{DAMAGED} has caught up")
        live.goes_on(files[3])
        live.stop()
    check(data, tmp_path)


def test_a_run_that_is_killed_while_somebody_has_a_task(data: Path, files: list[Path], tmp_path: Path) -> None:
    settings = settings_at(data)
    with living(data, "--follow", "--workers", 2) as live:
        live.catches_up()
        with task_taken(settings, ACTIONS, DAMAGED) as path:
            live.goes_on(files[2], away=((ACTIONS, DAMAGED),))
            end_all(live.process)
            shutil.copytree(path, path.with_name("new"))
            path.rename(path.with_name("old"))
            path.with_name("new").rename(path)
    tidemark("run", data=data, **SMALL)
    check(data, tmp_path)


def test_two_operators_tidemark(data: Path, files: list[Path], tmp_path: Path) -> None:
    """Beside a run and without one: the second is told whose task it is, and the first is done in peace."""
    with living(data, "--follow") as live, task_taken(live.settings, ACTIONS, DAMAGED):
        live.begins()
        assert f"task {ACTIONS}/{DAMAGED} is being replaced by another command (process {os.getpid()})" in restore(
            data, "--task", f"{ACTIONS}/{DAMAGED}", code=1
        )
        # Other tasks are anybody's.
        assert restore(data, "--task", f"{REVISITS}/{DAMAGED}")["beside_run"]
        live.stop()
    with task_taken(settings_at(data), ACTIONS, DAMAGED):
        assert "is being replaced by another command" in restore(data, "--task", f"{ACTIONS}/{DAMAGED}", code=1)
    tidemark("run", data=data, **SMALL)
    check(data, tmp_path)


def test_all_tasks_are_restored_beside_a_run_one_after_the_other(data: Path, files: list[Path], tmp_path: Path) -> None:
    with living(data, "--follow", "--workers", 2) as live:
        live.goes_on(files[2])
        done = restore(data, "--all")
        assert (done["beside_run"], done["ran"], len(done["restored"])) == (True, None, 2 * PARTITIONS)
        for row in done["restored"]:
            flow, partition = row["task"].split("/")
            assert position(live.settings, flow, int(partition)) >= row["log_end"]
        live.goes_on(files[3])
        live.stop()
    check(data, tmp_path)


def test_an_error_that_is_kept_holds_nothing_of_the_task(capsys: pytest.CaptureFixture[str]) -> None:
    """Its frames have the open database, and with it the lock that a restore needs."""

    class Database:
        pass

    def open_it() -> weakref.ref[Database]:
        database = Database()
        opened.append(weakref.ref(database))
        raise StateError("block checksum mismatch")

    opened: list[weakref.ref[Database]] = []
    left_out = LeftOut(None)
    left_out.begin()
    for _ in range(2):
        try:
            open_it()
        except StateError as error:
            left_out.add("actions/3", error)
    gc.collect()
    assert [database() for database in opened] == [None, None]
    with pytest.raises(StateError, match="actions/3 was left out: block checksum mismatch"):
        left_out.end()
    assert capsys.readouterr().err.count("actions/3 is set aside") == 1, "it says nothing new"
