"""`tidemark replay rebuild` as an operator has it: a bad span taken out, a patch, beside a live run, killed anywhere, two at once, bad input."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.corrections.history import History
from flows.outputs import ACTIONS, CORRECTIONS, REVISITS
from flows.state import tables
from flows.state.actions_task import state_fingerprint
from flows.state.lock import run_lock
from flows.state.store import TaskStore
from flows.state.task import task_path
from flows.status_command import digest_of
from replay.rebuild import switch
from tests.processes import (
    PARTITIONS,
    Simulated,
    await_true,
    ended,
    ends_within,
    front_door,
    outcome,
    refused,
    settings_of,
    start,
    tidemark,
    watching,
)

SMALL: dict[str, Any] = {"batch_records": 500, "anchor_records": 300}
EXCLUDE = ("replay", "rebuild", "--exclude", "producer == 'v13'")


@dataclass(frozen=True)
class Poisoned:
    """A data directory with a span of events of a bad producer, one without, and the files of both."""

    data: Path
    clean: Path
    features: dict[str, pa.Table]
    """What it says without the span."""
    first: list[Path]
    poison: Path
    second: list[Path]


def poison_of(events: pa.Table, seed: int, n: int) -> pa.Table:
    """Events of the same users about the same time that were never there, by another producer."""
    rng = np.random.default_rng(seed)
    some = events.take(pa.array(np.sort(rng.choice(len(events), n, replace=False))))
    columns = {name: some.column(name) for name in some.schema.names}
    # Some of those are bad on purpose.
    columns |= {"event_time": some.column("arrival_time"), "duration_ms": pa.array([5] * n), "schema_version": pa.array([1] * n)}
    columns["event_id"] = pa.array(rng.integers(1, 2**60, n))
    columns["action"] = pa.array(np.array(["save", "grid_click", "impression"])[rng.integers(0, 3, n)])
    columns["surface"] = pa.array(["own_profile"] * n)
    columns["producer"] = pa.array(["v13"] * n)
    return pa.table(columns)


@pytest.fixture(scope="module")
def site(simulated: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Poisoned:
    directory = tmp_path_factory.mktemp("poisoned")
    files = [file for file in simulated.files if file.suffix == ".parquet"]
    first, second = files[: len(files) // 2], files[len(files) // 2 :]
    poison = directory / "poison.parquet"
    pq.write_table(poison_of(pq.read_table(second[0]), 1, 300), poison)
    poisoned, clean = directory / "data", directory / "clean"
    for data, middle in ((poisoned, [poison]), (clean, [])):
        tidemark("ingest", *first, data=data, **SMALL)
        tidemark("run", data=data, **SMALL)
        tidemark("replay", "checkpoint", data=data, **SMALL)
        for more in (middle, second):
            if more:
                tidemark("ingest", *more, data=data, **SMALL)
        tidemark("run", data=data, **SMALL)
    return Poisoned(poisoned, clean, features(clean, directory / "features"), first, poison, second)


def features(data: Path, scratch: Path) -> dict[str, pa.Table]:
    """What is exported, without positions."""
    outcome(settings_of(data), scratch)
    return {name: pq.read_table(scratch / name).replace_schema_metadata(None) for name in ("user", "pin", "topic", "labels")}


def digests(data: Path) -> dict[str, str]:
    return {f"{flow}/{p}": digest_of(settings_of(data), flow, p) for flow in (ACTIONS, REVISITS) for p in range(PARTITIONS)}


def check_clean(site: Poisoned, data: Path, scratch: Path) -> None:
    """It says what it would without the span; and so does what is made of its logs alone."""
    got, want = features(data, scratch / "got"), site.features
    assert {name: got[name].equals(want[name]) for name in want} == dict.fromkeys(want, True)
    before = digests(data)
    tidemark("replay", "restore", "--all", data=data, **SMALL)
    assert digests(data) == before
    assert json.loads(tidemark("replay", "verify", "--json", data=data, **SMALL).out)["problems"] == []


def test_a_bad_span_is_taken_out_and_put_back(site: Poisoned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Path(shutil.copytree(site.data, tmp_path / "data"))
    poisoned = features(data, tmp_path / "poisoned")
    told = front_door(*EXCLUDE, "--dry-run", "--json", monkeypatch=monkeypatch, data=data, **SMALL).json()
    assert sum(part["excluded"] for part in told["plan"]["parts"]) == 300
    assert not (data / "logs" / "corrections.db").exists()
    told = front_door(*EXCLUDE, "--json", monkeypatch=monkeypatch, data=data, **SMALL).json()
    assert (told["switched"], told["difference"]["entities"]["users"] > 0) == (False, True)
    assert features(data, tmp_path / "still") == poisoned, "nothing has changed before the switch"
    # From the checkpoint before the span, and no further.
    assert all(0 < task["position"] < task["log_end"] for task in told["tasks"])
    shown = front_door("replay", "rebuild", "--resume", "--yes", monkeypatch=monkeypatch, data=data, **SMALL).out
    assert "switched: correction 1 counts from now on (exclude producer == 'v13')" in shown
    tidemark("run", data=data, **SMALL)
    check_clean(site, data, tmp_path)
    compared = front_door("replay", "diff", "--with", site.clean, "--json", monkeypatch=monkeypatch, data=data, **SMALL).json()
    assert not any(compared["difference"]["entities"].values())
    front_door("replay", "rebuild", "--undo", 1, "--yes", monkeypatch=monkeypatch, data=data, **SMALL)
    tidemark("run", data=data, **SMALL)
    assert features(data, tmp_path / "undone") == poisoned
    told = front_door("replay", "status", "--json", monkeypatch=monkeypatch, data=data, **SMALL).json()["corrections"]
    assert [(one["generation"], one["excluded"], one["in_force"]) for one in told] == [(1, 300, False), (2, 0, True)]
    assert [c.made.undoes for c in History.of(settings_of(data), 0).corrections] == [(), (1,)]
    front_door("replay", "diff", "--with", site.clean, monkeypatch=monkeypatch, code=1, data=data, **SMALL)


def test_the_same_by_a_patch(site: Poisoned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events that were written wrong, and as they should have been: as if those had been ingested."""
    wrong, right = tmp_path / "wrong.parquet", tmp_path / "right.csv"
    events = pq.read_table(site.poison)
    pq.write_table(events, wrong)
    table = events.set_column(events.schema.get_field_index("action"), "action", pa.array(["closeup"] * len(events)))
    table.drop(["producer"]).to_pandas().rename(columns={"event_id": "id"}).to_csv(right, index=False)
    for name, file in (("data", wrong), ("clean", right)):
        tidemark("ingest", *site.first, data=tmp_path / name, **SMALL)
        tidemark("ingest", file, "--columns", "event_id=id" if file is right else "event_id=event_id", data=tmp_path / name, **SMALL)
        tidemark("run", data=tmp_path / name, **SMALL)
    patch = ("replay", "rebuild", "--patch", right, "--columns", "event_id=id", "--yes", "--json")
    told = front_door(*patch, monkeypatch=monkeypatch, data=tmp_path / "data", **SMALL).json()
    assert (told["switched"], sum(part["patched"] for part in told["plan"]["parts"])) == (True, 300)
    tidemark("run", data=tmp_path / "data", **SMALL)
    got, want = features(tmp_path / "data", tmp_path / "got"), features(tmp_path / "clean", tmp_path / "want")
    assert {name: got[name].equals(want[name]) for name in want} == dict.fromkeys(want, True)
    more = events.slice(0, 1).set_column(events.schema.get_field_index("event_id"), "event_id", pa.array([12345]))
    pq.write_table(more, tmp_path / "more.parquet")
    said = refused("replay", "rebuild", "--patch", tmp_path / "more.parquet", data=tmp_path / "data", **SMALL)
    assert "1 of its events are not among those that may be changed, the first event 12345 of user" in said


