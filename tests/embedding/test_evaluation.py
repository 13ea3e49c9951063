"""An evaluation: plans and tables as they lie in the repository, what is said of an order, and the command on a file of events."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows import stopping
from flows.errors import InputError, SettingsError, TidemarkError
from flows.settings import Settings
from online_model.embedding.actions import read_actions
from online_model.embedding.evaluation import arms, findings, worlds
from online_model.embedding.evaluation.arms import Bench
from online_model.embedding.evaluation.findings import SeedRows, _figures, _in_all_seeds, _shows
from online_model.embedding.evaluation.measures import coverage
from online_model.embedding.evaluation.plan import ALL, EvaluationPlan, read_plan
from online_model.embedding.evaluation.refresh import Refresh
from online_model.embedding.evaluation.running import run
from online_model.embedding.evaluation.tables import COVERAGE, LOSS, POPULAR, RECALL, TABLES, tables_of
from online_model.embedding.evaluation.worlds import Worlds, topics_of
from online_model.embedding.positives import is_positive
from online_model.evaluation.bootstrap import weights_of
from online_model.evaluation.user_sums import weighted_sums
from online_model.training.errors import TrainingStoppedError
from tests import driving
from tests.embedding.worlds import DAY, tastes
from tests.processes import front_door
from tests.strategies import random_stream

PLAN = """
world = "events"
window_days = 0.25
evaluated = 0.4
seeds = [1, 2]
resamples = 40
lengths = [4, 8]

[embedding]
positives = ["save"]
length = 8
vector_dim = 8
dim = 8
heads = 2
hidden = 8
head_hidden = 8
output_dim = 8
samples = 4
random_negatives = 16
sketch_width = 64
epochs = 1

[types]
save = ["save"]
hide = ["hide"]

[without]
pin = ["pin"]

[quick]
seeds = [1]
embedding = { dim = 4 }
"""


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tastes of four groups, in which some saves are hides."""
    s = tastes(0, users=60, actions=20)
    action = np.where(np.arange(len(s.pin)) % 5 == 0, "hide", "save")
    table = pa.table({"user": s.user_ids[s.owner], "item": s.pin_ids[s.pin], "action": action, "ts": s.time_ms})
    path = tmp_path_factory.mktemp("events") / "events.parquet"
    pq.write_table(table, path)
    return path


@pytest.fixture(scope="module")
def plan_file(events: Path) -> Path:
    path = events.parent / "mine.toml"
    path.write_text(PLAN)
    return path


@pytest.fixture(scope="module")
def work(events: Path) -> Path:
    return events.parent / "work"


def evaluated(plan: EvaluationPlan, events: Path, work: Path, keys: tuple[str, ...] = TABLES) -> dict[str, Any]:
    return run(plan, tables_of(plan, keys), Worlds(plan, Settings(data=work / "none"), events, work), work)


@pytest.fixture(scope="module")
def found(plan_file: Path, events: Path, work: Path) -> Mapping[str, Any]:
    return evaluated(read_plan(str(plan_file)), events, work)


@pytest.mark.parametrize("name", ["simulator", "mathoverflow"])
def test_plans_that_lie_here_say_all_that_the_paper_has(name: str) -> None:
    for quick in (False, True):
        plan = read_plan(name, quick)
        tables = {table.key: table for table in tables_of(plan)}
        assert set(tables) == set(TABLES) - ({"table5"} if name == "mathoverflow" else set())
        for table in tables.values():
            rows = {row.name for row in table.rows}
            assert len(rows) == len(table.rows)
            for order in table.orders:
                assert {order.this, order.against} <= (set(table.losses) if order.metric == LOSS else rows)
            for row in table.rows:
                replace(plan.embedding, **row.arm)
    full = read_plan(name)
    assert len(full.seeds) >= 3
    assert full.window_days == 14
    assert read_plan(name, quick=True).seeds == full.seeds[:1]
    assert read_plan(name, quick=True).embedding == replace(full.embedding, epochs=1), "tables of [quick] are merged"


def test_the_orders_are_those_of_the_published_figures() -> None:
    for table in tables_of(read_plan("simulator")):
        published = {row.name: row.published for row in table.rows}
        for order in table.orders:
            if table.key == "figure4" or order.metric == LOSS:
                continue
            this, against = published[order.this][order.metric], published[order.against][order.metric]
            assert (this > against) == order.up, (table.key, order)


