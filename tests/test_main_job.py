"""The main job through the real command line: files in, flows run, features and labels out, equal to the oracles and to the simulator's truth.

And killed, stopped, rescaled or followed anywhere, it is the same to the byte.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from flows.events import hash_id
from flows.log import LocalLog
from flows.outputs import ACTIONS, LATE, take_next
from flows.run.command import summary
from flows.run.main_job import Done
from flows.settings import Settings
from tests import agreement, driving
from tests.oracles.decide import decide
from tests.processes import (
    PARTITIONS,
    ROOT,
    Outcome,
    Simulated,
    assert_same,
    await_true,
    end_all,
    ended,
    ends,
    environment,
    front_door,
    kill,
    outcome,
    settings_of,
    start,
    tidemark,
    tidemark_process,
    watching,
    workers_of,
)
from tests.sparing import first

SAMPLE = ROOT / "samples" / "online_retail.csv"
SAMPLE_OPTIONS = (
    *("--columns", "user_id=user,pin_id=item,event_time=ts,action=action", "--actions", "purchase=save,cancel=hide"),
    *("--surface-of", "save=related_pins", "--surface", "homefeed", "--time-unit", "ms", "--arrival", "event-time"),
)
DAY_MS = 86_400_000
T = 1_700_000_000_000


def logged(settings: Settings) -> pd.DataFrame:
    """What lies in the ACTIONS log, as the oracles take it."""
    parts = []
    with LocalLog.open(settings.logs, ACTIONS, read_only=True) as log:
        for partition in range(log.partitions):
            for batch in log.read(partition, 0, 1 << 30):
                offsets = np.arange(batch.first_offset, batch.end_offset)
                parts.append(batch.records.to_pandas().assign(partition=partition, offset=offsets))
    events = pd.concat(parts, ignore_index=True)
    for name in ("action", "surface", "topic"):
        events[name] = events[name].astype(object).where(events[name].notna(), "")
    events["duration_ms"] = events["duration_ms"].fillna(0).astype("int64")
    return events


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = settings_of(tmp_path_factory.mktemp("sample") / "data")
    tidemark_process("ingest", SAMPLE, *SAMPLE_OPTIONS, data=settings.data)
    tidemark_process("run", data=settings.data)
    return settings


# A file of real events -----------------------------------------------------------------------------------------------------------------


def test_every_row_of_the_sample_is_in_the_log_once(sample: Settings) -> None:
    rows = pd.read_csv(SAMPLE)
    actions = rows["action"].map({"purchase": "save", "cancel": "hide"})
    surfaces = actions.map({"save": "related_pins", "hide": "homefeed"})
    events = logged(sample)
    got = events[["user_id", "pin_id", "event_time", "action", "surface"]]
    assert Counter(got.itertuples(index=False, name=None)) == Counter(
        zip(rows["user"], rows["item"], rows["ts"], actions, surfaces, strict=True)
    )
    assert events["event_id"].is_unique


def test_exports_of_the_sample_equal_the_oracles(sample: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decided = decide(logged(sample))
    last = int(decided.loc[decided["status"] == "accepted", "event_time"].max())
    exports = {}
    for entity in ("user", "pin", "topic"):
        done = front_door(
            "features", "export", "--entity", entity, "--out", tmp_path / entity, "--json", data=sample.data, monkeypatch=monkeypatch
        ).json()
        exports[entity] = pq.read_table(tmp_path / entity).to_pandas()
        assert done == {"entity": entity, "rows": len(exports[entity]), "as_of": last, "out": str(tmp_path / entity)}
    front_door("labels", "export", "--out", tmp_path / "labels", data=sample.data, monkeypatch=monkeypatch)
    exports["labels"] = pq.read_table(tmp_path / "labels").to_pandas(integer_object_nulls=True)
    agreement.check(exports, decided, last)
    for as_of in (int(decided["event_time"].median()), last + 400 * DAY_MS):
        agreement.check(driving.exported(sample, as_of, tmp_path / str(as_of)), decided, as_of)


def test_one_users_features_equal_its_row_of_the_export(sample: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    front_door("features", "export", "--entity", "user", "--out", tmp_path / "users", data=sample.data, monkeypatch=monkeypatch)
    row = pq.read_table(tmp_path / "users").to_pylist()[7]
    features = tidemark_process("features", "user", row["user_id"], "--json", data=sample.data).json()
    assert_equals_row(features, row, "user_id")
    names = ("pin_id", "action", "surface", "event_time", "duration_ms")
    assert features["sequence"] == [
        dict(zip(names, action, strict=True)) for action in zip(*(row[f"sequence_{n}"] for n in names), strict=True)
    ]
    times = [action["event_time"] for action in features["sequence"]]
    assert times == sorted(times, reverse=True)


def assert_equals_row(features: dict[str, Any], row: dict[str, Any], key: str) -> None:
    assert set(features) == {key, "found", "as_of", "counters", "positions"} | ({"sequence"} if key == "user_id" else set())
    assert features[key] == row[key]
    assert features["found"]
    assert len(features["counters"]) == 24
    assert features["counters"] == {name: row[name] for name in features["counters"]}


# Entities of any ID --------------------------------------------------------------------------------------------------------------------


IDS = ["alice", "-5", "9223372036854775807", "-9223372036854775808", "007", "0"]


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users and pins of all kinds of IDs: each user saves the pin of the same ID and comes back to it."""
    directory = tmp_path_factory.mktemp("named")
    rows = []
    for i, one in enumerate(IDS):
        user: Any = int(one) if one.startswith("9") else one
        base = {"user_id": user, "pin_id": user, "topic": "Été & co"}
        rows.append({**base, "event_id": f"s{i}", "action": "save", "surface": "related_pins", "event_time": T + i})
        rows.append({**base, "event_id": f"c{i}", "action": "grid_click", "surface": "own_profile", "event_time": T + i + 1000})
    (directory / "named.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    tidemark("ingest", directory / "named.jsonl", data=directory / "data")
    tidemark("run", data=directory / "data")
    return directory / "data"


def number(text: str) -> int:
    return hash_id(text) if text in ("alice", "007", "bob") else int(text)


@pytest.mark.parametrize("entity", ["user", "pin"])
def test_features_of_any_id_equal_their_row_of_the_export(
    named: Path, entity: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = f"{entity}_id"
    front_door("features", "export", "--entity", entity, "--out", tmp_path / "all", data=named, monkeypatch=monkeypatch)
    rows = {row[key]: row for row in pq.read_table(tmp_path / "all").to_pylist()}
    assert set(rows) == {number(one) for one in IDS}
    for one in IDS:
        features = front_door("features", entity, one, "--json", data=named, monkeypatch=monkeypatch).json()
        assert_equals_row(features, rows[number(one)], key)
        assert features["counters"]["revisits_click_rp_7d_count"] == 1


def test_an_unknown_entity_is_empty_not_an_error(named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = front_door("features", "user", "bob", "--json", data=named, monkeypatch=monkeypatch).json()
    assert (user["user_id"], user["found"], user["sequence"], set(user["counters"].values())) == (hash_id("bob"), False, [], {0})
    assert "nothing is known" in front_door("features", "pin", "-77", data=named, monkeypatch=monkeypatch).out


def test_a_topic_is_read_by_its_name(named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = front_door("features", "topic", "Été & co", "--json", data=named, monkeypatch=monkeypatch).json()
    assert (topic["statistics"]["saves_7d_count"], topic["statistics"]["saves_7d_clicked"]) == (len(IDS), len(IDS))


# A simulated stream, whose truth is known ----------------------------------------------------------------------------------------------


def test_counts_equal_the_truth(simulated: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    status = front_door("status", "--json", data=simulated.run, monkeypatch=monkeypatch).json()
    assert sum(task["lag"] for task in status["tasks"]) == 0
    records, counts = simulated.truth["records"], status["counts"]
    assert min(records["late"], records["duplicates"], records["bad"]) > 20
    assert counts["records"] == records["total"]
    assert (counts["accepted"], counts["late"], counts["duplicate"]) == (records["accepted"], records["late"], records["duplicates"])
    assert {n.removeprefix("deadletter."): c for n, c in counts.items() if n.startswith("deadletter.")} == simulated.truth["bad"]
    assert {n.removeprefix("action."): c for n, c in counts.items() if n.startswith("action.")} == {
        name: count for name, count in simulated.truth["events_by_action"].items() if count
    }


def test_dead_letters_equal_the_truth(simulated: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = front_door("deadletters", "list", "--json", "--limit", 10, data=simulated.run, monkeypatch=monkeypatch).json()
    assert listed["reasons"] == simulated.truth["bad"]
    assert len(listed["newest"]) == 10


def test_labels_equal_the_truth(simulated: Simulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    front_door("labels", "export", "--out", tmp_path / "labels", data=simulated.run, monkeypatch=monkeypatch)
    got = pq.read_table(tmp_path / "labels")
    want = pq.read_table(simulated.directory / "truth-labels.parquet").select(got.column_names)
    want = want.set_column(3, "save_surface", want.column("save_surface").cast("string"))
    assert want.num_rows == simulated.truth["saves"] > 100

    def rows(table: Any) -> Counter[tuple[Any, ...]]:
        return Counter(tuple(row.values()) for row in table.to_pylist())

    assert rows(got) == rows(want)


def test_late_records_lie_in_their_log_once(simulated: Simulated) -> None:
    settings = settings_of(simulated.run)
    assert late_records(settings) == simulated.truth["records"]["late"]


def late_records(settings: Settings) -> int:
    total = 0
    with LocalLog.open(settings.logs, LATE, read_only=True) as log:
        for partition in range(log.partitions):
            applied: dict[int, int] = {}
            total += sum(take_next(b.records, applied, "late").num_rows for b in log.read(partition, 0, 1 << 30))
    return total


# Other workers, kills, stops: the same to the byte -------------------------------------------------------------------------------------


def assert_same_as_clean(data: Path, simulated: Simulated, tmp_path: Path) -> None:
    got: Outcome = outcome(settings_of(data), tmp_path / "exports")
    assert_same(got, simulated.clean)
    assert late_records(settings_of(data)) == simulated.truth["records"]["late"]


@pytest.mark.parametrize("workers", [2, 3])
def test_the_number_of_workers_changes_nothing(simulated: Simulated, workers: int, tmp_path: Path) -> None:
    data = simulated.copy(tmp_path / "data")
    done = tidemark("run", "--workers", workers, "--json", data=data).json()
    assert (done["events"], done["workers"], done["stopped"]) == (simulated.records, workers, False)
    assert_same_as_clean(data, simulated, tmp_path)
    digests = {
        f"{t['flow']}-{t['partition']}": t["digest"] for t in tidemark_process("status", "--digest", "--json", data=data).json()["tasks"]
    }
    assert digests == simulated.clean.digests


@pytest.mark.parametrize("seed", first(1, [2, 1]))
def test_killed_anywhere_and_run_again_it_is_the_same(simulated: Simulated, seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    data = simulated.copy(tmp_path / "data")
    killed = 0
    for share, victim in zip(np.sort(rng.uniform(0.02, 0.9, 3)), rng.permutation(["run", "worker", "all"]), strict=True):
        workers = int(rng.integers(1, 4))
        batch, anchor = int(rng.integers(10, 50)), int(rng.integers(1, 2_000))
        print(f"seed {seed}: {victim} of {workers} workers at {share:.2f}, batches of {batch}, anchors after {anchor}")
        process = start("run", "--workers", workers, data=data, batch_records=batch, anchor_records=anchor)
        with watching(settings_of(data)) as watch:
            target = max(int(share * simulated.records), watch.position() + 1)
            await_true(lambda: watch.position() >= target or process.poll() is not None, "it has come so far")  # noqa: B023
        its_workers = workers_of(process)
        if victim == "worker":
            kill(int(rng.choice(its_workers)) if its_workers else process.pid)
        elif victim == "run":
            # The workers find that nobody listens any more and go by themselves.
            kill(process.pid)
        else:
            end_all(process)
        killed += ended(process).code != 0
    assert killed
    tidemark("run", "--workers", int(rng.integers(1, 4)), data=data)
    assert_same_as_clean(data, simulated, tmp_path)


def test_stopped_by_sigterm_it_says_so_and_goes_on_later(simulated: Simulated, tmp_path: Path) -> None:
    data = simulated.copy(tmp_path / "data")
    process = start("run", "--workers", 2, data=data, batch_records=5)
    with watching(settings_of(data)) as watch:
        await_true(lambda: watch.position() > simulated.records // 5, "something is committed")
    process.send_signal(signal.SIGTERM)
    done = ended(process)
    assert done.code == 0
    assert "stopped before the end, run again to continue" in done.out
    tidemark("run", data=data)
    assert_same_as_clean(data, simulated, tmp_path)


def test_sigterm_before_its_workers_listen_ends_it_in_order(simulated: Simulated, tmp_path: Path) -> None:
    process = start("run", "--json", data=simulated.copy(tmp_path / "data"))
    # It takes a worker a second to listen, so it can't do so yet.
    await_true(lambda: any(is_worker(one) for one in workers_of(process)), "it has a worker")
    process.send_signal(signal.SIGTERM)
    done = ended(process)
    assert (done.code, done.json()["stopped"]) == (0, True)


def is_worker(process: int) -> bool:
    try:
        return b"bytewax" in Path(f"/proc/{process}/cmdline").read_bytes()
    except FileNotFoundError:
        return False


def test_sigterm_to_one_worker_stops_the_whole_run(simulated: Simulated, tmp_path: Path) -> None:
    data = simulated.copy(tmp_path / "data")
    process = start("run", "--workers", 2, data=data, batch_records=5)
    with watching(settings_of(data)) as watch:
        await_true(lambda: watch.position() > 100, "something is committed")
    kill(workers_of(process)[0], signal.SIGTERM)
    done = ended(process)
    assert done.code == 0
    assert "stopped before the end" in done.out
    tidemark("run", "--workers", 2, data=data)
    assert_same_as_clean(data, simulated, tmp_path)


def test_ingest_killed_and_continued_loses_and_doubles_nothing(
    simulated: Simulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tmp_path / "data")
    for _ in range(2):
        before = ends(settings, ACTIONS)
        process = start("ingest", *simulated.files, data=settings.data)
        await_true(lambda: ends(settings, ACTIONS) > before or process.poll() is not None, "a file is in")  # noqa: B023
        end_all(process)
        ended(process)
    front_door("ingest", *simulated.files, data=settings.data, monkeypatch=monkeypatch)
    assert ends(settings, ACTIONS) == simulated.records
    assert "already ingested" in front_door("ingest", *simulated.files, data=settings.data, monkeypatch=monkeypatch).out
    tidemark("run", data=settings.data)
    assert_same_as_clean(settings.data, simulated, tmp_path)


def test_a_run_that_follows_takes_what_comes_until_it_is_stopped(simulated: Simulated, tmp_path: Path) -> None:
    data = tmp_path / "data"
    first, *others = simulated.files
    tidemark("ingest", first, data=data)
    process = start("run", "--follow", "--workers", 2, "--json", data=data)
    with watching(settings_of(data)) as watch:
        seen = ends(settings_of(data), ACTIONS)
        await_true(lambda: watch.position() == seen, "what was there is applied")
        tidemark("ingest", *others, data=data)
        await_true(lambda: watch.position() == simulated.records, "what came later is applied")
        event = {"user_id": "new", "pin_id": 1, "action": "closeup", "event_id": 1, "event_time": watch.reader.default_as_of()}
        (tmp_path / "one.jsonl").write_text(json.dumps(event))
        tidemark("ingest", tmp_path / "one.jsonl", data=data)
        user = np.array([hash_id("new")])
        await_true(
            lambda: watch.position() > simulated.records and bool(watch.reader.user_sequences(user).found[0]), "the new user is served"
        )
    process.send_signal(signal.SIGTERM)
    done = ended(process)
    assert (done.code, done.json()["stopped"], done.json()["events"]) == (0, True, simulated.records + 1)


def test_who_followed_a_log_is_told_no_rate_of_the_time_that_it_waited() -> None:
    done = Done(events=12_000, changes=30, refused=0, seconds=600.0, total_seconds=602.0, workers=2, stopped=True)
    assert summary(done, follow=True) == "12,000 events and 30 revisit changes applied in 600.0 s"
    assert summary(done).endswith("in 600.0 s (20/s on 2 workers); stopped before the end, run again to continue")
    none = replace(done, events=0, changes=0)
    assert summary(none, follow=True) == "nothing was applied meanwhile"
    assert summary(none) == "stopped before anything was applied; run again to continue"


def test_a_directory_named_flows_where_it_is_called_is_not_taken_for_ours(simulated: Simulated, tmp_path: Path) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "__init__.py").write_text("raise RuntimeError('not this one')")
    script = Path(sys.executable).with_name("tidemark")
    if not script.exists():
        pytest.skip("tidemark is not installed as a script")
    environ = environment(partitions=PARTITIONS, data=simulated.run) | {"BYTEWAX_PROCESS_ID": "0", "BYTEWAX_WORKERS_PER_PROCESS": "3"}
    done = subprocess.run([str(script), "run"], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "nothing new to apply; state is up to date\n")


def test_the_script_is_declared() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["tidemark"] == "tidemark:main"