def test_beside_a_live_run(site: Poisoned, tmp_path: Path) -> None:
    """The run goes on, and takes up what it is given."""
    data = tmp_path / "data"
    tidemark("ingest", *site.first, site.poison, data=data, **SMALL)
    tidemark("replay", "status", data=data, **SMALL)
    run = start("run", "--follow", data=data, **SMALL)
    try:
        with watching(settings_of(data)) as watch:
            await_true(lambda: watch.position() > 0, "the run has begun")
            tidemark(*EXCLUDE, "--yes", data=data, **SMALL)
            before = watch.position()
            tidemark("ingest", *site.second, data=data, **SMALL)
            await_true(lambda: watch.position() > before, "the run goes on")
    finally:
        run.send_signal(signal.SIGTERM)
        assert ended(run).code == 0
    tidemark("run", data=data, **SMALL)
    check_clean(site, data, tmp_path)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 20))])
def test_killed_anywhere_it_is_gone_on_with(site: Poisoned, seed: int, tmp_path: Path) -> None:
    data = Path(shutil.copytree(site.data, tmp_path / "data"))
    rng = Random(seed)
    number = rng.choice([signal.SIGKILL, signal.SIGINT])
    begun = start(*EXCLUDE, "--yes", data=data, **SMALL)
    # An instant of the work, wherever it falls. Until the plan is there libraries are loaded, which a Ctrl-C may break with words of their own.
    sign = data / "rebuild" / ("plan.json" if number == signal.SIGINT else "")
    await_true(lambda: sign.exists() or begun.poll() is not None, "the rebuild has begun")
    ends_within(begun, rng.uniform(0.0, 1.5))
    begun.send_signal(number)
    ended(begun)
    if (data / "rebuild" / "plan.json").exists():
        tidemark("replay", "rebuild", "--resume", "--yes", data=data, **SMALL)
    elif not History.of(settings_of(data), 0).corrections:
        tidemark(*EXCLUDE, "--yes", data=data, **SMALL)
    tidemark("run", data=data, **SMALL)
    check_clean(site, data, tmp_path)


