"""The fault harness: a few seeds of it, and proof that it finds what is broken."""

from __future__ import annotations

import itertools
import json
import struct
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

from benchmarks import _chaos_schedule as schedule
from benchmarks import chaos
from benchmarks._chaos_clock import WallClock
from benchmarks._chaos_outcome import Said, compare
from tests.processes import ROOT, environment


def run(
    seed: int, directory: Path, kills: int = 3, rescales: int = 1, kafka: bool = False, program: tuple[str, ...] = ()
) -> dict[str, object]:
    given = {"program": program} if program else {}
    result = chaos.measure(seed, kills, rescales, kafka, directory, **given)  # type: ignore[arg-type]
    assert list(result) == ["benchmark", "results", "ratios", "machine", "seed"]
    assert (result["benchmark"], result["seed"], result["results"]["seeds"]) == ("chaos", seed, [seed])
    of: dict[str, object] = result["results"]
    return of


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in (2, 3))])
def test_no_fault_changes_anything(seed: int, tmp_path: Path) -> None:
    of = run(seed, tmp_path)
    assert (of["kills"], of["rescales"]) == (3, 1)
    assert (of["differences"], of["mismatches"], of["lost"], of["doubled"]) == ([], 0, 0, 0)
    assert of["clock_jumps"]
    assert int(str(of["values_compared"])) > 5_000


# That it can fail ----------------------------------------------------------------------------------------------------------------------

DEFECTS = {
    # State is written with the next commit, or in an orderly end: a kill leaves a position that claims more than the state holds.
    "position before state": """
        from rocksdict import WriteBatch
        from flows.state.store import TaskStore
        def put_held(self):
            if self.__dict__.get("held") is not None:
                self._db.write(self.held)
            self.held = None
        def write(self, batch, real=TaskStore.write):
            put_held(self)
            real(self, WriteBatch(raw_mode=True))
            self.held = batch
            if self.runs.due() is not None:
                put_held(self)
        def close(self, real=TaskStore.close):
            if "_db" in self.__dict__:
                put_held(self)
            real(self)
        TaskStore.write, TaskStore.close = write, close
    """,
    # What was published before a kill, and not yet deleted, counts again.
    "repeats are taken": """
        import flows.state.revisits_task as task
        task.take_next = lambda records, applied, where: records
    """,
}


@pytest.mark.slow
@pytest.mark.parametrize("defect", ["repeats are taken", pytest.param("position before state", marks=pytest.mark.soak)])
def test_a_defect_is_found(defect: str, tmp_path: Path) -> None:
    """The workers' flow with something broken, under the real command line."""
    broken = tmp_path / "broken"
    broken.mkdir()
    lines = [line[8:] for line in DEFECTS[defect].splitlines()]
    (broken / "all.py").write_text("\n".join([*lines, "from flows.dataflow.graph import FLOWS, build", "flow = build(FLOWS)", ""]))
    door = ["from pathlib import Path", "import flows.run.workers", f"flows.run.workers._FLOWS = Path({str(broken)!r})"]
    (tmp_path / "tidemark-broken.py").write_text("\n".join([*door, "from tidemark import main", "main()", ""]))
    (tmp_path / "chaos").mkdir()
    of = run(1, tmp_path / "chaos", kills=4, program=(sys.executable, str(tmp_path / "tidemark-broken.py")))
    assert of["mismatches"], of


