"""The actions kernel: equal to the oracles, however a stream is cut, saved and restored."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.kernels.actions import STRETCH, WorkingSet
from flows.kernels.layout import ACCEPTED, BAD, DUPLICATE, FUTURE, LABEL_COLUMNS, NEVER
from flows.kernels.rows import fold_sums, sort_rows
from flows.past import tiles_of
from tests.kernels.playing import DAY, HOUR, LIMITS, SURFACES, Played, columns, play, topic_ids
from tests.oracles.decide import decide
from tests.oracles.features import credited, saves
from tests.oracles.records import T, click, log, save, seen
from tests.strategies import adversarial, hot_user, random_stream, streams

NAMES = {ACCEPTED: "accepted", BAD: "bad", DUPLICATE: "duplicate", FUTURE: "future_time"}
LIMIT_SETS = [LIMITS, (0, 0, 0), (2 * HOUR, 1_000, 0), (1_000, 2 * HOUR, 30 * DAY), (30 * DAY, 30 * DAY, 60_000), (DAY, 0, HOUR)]


def check_equals_the_oracle(events: pd.DataFrame, played: Played, limits: tuple[int, int, int] = LIMITS) -> None:
    decided = decide(events, *limits)
    assert [NAMES[s] for s in played.status] == decided["status"].tolist()
    behind = decided["w_before"].fillna(0).astype("int64") - decided["event_time"]
    assert played.lateness.tolist() == np.where(decided["late"], behind, 0).tolist()
    accepted = decided.loc[decided["status"] == "accepted", "event_time"]
    assert played.working_set.watermark == (int(accepted.max()) if len(accepted) else None)

    revisits = credited(decided)
    found = revisits[revisits["save_time"].notna()]
    kind = (found["type"] == "click").astype(np.int64) + 2 * found["rp"].astype(np.int64)
    want = np.column_stack([found["pin_id"], found["user_id"], kind, found["event_time"], kind >= 0]).astype(np.int64)
    got = played.changes[:, [0, 1, 3, 2, 4]]
    assert folded(got).tolist() == folded(want).tolist()
    assert np.all(np.abs(played.changes[:, 4]) == 1)
    assert np.all(np.diff(played.changes[:, 5]) >= 0)

    firsts = {name: found[found["type"] == name].groupby("save_offset")["event_time"].min().to_dict() for name in ("impression", "click")}
    kept = saves(decided)
    topic = dict(zip(events["topic"], topic_ids(events), strict=True))
    rows = [
        [
            s.user_id,
            s.pin_id,
            s.save_time,
            s.save_event_id,
            SURFACES[s.save_surface],
            topic[s.topic],
            *(firsts[n].get(s.offset, NEVER) for n in firsts),
        ]
        for s in kept.itertuples()
    ]
    labels = np.concatenate([played.labels, played.working_set.open_labels()])
    assert sorted(labels.tolist()) == sorted(rows)
    # What has left can't change any more: each save leaves when 7 d + L have passed, in the order of arrival.
    lateness = limits[0]
    if accepted.size and len(played.labels):
        assert played.labels[:, 2].max() + 7 * DAY + lateness <= accepted.max()
    assert folded(played.tiles).tolist() == tiles_of(labels).tolist()


def folded(rows: np.ndarray) -> np.ndarray:
    keys = rows.shape[1] - 1
    return fold_sums(sort_rows(np.ascontiguousarray(rows), keys), keys)


@given(streams(60, partitions=1), st.sampled_from(LIMIT_SETS))
def test_it_equals_the_oracle(events: pd.DataFrame, limits: tuple[int, int, int]) -> None:
    check_equals_the_oracle(events, play(events, limits=limits), limits)


@pytest.mark.parametrize("limits", LIMIT_SETS)
@pytest.mark.parametrize("seed", range(6))
def test_it_equals_the_oracle_on_long_streams(seed: int, limits: tuple[int, int, int]) -> None:
    events = adversarial(seed, 400, partitions=1, lateness_ms=limits[0], horizon_ms=limits[1], skew_ms=limits[2])
    check_equals_the_oracle(events, play(events, range(0, 400, 7), range(0, 400, 31), limits), limits)


def test_it_equals_the_oracle_where_slots_are_taken_again() -> None:
    events = random_stream(7, 6_000, partitions=1, users=40, pins=30, days=60)
    check_equals_the_oracle(events, play(events, range(0, 6_000, 500), range(0, 6_000, 1_000)))


@given(streams(60, partitions=1), st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)), st.sampled_from(LIMIT_SETS))
def test_any_cut_and_any_restart_give_the_same(
    events: pd.DataFrame, cuts: set[int], restarts: set[int], limits: tuple[int, int, int]
) -> None:
    whole, cut = play(events, limits=limits), play(events, cuts, restarts, limits)
    assert cut.outputs() == whole.outputs()
    assert cut.working_set.canonical() == whole.working_set.canonical()
    assert sorted(cut.working_set.open_labels().tolist()) == sorted(whole.working_set.open_labels().tolist())


@pytest.mark.parametrize("seed", range(4))
def test_a_restart_after_every_record_gives_the_same(seed: int) -> None:
    events = adversarial(seed, 300, partitions=1)
    whole, cut = play(events), play(events, range(300), range(300))
    assert cut.outputs() == whole.outputs()
    assert cut.working_set.canonical() == whole.working_set.canonical()


def test_saving_is_pure_and_restoring_is_faithful() -> None:
    events = adversarial(5, 300, partitions=1)
    working_set = play(events).working_set
    data, canonical = working_set.to_bytes(), working_set.canonical()
    assert working_set.to_bytes() == data
    again = WorkingSet(*LIMITS)
    again.restore(data)
    assert again.canonical() == working_set.canonical() == canonical
    assert (again.watermark, again.arrival) == (working_set.watermark, working_set.arrival)
    assert again.to_bytes() == data


def test_an_empty_one_is_saved_too() -> None:
    working_set = WorkingSet(*LIMITS)
    again = WorkingSet(*LIMITS)
    again.restore(working_set.to_bytes())
    assert again.watermark is again.arrival is None
    assert again.canonical() == working_set.canonical()
    assert again.open_labels().shape == (0, len(LABEL_COLUMNS))


def test_judging_leaves_its_arguments_alone() -> None:
    arrays = columns(adversarial(3, 200, partitions=1))
    copies = [a.copy() for a in arrays]
    for a in arrays:
        a.flags.writeable = False
    WorkingSet(*LIMITS).judge(*arrays)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, copies, strict=True))


# Edges that random streams seldom reach ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("early", "credited_to_it"), [(1, True), (0, False), (-1, False)])
def test_a_save_that_waits_behind_a_younger_one_is_no_longer_kept(early: int, credited_to_it: bool) -> None:
    """The older save arrived last, so it leaves the working set later than its time says: that must not show."""
    minute = 60_000
    younger, older = save(20 * minute), save(0)
    moves = {"action": "closeup", "user_id": 8}
    events = log(younger, older, {**save(7 * DAY + HOUR - early), **moves}, seen(10 * minute, timestamp=T + 8 * DAY))
    played = play(events)
    check_equals_the_oracle(events, played)
    assert len(played.changes) == credited_to_it


@pytest.mark.parametrize(("after", "taken"), [(0, False), (1, True), (2, True)])
def test_a_revisit_waits_for_its_save_as_long_as_one_may_come(after: int, taken: bool) -> None:
    """At W the earliest save that isn't late is at W - L; a revisit just after it is remembered, one at that time is not needed."""
    watermark = {**save(HOUR), "action": "closeup", "user_id": 8}
    events = log(watermark, click(after, timestamp=T + HOUR), save(0, timestamp=T + HOUR))
    played = play(events)
    check_equals_the_oracle(events, played)
    assert len(played.changes) == taken
    assert play(events, restarts=[1, 2]).outputs() == played.outputs()