@pytest.mark.parametrize(
    ("step", "after", "by_restore"),
    [
        pytest.param("_record", 0, False, marks=pytest.mark.soak),
        ("_record", 1, True),
        ("_replace", 0, False),
        pytest.param("_replace", 1, True, marks=pytest.mark.soak),
        pytest.param("_open", 1, False, marks=pytest.mark.soak),
    ],
)
def test_broken_off_in_the_switch(
    site: Poisoned, step: str, after: int, by_restore: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each step, before it and after it: nothing is lost, a run refuses what is half done, and either command ends it."""
    data = Path(shutil.copytree(site.data, tmp_path / "data"))
    whole = getattr(switch.Switch, step)

    def broken(*arguments: Any) -> None:
        if after:
            whole(*arguments)
        raise KeyboardInterrupt

    with mock.patch.object(switch.Switch, step, broken):
        front_door(*EXCLUDE, "--yes", monkeypatch=monkeypatch, code=None, data=data, **SMALL)
    recorded = bool(History.of(settings_of(data), 0).corrections)
    # Tasks are opened before it too, to bring all out that they hold.
    assert step == "_open" or recorded == (step == "_replace" or bool(after))
    if recorded and by_restore:
        tidemark("replay", "restore", "--all", data=data, **SMALL)
    tidemark("replay", "rebuild", "--resume", "--yes", data=data, **SMALL)
    tidemark("run", data=data, **SMALL)
    check_clean(site, data, tmp_path)


def test_a_state_that_a_correction_made_wrong_is_refused(site: Poisoned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Path(shutil.copytree(site.data, tmp_path / "data"))
    tidemark("replay", "checkpoint", data=data, **SMALL)
    front_door(*EXCLUDE, "--yes", monkeypatch=monkeypatch, data=data, **SMALL)
    # As if somebody put the old state back by hand.
    path = data / "state" / ACTIONS / "0000"
    shutil.rmtree(path)
    shutil.copytree(site.data / "state" / ACTIONS / "0000", path)
    said = tidemark("run", data=data, code=None, **SMALL)
    assert said.code != 0
    assert "knows the corrections up to 0 of 1" in said.err
    assert "tidemark replay restore" in said.err
    restored = tidemark("replay", "restore", "--json", data=data, **SMALL).json()["restored"]
    assert [row["task"] for row in restored] == ["actions/0"]
    assert "is older than a correction" in restored[0]["passed_over"][0]
    check_clean(site, data, tmp_path)


def test_what_cannot_be_is_refused(site: Poisoned, tmp_path: Path) -> None:
    data = Path(shutil.copytree(site.data, tmp_path / "data"))
    rebuild = ("replay", "rebuild")
    assert "say what to change" in refused(*rebuild, data=data)
    assert "no rebuild has been begun" in refused(*rebuild, "--resume", data=data)
    assert "no rebuild has been begun" in refused(*rebuild, "--discard", data=data)
    assert "correction 7 is not in force; those that are: there are none" in refused(*rebuild, "--undo", 7, data=data)
    assert "is neither an offset nor a time" in refused(*rebuild, "--exclude", "user_id == 1", "--from", "soon", data=data)
    assert "follow by themselves: name actions/" in refused(*rebuild, "--exclude", "user_id == 1", "--task", "revisits", data=data)
    tidemark("ingest", site.poison, data=tmp_path / "unrun", **SMALL)
    assert "has no state yet: `tidemark run` makes it" in refused(*EXCLUDE, data=tmp_path / "unrun")
    assert "no rebuild has been begun" in refused(*rebuild, "--resume", data=tmp_path / "unrun")
    assert "there is no log in" in refused(*rebuild, "--exclude", "user_id == 1", data=tmp_path / "none")
    done = tidemark(*rebuild, "--exclude", "producr == 'v13'", data=data, code=2)
    assert done.err.splitlines()[-2:] == ["  producr == 'v13'", "  ^"]
    for content, said in (
        ("event_id,user_id,pin_id,action,event_time\nx,1,2,save,soon\n", "row 1 is no event"),
        ("user_id,pin_id,action,event_time\n1,2,save,3\n", "a patch needs the column event_id"),
    ):
        (tmp_path / "patch.csv").write_text(content)
        assert said in refused(*rebuild, "--patch", tmp_path / "patch.csv", data=data)
    assert "no event is taken: nothing to change" in tidemark(*rebuild, "--exclude", "producer == 'v99'", data=data).out
    with run_lock(data / "rebuild"):
        assert "another rebuild is at work" in refused(*rebuild, "--exclude", "user_id == 1", data=data)
    tidemark(*EXCLUDE, data=data, **SMALL)
    assert "a rebuild has been begun (exclude producer == 'v13')" in refused(*EXCLUDE, data=data)
    assert "--resume goes alone" in refused(*rebuild, "--resume", "--undo", 1, data=data)
    tidemark(*rebuild, "--discard", "--dry-run", data=data, **SMALL)
    assert (data / "rebuild" / "plan.json").exists()
    # As a kill in the middle of --discard leaves it: the next one begins anew, not with states of the other plan.
    (data / "rebuild" / "plan.json").unlink()
    tidemark(*rebuild, "--exclude", "action == 'closeup'", data=data, **SMALL)
    for file in (data / "rebuild" / "corrections").iterdir():
        file.write_bytes(b"")
    assert "can't be read" in refused(*rebuild, "--resume", data=data)
    # What can't be gone on with can be given up.
    tidemark(*rebuild, "--discard", data=data, **SMALL)
    (data / "rebuild" / "plan.json").write_text("{")
    assert "--discard it and begin again" in refused(*rebuild, "--resume", data=data)
    tidemark(*rebuild, "--discard", data=data, **SMALL)
    assert not (data / "rebuild" / "plan.json").exists()
    for narrowing in (("--user", 5), ("--task", "actions/1")):
        assert "can't narrow it" in refused(*rebuild, "--undo", 1, *narrowing, data=data)
    assert not (data / "logs" / f"{CORRECTIONS}.db").exists() or not History.of(settings_of(data), 0).corrections


def test_of_two_who_correct_at_once_one_is_refused(site: Poisoned, tmp_path: Path) -> None:
    """From two machines, over one log: here, by two workplaces."""
    data = Path(shutil.copytree(site.data, tmp_path / "data"))
    tidemark(*EXCLUDE, data=data, **SMALL)
    (data / "rebuild").rename(tmp_path / "mine")
    tidemark("replay", "rebuild", "--exclude", "action == 'save'", "--yes", data=data, **SMALL)
    shutil.rmtree(data / "rebuild")
    (tmp_path / "mine").rename(data / "rebuild")
    assert "somebody else has made a correction meanwhile" in refused("replay", "rebuild", "--resume", "--yes", data=data, **SMALL)
    assert [c.made.reason for c in History.of(settings_of(data), 0).corrections] == ["exclude action == 'save'"]
    tidemark("replay", "rebuild", "--discard", data=data, **SMALL)
    tidemark("run", data=data, **SMALL)
    assert json.loads(tidemark("replay", "verify", "--json", data=data, **SMALL).out)["problems"] == []


def test_corrections_that_are_lost_are_missed(site: Poisoned, tmp_path: Path) -> None:
    """Nothing goes on without them: what they took out would come back."""
    data = Path(shutil.copytree(site.data, tmp_path / "data"))
    tidemark(*EXCLUDE, "--yes", data=data, **SMALL)
    tidemark("run", data=data, **SMALL)
    tidemark("archive", "run", data=data, **SMALL)
    for file in data.glob("logs/corrections.db*"):
        file.unlink()
    shutil.rmtree(data / "state" / ACTIONS / "0001")
    for command in (("run",), ("replay", "restore", "--all"), EXCLUDE):
        said = tidemark(*command, data=data, code=None, **SMALL)
        assert said.code != 0
        assert "corrections" in said.err
    assert json.loads(tidemark("replay", "verify", "--json", data=data, code=1, **SMALL).out)["problems"]
    tidemark("replay", "restore", "--log", CORRECTIONS, data=data, **SMALL)
    tidemark("run", data=data, **SMALL)
    check_clean(site, data, tmp_path)


def test_what_another_plan_has_made_is_not_taken(site: Poisoned, tmp_path: Path) -> None:
    data = Path(shutil.copytree(site.data, tmp_path / "data"))
    tidemark("replay", "rebuild", "--exclude", "action == 'save'", data=data, **SMALL)
    (data / "rebuild" / "plan.json").unlink()
    tidemark(*EXCLUDE, "--yes", data=data, **SMALL)
    tidemark("run", data=data, **SMALL)
    check_clean(site, data, tmp_path)


def test_tasks_made_anew_say_the_same(site: Poisoned, tmp_path: Path) -> None:
    data = Path(shutil.copytree(site.data, tmp_path / "data"))
    shown = tidemark("replay", "rebuild", "--task", "actions/1", "--task", "revisits/2", "--yes", data=data, **SMALL).out
    assert "the live states say the very same: there is nothing to switch to" in shown


def spoiled(data: Path, partition: int) -> None:
    """A revisit too many in a task's state, whole, with every checksum right; pins were told nothing of it."""
    settings = settings_of(data)
    mark = state_fingerprint(settings, settings.load_vocabulary())
    store = TaskStore(task_path(settings, ACTIONS, partition), ACTIONS, partition, mark, list(tables.ACTIONS_TABLES))
    rows = np.concatenate(list(store.runs.scan(tables.REVISITS, store.runs.manifest[tables.REVISITS.name])))
    rows[-1, -1] += 1
    batch = store.batch()
    store.runs.manifest[tables.REVISITS.name] = []
    store.runs.add(batch, tables.REVISITS.name, rows)
    store.commit(batch)
    store.close()


@pytest.mark.parametrize("by", [None, pytest.param(("rebuild", "--resume", "--yes"), marks=pytest.mark.soak), ("restore", "--all")])
def test_a_task_whose_state_is_wrong_is_made_anew(
    site: Poisoned, by: tuple[str, ...] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pins stay as they are: they go by what was put out. Killed once it is recorded, and before it takes the state's place, it is refused."""
    data = Path(shutil.copytree(site.data, tmp_path / "data"))
    spoiled(data, 1)
    assert features(data, tmp_path / "spoiled") != features(site.data, tmp_path / "whole")
    anew = ("replay", "rebuild", "--task", "actions/1", "--yes")
    if by is None:
        told = front_door(*anew, "--json", monkeypatch=monkeypatch, data=data, **SMALL).json()
        assert (told["switched"], told["emitted"], told["difference"]["entities"].get("pins", 0)) == (True, 0, 0)
        assert told["built"]["realtime"] > 0
    else:
        with mock.patch.object(switch.Switch, "_replace", mock.Mock(side_effect=KeyboardInterrupt)):
            front_door(*anew, monkeypatch=monkeypatch, code=None, data=data, **SMALL)
        said = front_door("run", monkeypatch=monkeypatch, data=data, code=None, **SMALL)
        assert "put the task back with `tidemark replay restore`" in said.err
        front_door("replay", *by, monkeypatch=monkeypatch, data=data, **SMALL)
        front_door("replay", "rebuild", "--resume", monkeypatch=monkeypatch, code=2 if "--resume" in by else 0, data=data, **SMALL)
    tidemark("run", data=data, **SMALL)
    assert features(data, tmp_path / "anew") == features(site.data, tmp_path / "sound")
    # No checkpoint of before is taken: it may be as wrong.
    assert json.loads(tidemark("replay", "restore", "--all", "--json", data=data, **SMALL).out)["restored"][1]["position"] == 0
    assert features(data, tmp_path / "restored") == features(site.data, tmp_path / "again")
