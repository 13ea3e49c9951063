"""The closed loop as a study: rows are what a naive reading of the events says, and arms differ by their ranking alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from flows.examples.record import HEADS, Kind
from flows.settings import DAY_MS, HOUR_MS
from flows.simulate.closed_loop import ClosedLoop, Requests
from flows.simulate.table import SURFACES
from online_model.evaluation.command import evaluate
from online_model.learner.config import LearnerConfig
from online_model.learner.step import Step
from online_model.studies import closed_loop, reacting
from online_model.studies.bases import Base, Window, base_of
from online_model.studies.closed_loop import by_lot, by_truth, model_of
from online_model.studies.reacting import Reacted, by_rows, in_order, reacted
from online_model.studies.reactions import Reactions, candidates_of
from online_model.studies.running import run
from online_model.studies.stream import Stream, site_of
from tests.studies.conftest import TINY

BEGIN = TINY.days.moment("evaluate")
PLAN = replace(TINY, seeds=(1,), days=replace(TINY.days, until=5))
LEARNER = LearnerConfig(learning_rate=0.5)


@pytest.fixture(scope="module")
def site(stream: Stream) -> ClosedLoop:
    return ClosedLoop(site_of(stream.plan), BEGIN)


@pytest.fixture(scope="module")
def base(stream: Stream, work: Path) -> Base:
    days = TINY.days
    model, training = TINY.of_seed(1)
    window = Window(days.moment("train"), days.moment("calibrate"), days.moment("evaluate"))
    return base_of(stream, window, model_of(model), training, work / "bases")


def rows_of(site: ClosedLoop, length_ms: int, days: int) -> tuple[dict[str, list[Any]], list[dict[str, Any]], dict[tuple[str, int], int]]:
    """Examples of some days ranked by lot, in columns; the events they came from; and the slot of each pin of each request."""
    loop, rank, reactions = site.anew(), by_lot(5), Reactions()
    columns: dict[str, list[Any]] = {}
    events: list[dict[str, Any]] = []
    slot: dict[tuple[str, int], int] = {}
    for requests in loop.slices(length_ms):
        slots = rank(requests)
        reaction = loop.react(requests, slots)
        rows = reactions.examples(requests, slots, reaction)
        for name in ("ready_time", "kind", "user_id", "pin_id", "surface", "request_time", "impression_time", "slot", "labels"):
            columns.setdefault(name, []).extend(getattr(rows, name).tolist())
        columns.setdefault("request_id", []).extend(rows.request_id.to_pylist())
        events += reaction.events.to_pylist()
        for request, pins, places in zip(requests.request_id.to_pylist(), requests.candidates.tolist(), slots.tolist(), strict=True):
            slot |= {(request, pin): place for pin, place in zip(pins, places, strict=True)}
        if requests.until_ms >= BEGIN + days * DAY_MS:
            break
    return columns, events, slot


def test_rows_are_what_a_naive_reading_of_the_events_says(site: ClosedLoop) -> None:
    columns, events, slot = rows_of(site, HOUR_MS, 2)
    wanted = [event for event in events if event["request_id"] is not None and event["action"] in ("impression", *HEADS)]
    assert len(wanted) == len(columns["kind"]) > 500
    request_time = {event["request_id"]: None for event in wanted}
    for i, event in enumerate(wanted):
        seen = event["action"] == "impression"
        assert columns["kind"][i] == (Kind.NEGATIVE if seen else Kind.POSITIVE)
        assert columns["labels"][i] == [0 if seen else 1 if head == event["action"] else -1 for head in HEADS]
        assert [columns[name][i] for name in ("user_id", "pin_id", "request_id")] == [event[n] for n in ("user_id", "pin_id", "request_id")]
        assert columns["surface"][i] == SURFACES[event["surface"]]
        assert columns["slot"][i] == slot[event["request_id"], event["pin_id"]]
        assert columns["ready_time"][i] == event["timestamp"]
        known = request_time[event["request_id"]] = request_time[event["request_id"]] or columns["request_time"][i]
        assert columns["request_time"][i] == known < event["event_time"]
        if seen:
            assert columns["impression_time"][i] == event["event_time"]
    assert {tuple(labels).index(1) for labels in columns["labels"] if 1 in labels} == {0, 1, 2, 3}


def test_how_long_slices_are_changes_no_row(site: ClosedLoop) -> None:
    assert rows_of(site, HOUR_MS, 1)[0] == rows_of(site, 6 * HOUR_MS, 1)[0]


def test_candidates_are_scored_in_the_order_of_requests(site: ClosedLoop) -> None:
    requests = site.anew().requests(BEGIN + 6 * HOUR_MS)
    rows, width = candidates_of(requests), requests.candidates.shape[1]
    assert len(rows) == len(requests) * width
    for i in range(0, len(rows), 37):
        assert rows.user_id[i] == requests.user_id[i // width]
        assert rows.pin_id[i] == requests.candidates[i // width, i % width]
        assert rows.surface[i] == SURFACES[requests.surface[i // width].as_py()]
        assert rows.request_time[i] == requests.request_time[i // width]


def test_slots_are_in_the_order_of_scores() -> None:
    assert in_order(np.array([[0.1, 0.5, 0.3], [2.0, 1.0, 2.0]])).tolist() == [[2, 0, 1], [0, 2, 1]]


def test_who_learns_ranks_by_what_had_arrived_before(site: ClosedLoop, base: Base) -> None:
    """Each slice's slots are those of rows that were learned anew, from the beginning, of all slices before."""
    seen: list[tuple[Requests, np.ndarray]] = []
    step = Step(base.ranker, base.tables(), LEARNER)
    rank = by_rows(base, step.tables)

    def watched(requests: Requests) -> np.ndarray:
        seen.append((requests, rank(requests)))
        return seen[-1][1]

    end = BEGIN + 36 * HOUR_MS
    learned = reacted(site.anew(), watched, 12 * HOUR_MS, end, step)
    loop, reactions, again = site.anew(), Reactions(), Step(base.ranker, base.tables(), LEARNER)
    for requests, slots in seen:
        assert np.array_equal(slots, by_rows(base, again.tables)(requests))
        rows = reactions.examples(requests, slots, loop.react(requests, slots))
        for low in range(0, len(rows), LEARNER.batch_rows):
            again.learn(rows.take(np.arange(low, min(low + LEARNER.batch_rows, len(rows)))))
    assert len(seen) == 3
    unlearned = by_rows(base, base.tables())
    assert np.array_equal(seen[0][1], unlearned(seen[0][0]))
    assert not np.array_equal(seen[-1][1], unlearned(seen[-1][0]))
    assert learned.saves.sum() > 0