def said(**of: object) -> Said:
    table = pa.table({"user_id": [1, 2], "n": [3, 4]})
    counts = {"accepted": 7, "duplicate": 2, "deadletter.not_json": 1, "late": 1}
    whole = Said({"actions-0": "a"}, {"user": table}, {"late": Counter({(0, 1): 1, (0, 2): 1})}, counts, 10, 0)
    return replace(whole, **of)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("got", "lost", "doubled", "what"),
    [
        (said(digests={"actions-0": "b"}), 0, 0, "digest of actions-0"),
        (said(exports={"user": pa.table({"user_id": [1, 2], "n": [3, 5]})}), 0, 0, "export user"),
        (said(outputs={"late": Counter({(0, 1): 2, (0, 2): 1})}), 0, 1, "records of late"),
        (said(outputs={"late": Counter({(0, 1): 1})}), 1, 0, "records of late"),
        (said(counts=said().counts | {"accepted": 6}), 1, 0, "count of accepted"),
        (said(counts=said().counts | {"duplicate": 3}), 0, 1, "count of duplicate"),
        (said(records=11), 1, 1, "records in ACTIONS"),
        (said(lag=1), 0, 0, "not applied"),
    ],
)
def test_each_difference_is_counted(got: Said, lost: int, doubled: int, what: str) -> None:
    compared = compare(got, said(), 10)
    assert (compared.lost, compared.doubled) == (lost, doubled)
    assert any(what in difference for difference in compared.differences)
    clean = compare(said(), said(), 10)
    assert (clean.differences, clean.lost, clean.doubled) == ([], 0, 0)


def test_a_failure_ends_with_1_and_names_the_seed_and_what_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    results = {"mismatches": 1, "differences": ["digest of actions-0"]}
    monkeypatch.setattr(chaos, "measure", lambda *given, **named: {"results": results, "seed": 41})
    monkeypatch.setattr(chaos.tempfile, "mkdtemp", lambda **named: str(tmp_path))
    ended = CliRunner().invoke(chaos.main, ["--seed", "41", "--kills", "9", "--json"])
    assert ended.exit_code == 1
    assert json.loads(ended.stdout)["results"] == results
    assert "python -m benchmarks.chaos --seed 41 --kills 9 --rescales 1" in ended.stderr
    assert str(tmp_path) in ended.stderr
    assert tmp_path.exists()


# Schedules and clocks ------------------------------------------------------------------------------------------------------------------


def test_a_seed_draws_the_same_acts_and_another_draws_others() -> None:
    def drawn(seed: int) -> list[object]:
        return [schedule.act(seed, number, schedule.KILL, True) for number in range(50)] + [schedule.kinds(seed, 20, 5, 1)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_every_fault_is_drawn() -> None:
    acts = [schedule.act(3, number, schedule.KILL, True) for number in range(300)]
    assert {act.moment for act in acts} == {schedule.START, schedule.COMMIT, schedule.PUBLISH, schedule.END, schedule.STOP}
    assert {act.victim for act in acts} == {schedule.ALL, schedule.WORKER, schedule.LEADER}
    assert {act.engine for act in acts} == {schedule.RUN, schedule.FOLLOW, schedule.THREADS, schedule.CLUSTER}
    assert {act.feed for act in acts} == {schedule.BEFORE, schedule.DURING, schedule.KILLED}
    assert {act.broker for act in acts} == {"", "kill", "pause"}
    assert {act.drained for act in acts} == {True, False}
    assert any(act.jump_s < act.clock_s for act in acts)
    assert any(act.jump_s > act.clock_s for act in acts)
    assert any(act.pause_s for act in acts)


SHOWN = """
import sys, threading, time, datetime
while True:
    print(time.time(), datetime.datetime.now().timestamp(), time.monotonic(), flush=True)
    threading.Event().wait(0.001), time.sleep(0.001)
    if not sys.stdin.readline():
        break
"""


def test_the_wall_clock_of_a_process_jumps_and_its_monotonic_clock_does_not(tmp_path: Path) -> None:
    clock = WallClock(tmp_path)
    environ = environment() | clock.environment
    with subprocess.Popen(
        [sys.executable, "-c", SHOWN], env=environ, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        shown = []
        for seconds in (7_200, -36_000, 0):
            shown.append([float(word) for word in process.stdout.readline().split()])
            clock.set(seconds)
            process.stdin.write("\n")
            process.stdin.flush()
        shown.append([float(word) for word in process.stdout.readline().split()])
        process.stdin.close()
    assert struct.unpack("q", (tmp_path / "clock").read_bytes()) == (0,)
    hours = [[round((later - earlier) / 3_600) for earlier, later in zip(one, two, strict=True)] for one, two in itertools.pairwise(shown)]
    if clock.path is None:
        assert hours == [[2, 2, 0], [-12, -12, 0], [10, 10, 0]]
