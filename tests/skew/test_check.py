"""`tidemark skew check`: what it compares, what it says, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flows import stopping
from flows.log import LocalLog
from flows.outputs import ACTIONS, SERVED
from flows.served import SERVED_SCHEMA
from flows.settings import HOUR_MS
from flows.skew import check as check_module
from flows.skew.check import check
from flows.skew.drill.runner import PARTITIONS, ROWS_OF_REQUEST
from flows.skew.names import EVERY, VIEWS, named
from flows.skew.served import Question, open_served
from tests.processes import ROOT
from tests.skew.conftest import Drill, refused_skew, settings_of, skew

# A record of which nothing but this is changed.
Change = Callable[[dict[str, Any]], dict[str, Any]]


def log_of(data: Path, served: pa.Table) -> Path:
    """Another data directory, with these records in SERVED, all in one partition: where a record lies says nothing."""
    (data / "logs").mkdir(parents=True, exist_ok=True)
    with LocalLog.open(data / "logs", SERVED, PARTITIONS, create=True) as log:
        log.append([(0, batch) for batch in served.to_batches()])
    return data


def changed(drill: Drill, to: Path, change: Change, records: int = 20) -> Path:
    """A sound system's last records, changed on their way into the log."""
    data = drill.data(to)
    parts = []
    with LocalLog.open(drill.directory / "served" / "sound", SERVED, PARTITIONS, read_only=True) as log:
        for partition in range(PARTITIONS):
            parts += [batch.records for batch in log.read(partition, 0, 1 << 20)]
    rows = pa.Table.from_batches(parts, SERVED_SCHEMA).to_pylist()
    rows.sort(key=lambda row: row["timestamp"])
    return log_of(data, pa.Table.from_pylist([change(row) for row in rows[-records:]], SERVED_SCHEMA))


def causes_of(said: dict[str, Any]) -> dict[str, int]:
    return {cause["cause"]: cause["rows"] for cause in said["causes"]}


# What is said ----------------------------------------------------------------------------------------------------------------------


def test_a_sound_log(sound: Path, drill: Drill) -> None:
    said = skew("check", "--json", data=sound).json()
    requests = drill.said["requests"]
    assert said["records"] == requests
    assert said["rows"] == {VIEWS["sequence"]: requests, VIEWS["user"]: requests, VIEWS["pin"]: 7 * requests, VIEWS["topic"]: requests}
    assert said["compared"] == ROWS_OF_REQUEST * requests
    assert (said["proved"], said["differing"], said["apart"], said["findings"], said["causes"]) == (True, 0, 0, 0, [])
    assert [one["feature"] for one in said["features"]] == [feature.name for feature in EVERY]
    assert all(one["equal"] == one["rows"] > 0 and one["match_rate"] == 1 for one in said["features"])
    assert not any(one["missing"] or one["extra"] or one["differing"] or one["max_difference"] or one["smape"] for one in said["features"])


def test_mistakes_are_named_and_shown(mistaken: Path, drill: Drill) -> None:
    said = skew("check", "--json", data=mistaken, code=1).json()
    seeded = {row["wanted"]: row["seeded"] for row in drill.said["rows"]}
    names = ("defaulted", "other_fingerprint", "late_event_ignored", "stale_tile")
    assert causes_of(said) == {name: seeded[name] for name in names}
    assert said["findings"] == seeded["late_event_ignored"] + seeded["stale_tile"] == said["differing"]
    assert said["apart"] == seeded["defaulted"] + seeded["other_fingerprint"]
    late = next(cause for cause in said["causes"] if cause["cause"] == "late_event_ignored")
    assert sum(late["by_view"].values()) == late["rows"]
    example = late["examples"][0]
    assert example["request_id"].startswith("drill-")
    assert all(one["served"] != one["recomputed"] for one in example["features"] if example["view"] != VIEWS["sequence"])
    by_feature = {one["feature"]: one for one in said["features"]}
    sequence = by_feature["user_action_sequence:sequence_pin_id"]
    assert sequence["rows"] == sequence["equal"] + sequence["missing"] + sequence["extra"] + sequence["differing"]
    assert sequence["inserted"] > 0
    assert by_feature["pin_revisit_counters:revisits_impression_all_7d_count"]["max_difference"] >= 1