@pytest.mark.parametrize("policy", [by_lot(3), None])
def test_slices_change_nothing_for_who_does_not_learn(
    site: ClosedLoop, base: Base, policy: Callable[[Requests], np.ndarray] | None
) -> None:
    end = BEGIN + DAY_MS
    one, other = (reacted(site.anew(), policy or by_rows(base, base.tables()), length, end) for length in (HOUR_MS, DAY_MS))
    assert np.array_equal(one.saves, other.saves)
    assert np.array_equal(one.revisits, other.revisits)


def test_rates_are_per_user_day_and_follow_the_weights_of_users() -> None:
    one = Reacted(days=np.array([1, 3]), saves=np.array([4, 2]), revisits=np.array([0, 1]))
    assert one.under(np.array([[1, 2, 0], [1, 0, 1]], np.float32)).tolist() == [[6 / 4, 4.0, 2 / 3], [1 / 4, 0.0, 1 / 3]]
    told = one.told()[reacting.USER_DAY]
    assert (told.rows, told.metrics["saves"].value, told.metrics["revisits"].value) == (4, 1.5, 0.25)


@pytest.fixture(scope="module")
def found(work: Path) -> dict[str, Any]:
    return run(closed_loop.STUDY, PLAN, work)


def test_the_study_says_every_arm_and_its_control(found: dict[str, Any]) -> None:
    assert set(found["results"]) == {"saves_learner_over_no_learner", "saves_learner_over_no_learner_still"}
    for name, world in found["worlds"].items():
        assert list(world["arms"]) == ["random", "no-learner", "learner"]
        rates = {arm: of["user-day"]["saves"]["value"] for arm, of in world["arms"].items()}
        assert max(rates.values()) < world["best"]["user-day"]["saves"]["value"]
        told = world["differences"]["learner_over_no_learner"]["heads"]["user-day"]["saves"]
        assert told["value"] == pytest.approx(rates["learner"] - rates["no-learner"])
        assert told["low"] <= told["value"] <= told["high"]
        key = "saves_learner_over_no_learner" + ("" if name == "drifting" else "_still")
        assert found["results"][key]["value"] == told["value"]
    json.dumps(found, allow_nan=False)


def test_arms_have_the_same_users_and_days(site: ClosedLoop) -> None:
    truth = site.anew()
    lot, again, best = (
        reacted(loop, rank, HOUR_MS, BEGIN + DAY_MS)
        for loop, rank in ((site.anew(), by_lot(1)), (site.anew(), by_lot(1)), (truth, by_truth(truth)))
    )
    for other in (again, best):
        assert np.array_equal(other.days, lot.days)
    assert np.array_equal(again.saves, lot.saves)
    assert best.saves.sum() > 1.2 * lot.saves.sum()


def test_a_study_that_is_run_again_reacts_to_nothing_again(
    found: dict[str, Any], work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ClosedLoop", "Step", "reacted"):
        monkeypatch.setattr(f"online_model.studies.closed_loop.{name}", None)
    assert run(closed_loop.STUDY, PLAN, work) == found
    monkeypatch.setattr("online_model.studies.closed_loop.STUDY", replace(closed_loop.STUDY, quick=PLAN))
    page = tmp_path / "page.html"
    options = ["closed-loop", "--quick", "--work", str(work), "--html", str(page)]
    shown = CliRunner().invoke(evaluate, options, catch_exceptions=False)
    assert "user-day saves" in shown.output
    assert "user-days of" in shown.output
    assert "learner_over_no_learner" in page.read_text()
    printed = CliRunner().invoke(evaluate, [*options, "--json"], catch_exceptions=False)
    assert json.loads(printed.output) == {**found, "quick": True}