def test_an_id_that_is_accepted_again_is_remembered_anew() -> None:
    """Its first time waits behind a younger one to be forgotten; that must not take the second one along."""
    minute = 60_000
    moves = {"action": "closeup", "user_id": 8}
    again = {**save(61 * minute), "event_id": 50}
    events = log(
        {**save(30 * minute), **moves},
        {**save(0, timestamp=T + 30 * minute), "event_id": 50},
        {**save(61 * minute), **moves},
        again,
        {**save(91 * minute), **moves},
        {**again, "timestamp": T + 91 * minute},
    )
    played = play(events)
    assert played.status.tolist() == [ACCEPTED] * 5 + [DUPLICATE]
    check_equals_the_oracle(events, played)
    assert play(events, restarts=range(6)).outputs() == played.outputs()


@pytest.mark.parametrize(("age", "taken"), [(7 * DAY - 1, True), (7 * DAY, False)])
def test_a_save_takes_over_no_revisit_that_is_7_days_later(age: int, taken: bool) -> None:
    """Only where L is more than 7 days can a save come so long after its revisit."""
    events = log(click(age), save(0, timestamp=T + age))
    limits = (30 * DAY, HOUR, 0)
    played = play(events, limits=limits)
    check_equals_the_oracle(events, played, limits)
    assert len(played.changes) == taken


