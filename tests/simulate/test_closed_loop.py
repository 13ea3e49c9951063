"""The closed loop: what users do depends on the ranking and on nothing else, and equal rankings get equal reactions."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from flows.events import EVENT_SCHEMA
from flows.settings import DAY_MS, HOUR_MS
from flows.simulate import Parameters, load_world, simulate
from flows.simulate.chances import HEAD_NAMES
from flows.simulate.closed_loop import ClosedLoop, Outcomes, Requests
from flows.simulate.numbers import key_of, unit
from flows.simulate.output import SERVED_SCHEMA
from flows.simulate.parameters import START_MS

SIZES: dict[str, Any] = {"users": 600, "pins": 250, "days": 18, "events": 40_000, "seed": 4}
PARAMETERS = Parameters(**SIZES, world=load_world("drifting")[1])
KEYS = ["request_id", "pin_id"]

Policy = Callable[[ClosedLoop, Requests], np.ndarray]


def ranked(score: np.ndarray) -> np.ndarray:
    """Slots by score, the greatest first."""
    return np.argsort(np.argsort(-score, axis=1, kind="stable"), axis=1, kind="stable")


def by_chance(seed: int) -> Policy:
    """A policy that knows nothing, and ranks a request in the same way in whatever slice it comes."""
    return lambda _, requests: ranked(unit(key_of(seed, requests.request_time[:, None], requests.candidates)))


def by_truth(_: ClosedLoop, requests: Requests) -> np.ndarray:
    return ranked(_.chances(requests)[:, :, HEAD_NAMES.index("save")])


def run(policy: Policy, length_ms: int = 6 * HOUR_MS, parameters: Parameters = PARAMETERS) -> tuple[pa.Table, pa.Table, Outcomes]:
    """All events, all that was served, and the outcomes."""
    loop = ClosedLoop(parameters)
    reactions = [loop.react(requests, policy(loop, requests)) for requests in loop.slices(length_ms)]
    return pa.concat_tables(r.events for r in reactions), pa.concat_tables(r.served for r in reactions), loop.outcomes()


def same(a: Outcomes, b: Outcomes) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("user_id", "days", "saves", "revisits"))


@pytest.fixture(scope="module")
def first() -> tuple[pa.Table, pa.Table, Outcomes]:
    return run(by_chance(1))


@pytest.fixture(scope="module")
def second() -> tuple[pa.Table, pa.Table, Outcomes]:
    return run(by_chance(2))


@pytest.fixture(scope="module")
def informed() -> tuple[pa.Table, pa.Table, Outcomes]:
    return run(by_truth)


def shown(served: pa.Table) -> pd.DataFrame:
    """A row for each pin that was shown."""
    rows = served.to_pandas()[["request_id", "user_id", "request_time", "candidates", "slots", "shown"]]
    rows = rows.explode(["candidates", "slots", "shown"])
    return rows[rows.shown.astype(bool)].rename(columns={"candidates": "pin_id"}).drop(columns="shown").astype({"pin_id": "int64"})


# ---- nothing but the ranking matters ------------------------------------------------------------------------------------------------------


def test_the_same_policy_gets_the_same_bytes(first: tuple[pa.Table, pa.Table, Outcomes]) -> None:
    def written(table: pa.Table) -> bytes:
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table.unify_dictionaries().combine_chunks())
        return sink.getvalue()

    again = run(by_chance(1))
    assert [written(t) for t in again[:2]] == [written(t) for t in first[:2]]
    assert same(again[2], first[2])


@pytest.mark.parametrize("length_ms", [2 * HOUR_MS, 5 * DAY_MS + 7, 400 * DAY_MS])
def test_the_length_of_slices_changes_nothing(length_ms: int, first: tuple[pa.Table, pa.Table, Outcomes]) -> None:
    events, served, outcomes = run(by_chance(1), length_ms)
    assert events.to_pylist() == first[0].to_pylist()
    assert served.to_pylist() == first[1].to_pylist()
    assert same(outcomes, first[2])


def test_another_seed_is_another_world(first: tuple[pa.Table, pa.Table, Outcomes]) -> None:
    other = run(by_chance(1), parameters=replace(PARAMETERS, seed=5))
    assert not set(other[0]["event_id"].to_pylist()) & set(first[0]["event_id"].to_pylist())


def test_arms_that_differ_in_what_nobody_sees_are_identical(first: tuple[pa.Table, pa.Table, Outcomes]) -> None:
    def turned_round_below(loop: ClosedLoop, requests: Requests) -> np.ndarray:
        slots = by_chance(1)(loop, requests)
        seen = requests.shown[:, None]
        return np.where(slots < seen, slots, slots.shape[1] - 1 - slots + seen)

    events, served, outcomes = run(turned_round_below)
    assert served["slots"].to_pylist() != first[1]["slots"].to_pylist()
    assert events.to_pylist() == first[0].to_pylist()
    assert same(outcomes, first[2])


def test_a_pin_in_a_slot_gets_the_same_reaction_under_two_policies(
    first: tuple[pa.Table, pa.Table, Outcomes], second: tuple[pa.Table, pa.Table, Outcomes]
) -> None:
    alike = shown(first[1]).merge(shown(second[1]), on=[*KEYS, "slots", "user_id", "request_time"])
    assert 500 < len(alike) < 0.2 * len(shown(first[1]))

    def did(events: pa.Table, action: str) -> pd.DataFrame:
        rows = events.to_pandas()
        rows = rows[(rows.action == action) & rows.request_id.notna()].merge(alike, on=[*KEYS, "user_id"])
        return rows[["event_id", *KEYS, "event_time", "duration_ms", "timestamp"]].sort_values(KEYS).reset_index(drop=True)

    for action in ("impression", "closeup", "grid_click", "click", "long_click", "hide"):
        a, b = did(first[0], action), did(second[0], action)
        assert len(a) > 0
        pd.testing.assert_frame_equal(a, b)
    # A save also depends on whether the user has saved the pin of late, and so on what was shown before.
    a, b = (set(map(tuple, did(arm[0], "save")[KEYS].to_numpy().tolist())) for arm in (first, second))
    assert len(a & b) > 20
    saved = [arm[0].to_pandas().query("action == 'save'") for arm in (first, second)]
    for request, pin in a ^ b:
        one = alike[(alike.request_id == request) & (alike.pin_id == pin)].iloc[0]
        before = pd.concat(s[(s.user_id == one.user_id) & (s.pin_id == pin) & (s.request_id != request)] for s in saved)
        assert (before.event_time - one.request_time).between(-8 * DAY_MS, 0).any()


def test_what_comes_back_of_a_save_is_the_same_under_two_policies(
    first: tuple[pa.Table, pa.Table, Outcomes], second: tuple[pa.Table, pa.Table, Outcomes]
) -> None:
    saves, visits = [], []
    for events, _, _ in (first, second):
        rows = events.to_pandas()
        saves.append(rows[rows.action == "save"])
        visits.append(rows[rows.surface == "own_profile"])
    alike = saves[0].merge(saves[1], on=["event_id", "request_id", "user_id", "pin_id", "event_time"])
    # A pin that a user has saved once in either arm, at the same time.
    once = [s.groupby(["user_id", "pin_id"]).size().loc[lambda n: n == 1].index for s in saves]
    pairs = pd.MultiIndex.from_frame(alike[["user_id", "pin_id"]]).intersection(once[0]).intersection(once[1])
    assert len(pairs) > 50

    def of_pairs(rows: pd.DataFrame) -> pd.DataFrame:
        rows = rows[pd.MultiIndex.from_frame(rows[["user_id", "pin_id"]]).isin(pairs)]
        return rows[["user_id", "pin_id", "action", "event_time", "duration_ms"]].sort_values(["user_id", "pin_id", "event_time"])

    a, b = (of_pairs(v).reset_index(drop=True) for v in visits)
    assert len(a) > 20
    pd.testing.assert_frame_equal(a, b)


# ---- the ranking does matter ------------------------------------------------------------------------------------------------------------


def test_who_ranks_by_true_appeal_gets_more(
    first: tuple[pa.Table, pa.Table, Outcomes], second: tuple[pa.Table, pa.Table, Outcomes], informed: tuple[pa.Table, pa.Table, Outcomes]
) -> None:
    a, b, best = (arm[2].per_user_day() for arm in (first, second, informed))
    assert abs(a["saves"] - b["saves"]) < 0.1 * a["saves"]
    assert best["saves"] > 1.4 * max(a["saves"], b["saves"])
    assert best["revisits"] > 1.3 * max(a["revisits"], b["revisits"])
    assert np.array_equal(first[2].days, informed[2].days)


def test_reactions_are_as_likely_as_they_are_said_to_be() -> None:
    loop = ClosedLoop(PARAMETERS)
    requests = loop.requests(loop.end_ms)
    slots = by_chance(3)(loop, requests)
    events = loop.react(requests, slots).events.to_pandas()
    chances = loop.chances(requests)
    top = slots == 0
    rows = pd.DataFrame({"request_id": requests.request_id.to_pylist(), "pin_id": requests.candidates[top]})
    for head in ("click", "long_click", "hide"):
        did = events[(events["action"] == head) & events.request_id.notna()][KEYS].assign(did=1)
        both = rows.assign(chance=chances[top][:, HEAD_NAMES.index(head)]).merge(did, on=KEYS, how="left").fillna(0)
        for _, part in both.groupby(pd.qcut(both.chance, 4), observed=True):
            expected, deviation = part.chance.sum(), float((part.chance * (1 - part.chance)).sum()) ** 0.5
            assert part.did.sum() == pytest.approx(expected, abs=4 * deviation + 1)


def test_the_policy_of_the_open_simulation_gets_what_it_gets_there(tmp_path: Path) -> None:
    simulate(tmp_path, **SIZES, world=PARAMETERS.world, late_rate=0, duplicate_rate=0, bad_rate=0)
    there = pd.read_parquet(tmp_path / "events-0000.parquet")
    served = pd.read_parquet(tmp_path / "served.parquet")
    slots = dict(zip(served.request_id, served.slots, strict=True))
    events, here, _ = run(lambda loop, requests: np.stack([slots[r] for r in requests.request_id.to_pylist()]))

    # The same site: requests, candidates, what is shown.
    assert here.schema == SERVED_SCHEMA
    assert (
        here.drop_columns("propensities").to_pylist()
        == pa.Table.from_pandas(served, SERVED_SCHEMA).drop_columns("propensities").to_pylist()
    )
    assert set(map(float, here["propensities"].combine_chunks().flatten().unique().to_pylist())) == {1.0}
    frame = events.to_pandas()
    for action in ("closeup", "grid_click", "click", "long_click", "save", "hide"):
        a, b = (int(((f.action == action) & f.request_id.notna()).sum()) for f in (frame, there))
        assert a == pytest.approx(b, abs=4 * (2 * b) ** 0.5)
    # There a few of the visits are of pins that nobody saved.
    came = []
    for rows in (frame, there):
        saved = rows[rows.action == "save"][["user_id", "pin_id"]].drop_duplicates()
        visits = rows[(rows.surface == "own_profile") & rows.action.isin(["impression", "grid_click"])]
        came.append(len(visits.merge(saved, on=["user_id", "pin_id"])) / len(saved))
    assert came[0] == pytest.approx(came[1], rel=0.1)
    saves = frame[frame.action == "save"]
    saves = saves[saves.event_time < START_MS + 10 * DAY_MS].drop_duplicates(["user_id", "pin_id"], keep=False)
    clicked = frame[(frame.surface == "own_profile") & (frame.action == "grid_click")].merge(saves, on=["user_id", "pin_id"])
    clicked = clicked[(clicked.event_time_x - clicked.event_time_y).between(1, 7 * DAY_MS - 1)].event_id_y.nunique()
    assert clicked / len(saves) == pytest.approx(0.09, abs=0.03)


# ---- what comes out ----------------------------------------------------------------------------------------------------------------------


def test_events_are_those_of_the_contract_and_come_when_they_have_arrived() -> None:
    loop = ClosedLoop(PARAMETERS)
    begin, newest = START_MS, 0
    for requests in loop.slices(12 * HOUR_MS):
        assert ((requests.request_time >= begin) & (requests.request_time < requests.until_ms)).all()
        events = loop.react(requests, by_chance(1)(loop, requests)).events
        assert events.schema == EVENT_SCHEMA
        arrival = events["timestamp"].to_numpy()
        assert (np.diff(arrival, prepend=newest) >= 0).all()
        assert (arrival >= begin).all()
        assert (arrival < requests.until_ms).all() or requests.until_ms >= loop.end_ms
        assert ((arrival - events["event_time"].to_numpy()) > 0).all()
        begin, newest = requests.until_ms, int(arrival[-1])
    assert begin >= loop.end_ms


def test_events_fit_together(informed: tuple[pa.Table, pa.Table, Outcomes]) -> None:
    frame = informed[0].to_pandas()
    assert frame.event_id.is_unique
    assert (frame.event_time < PARAMETERS.end_ms).all()
    impressions = frame[(frame.action == "impression") & frame.request_id.notna()]
    rows = shown(informed[1])
    assert len(impressions) == len(rows) == len(impressions.merge(rows, on=[*KEYS, "user_id"]))
    saves = frame[frame.action == "save"].sort_values(["user_id", "pin_id", "event_time"])
    gaps = saves.groupby(["user_id", "pin_id"]).event_time.diff().dropna()
    assert len(gaps) > 20
    assert gaps.min() >= 8 * DAY_MS
    visits = frame[(frame.surface == "own_profile")].merge(saves, on=["user_id", "pin_id"], suffixes=("", "_save"))
    ages = visits.event_time - visits.event_time_save
    assert visits[ages.between(1, 7 * DAY_MS - 1)].event_id.nunique() == (frame.surface == "own_profile").sum()


def test_outcomes_count_what_came_out(informed: tuple[pa.Table, pa.Table, Outcomes]) -> None:
    events, served, outcomes = informed
    frame, requests = events.to_pandas(), served.to_pandas()
    days = requests.assign(day=requests.request_time // DAY_MS).groupby("user_id").day.nunique()
    assert dict(zip(outcomes.user_id, outcomes.days, strict=True)) == days.to_dict()
    saves = frame[frame.action == "save"].groupby("user_id").size()
    revisits = frame[(frame.surface == "own_profile") & frame.action.isin(["impression", "grid_click"])].groupby("user_id").size()
    assert dict(zip(outcomes.user_id, outcomes.saves, strict=True)) == saves.reindex(outcomes.user_id, fill_value=0).to_dict()
    assert dict(zip(outcomes.user_id, outcomes.revisits, strict=True)) == revisits.reindex(outcomes.user_id, fill_value=0).to_dict()
    assert outcomes.per_user_day() == {"saves": saves.sum() / days.sum(), "revisits": revisits.sum() / days.sum()}


def test_a_loop_can_begin_later_with_the_same_requests(first: tuple[pa.Table, pa.Table, Outcomes]) -> None:
    begin = START_MS + 10 * DAY_MS + 1
    loop = ClosedLoop(PARAMETERS, begin)
    requests = loop.requests(begin + DAY_MS)
    served = loop.react(requests, by_chance(1)(loop, requests)).served
    there = first[1].to_pandas()
    there = there[there.request_time.between(begin, begin + DAY_MS - 1)]
    assert served.to_pandas().request_id.tolist() == there.request_id.tolist()
    assert loop.outcomes().days.sum() == len(there.assign(day=there.request_time // DAY_MS)[["user_id", "day"]].drop_duplicates())


def test_propensities_are_written_as_they_are_given() -> None:
    loop = ClosedLoop(PARAMETERS)
    requests = loop.requests(START_MS + DAY_MS)
    given = np.full(requests.candidates.shape, 1 / 20)
    served = loop.react(requests, by_chance(1)(loop, requests), given).served
    assert np.array_equal(np.array(served["propensities"].to_pylist()), given)


def test_what_is_no_ranking_is_refused() -> None:
    loop = ClosedLoop(PARAMETERS)
    requests = loop.requests(START_MS + DAY_MS)
    slots = by_chance(1)(loop, requests)
    for wrong in (slots[:-1], np.zeros_like(slots), slots + 1):
        with pytest.raises(ValueError, match="slots must be the numbers 0 to 19"):
            loop.react(requests, wrong)
    loop.react(requests, slots)
    with pytest.raises(ValueError, match="not the next ones"):
        loop.react(requests, slots)


def test_a_loop_that_begins_anew_knows_nothing_of_the_policy_before(first: tuple[pa.Table, pa.Table, Outcomes]) -> None:
    loop, length = ClosedLoop(PARAMETERS), 12 * HOUR_MS

    def go(one: ClosedLoop, policy: Policy, slices: int) -> list[pa.Table]:
        return [one.react(requests, policy(one, requests)).events for requests, _ in zip(one.slices(length), range(slices), strict=False)]

    go(loop, by_truth, 6)
    before, other = loop.outcomes(), loop.anew()
    events = pa.concat_tables(go(other, by_chance(1), 4))
    arrived = pc.less(first[0]["timestamp"], START_MS + 4 * length)
    assert events.num_rows > 1_000
    assert events.equals(first[0].filter(arrived))
    assert same(loop.outcomes(), before)
    assert not same(other.outcomes(), before)
