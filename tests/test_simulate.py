"""The simulator: same seed, same bytes; rates near the published ones; a truth that a naive reading of docs/semantics.md arrives at too."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.errors import SettingsError
from flows.events import EVENT_SCHEMA, MAX_EVENT_TIME
from flows.settings import DAY_MS, HOUR_MS
from flows.simulate import load_world, output, simulate
from flows.simulate.malformed import bad_lines
from flows.simulate.published import CLICKS_BY_DAY, PUBLISHED, first_click_by_day, repeat_click_by_day

ACTIONS = {"impression", "closeup", "click", "long_click", "save", "hide", "grid_click"}
SURFACES = {"homefeed", "related_pins", "search", "own_profile", "notification", "other"}
FIELDS = ["event_id", "user_id", "pin_id", "action", "surface", "event_time", "duration_ms", "schema_version", "arrival_time"]
# Much disorder in a small population, so that rare cases are there.
ROUGH: dict[str, Any] = {
    "users": 600,
    "pins": 60,
    "days": 40,
    "events": 30_000,
    "seed": 3,
    "partitions": 3,
    "late_rate": 0.3,
    "out_of_order_rate": 0.3,
    "duplicate_rate": 0.05,
    "bad_rate": 0.02,
}


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("usual")
    return out, simulate(out, events=200_000)


@pytest.fixture(scope="module")
def rough(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("rough")
    return out, simulate(out, **ROUGH)


@pytest.fixture(scope="module")
def drifting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("drifting")
    _, world = load_world("drifting")
    return out, simulate(out, users=800, pins=300, days=14, events=60_000, world=world)


def digests(out: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.iterdir())}


def read_events(out: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(p) for p in sorted(out.glob("events-*.parquet"))], promote_options="default")


# ---- a naive reading of the contract -------------------------------------------------------------------------------------------------


def murmur2(data: bytes) -> int:
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = (0x9747B28C ^ len(data)) & mask
    whole = len(data) // 4 * 4
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = h * m & mask ^ k
    if rest := data[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


def reason_of(r: dict[str, Any], arrival: float, skew: int) -> str | None:
    required = ("event_id", "user_id", "pin_id", "action", "event_time")
    if any(r.get(name) is None for name in required):
        return "missing_field"
    whole = ("event_id", "user_id", "pin_id", "event_time", "duration_ms", "schema_version")
    if any(r.get(n) is not None and (type(r[n]) is not int or not -(2**63) <= r[n] < 2**63) for n in whole) or type(r["action"]) is not str:
        return "wrong_type"
    if r["action"] not in ACTIONS:
        return "unknown_action"
    if (r.get("surface") or "other") not in SURFACES:
        return "unknown_surface"
    if not 0 <= r["event_time"] <= MAX_EVENT_TIME:
        return "impossible_time"
    if (r.get("duration_ms") or 0) < 0:
        return "negative_duration"
    if r.get("schema_version", 1) != 1:
        return "unknown_schema_version"
    return "future_time" if r["event_time"] > arrival + skew else None


def judge(out: Path, parameters: dict[str, Any]) -> dict[str, Any]:
    """Counts and labels, record by record."""
    lateness, horizon, skew = (parameters[n] for n in ("allowed_lateness_ms", "dedup_horizon_ms", "clock_skew_ms"))
    counts: dict[str, int] = defaultdict(int)
    bad: dict[str, int] = defaultdict(int)
    arrival: dict[int, int] = defaultdict(int)
    watermark: dict[int, float] = defaultdict(lambda: float("-inf"))
    seen: dict[tuple[int, int], int] = {}
    saves: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    revisits: list[tuple[dict[str, Any], float]] = []
    partitions: dict[int, int] = {}
    for r in read_events(out).select(FIELDS).to_pylist():
        user = r["user_id"]
        p = 0 if user is None else partitions.get(user)
        if p is None:
            p = partitions[user] = (murmur2(str(user).encode()) & 0x7FFFFFFF) % parameters["partitions"]
        arrival[p] = max(arrival[p], r["arrival_time"])
        if reason := reason_of(r, arrival[p], skew):
            bad[reason] += 1
            continue
        w, t, key = watermark[p], r["event_time"], (user, r["event_id"])
        if key in seen and seen[key] >= w - horizon:
            counts["duplicates"] += 1
            continue
        seen[key] = t
        counts["accepted"] += 1
        counts[r["action"]] += 1
        late = t < w - lateness
        counts["late"] += late
        watermark[p] = max(w, t)
        if r["action"] == "save" and not late:
            saves[user, r["pin_id"]].append(r | {"partition": p, "imp": [], "click": []})
        if r["surface"] == "own_profile" and r["action"] in ("impression", "grid_click"):
            revisits.append((r, w))
    for r, w in revisits:
        week = 7 * DAY_MS
        near = [s for s in saves[r["user_id"], r["pin_id"]] if s["event_time"] < r["event_time"] < s["event_time"] + week]
        able = [s for s in near if s["event_time"] + week + lateness > w]
        counts["forgotten"] += len(near) - len(able)
        if able:
            latest = max(able, key=lambda s: (s["event_time"], s["event_id"]))
            latest["imp" if r["action"] == "impression" else "click"].append(r["event_time"])
            counts["credited"] += 1
    rows = [
        {
            "event_id": s["event_id"],
            "user_id": s["user_id"],
            "pin_id": s["pin_id"],
            "save_time": s["event_time"],
            "save_surface": s["surface"],
            "label_1dRevImpre": any(t < s["event_time"] + DAY_MS for t in s["imp"]),
            "label_1dRevGrid": any(t < s["event_time"] + DAY_MS for t in s["click"]),
            "label_7dRevGrid": bool(s["click"]),
            "first_revisit_time": min(s["imp"] + s["click"], default=None),
            "matured": s["event_time"] + 7 * DAY_MS + lateness <= watermark[s["partition"]],
            "clicked_days": {(t - s["event_time"]) // DAY_MS for t in s["click"]},
        }
        for group in saves.values()
        for s in group
    ]
    return {"counts": dict(counts), "bad": dict(bad), "saves": sorted(rows, key=lambda s: (s["save_time"], s["event_id"]))}


@pytest.mark.parametrize("which", ["usual", "rough", "drifting"])
def test_truth_is_what_a_naive_reading_finds(which: str, request: pytest.FixtureRequest) -> None:
    out, truth = request.getfixturevalue(which)
    naive = judge(out, truth["parameters"])
    for name in ("accepted", "late", "duplicates"):
        assert truth["records"][name] == naive["counts"][name]
    assert truth["bad_in_parquet"] == naive["bad"]
    assert truth["events_by_action"] == {a: naive["counts"][a] for a in truth["events_by_action"]}
    assert truth["revisits"]["credited"] == naive["counts"]["credited"]

    labels = pq.read_table(out / "truth-labels.parquet").drop_columns(["topic"]).to_pylist()
    assert labels == [{k: v for k, v in s.items() if k != "clicked_days"} for s in naive["saves"]]
    matured = [s for s in naive["saves"] if s["matured"]]
    assert truth["saves"] == len(labels)
    assert truth["matured"] == len(matured)
    for name in ("label_1dRevImpre", "label_1dRevGrid", "label_7dRevGrid"):
        assert truth["labels"][name]["count"] == sum(s[name] for s in naive["saves"])
        assert truth["labels_matured"][name]["count"] == sum(s[name] for s in matured)
    for day, found in truth["click_revisits_by_day"].items():
        assert found["count"] == sum(int(day) in s["clicked_days"] for s in matured)


def test_rough_stream_has_the_rare_cases(rough: tuple[Path, dict[str, Any]]) -> None:
    """Otherwise the comparison above would compare little."""
    out, truth = rough
    assert truth["late_saves"] > 20
    assert truth["records"]["duplicates"] > 500
    assert truth["revisits"]["credited"] < truth["revisits"]["on_own_profile"]
    assert judge(out, truth["parameters"])["counts"]["forgotten"] > 5
    assert set(truth["bad"]) >= {
        "future_time",
        "impossible_time",
        "missing_field",
        "negative_duration",
        "not_json",
        "oversize",
        "wrong_type",
    }
    events = read_events(out).to_pandas()
    well = events[events.user_id.notna() & events.pin_id.notna()]
    saves = well[well.action == "save"].drop_duplicates("event_id").sort_values(["user_id", "pin_id", "event_time"])
    gaps = saves.groupby(["user_id", "pin_id"]).event_time.diff().dropna()
    assert len(gaps) > 80
    # Malformed copies of saves aside, of which there are a few.
    assert (gaps < 8 * DAY_MS).sum() <= truth["records"]["bad"]


# ---- rates -----------------------------------------------------------------------------------------------------------------------------


def test_rates_are_near_the_published_ones(usual: tuple[Path, dict[str, Any]]) -> None:
    _, truth = usual
    assert abs(truth["records"]["accepted"] / 200_000 - 1) < 0.01
    assert 0.04 < truth["saves"] / truth["records"]["accepted"] < 0.06
    assert not truth["warnings"]
    n = truth["matured"]
    for name in ("label_1dRevImpre", "label_1dRevGrid", "label_7dRevGrid"):
        want = getattr(PUBLISHED, name)
        sampling_error = 100 * (want / 100 * (1 - want / 100) / n) ** 0.5
        assert truth["labels_matured"][name]["percent"] == pytest.approx(want, abs=sampling_error)
    for day, want in enumerate(CLICKS_BY_DAY):
        assert truth["click_revisits_by_day"][str(day)]["percent"] == pytest.approx(want, abs=0.12)
    for topic, want in PUBLISHED.topic_days_3_6_share.items():
        assert truth["topics"][topic]["matured_share"] == pytest.approx(want, abs=3.5)


def test_published_figures_hold_together() -> None:
    for topic in (*PUBLISHED.topic_days_3_6_share, "Travel", None):
        first, again = first_click_by_day(topic), repeat_click_by_day(topic)
        assert sum(first) == pytest.approx(PUBLISHED.label_7dRevGrid)
        assert all(f > 0 for f in first)
        assert again[0] == 0
        assert all(r > 0 for r in again[1:])
    assert sum(first_click_by_day("Finance")[3:]) / 9 * 100 == pytest.approx(10.56)


def test_disorder_is_as_asked(usual: tuple[Path, dict[str, Any]]) -> None:
    out, truth = usual
    records = truth["records"]
    assert records["late"] / 200_000 == pytest.approx(0.002, rel=0.25)
    assert records["duplicates"] / 200_000 == pytest.approx(0.002, rel=0.25)
    assert records["bad"] == 200
    assert records["total"] == records["accepted"] + records["duplicates"] + records["bad"]
    lines = (out / "events-bad.jsonl").read_text().splitlines()
    assert len(lines) == records["in_jsonl"] == 50
    assert (np.diff(read_events(out)["arrival_time"].to_numpy()) >= 0).all()


def test_bad_lines_have_the_reasons_that_are_counted() -> None:
    lines = bad_lines(np.random.default_rng(1), 400, np.full(400, 10**12))
    for reason, text in lines:
        assert "\n" not in text
        assert text
        if reason == "oversize":
            assert len(text) > 65_536
            continue
        try:
            record = json.loads(text)
        except json.JSONDecodeError:
            found: str | None = "not_json"
        else:
            found = reason_of(record, record["arrival_time"], 0)
        assert found == reason, text


# ---- files -----------------------------------------------------------------------------------------------------------------------------


def test_events_have_the_columns_of_the_contract(usual: tuple[Path, dict[str, Any]]) -> None:
    out, truth = usual
    file = pq.ParquetFile(out / "events-0000.parquet")
    names = ["arrival_time" if f.name == "timestamp" else f.name for f in EVENT_SCHEMA]
    assert file.schema_arrow.names == names
    assert [f.type for f in file.schema_arrow] == [f.type for f in EVENT_SCHEMA]
    events = read_events(out).to_pandas()
    good = events[events.action.isin(ACTIONS) & (events.duration_ms.isna() | (events.duration_ms >= 0))]
    assert (good[good.action == "long_click"].duration_ms > 10_000).all()
    assert good[good.action == "click"].duration_ms.between(1, 10_000).all()
    assert good[good.action == "closeup"].duration_ms.notna().all()
    assert events.event_id.nunique() == len(events) - truth["records"]["duplicates"]
    assert set(truth["topics"]) >= set(PUBLISHED.topic_days_3_6_share)


@pytest.mark.parametrize("which", ["usual", "drifting"])
def test_impressions_belong_to_a_request(which: str, request: pytest.FixtureRequest) -> None:
    out, truth = request.getfixturevalue(which)
    served = pq.read_table(out / "served.parquet").to_pandas()
    assert len(served) == truth["requests"]
    assert served.request_id.is_unique
    assert served.request_time.is_monotonic_increasing
    events = read_events(out).to_pandas()
    good = events[
        events.user_id.notna() & events.pin_id.notna() & events.action.isin(ACTIONS) & events.event_time.between(0, MAX_EVENT_TIME)
    ]
    seen = good[(good.action == "impression") & good.surface.isin(["homefeed", "related_pins", "search"])]
    assert seen.request_id.notna().all()
    shown = served[["request_id", "user_id", "surface", "request_time", "candidates", "shown"]].explode(["candidates", "shown"])
    shown = shown[shown.shown.astype(bool)].rename(columns={"candidates": "pin_id"})
    shown["pin_id"] = shown.pin_id.astype("int64")
    both = seen.astype({"pin_id": "int64", "user_id": "int64"}).merge(
        shown, on=["request_id", "user_id", "pin_id"], suffixes=("", "_served")
    )
    assert len(both) == len(seen)
    assert (both.surface.astype(str) == both.surface_served.astype(str)).all()
    delay = both.event_time - both.request_time
    assert (delay[both.event_time < both.arrival_time + 300_000] >= 0).all()
    assert len(seen.drop_duplicates(["request_id", "pin_id"])) == len(shown)


@pytest.mark.parametrize("which", ["usual", "drifting"])
def test_propensities_are_the_chances_of_the_slots(which: str, request: pytest.FixtureRequest) -> None:
    out, _ = request.getfixturevalue(which)
    served = pq.read_table(out / "served.parquet")
    slots = np.array(served["slots"].to_pylist())
    chance = np.array(served["propensities"].to_pylist())
    width = slots.shape[1]
    assert (np.sort(slots, axis=1) == np.arange(width)).all()
    assert (chance > 0).all()
    assert (chance <= 1).all()
    candidates = np.sort(np.array(served["candidates"].to_pylist()), axis=1)
    assert (np.diff(candidates, axis=1) > 0).all()
    # The mean of 1 / chance over draws is the number of candidates, in every slot, if and only if the chances are right.
    for slot in range(width):
        inverse = 1 / chance[slots == slot]
        assert inverse.mean() == pytest.approx(width, abs=4 * inverse.std() / len(inverse) ** 0.5 + 1e-9)


def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    size: dict[str, Any] = {"users": 500, "pins": 900, "days": 20, "events": 20_000}
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        simulate(tmp_path / name, seed=seed, **size)
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert a == b
    assert a.keys() == c.keys()
    assert not set(a.values()) & set(c.values())


def test_an_interrupted_simulation_is_not_whole_and_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size: dict[str, Any] = {"users": 100, "pins": 200, "days": 20, "events": 5_000}
    monkeypatch.setattr(output, "FILE_ROWS", 2_000)
    simulate(tmp_path, **size)
    before = digests(tmp_path)
    assert "events-0002.parquet" in before
    assert output.MARKER not in before

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(output, "write_labels", fail)
        with pytest.raises(KeyboardInterrupt):
            simulate(tmp_path, **size)
    assert not (tmp_path / "truth.json").exists()
    assert (tmp_path / output.MARKER).exists()
    simulate(tmp_path, **size)
    assert digests(tmp_path) == before

    simulate(tmp_path, **size | {"events": 1_000})
    assert not (tmp_path / "events-0001.parquet").exists()


def test_event_files_of_others_are_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "events-0000.parquet"
    theirs.write_bytes(b"precious")
    with pytest.raises(SettingsError, match="name another directory"):
        simulate(tmp_path, events=100)
    assert theirs.read_bytes() == b"precious"
    with pytest.raises(SettingsError, match="is a file"):
        simulate(theirs, events=100)


@pytest.mark.parametrize(
    "wrong",
    [
        {"users": 0},
        {"pins": -1},
        {"days": 0},
        {"events": 0},
        {"seed": -1},
        {"partitions": 0},
        {"late_rate": -0.1},
        {"bad_rate": float("nan")},
        {"duplicate_rate": 2},
        {"events": 1e6},
        {"clock_skew_ms": -1},
    ],
)
def test_nonsense_is_refused_by_name(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        simulate(tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "odd",
    [
        {"events": 1, "users": 1, "pins": 1, "days": 1},
        {"events": 300, "users": 3, "pins": 4, "days": 2, "partitions": 64},
        {"events": 3_000, "users": 5, "pins": 12, "days": 30, "allowed_lateness_ms": 0, "dedup_horizon_ms": 0, "clock_skew_ms": 0},
        {"events": 3_000, "users": 50, "pins": 500, "days": 30, "allowed_lateness_ms": 3 * DAY_MS, "clock_skew_ms": 10 * DAY_MS},
        {"events": 3_000, "late_rate": 0, "out_of_order_rate": 0, "duplicate_rate": 0, "bad_rate": 0, "dedup_horizon_ms": 6 * HOUR_MS},
    ],
)
def test_odd_sizes_are_true_too(odd: dict[str, Any], tmp_path: Path) -> None:
    stages: list[str] = []
    truth = simulate(tmp_path, progress=lambda stage, done, total: stages.append(stage), **odd)
    assert truth == json.loads((tmp_path / "truth.json").read_text())
    assert stages[0] == "population"
    assert stages[-1] == "write"
    naive = judge(tmp_path, truth["parameters"])
    assert truth["records"]["accepted"] == naive["counts"].get("accepted", 0)
    assert truth["records"]["late"] == naive["counts"].get("late", 0)
    assert truth["records"]["duplicates"] == naive["counts"].get("duplicates", 0)
    labels = pq.read_table(tmp_path / "truth-labels.parquet").drop_columns(["topic"]).to_pylist()
    assert labels == [{k: v for k, v in s.items() if k != "clicked_days"} for s in naive["saves"]]
    if truth["parameters"]["days"] < 8:
        assert any("too few to mature" in w for w in truth["warnings"])
        assert truth["matured"] == 0


def test_topics_add_up(usual: tuple[Path, dict[str, Any]]) -> None:
    out, truth = usual
    labels = pd.read_parquet(out / "truth-labels.parquet")
    for topic, found in truth["topics"].items():
        rows = labels[labels.topic == topic]
        assert (found["saves"], found["matured_saves"]) == (len(rows), int(rows.matured.sum()))
        assert found["clicked"] == int(rows.label_7dRevGrid.sum()) >= found["clicked_days_3_6"]
    assert labels.topic.isna().any()