def test_a_draw_of_users_is_measured_as_those_users_would_be(
    plan_file: Path, events: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recall under the bootstrap's weights, in plain loops over the users that were drawn; a block of draws at once."""
    blocks = set()

    def noted(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        blocks.add(weights.shape[1])
        return weighted_sums(values, weights)

    monkeypatch.setattr(findings, "weighted_sums", noted)
    plan = replace(read_plan(str(plan_file)), seeds=(1,), resamples=70)
    tables = tables_of(plan, ("table2", "table5"))
    world = Worlds(plan, Settings(data=work / "none"), events, work).of_seed(1)
    bench = Bench(plan, world, 1, work)
    rows: dict[tuple[str, str], Any] = {("", POPULAR): bench.popular()}
    for table in tables:
        for row in table.rows:
            rows[table.key, row.name] = bench.measured(row.arm, [row.refresh], lambda *_: None)[row.refresh]
    figures = _figures(plan, tables, SeedRows(bench, rows))
    assert blocks == {64, 6}
    weights = np.concatenate([block.T for _, block in weights_of(len(bench.users), 70, 1)])
    drawn = [[user for user, times in enumerate(one) for _ in range(int(times))] for one in weights]
    for (key, name), measured in rows.items():
        for kind in (ALL, "hide"):
            if (key, name, kind, RECALL) not in figures:
                continue
            recall, figure = measured.recall[kind], figures[key, name, kind, RECALL]
            assert figure.value.value == pytest.approx(np.nanmean(recall))
            assert figure.drawn == pytest.approx([np.nanmean(recall[users]) for users in drawn])
            assert figures[key, name, kind, COVERAGE].value.value == coverage(measured.near, len(bench.corpus))
    realtime, daily = (figures["table2", f"sasrec {one}", ALL, RECALL] for one in (Refresh.REALTIME, Refresh.DAILY))
    lost = figures["table2", "sasrec", ALL, LOSS]
    assert lost.value.value == pytest.approx((realtime.value.value - daily.value.value) / realtime.value.value)
    assert lost.drawn == pytest.approx((realtime.drawn - daily.drawn) / realtime.drawn)


def test_popular_pins_are_those_of_training_users_before_the_window(plan_file: Path, events: Path, work: Path) -> None:
    plan = read_plan(str(plan_file))
    bench = Bench(plan, Worlds(plan, Settings(data=work / "none"), events, work).of_seed(1), 1, work)
    train, ids = bench.split.train, bench.world.sequences.pin_ids
    counts = {int(pin): 0 for pin in bench.corpus}
    for pin, positive in zip(train.pin.tolist(), is_positive(train, ("save",)), strict=True):
        counts[pin] = counts.get(pin, 0) + int(positive)
    best = sorted(bench.corpus.tolist(), key=lambda pin: (-counts[pin], pin))[:10]
    measured = bench.popular()
    assert [bench.corpus[place] for place in measured.near[0]] == best
    assert (measured.near == measured.near[0]).all()
    targets = bench.targets[ALL]
    of_first = targets.pin[targets.user == bench.users[0]]
    hits = [sum(counts[other] >= counts[pin] for other in bench.corpus.tolist() if other != pin) < 10 for pin in of_first.tolist()]
    assert measured.recall[ALL][0] == np.mean(hits)
    assert len(ids) == 32


def test_what_was_made_is_found_and_says_the_same(
    found: Mapping[str, Any], plan_file: Path, events: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(arms, "train", never)
    plan = read_plan(str(plan_file))
    assert evaluated(plan, events, work) == found
    with pytest.raises(AssertionError, match="trained again"):
        evaluated(replace(plan, embedding=replace(plan.embedding, learning_rate=1e-2)), events, work, ("table3",))
    learned = arms.learned_vectors
    monkeypatch.setattr(arms, "learned_vectors", lambda *of: replace(learned(*of), vectors=2 * learned(*of).vectors))
    with pytest.raises(AssertionError, match="trained again"):
        evaluated(plan, events, work, ("table3",))


def test_the_tables_have_rows_figures_and_intervals(found: Mapping[str, Any]) -> None:
    assert list(found["tables"]) == list(TABLES)
    two = found["tables"]["table2"]
    assert two["losses"]["sasrec"]["published"] == pytest.approx(0.139, abs=5e-4)
    dense = two["rows"]["dense_all_action once"]
    assert dense[RECALL] == found["tables"]["table3"]["rows"]["dense_all_action"][RECALL], "one arm, trained once"
    assert dense["entropy@50"]["value"] is None, "a file of events has no topics"
    assert found["tables"]["table4"]["rows"]["random"][RECALL] == found["tables"]["table4"]["rows"]["random, log Q"][RECALL]
    for order in found["tables"]["table3"]["orders"]:
        assert order["value"] == pytest.approx(np.mean(order["by_seed"]))
        if order["metric"] == COVERAGE:
            assert order["low"] is None
            assert "all seeds agree" in order["reason"]
        else:
            assert order["low"] <= order["high"]
    assert found["over_popular"]["value"] == pytest.approx(dense[RECALL]["value"] - found["popular"][ALL][RECALL]["value"])
    for of in found["seeds"].values():
        assert of["users_trained"] == 36
        assert of["end_ms"] - of["begin_ms"] == DAY // 4


def test_a_stopped_evaluation_goes_on_to_the_same(
    found: Mapping[str, Any], plan_file: Path, events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = read_plan(str(plan_file))
    asked = iter([False] * 7)
    monkeypatch.setattr(stopping, "requested", lambda: next(asked, True))
    with pytest.raises(TrainingStoppedError):
        evaluated(plan, events, tmp_path, ("table3",))
    assert list((tmp_path / "checkpoints").iterdir())
    monkeypatch.setattr(stopping, "requested", lambda: False)
    assert evaluated(plan, events, tmp_path, ("table3",))["tables"]["table3"] == found["tables"]["table3"]
    assert not list((tmp_path / "checkpoints").iterdir()), "of what is done nothing is left"


def test_the_command_prints_and_writes_a_page(
    found: Mapping[str, Any], plan_file: Path, events: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--plan", plan_file, "--events", events, "--work", work, "--data", work / "none")
    ended = front_door("embed", "evaluate", *options, "--json", monkeypatch=monkeypatch)
    assert json.loads(ended.out) == found
    page = work / "page.html"
    ended = front_door("embed", "evaluate", *options, "--table", "table4", "--table", "table2", "--html", page, monkeypatch=monkeypatch)
    assert "in_batch, log Q" in ended.out
    assert "pins by popularity" in ended.out
    assert "Table 6" not in ended.out
    assert "seed 2: learned from 36 users" in ended.out
    said = page.read_text()
    assert "Table 4" in said
    assert "0.229" in said


@pytest.mark.parametrize(
    ("low", "high", "up", "shows"),
    [
        (0.1, 0.2, True, "yes"), (0.1, 0.2, False, "opposite"), (-0.2, -0.1, True, "opposite"), (-0.2, -0.1, False, "yes"),
        (-0.1, 0.1, True, "within chance"), (0.0, 0.1, True, "within chance"), (None, None, True, "unknown"),
    ],
)  # fmt: skip
def test_an_order_shows_if_its_interval_lies_on_the_papers_side(low: float | None, high: float | None, up: bool, shows: str) -> None:
    assert _shows(up, low, high) == shows


@pytest.mark.parametrize(
    ("by_seed", "up", "shows"),
    [
        ([0.1, 0.2], True, "yes"), ([0.1, 0.2], False, "opposite"), ([-0.1, -0.2], True, "opposite"), ([0.1, -0.2], True, "within chance"),
        ([0.1, 0.0], True, "within chance"), ([0.0, 0.0], True, "within chance"), ([0.1, None], True, "unknown"),
        ([0.1], True, "unknown"), ([-0.1], True, "unknown"), ([0.1], False, "unknown"), ([], True, "unknown"),
    ],
)  # fmt: skip
def test_an_order_of_coverage_shows_if_all_seeds_agree(by_seed: list[float | None], up: bool, shows: str) -> None:
    assert _in_all_seeds(up, by_seed) == shows


def test_topics_are_those_that_events_name() -> None:
    events = pa.table({"pin_id": [5, 3, 9, 5, 7], "topic": pa.array(["Art", None, "Food", "Art", ""]).dictionary_encode()})
    assert topics_of(np.array([3, 5, 7, 9]), events).tolist() == [-1, 0, -1, 1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("nonsense = 1", "no setting 'nonsense'"),
        ("window_days = 0", "window_days must be above 0"),
        ("evaluated = 1.5", "evaluated must be above 0 and below 1"),
        ("seeds = []", "seeds must name one"),
        ("lengths = [0]", "lengths must be a list of whole numbers"),
        ('world = "log"\nevaluated = 0.4', "set evaluated to 0.33 or less"),
        ("resamples = 1", "resamples must be a whole number of at least 2"),
        ('without = { x = ["pins"] }', "no feature 'pins'"),
        ('types = { x = ["@@"] }', "says no positive action"),
        ('types = { all = ["save"] }', "[types]: 'all' is the row of all positive actions together; give those actions another name"),
        ("seeds = [9223372036854775808]", "seeds must be a list of whole numbers of at least 0 and at most 9223372036854775807"),
        ("lengths = [8, 65537]", "lengths must be a list of whole numbers of at least 1 and at most 65536"),
        ("[embedding]\nlength = 100000000000000", "length must be at most 65536, not 100000000000000"),
        ("[embedding]\nsketch_width = 100000000000000", "sketch_width must be at most 16777216"),
        ("sizes = { user = 3 }", "not 'user' = 3"),
        ("[embedding]\nepoch = 1", "no setting 'epoch'"),
        ("[quick]\nseed = [1]", "no setting 'quick.seed'"),
        ("[quick.quick]\nseeds = [1]", "no setting 'quick.quick'"),
        ("quick = true", "'quick' must be a table, [quick]"),
        ("embedding = 3", "'embedding' must be a table, [embedding]"),
        ("sizes = 3", "'sizes' must be a table, [sizes]"),
        ("[quick]\nembedding = 3", "'quick.embedding' must be a table, [quick.embedding]"),
        ("[quick]\nsizes = [3]", "'quick.sizes' must be a table, [quick.sizes]"),
    ],
)
@pytest.mark.parametrize("quick", [False, True])
def test_a_plan_that_makes_no_sense_is_refused(tmp_path: Path, change: str, said: str, quick: bool) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(change + "\n" if "world" in change else f'world = "drifting"\n{change}\n')
    if quick and "quick" not in change:
        path.write_text(path.read_text() + "[quick]\nembedding = { epochs = 1 }\n")
    with pytest.raises(SettingsError) as raised:
        read_plan(str(path), quick)
    assert said in str(raised.value)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("empty", ["", "[quick]\n"])
def test_a_plan_that_says_nothing_of_a_quick_evaluation_has_none(tmp_path: Path, empty: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'world = "drifting"\n{empty}')
    assert read_plan(str(path)).seeds
    with pytest.raises(SettingsError, match=r"say in a table \[quick\] what is smaller .* or leave --quick out"):
        read_plan(str(path), quick=True)


def test_what_does_not_fit_together_is_refused(plan_file: Path, events: Path, work: Path, tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    plan = read_plan(str(plan_file))
    with pytest.raises(InputError, match="give it: --events FILE"):
        Worlds(plan, settings, None, work)
    with pytest.raises(InputError, match="leave --events out"):
        Worlds(read_plan("simulator"), settings, events, work)
    with pytest.raises(SettingsError, match="there is no such plan; name one of mathoverflow, simulator"):
        read_plan("simulate")
    with pytest.raises(InputError, match="none of the tables asked for"):
        evaluated(replace(plan, types={}), events, work, ("table5",))
    with pytest.raises(TidemarkError, match="no action 'sav'"):
        evaluated(replace(plan, embedding=replace(plan.embedding, positives=("sav",))), events, work)
    nothing = replace(plan, embedding=replace(plan.embedding, positives=("save > 10s",)), types={})
    with pytest.raises(InputError, match="has a positive action on a pin with a vector"):
        evaluated(nothing, events, work, ("table3",))


def test_a_simulated_world_goes_through_a_log_and_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"users": 60, "pins": 40, "days": 10, "events": 4_000}
    plan = replace(read_plan("simulator"), sizes=sizes, seeds=(3,))
    made = Worlds(plan, Settings(data=tmp_path / "none"), None, tmp_path).of_seed(3)
    assert made.topics is not None
    assert len(made.topics) == len(made.sequences.pin_ids) > 30
    assert len(np.unique(made.topics)) > 3
    assert {"save", "closeup"} <= set(made.sequences.actions)
    assert "impression" not in {name for name, code in made.sequences.actions.items() if (made.sequences.action == code).any()}
    assert not list((tmp_path / "worlds").glob(".*")), "nothing of the making is left"
    monkeypatch.setattr(worlds, "_simulate", None)
    again = Worlds(plan, Settings(data=tmp_path / "none"), None, tmp_path).of_seed(3)
    assert again.digest() == made.digest()
    assert (again.sequences.actions, again.sequences.surfaces) == (made.sequences.actions, made.sequences.surfaces)


def test_the_log_of_a_data_directory_can_be_evaluated(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data", partitions=2)
    driving.write(settings, random_stream(1, 300, partitions=2, users=40, pins=60, days=20), np.random.default_rng(1))
    world = Worlds(replace(read_plan("simulator"), world="log"), settings, None, tmp_path).of_seed(1)
    assert world.sequences.digest() == read_actions(settings).digest()
    assert world.topics is None
