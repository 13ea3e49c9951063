"""Worlds: the default one is that of before, each kind of drift is as large as it says, and the chances are those that were drawn from."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from flows.errors import SettingsError
from flows.events import MAX_EVENT_TIME
from flows.settings import DAY_MS, HOUR_MS
from flows.simulate import Parameters, World, load_world, simulate
from flows.simulate.chances import HEAD_NAMES, area
from flows.simulate.numbers import Hashed, Leaning, key_of
from flows.simulate.parameters import START_MS
from flows.simulate.population import FIRST_USER_ID
from flows.simulate.site import Site
from flows.simulate.table import CLOSEUP, GRID_CLICK, NONE, SAVE
from tests.processes import front_door

SMALL: dict[str, Any] = {"users": 300, "pins": 200, "days": 20, "events": 6_000, "seed": 11}
QUICK: dict[str, Any] = {"users": 800, "pins": 300, "days": 14, "events": 60_000, "seed": 5}
CHANGING = World(fresh_pins=0.5, new_users=0.4, fresh_burst=40)


@pytest.fixture(scope="module")
def drifting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("drifting")
    return out, simulate(out, **QUICK, world=load_world("drifting")[1], chances=True)


def content(out: Path) -> str:
    """A digest of what the files say, propensities (floats) aside."""
    digest = hashlib.sha256()
    for path in sorted(out.iterdir()):
        said = pq.read_table(path).to_pylist() if path.suffix == ".parquet" else path.read_text()
        if path.name == "served.parquet":
            said = [{k: v for k, v in row.items() if k != "propensities"} for row in said]
        digest.update(json.dumps([path.name, said], sort_keys=True).encode())
    return digest.hexdigest()


def well(out: Path) -> pd.DataFrame:
    """The well-formed events, each once."""
    events = pd.concat([pd.read_parquet(p) for p in sorted(out.glob("events-0*.parquet"))])
    events = events[events.user_id.notna() & events.pin_id.notna() & events.event_time.between(0, MAX_EVENT_TIME)]
    events = events[(events.event_time <= events.arrival_time + 5 * 60_000) & ~(events.duration_ms < 0) & (events.schema_version == 1)]
    events = events[~events.action.isin(["teleport"]) & ~events.surface.isin(["moonbase"])]
    return events.drop_duplicates("event_id").astype({"user_id": "int64", "pin_id": "int64"})


# ---- what stays ------------------------------------------------------------------------------------------------------------------------


def test_the_default_world_is_that_of_before(tmp_path: Path) -> None:
    """Digests of what the simulator wrote before there were worlds: benchmarks and reports of then stay comparable."""
    simulate(tmp_path / "small", **SMALL)
    simulate(tmp_path / "tiny", users=3, pins=4, days=2, events=300, partitions=64)
    assert content(tmp_path / "small") == "ecd727d2cf38e222199e7be25205ac4c313909732fe3ddeae1998620e4f8edbc"
    assert content(tmp_path / "tiny") == "2895aec6980cdeaaa3ca71cb558c334fe4fe9a2660424b33f3aa388d7fa0da80"


def test_a_change_in_one_stage_does_not_reshuffle_the_others(tmp_path: Path) -> None:
    usual = World()
    simulate(tmp_path / "usual", **SMALL, world=usual)
    simulate(tmp_path / "wanders", **SMALL, world=replace(usual, appeal_drift=0.5, head_spread=0.4, user_spread=0.4))
    simulate(tmp_path / "returns", **SMALL, world=replace(usual, revisit_spread=1.0))
    a, b, c = (tmp_path / name for name in ("usual", "wanders", "returns"))
    assert (a / "served.parquet").read_bytes() == (b / "served.parquet").read_bytes() == (c / "served.parquet").read_bytes()

    def columns(out: Path) -> pd.DataFrame:
        events = well(out)
        seen = events[events.request_id.notna()].sort_values(["request_id", "pin_id", "action"])
        return seen[["request_id", "pin_id", "action", "event_time", "duration_ms"]].reset_index(drop=True)

    pd.testing.assert_frame_equal(columns(a), columns(c))
    assert not columns(a).equals(columns(b))


def test_the_truth_names_the_world_unless_it_is_the_default(drifting: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    _, truth = drifting
    assert World(**truth["world"]) == load_world("drifting")[1]
    assert "world" not in simulate(tmp_path, **SMALL)


# ---- what drifts -----------------------------------------------------------------------------------------------------------------------


def test_interests_change_as_often_as_they_are_told_to() -> None:
    parameters = Parameters(users=200, pins=50, days=30, events=500)
    everybody = np.arange(200)

    def at(drift: float, age: float) -> np.ndarray:
        site = Site.draw(replace(parameters, world=World(interest_drift=drift)))
        return site.users.mixture(everybody, np.full(200, START_MS + int(age * 30 * DAY_MS)), 30)

    begin = at(1, 0)
    assert np.array_equal(at(0, 0), begin)
    assert np.array_equal(at(0, 0.99), begin)
    # A third of the way with one change is where three have been gone once; half of one is the middle.
    assert np.allclose(at(0.5, 0.5), 0.75 * begin + 0.25 * at(1, 1), atol=1e-6)
    assert np.allclose(at(3, 1 / 3), at(1, 1), atol=1e-6)
    assert np.abs(at(3, 2 / 3) - at(1, 1)).mean() > 0.01
    assert np.abs(at(3, 0.666) - at(3, 0.667)).max() < 0.01
    for drift in (0, 0.5, 1, 2.5, 7):
        assert np.allclose(at(drift, 0.77).sum(axis=1), 1, atol=1e-5)


def test_appeal_wanders_by_its_deviation_and_forgets_by_its_half_life() -> None:
    world = World(appeal_drift=0.6, appeal_half_life=48)
    walk = Site.draw(Parameters(users=10, pins=4_000, days=20, events=100, world=world)).appeal.walk
    assert walk is not None
    assert walk.shape == (20 * 24, 4_000)
    logs = np.log(walk.astype(np.float64))
    for hour in (0, 100, 479):
        assert logs[hour].std() == pytest.approx(0.6, abs=0.03)
        assert logs[hour].mean() == pytest.approx(0, abs=0.04)
    for lag, kept in ((1, 0.5 ** (1 / 48)), (48, 0.5), (96, 0.25)):
        assert np.corrcoef(logs[200], logs[200 + lag])[0, 1] == pytest.approx(kept, abs=0.05)


def test_a_pins_own_appeal_is_of_the_spread_that_is_asked_for() -> None:
    site = Site.draw(
        Parameters(users=4_000, pins=4_000, days=9, events=100, world=World(appeal_spread=0.8, head_spread=0.4, user_spread=0.5))
    )
    assert np.log(site.pins.quality).std() == pytest.approx(0.8, abs=0.03)
    own, readiness = site.appeal.own, site.appeal.readiness
    assert own is not None
    assert readiness is not None
    assert np.log(own).std(axis=1) == pytest.approx([0.4, 0.6, 0.3, 0.5], abs=0.03)
    assert np.log(readiness).std(axis=1) == pytest.approx([0.5] * 4, abs=0.03)
    assert np.abs(np.corrcoef(np.log(own)) - np.eye(4)).max() < 0.06


def test_nothing_is_seen_and_nobody_acts_before_they_are_there(tmp_path: Path) -> None:
    parameters = Parameters(**QUICK, world=CHANGING)
    simulate(tmp_path, **QUICK, world=CHANGING)
    site = Site.draw(parameters)
    assert site.pins.born is not None
    assert site.users.born is not None
    pin_born = dict(zip(site.pins.ids.tolist(), site.pins.born.tolist(), strict=True))
    served = pd.read_parquet(tmp_path / "served.parquet")
    assert all(max(pin_born[p] for p in row) <= time for row, time in zip(served.candidates, served.request_time, strict=True))
    assert all(len(set(row)) == 10 for row in served.candidates)
    events = well(tmp_path)
    assert (events.pin_id.map(pin_born) <= events.event_time).all()
    assert (site.users.born[events.user_id - FIRST_USER_ID] <= events.event_time).all()

    # As many as asked for, evenly spread, and they do take part.
    for born, share, span in ((site.pins.born, 0.5, 14), (site.users.born, 0.4, 13)):
        later = born[born > START_MS]
        assert len(later) == pytest.approx(share * len(born), abs=3)
        quarters = np.histogram(later, bins=4, range=(START_MS, START_MS + span * DAY_MS))[0]
        assert np.ptp(quarters) <= 3
    assert (served.user_id.map(lambda u: site.users.born[u - FIRST_USER_ID]) > START_MS).mean() > 0.1


def test_fresh_pins_have_their_burst() -> None:
    def seen(burst: float) -> tuple[float, float]:
        """Candidatures per hour of a fresh pin in its first day, and after five days."""
        site = Site.draw(Parameters(**QUICK | {"events": 200_000, "pins": 4_000}, world=World(fresh_pins=0.1, fresh_burst=burst)))
        born = site.pins.born
        assert born is not None
        fresh = born[site.served.candidates]
        age = np.where(fresh > START_MS, site.served.time[:, None] - fresh, -1)
        pins = [np.count_nonzero((born > START_MS) & (born < START_MS + (14 - days) * DAY_MS)) for days in (1, 7)]
        first = np.count_nonzero((age >= 0) & (age < DAY_MS) & (fresh < START_MS + 13 * DAY_MS)) / pins[0] / 24
        later = np.count_nonzero((age >= 5 * DAY_MS) & (age < 7 * DAY_MS) & (fresh < START_MS + 7 * DAY_MS)) / pins[1] / 48
        return first, later

    first, later = seen(40)
    # 40 times as popular at first, halved each 17 hours: 20 times over the first day, less what comes by chance and not for its popularity.
    assert 8 < first / later < 25
    first, later = seen(0)
    assert 0.5 < first / later < 2


# ---- what could be known -----------------------------------------------------------------------------------------------------------------


def outcomes(out: Path) -> pd.DataFrame:
    """The chances of each pin shown, and beside them in columns `did_…` what came of it."""
    chances = pd.read_parquet(out / "truth-chances.parquet")
    events = well(out)
    for head in HEAD_NAMES[:-1]:
        did = events.loc[(events.action == head) & events.request_id.notna(), ["request_id", "pin_id"]].assign(**{f"did_{head}": 1})
        chances = chances.merge(did, on=["request_id", "pin_id"], how="left")
    return chances.fillna(0)


@pytest.mark.parametrize("head", HEAD_NAMES[:-1])
def test_things_happen_as_often_as_the_chances_say(head: str, drifting: tuple[Path, dict[str, Any]]) -> None:
    rows = outcomes(drifting[0])
    assert rows[head].between(0, 1).all()
    for _, part in rows.groupby(pd.qcut(rows[head].rank(method="first"), 10), observed=True):
        expected, deviation = part[head].sum(), float((part[head] * (1 - part[head])).sum()) ** 0.5
        assert part[f"did_{head}"].sum() == pytest.approx(expected, abs=4 * deviation + 1)


def test_saves_are_come_back_to_as_often_as_the_chances_say(drifting: tuple[Path, dict[str, Any]]) -> None:
    out, truth = drifting
    rows = outcomes(out)
    saves = well(out).query("action == 'save'")[["event_id", "request_id"]]
    labels = pd.read_parquet(out / "truth-labels.parquet").merge(saves, on="event_id")
    labels = labels[labels.matured].merge(rows, on=["request_id", "pin_id"])
    came = labels[["label_1dRevImpre", "label_1dRevGrid", "label_7dRevGrid"]].any(axis=1)
    chance = labels.revisit / labels.save
    for _, part in came.groupby(pd.qcut(chance, 5), observed=True):
        expected = chance[part.index]
        assert part.sum() == pytest.approx(expected.sum(), abs=4 * float((expected * (1 - expected)).sum()) ** 0.5)
    assert came[chance > chance.quantile(0.8)].mean() > 2 * came[chance < chance.quantile(0.2)].mean()
    # Who comes back differs; how many do is as published.
    for name, want in (("label_1dRevImpre", 25.8), ("label_1dRevGrid", 4.7), ("label_7dRevGrid", 9.0)):
        assert truth["labels_matured"][name]["percent"] == pytest.approx(want, abs=1.0)


def test_chances_are_what_a_naive_reading_of_the_world_gives(tmp_path: Path) -> None:
    world = World(appeal_drift=0.5, head_spread=0.3, user_spread=0.4, interest_drift=3, fresh_pins=0.3)
    simulate(tmp_path, **SMALL, world=world, chances=True)
    site = Site.draw(Parameters(**SMALL, world=world))
    index = {pin: i for i, pin in enumerate(site.pins.ids.tolist())}
    rows = pq.read_table(tmp_path / "truth-chances.parquet").to_pylist()
    served = {r["request_id"]: r for r in pq.read_table(tmp_path / "served.parquet").to_pylist()}
    shown = {
        (r["request_id"], p): s for r in served.values() for p, s, seen in zip(r["candidates"], r["slots"], r["shown"], strict=True) if seen
    }
    assert {(r["request_id"], r["pin_id"]): r["slot"] for r in rows} == shown

    shares = {"click": 0.02, "long_click": 0.012, "save": 0.052, "hide": 0.004}
    weights: dict[str, list[float]] = {head: [] for head in shares}
    for r in rows:
        request, pin = served[r["request_id"]], index[r["pin_id"]]
        user = request["user_id"] - FIRST_USER_ID
        gone = (request["request_time"] - START_MS) / (20 * DAY_MS) * 3
        way = int(gone)
        fit = (1 - (gone - way)) * site.users.interests[way, user, site.pins.topic[pin]]
        fit += (gone - way) * site.users.interests[way + 1, user, site.pins.topic[pin]]
        liking = math.sqrt(12 * fit) * site.pins.quality[pin] / (1 + 0.15 * r["slot"])
        liking = min(5.0, liking * site.appeal.walk[(request["request_time"] - START_MS) // HOUR_MS, pin])
        for i, head in enumerate(shares):
            base = 1 / (0.2 + liking) if head == "hide" else liking
            weights[head].append(float(base * site.appeal.own[i, pin] * site.appeal.readiness[i, user]))
    saved: dict[tuple[int, int], list[int]] = {}
    for save in well(tmp_path).query("action == 'save'").to_dict("records"):
        saved.setdefault((save["user_id"], save["pin_id"]), []).append(save["event_time"])
    again = 0
    for head, share in shares.items():
        for r, weight in zip(rows, weights[head], strict=True):
            request = served[r["request_id"]]
            expected = min(1.0, weight * share * 6_000 / sum(weights[head])) if weight else 0.0
            if head == "save":
                times = saved.get((request["user_id"], r["pin_id"]), [])
                if any(0 < request["request_time"] - t < 8 * DAY_MS for t in times):
                    expected, again = 0.0, again + 1
            assert r[head] == pytest.approx(expected, rel=1e-4)
    assert again > 0


def test_the_best_auc_is_that_of_the_chances(drifting: tuple[Path, dict[str, Any]]) -> None:
    out, truth = drifting
    rows = outcomes(out)
    for head in HEAD_NAMES[:-1]:
        did = rows[f"did_{head}"] == 1
        assert truth["best"][head]["positives"] == pytest.approx(did.sum(), rel=0.01)
        assert truth["best"][head]["auc"] == pytest.approx(area(rows[head].to_numpy(), did.to_numpy()), abs=0.005)
    aucs = [truth["best"][head]["auc"] for head in HEAD_NAMES]
    assert min(aucs) > 0.65
    assert truth["best"]["hide"]["auc"] == min(aucs)


def test_area_counts_pairs() -> None:
    rng = np.random.default_rng(3)
    score, positive = rng.integers(0, 6, 80).astype(float), rng.random(80) < 0.3
    pairs = [(a > b) + (a == b) / 2 for a in score[positive] for b in score[~positive]]
    assert area(score, positive) == pytest.approx(sum(pairs) / len(pairs))
    assert area(score, np.zeros(80, bool)) is None


def test_chances_of_another_simulation_do_not_stay(tmp_path: Path) -> None:
    simulate(tmp_path, **SMALL, chances=True)
    assert (tmp_path / "truth-chances.parquet").exists()
    truth = simulate(tmp_path, **SMALL)
    assert not (tmp_path / "truth-chances.parquet").exists()
    assert "best" not in truth


# ---- numbers ---------------------------------------------------------------------------------------------------------------------------


def test_hashed_numbers_are_even_and_follow_from_their_keys() -> None:
    keys = key_of(7, np.arange(20_000))
    rows = np.arange(20_000)
    a, b = Hashed(keys), Hashed(keys[::-1].copy())
    first, second = a.uniform(rows), a.uniform(rows)
    assert np.array_equal(first, b.uniform(rows)[::-1])
    assert np.array_equal(b.uniform(rows[:5]), second[::-1][:5])
    for numbers in (first, second, a.uniform(rows, rows % 7), a.table(rows, 2)[:, 1]):
        assert np.histogram(numbers, bins=10, range=(0, 1))[0] == pytest.approx([2_000] * 10, abs=4 * 45)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    whole = a.whole(rows, 3, 7)
    assert (whole.min(), whole.max()) == (3, 6)
    closeups = a.lasting(CLOSEUP, rows)
    assert np.median(closeups) == pytest.approx(math.exp(8.5), rel=0.05)
    assert a.lasting(GRID_CLICK, rows) == NONE
    assert a.lasting(SAVE, rows) == NONE


def test_leaning_keeps_the_rate_and_says_whose_it_is() -> None:
    rng = np.random.default_rng(4)
    lean, weight = rng.normal(0.3, 1.0, 200_000), rng.random(200_000)
    leaning = Leaning(lean, weight)
    taken = rng.choice(len(lean), 200_000, p=weight / weight.sum())
    rows = np.arange(200_000)
    numbers = Hashed(key_of(rows)).even(rows, np.zeros(200_000, int), lean[taken], leaning)
    for share in (0.047, 0.09, 0.5):
        assert (numbers < share).mean() == pytest.approx(share, rel=0.04)
        for low in (-1.5, 0.5):
            part = (lean[taken] > low) & (lean[taken] < low + 1)
            assert (numbers[part] < share).mean() == pytest.approx(leaning.chance(share, lean[taken][part]).mean(), rel=0.08)


# ---- files and options -------------------------------------------------------------------------------------------------------------------


def test_the_control_differs_in_drift_alone() -> None:
    sizes, drifting = load_world("drifting")
    others, still = load_world("still")
    assert sizes == others
    assert (still.interest_drift, still.appeal_drift, still.fresh_pins, still.new_users) == (0, 0, 0, 0)
    alike = ("head_spread", "user_spread", "revisit_spread", "candidates")
    assert [getattr(still, name) for name in alike] == [getattr(drifting, name) for name in alike]
    assert still.appeal_spread == pytest.approx(math.hypot(drifting.appeal_spread, drifting.appeal_drift), abs=0.01)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("weather = 1", "'weather' is no parameter of a world"),
        ("users = 2.5", "'users' is 2.5; it must be a whole number"),
        ("fresh_pins = 'many'", "'fresh_pins' is 'many'; it must be a number from 0 to 0.9"),
        ("new_users = 1", "'new_users' is 1; it must be a number from 0 to 0.9"),
        ("appeal_drift = nan", "'appeal_drift' is nan"),
        ("candidates = 3", "'candidates' is 3; it must be a whole number from 4 to 500"),
        ("users = ", "is no TOML"),
    ],
)
def test_a_world_that_makes_no_sense_is_refused_by_name(text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(SettingsError, match=r"mine\.toml") as refused:
        load_world(tmp_path / "mine.toml")
    assert said in str(refused.value)
    done = front_door(
        "simulate", "--world", tmp_path / "mine.toml", "--out", tmp_path / "out", data=tmp_path / "data", monkeypatch=monkeypatch, code=2
    )
    assert said in done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_world_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(SettingsError, match="there is no such world; name one of drifting, still"):
        load_world("sunny")


def test_appeal_that_does_not_fit_into_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"takes more than a GiB; simulate at most \d+ pins"):
        simulate(tmp_path, users=10, pins=40_000, days=3_000, events=100, world=World(appeal_drift=0.1))


def test_options_have_the_last_word_over_the_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = front_door(
        *("simulate", "--users", 90, "--world", "still", "--events", 2_000, "--days", 10, "--pins", 60, "--fresh-pins", 0.2, "--chances"),
        *("--json", "--out", tmp_path / "out"),
        data=tmp_path / "data",
        monkeypatch=monkeypatch,
    )
    truth = json.loads(done.out)
    assert [truth["parameters"][name] for name in ("users", "pins", "days", "events", "seed")] == [90, 60, 10, 2_000, 7]
    assert World(**truth["world"]) == replace(load_world("still")[1], fresh_pins=0.2)
    assert set(truth["best"]) == set(HEAD_NAMES)