def test_people_are_told_the_same(mistaken: Path, sound: Path) -> None:
    shown = skew("check", data=mistaken, code=1).out
    for word in ("late_event_ignored", "stale_tile", "other_fingerprint", "defaulted", "request drill-", "findings"):
        assert word in shown
    assert "0 differ, 0 could not be compared; 0 findings" in skew("check", data=sound).out


# Which rows ------------------------------------------------------------------------------------------------------------------------


def test_a_sample_is_that_of_its_seed(sound: Path) -> None:
    def sampled(*options: object) -> dict[str, Any]:
        said = skew("check", "--json", *options, data=sound).json()
        return {name: value for name, value in said.items() if name not in ("seconds", "seed")}

    some = sampled("--sample", 40, "--seed", 1)
    assert some["records"] == 40
    assert some == sampled("--sample", 40, "--seed", 1)
    assert len({str(sampled("--sample", 3, "--seed", seed)) for seed in range(6)}) > 1
    assert sampled("--sample", "100%")["records"] == sampled()["records"]
    assert 0 < sampled("--sample", "30%")["records"] < sampled()["records"]
    assert sampled("--sample", 10**9)["records"] == sampled()["records"]


def test_a_period_is_half_open(sound: Path) -> None:
    whole = skew("check", "--json", data=sound).json()
    middle = (whole["first_request"] + whole["last_request"]) // 2
    before, after = (skew("check", "--json", option, middle, data=sound).json()["records"] for option in ("--to", "--from"))
    assert before > 0 < after
    assert before + after == whole["records"]
    assert skew("check", "--json", "--from", whole["last_request"], "--to", whole["last_request"] + 1, data=sound).json()["records"] > 0
    assert skew("check", "--json", "--from", "2024-01-01", "--to", "2024-01-01T00:00:00.001+00:00", data=sound).json()["records"] == 0


def test_features_are_chosen(mistaken: Path) -> None:
    counter = "user_revisit_counters:revisits_click_rp_7d_pins"
    said = skew("check", "--json", "--feature", "topic_revisit_stats", "--feature", counter, data=mistaken, code=None)
    names = [one["feature"] for one in said.json()["features"]]
    assert len(names) == 16
    assert names == [feature.name for feature in named(["topic_revisit_stats", counter])]
    assert set(said.json()["rows"]) == {"user_revisit_counters", "topic_revisit_stats"}


def test_views_are_called_as_feast_calls_them() -> None:
    from feature_repo import views
    from flows.skew.names import COLUMNS

    declared = views.definitions(Path("offline")).views
    assert [*VIEWS.values(), views.USER_EMBEDDING] == list(declared)
    for kind, view in VIEWS.items():
        assert [field.name for field in declared[view].features] == list(COLUMNS[kind])


# Causes that no drill makes --------------------------------------------------------------------------------------------------------


def test_values_that_nothing_gives_are_unexplained(drill: Drill, tmp_path: Path) -> None:
    def scribbled(row: dict[str, Any]) -> dict[str, Any]:
        found = {"user_status": 0, "pin_status": [0] * len(row["pin_id"])}
        return row | found | {name: [n + 1000 for n in row[name]] for name in ("pin_counters", "user_counters")}

    said = skew("check", "--json", data=changed(drill, tmp_path / "data", scribbled), code=1).json()
    assert causes_of(said) == {"unexplained": 20 * 8}
    # One of each kind, whichever was found first.
    assert {row["view"] for row in said["causes"][0]["examples"]} == {VIEWS["user"], VIEWS["pin"]}
    shown = skew("check", data=tmp_path / "data", code=1).out
    for words in ("served → recomputed", ", user ", ", pin ", "user sequence: 5 features", "topic statistics: 15 features"):
        assert words in shown