def test_one_save_may_take_over_any_number_of_revisits() -> None:
    """More changes than records: a save that arrives last takes thousands of revisits from another, of another scope."""
    n = 5_000
    early, taker = save(0, surface="related_pins", topic="x"), save(1, timestamp=T + 59 * 60_000, topic="y")
    revisits = [(click if i % 2 else seen)(60_000 + i) for i in range(n)]
    events = log(early, *revisits, taker)
    played = play(events)
    assert len(played.changes) == 3 * n
    check_equals_the_oracle(events, played)
    assert play(events, restarts=[n // 2, n + 1]).outputs() == played.outputs()


def test_one_hot_pair() -> None:
    events = hot_user(4_000, seed=2, partitions=1)
    events["pin_id"] = 5
    check_equals_the_oracle(events, play(events, [1_000], [2_500]))


def test_what_has_passed_is_forgotten() -> None:
    """Under a steady stream the working set doesn't grow: everything is dropped when it can't change anything any more."""
    records = []
    for i in range(20_000):
        records += [save(i * HOUR, pin_id=i, user_id=i % 50), click(i * HOUR + 1, pin_id=i, user_id=i % 50)]
    events = log(*records)
    working_set = play(events, range(0, len(events), 1_000)).working_set
    assert len(working_set.to_bytes()) < 50_000
    parts = (
        working_set.ids,
        working_set.pairs,
        working_set.buckets,
        working_set.saves,
        working_set.nodes,
        working_set.held,
        working_set.seen,
    )
    assert max(len(part) for part in parts) <= 4 * STRETCH


def test_arrival_beyond_all_time_makes_no_record_future() -> None:
    events = log(save(0, timestamp=2**63 - 1), click(5, timestamp=2**63 - 1))
    assert play(events).status.tolist() == [ACCEPTED, ACCEPTED]


# What a later record may change is part of the canonical content; else two states that differ later would have one digest.


def changed(working_set: WorkingSet, array: str, row: int, column: int) -> bytes:
    content = getattr(working_set, array)
    content[row, column] += 1
    canonical = working_set.canonical()
    content[row, column] -= 1
    return canonical


def test_any_single_change_shows_in_the_canonical_content() -> None:
    events = log(
        save(0, topic="x"),
        save(0, pin_id=71, surface="related_pins"),
        seen(10),
        click(20),
        seen(2 * DAY),
        click(3 * DAY),
        click(3 * DAY, pin_id=71),
    )
    working_set = play(events).working_set
    canonical = working_set.canonical()
    for slot in working_set.open[1 : 1 + working_set.open[0, 1], 1]:
        for column in (0, 1, 2, 3, 7, 8, 9):  # time, ID, surface, topic, firsts, related
            assert changed(working_set, "saves", slot, column) != canonical, ("save", column)
    for queue in (working_set.recent, working_set.held):
        for slot in queue[1 : 1 + queue[0, 1], 1]:
            for column in (0, 1):  # time, click
                assert changed(working_set, "nodes", slot, column) != canonical, ("node", column)
    assert working_set.held[0, 1] >= 2
    for i in range(working_set.seen[0, 1]):
        if working_set.seen[1 + i, 2] >= working_set.watermark - HOUR:
            for column in range(3):
                assert changed(working_set, "seen", 1 + i, column) != canonical, ("seen", column)
    for scalar in range(2):
        working_set.scalars[scalar] += 1
        assert working_set.canonical() != canonical
        working_set.scalars[scalar] -= 1
    assert working_set.canonical() == canonical
