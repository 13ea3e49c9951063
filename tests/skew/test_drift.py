"""`tidemark skew drift`: what moved, by how much, and between what."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.features import PIN_COUNTERS, SEQUENCE_FIELDS, TOPIC_STATS, USER_COUNTERS
from flows.open_log import open_log
from flows.outputs import SERVED
from flows.served import Status
from flows.settings import DAY_MS
from flows.skew.drift import ENOUGH, MOVED, MOVING, drift
from flows.skew.names import VIEWS
from flows.skew.served import Chosen, Question
from flows.skew.sides import Kept, Side
from flows.skew.training import FINGERPRINT
from flows.state.actions_task import state_fingerprint
from tests.skew.conftest import refused_skew, settings_of, skew


def by_name(said: dict[str, Any]) -> dict[str, Any]:
    return {one["feature"]: one for one in said["features"]}


def training_set(sound: Path, path: Path, full: bool = True, metadata: dict[bytes, bytes] | None = None) -> Path:
    """What was served, as `get_historical_features` would give it: lists of names, and nulls where there is nothing."""
    settings = settings_of(sound)
    vocabulary = settings.load_vocabulary()
    names = {"action": vocabulary.action_names(), "surface": vocabulary.surface_names()}
    columns: dict[str, Any] = {}

    def put(kind: str, feature: str, values: pa.Array) -> None:
        columns[f"{VIEWS[kind]}__{feature}" if full else feature] = values

    with open_log(settings, SERVED, read_only=True) as log:
        (served,) = Chosen(log, Question()).stretches()
    # Whoever was served nine days after the newest event: what was served is of then.
    columns["event_timestamp"] = pa.array(served.as_of + 9 * DAY_MS, pa.int64()).cast(pa.timestamp("ms")).cast(pa.timestamp("us", "UTC"))
    columns["tidemark_as_of"] = pa.array(served.as_of, pa.int64())
    offsets = pa.array(served.sequence_offsets.astype(np.int32))
    for field in SEQUENCE_FIELDS:
        values = served.sequence[field].tolist()
        named = pa.array([names[field][value] for value in values] if field in names else values)
        put("sequence", f"sequence_{field}", pa.ListArray.from_arrays(offsets, named))
    none = ~served.user_counters.any(axis=1)
    for i, name in enumerate(USER_COUNTERS):
        put("user", name, pa.array(served.user_counters[:, i], mask=none))
    first = served.pin_offsets[:-1]
    missing = served.topic_status[served.topic_offsets[:-1]] != Status.FOUND
    if full:
        for i, name in enumerate(PIN_COUNTERS):
            put("pin", name, pa.array(served.pin_counters[first, i], mask=served.pin_status[first] != Status.FOUND))
    else:
        columns["user_id"] = pa.array(served.user_id)
    for i, (name, _) in enumerate(TOPIC_STATS):
        put("topic", name, pa.array(served.topic_stats[served.topic_offsets[:-1], i], mask=missing))
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata) if metadata else table, path, row_group_size=50)
    return path


def test_nothing_has_moved_from_a_period_to_itself(sound: Path) -> None:
    said = skew("drift", "--reference", "..", "--json", "--fail-above", 0.001, data=sound).json()
    assert {one["psi"] for one in said["features"]} == {0}
    assert {one["ks"] for one in said["features"] if "ks" in one} == {0}
    assert {one["verdict"] for one in said["features"]} == {"stable"}
    assert said["thresholds"] == {"moving": MOVING, "moved": MOVED}


def test_a_training_set_of_what_was_served_has_not_moved(sound: Path, tmp_path: Path) -> None:
    said = skew("drift", "--training", training_set(sound, tmp_path / "train.parquet"), "--json", data=sound).json()
    found = by_name(said)
    # Of seven pins of a request the training set has the first.
    assert {one["psi"] for name, one in found.items() if not name.startswith("pin_")} == {0}
    assert found["user_action_sequence:length"]["reference"] == found["user_action_sequence:length"]["current"]
    counter = found["user_revisit_counters:revisits_click_all_7d_count"]
    assert counter["reference"] == counter["current"]
    assert 0 < counter["reference"]["nonzero"] < counter["reference"]["found"] < 1
    assert counter["reference"]["null"] == pytest.approx(1 - counter["reference"]["found"])
    assert found["user_action_sequence:action"]["shares"]["save"]["reference"] > 0


def test_names_alone_mean_the_entity_that_is_there(sound: Path, tmp_path: Path) -> None:
    said = skew("drift", "--training", training_set(sound, tmp_path / "train.parquet", full=False), "--json", data=sound).json()
    found = by_name(said)
    assert found["user_revisit_counters:revisits_click_all_7d_count"]["psi"] == 0
    assert found["pin_revisit_counters:revisits_click_all_7d_count"]["psi"] is None


def test_what_moved_fails_a_build(sound: Path) -> None:
    whole = skew("check", "--json", data=sound).json()
    middle = (whole["first_request"] + whole["last_request"]) // 2
    options = ("--reference", f"..{middle}", "--current", f"{middle}..")
    done = skew("drift", *options, "--json", "--fail-above", MOVED, data=sound, code=1)
    said = done.json()
    # A population that has just begun to save: counts of saves have grown.
    assert by_name(said)["topic_revisit_stats:saves_90d_count"]["psi"] > MOVED
    psis = [one["psi"] for one in said["features"] if one["psi"] is not None]
    assert psis == sorted(psis, reverse=True)
    assert "have moved by more than a PSI of 0.2" in done.err
    assert said["records"]["reference"] + said["records"]["current"] == whole["records"]
    assert skew("drift", *options, "--fail-above", 1e6, data=sound).code == 0


def test_a_few_records_say_nothing_of_what_moved(sound: Path) -> None:
    last = skew("check", "--json", data=sound).json()["last_request"]
    options = ("--reference", f"..{last}", "--current", f"{last}..")
    said = skew("drift", *options, "--json", data=sound).json()
    assert said["records"]["current"] < ENOUGH
    assert said["too_few"]
    shown = skew("drift", *options, data=sound).out
    assert "too few to say what moved" in shown
    assert not re.search(r"\bmoved \(", shown)


def test_actions_over_time(sound: Path) -> None:
    said = skew("drift", "--reference", "..", "--json", data=sound).json()
    rows = said["actions_over_time"]["rows"]
    assert len(rows) > 3
    assert [row["from"] for row in rows] == sorted({row["from"] for row in rows})
    shares = by_name(said)["user_action_sequence:action"]["shares"]
    assert sum(side["reference"] for side in shares.values()) == pytest.approx(1)
    assert set(rows[0]["entries"]) == set(shares)
    assert all(row["psi"] >= 0 for row in rows)


def test_mixed_fingerprints_are_refused_unless_asked_for(mistaken: Path) -> None:
    assert "--any-fingerprint" in refused_skew("drift", "--reference", "..", data=mistaken)
    assert skew("drift", "--reference", "..", "--any-fingerprint", data=mistaken).code == 0


def test_a_training_set_of_another_fingerprint_is_refused_unless_asked_for(sound: Path, tmp_path: Path) -> None:
    settings = settings_of(sound)
    mark = state_fingerprint(settings, settings.load_vocabulary()).encode()
    ours = training_set(sound, tmp_path / "ours.parquet", metadata={FINGERPRINT: mark})
    others = training_set(sound, tmp_path / "others.parquet", metadata={FINGERPRINT: b"0123456789abcdef"})
    assert skew("drift", "--training", ours, data=sound).code == 0
    assert "0123456789abcdef" in refused_skew("drift", "--training", others, data=sound)
    assert skew("drift", "--training", others, "--any-fingerprint", data=sound).code == 0


def test_files_that_are_no_training_set(sound: Path, tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no parquet")
    pq.write_table(pa.table({"colour": ["red"]}), tmp_path / "colours.parquet")
    assert "can't read training set" in refused_skew("drift", "--training", tmp_path / "text.parquet", data=sound)
    assert "can't read training set" in refused_skew("drift", "--training", tmp_path / "none.parquet", data=sound)
    assert "no column of any feature" in refused_skew("drift", "--training", tmp_path / "colours.parquet", data=sound)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--reference", "..", "--fail-above", "nan"], 2, "no number"),
        ([], 2, "--reference FROM..TO, or --training FILE"),
        (["--reference", "..", "--training", "f.parquet"], 2, "--reference FROM..TO, or --training FILE"),
        (["--reference", "2024-01-02..2024-01-01"], 2, "must end after it begins"),
        (["--reference", "2024-01-02"], 2, "is no period"),
        (["--reference", "1990-01-01..1990-01-02"], 1, "holds no rows"),
        (["--reference", "..", "--html", "no/such/place/drift.html"], 1, "there is no directory"),
    ],
)
def test_what_makes_no_sense(sound: Path, options: list[str], code: int, words: str) -> None:
    done = skew("drift", *options, data=sound, code=code)
    assert words in done.err
    assert "Traceback" not in done.err


@given(st.integers(1, 60), st.lists(st.integers(1, 40), max_size=12))
def test_what_is_kept_is_bounded_and_the_same_in_any_cut(most: int, cuts: list[int]) -> None:
    rows = np.arange(sum(cuts), dtype=np.float64).reshape(-1, 1)
    whole, parts = Kept(1, most), Kept(1, most)
    if len(rows):
        whole.add(rows)
    at = 0
    for size in cuts:
        parts.add(rows[at : at + size])
        at += size
    assert whole.rows().tolist() == parts.rows().tolist()
    assert len(whole.rows()) <= most


def test_sides_without_an_entry_in_any_sequence() -> None:
    unknown, known = Side("unknown users", records=1), Side("known users", records=1)
    for side in (unknown, known):
        side.actions_at[0] = Counter()
    assert not len(drift(unknown, unknown).over_time.starts)
    known.actions["save"] = known.actions_at[0]["save"] = 2
    for sides in ((unknown, known), (known, unknown)):
        assert drift(*sides).over_time.counts.tolist() == [[2]]