def test_nothing_served_in_silence_is_no_default(drill: Drill, tmp_path: Path) -> None:
    def emptied(row: dict[str, Any]) -> dict[str, Any]:
        nothing = {name: [] for name in row if name.startswith("sequence_")}
        return row | nothing | {"user_counters": [0] * 24, "user_status": 1}

    said = skew("check", "--json", data=changed(drill, tmp_path / "data", emptied), code=1).json()
    assert set(causes_of(said)) == {"empty"}


def test_a_read_that_lags_is_stale(drill: Drill, tmp_path: Path) -> None:
    """Yesterday's answers, said to be of now."""
    by_user: dict[int, list[dict[str, Any]]] = {}

    def old(row: dict[str, Any]) -> dict[str, Any]:
        earlier = by_user.setdefault(row["user_id"], [])
        earlier.append(row)
        kept = earlier[0] if len(earlier) > 1 else row
        return row | {name: kept[name] for name in row if name.startswith(("sequence_", "user_"))}

    data = changed(drill, tmp_path / "data", old, records=10**6)
    causes = causes_of(skew("check", "--json", "--feature", "user_action_sequence", data=data, code=1).json())
    assert set(causes) == {"stale_read"}


@pytest.mark.parametrize(
    "positions",
    [
        None,
        b"",
        b"no positions",
        np.array([1, PARTITIONS, *[10**9] * PARTITIONS, *[0] * PARTITIONS, *[0] * PARTITIONS**2], "<i8").tobytes(),
    ],
)
def test_positions_that_say_nothing_are_a_finding(drill: Drill, tmp_path: Path, positions: bytes | None) -> None:
    said = skew("check", "--json", data=changed(drill, tmp_path / "data", lambda row: row | {"positions": positions}), code=1).json()
    assert causes_of(said) == {"position_unknown": 20 * ROWS_OF_REQUEST}
    assert said["compared"] == 0


@pytest.mark.parametrize(("number", "wrong"), [(10**9, 7), (-1, ROWS_OF_REQUEST)])
def test_one_prefix_that_the_log_does_not_lead_to_ends_no_check(drill: Drill, tmp_path: Path, number: int, wrong: int) -> None:
    rows = 0

    def one_beyond(row: dict[str, Any]) -> dict[str, Any]:
        nonlocal rows
        rows += 1
        if rows > 1:
            return row
        numbers = np.frombuffer(row["positions"], "<i8").copy()
        numbers[2 + 2 * PARTITIONS :] = number
        return row | {"positions": numbers.tobytes()}

    said = skew("check", "--json", data=changed(drill, tmp_path / "data", one_beyond), code=1).json()
    assert causes_of(said) == {"position_unknown": wrong}
    assert said["compared"] == 20 * ROWS_OF_REQUEST - wrong


def test_what_is_served_while_a_check_begins_waits_for_the_next(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []

    def noting(of: type) -> type:
        class Noting(of):  # type: ignore[misc]
            def __init__(self, *arguments: Any) -> None:
                order.append(of.__name__)
                super().__init__(*arguments)

        return Noting

    for of in (check_module.Chosen, check_module.Recomputing):
        monkeypatch.setattr(check_module, of.__name__, noting(of))
    skew("check", data=sound)
    assert order == ["Chosen", "Recomputing"]


@pytest.mark.parametrize(
    "change",
    [{"user_status": 1}, {"user_status": 9}, {"user_status": 2}, {"user_status": 2, "positions": None}],
    ids=["not found", "none that there is", "defaulted, with positions", "defaulted, with values"],
)
def test_a_status_that_values_belie_is_a_finding(drill: Drill, tmp_path: Path, change: dict[str, Any]) -> None:
    def belied(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"user_counters": [1] * 24} | change

    data = changed(drill, tmp_path / "data", belied)
    said = skew("check", "--json", "--feature", "user_action_sequence", "--feature", "user_revisit_counters", data=data, code=1).json()
    assert causes_of(said) == {"contradicts_itself": 20 * 2}


def test_no_fingerprint_is_a_finding(drill: Drill, tmp_path: Path) -> None:
    said = skew("check", "--json", data=changed(drill, tmp_path / "data", lambda row: row | {"fingerprint": None}), code=1).json()
    assert causes_of(said) == {"contradicts_itself": 20 * ROWS_OF_REQUEST}


def test_what_is_told_by_the_row_is_no_finding(drill: Drill, tmp_path: Path) -> None:
    other = changed(drill, tmp_path / "other", lambda row: row | {"fingerprint": "0123456789abcdef"})
    said = skew("check", "--json", data=other).json()
    assert causes_of(said) == {"other_fingerprint": 20 * ROWS_OF_REQUEST}
    assert (said["findings"], said["proved"]) == (0, False)
    assert {one["match_rate"] for one in said["features"]} == {None}
    done = skew("check", data=other)
    assert "nothing is proved" in done.out
    assert "no row could be compared" in done.err
    assert "100 %" not in done.out


def test_of_many_rows_some_are_looked_into(mistaken: Path) -> None:
    settings = settings_of(mistaken)

    def causes(explained: int | None, seed: int = 0) -> dict[str, dict[str, int]]:
        with open_served(settings) as served:
            checked = check(settings, served, Question(seed=seed), explained=explained)
        return {found.cause.name: dict(found.rows) for found in checked.causes if not found.cause.benign}

    every, some, none = causes(None), causes(20), causes(0)
    assert causes(10**9) == every
    assert some == causes(20)
    assert len({str(causes(20, seed)) for seed in range(4)}) > 1
    assert set(some) == {*every, "not_looked_into"}
    assert set(none) == {"not_looked_into"}
    # Whatever is looked into, a row is a finding.
    rows = [sum((Counter(by_kind) for by_kind in said.values()), Counter()) for said in (every, some, none)]
    assert rows[0] == rows[1] == rows[2]
    # Requests of two systems share IDs here, so a few of the 20 pins have two rows.
    assert 20 <= rows[0]["pin"] - some["not_looked_into"]["pin"] < 40


def test_a_period_misses_nothing_that_is_logged_long_after_it(drill: Drill, tmp_path: Path) -> None:
    data = changed(drill, tmp_path / "data", lambda row: row, records=10_000)
    with LocalLog.open(data / "logs", SERVED, PARTITIONS) as log:
        stamps = [t for batch in log.read(0, 0, 1 << 20) for t in batch.records.column("timestamp").to_pylist()]
        log_again(data)
    said = skew("check", "--to", stamps[0] + 1, "--json", data=data).json()
    assert stamps[-1] > stamps[0] + HOUR_MS
    assert said["records"] == stamps.count(stamps[0]) + 1
    assert said["findings"] == 0


# Metrics ---------------------------------------------------------------------------------------------------------------------------


def test_metrics_in_a_file(mistaken: Path, tmp_path: Path) -> None:
    file = tmp_path / "skew.prom"
    said = skew("check", "--json", "--metrics-file", file, data=mistaken, code=1).json()
    lines = dict(line.rsplit(" ", 1) for line in file.read_text().splitlines() if not line.startswith("#"))
    assert float(lines["tidemark_skew_findings"]) == said["findings"]
    late = sum(
        float(n) for name, n in lines.items() if name.startswith("tidemark_skew_mismatches_total") and 'cause="late_event_ignored"' in name
    )
    assert late == causes_of(said)["late_event_ignored"]
    assert float(lines['tidemark_skew_mismatches_total{cause="unexplained",view="topic_revisit_stats"}']) == 0
    assert float(lines['tidemark_skew_match_ratio{feature="user_action_sequence:sequence_action"}']) < 1


@pytest.mark.parametrize("before", ["", "import feast.metrics"], ids=["alone", "behind Feast"])
def test_metrics_are_those_of_one_check(before: str) -> None:
    """Feast sets PROMETHEUS_MULTIPROC_DIR, under which the client's own counters would be shared by all of a process."""
    count = """
from flows.skew.metrics import Metrics
Metrics().failed()
(metrics := Metrics()).failed()
print(metrics.registry.get_sample_value("tidemark_skew_failures_total"))
"""
    done = subprocess.run([sys.executable, "-c", before + count], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert float(done.stdout) == 1


def log_again(data: Path) -> None:
    """What was served first comes to SERVED once more, after all the rest."""
    with LocalLog.open(data / "logs", SERVED, PARTITIONS) as log:
        log.append([(0, batch.records.slice(0, 1)) for batch in log.read(0, 0, 1)])


def test_rounds_go_on_until_stopped(drill: Drill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    data = drill.data(tmp_path / "data", "late_event_ignored")

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        if len(waited) == 2:
            log_again(data)
        return len(waited) == 3

    monkeypatch.setattr(stopping, "wait", wait)
    done = skew("check", "--every", 5, "--json", "--metrics-file", tmp_path / "skew.prom", data=data, code=1)
    first, second, third = (json.loads(line) for line in done.out.splitlines())
    assert waited == [5, 5, 5]
    # What one round has looked at, the next has not; and a record that is logged long after its request is looked at all the same.
    assert first["findings"] > 0
    assert (second["records"], third["records"]) == (0, 1)
    assert "tidemark_skew_last_completed_timestamp_seconds" in (tmp_path / "skew.prom").read_text()
    assert signal.getsignal(signal.SIGTERM) is not None


# What can't be done ----------------------------------------------------------------------------------------------------------------


def test_no_data_directory(tmp_path: Path) -> None:
    assert "nothing has been served" in refused_skew("check", data=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_an_empty_log_proves_nothing(drill: Drill, tmp_path: Path) -> None:
    done = skew("check", data=drill.data(tmp_path / "data"))
    assert "nothing is proved" in done.err
    assert skew("check", "--json", data=tmp_path / "data").json()["records"] == 0


def test_no_log_to_recompute_from(drill: Drill, tmp_path: Path) -> None:
    data = changed(drill, tmp_path / "data", lambda row: row)
    for path in (data / "logs").glob(f"{ACTIONS}.db*"):
        path.unlink()
    assert "tidemark ingest" in refused_skew("check", data=data)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--feature", "revisits_clik_all_7d_count"], 2, "did you mean 'revisits_click_all_7d_count'"),
        (["--from", "2024-02-01", "--to", "2024-01-01"], 2, "must end after it begins"),
        (["--from", "yesterday"], 2, "ISO 8601"),
        (["--from=--123456789"], 2, "ISO 8601"),
        (["--to", "9" * 30], 2, "ISO 8601"),
        (["--every", "nan"], 2, "no number"),
        (["--sample", "0"], 2, "neither a number of records above 0 nor a share"),
        (["--sample", "150%"], 2, "neither"),
        (["--html", "no/such/place/skew.html"], 1, "there is no directory"),
        (["--metrics-file", "no/such/place/skew.prom"], 1, "there is no directory"),
        (["--metrics-port", "0"], 2, "--every"),
        (["--every", "5", "--to", "2024-01-01"], 2, "--every has no end"),
    ],
)
def test_options_that_make_no_sense(sound: Path, options: list[str], code: int, words: str) -> None:
    done = skew("check", *options, data=sound, code=code)
    assert words in done.err
    assert "Traceback" not in done.err


def test_a_page_that_is_a_directory(sound: Path, tmp_path: Path) -> None:
    assert skew("check", "--html", tmp_path, data=sound, code=2).err


@pytest.mark.parametrize("option", ["--html", "--metrics-file"])
def test_a_pipe_is_no_file_to_replace(sound: Path, tmp_path: Path, option: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in refused_skew("check", option, tmp_path / "pipe", data=sound)
    assert (tmp_path / "pipe").is_fifo()


def test_rows_that_are_none_of_served(drill: Drill, tmp_path: Path) -> None:
    data = drill.data(tmp_path / "data")
    with LocalLog.open(data / "logs", SERVED, PARTITIONS) as log:
        log.append([(0, pa.record_batch({"timestamp": [1], "secret": ["x"]}))])
    assert "none of SERVED's" in refused_skew("check", data=data)
    assert settings_of(data).partitions == PARTITIONS
