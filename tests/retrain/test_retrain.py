"""A retrain: what it makes is a function of the offline store and the last full base, each label enters once, and no worse model is served."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks._examples import START
from flows.errors import CorruptionError, FingerprintError, SettingsError
from flows.examples.record import Kind
from flows.open_log import open_log
from flows.outputs import EMBEDDINGS
from flows.settings import DAY_MS, Settings
from online_model.deltas.errors import SecondLearnerError
from online_model.deltas.follower import Follower
from online_model.deltas.record import PARTITION, Rows
from online_model.deltas.writer import DeltaWriter
from online_model.registry.bases import Base
from online_model.registry.manifest import Manifest
from online_model.registry.registry import Registry
from online_model.registry.snapshots import Point, read_snapshot, write_snapshot
from online_model.retrain import shadow
from online_model.retrain.errors import EmptyWindowError, ExamplesTooLargeError, NoParentError
from online_model.retrain.gate import Rule
from online_model.training.errors import CheckpointError, TrainingStoppedError
from tests.retrain.store import AGAIN, SCRATCH, SMALL, append, data, files_of, records, run
from tests.sparing import first

WithBase = Callable[..., Settings]


def about(settings: Settings, base: int) -> Any:
    return Registry.of(settings).bases.open(base).manifest.about


def tensors(settings: Settings, base: int) -> dict[str, np.ndarray]:
    return Registry.of(settings).bases.open(base).tensors("optimizer.safetensors")


def test_first_base_then_the_next(tmp_path: Path) -> None:
    settings = data(tmp_path)
    first = run(settings, SCRATCH, 8)
    assert (first.base, first.passed, first.parent) == (1, True, None)
    second = run(settings, AGAIN, 12)
    assert (second.base, second.parent, second.incumbent) == (2, 1, 1)
    current = Registry.of(settings).current()
    assert [past.start.base for past in current.history] == [1, 2]
    assert current.start.delta > 0, "it has caught up before it was served"
    assert second.metrics["gate"]["at"] == "negative"
    assert about(settings, 2).parent == 1
    steps = [int(tensors(settings, base)["0.step"]) for base in (1, 2)]
    batches = [-(-one.metrics["training"]["examples"] // 64) for one in (first, second)]
    assert steps == [batches[0], sum(batches)], "the optimiser goes on with what it remembers"
    assert not (settings.data / "models" / "retrain").exists()


def test_each_label_is_learned_from_once(with_base: WithBase) -> None:
    settings = with_base()
    rows = records(settings)
    ready = rows.ready_time[rows.kind == Kind.FINAL]

    def learned_by_hand(begin: float, until: float) -> int:
        return int(((ready >= START + begin * DAY_MS) & (ready < START + until * DAY_MS)).sum())

    # As of day 8: three quarters of the last two days held back. Then 12 h for the gate, and 12 h for calibrators.
    assert about(settings, 1).metrics["training"]["examples_given"] == learned_by_hand(-99, 6.5)
    second, third = run(settings, AGAIN, 11), run(settings, AGAIN, 13)
    assert second.metrics["training"]["examples_given"] == learned_by_hand(6.5, 10)
    assert third.metrics["training"]["examples_given"] == learned_by_hand(10, 12)
    assert third.spans.begin == second.spans.learned
    fitted = second.metrics["training"]["calibration"]["click"]["examples"]
    known = (rows.kind == Kind.FINAL) & (rows.labels[:, 0] >= 0)
    assert fitted == (known & (rows.ready_time >= START + 10 * DAY_MS) & (rows.ready_time < START + 10.5 * DAY_MS)).sum()


def learned_online(settings: Settings, deltas: int) -> None:
    """A learner that has put out any rows, keeps a snapshot of its last delta, and is what is served."""
    registry = Registry.of(settings)
    base = registry.base(1)
    rng = np.random.default_rng(deltas)
    with open_log(settings, EMBEDDINGS, create=True) as log:
        writer = DeltaWriter.open(log, 1, base.digest)
        for i in range(deltas):
            ids = np.arange(1, 40, dtype=np.int64)
            rows = Rows.of({"user": (ids, rng.normal(size=(len(ids), 4)).astype(np.float32))}, {"pin": np.array([1_000 + i])}, 4)
            closing = writer.append(rows, (50 * i, 50 * i), START, START)
        tables = {name: dict(base.table(name)) for name in ("user", "pin")}
        tables["user"]["weights"] = tables["user"]["weights"] * 3
        point = Point(1, closing.delta, closing.digest, closing.position, closing.positions, closing.newest_event_time)
        snapshot = write_snapshot(base, point, tables)
        registry.switch(snapshot.start(log.end_position(PARTITION)), START, "learned")


def test_the_online_learner_changes_no_byte(with_base: WithBase) -> None:
    made = []
    for name, deltas in (("as it was", 0), ("learned", 3), ("learned more", 9), ("nothing learned", -1)):
        settings = with_base(name)
        if deltas > 0:
            learned_online(settings, deltas)
        elif deltas < 0:
            for file in settings.logs.glob(f"{EMBEDDINGS}*"):
                file.unlink()
            shutil.rmtree(Registry.of(settings).bases.open(1).path / "snapshots")
            registry = Registry.of(settings)
            registry.switch(registry.start_for(registry.base(1), 0), START, "anew")
        outcome = run(settings, AGAIN, 12)
        assert outcome.base == 2
        made.append((files_of(settings, 2), about(settings, 2)))
    for other in made[1:]:
        assert other == made[0]


def test_whoever_serves_sees_the_old_base_until_the_new_one_has_caught_up(with_base: WithBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "DELTA_RECORDS", 500)
    settings = with_base()
    seen = []
    with open_log(settings, EMBEDDINGS, read_only=True) as log:
        follower = Follower(Registry.of(settings), log)

        def told(stage: str, done: int, total: int) -> None:
            follower.refresh()
            assert follower.trouble is None
            assert follower.served.base.number == 1
            seen.append(stage)

        run(settings, AGAIN, 12, told=told)
        before = log.end_position(PARTITION)
        follower.refresh()
        assert follower.trouble is None
        assert follower.served.base.number == 2
        start = Registry.of(settings).current().start
        assert follower.served.delta == start.delta > 1
        assert start.position <= before
    assert "catching up" in seen
    # Whole micro-batches of all that is there.
    rest = [end - at for end, at in zip(ends(settings), _snapshot(settings).positions, strict=True)]
    assert 0 <= sum(rest) < 64


def test_what_the_old_learner_puts_out_at_the_switch_disturbs_nobody(with_base: WithBase, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = with_base()
    registry = Registry.of(settings)
    with open_log(settings, EMBEDDINGS) as log:
        writer = DeltaWriter.open(log, 1, registry.base(1).digest)
        switch = Registry.switch
        empty = np.empty(0, np.int64)
        calls = 0

        def put_out() -> None:
            writer.append(Rows.of({"user": (empty, np.empty((0, 4), np.float32))}, {"user": np.array([7])}, 4), (0, 0), START, START)

        def switched(self: Registry, *given: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 1:
                put_out()
            return switch(self, *given, **named)

        monkeypatch.setattr(Registry, "switch", switched)
        run(settings, AGAIN, 12)
        assert calls == 2
        with pytest.raises(SecondLearnerError):
            put_out()
        follower = Follower(registry, log)
        follower.refresh()
        assert follower.trouble is None
        assert follower.served.base.number == 2
        assert registry.current().start.settled == log.end_position(PARTITION)


def ends(settings: Settings) -> list[int]:
    with open_log(settings, "examples", read_only=True) as log:
        return log.end_positions()


def _snapshot(settings: Settings) -> Point:
    registry = Registry.of(settings)
    start = registry.current().start
    return read_snapshot(registry.base(start.base), start.delta).point


class Killed(BaseException):
    """In the place of a kill: nothing of the program's own handles it."""


@pytest.mark.parametrize(
    ("stage", "at"),
    first(3, [("training", 9), ("incumbent", 2), ("catching up", 20), ("reading", 1), ("candidate", 5)]),
)
def test_killed_anywhere_it_goes_on_to_the_same(with_base: WithBase, monkeypatch: pytest.MonkeyPatch, stage: str, at: int) -> None:
    monkeypatch.setattr(shadow, "DELTA_RECORDS", 500)
    whole, killed = with_base("whole"), with_base("killed")
    run(whole, AGAIN, 12)
    calls = 0

    def told(name: str, done: int, total: int) -> None:
        nonlocal calls
        calls += name == stage
        if name == stage and calls == at:
            raise Killed

    with pytest.raises(Killed):
        run(killed, AGAIN, 12, told=told)
    assert Registry.of(killed).current().base == 1
    # The clock has gone on; what was begun is ended as of then.
    again = run(killed, AGAIN, 12.4, go_on=True)
    assert again.resumed
    assert again.as_of == START + 12 * DAY_MS
    assert again.base == 2
    assert files_of(killed, 2) == files_of(whole, 2)
    assert about(killed, 2) == about(whole, 2)
    registry, other = Registry.of(killed), Registry.of(whole)
    assert registry.bases.numbers() == [1, 2]
    tables, expected = (r.load(r.current().start)[1] for r in (registry, other))
    for name in ("user", "pin"):
        for array in ("ids", "weights", "accumulators"):
            np.testing.assert_array_equal(tables[name][array], expected[name][array])


@pytest.mark.parametrize("stage", first(2, ["training", "catching up", "reading", "candidate"]))
def test_asked_to_stop_it_goes_on_to_the_same(with_base: WithBase, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    whole, stopped = with_base("whole"), with_base("stopped")
    run(whole, AGAIN, 12)

    def told(name: str, done: int, total: int) -> None:
        if name == stage:
            monkeypatch.setattr("flows.stopping._requested", True)

    with pytest.raises(TrainingStoppedError, match="goes on") as error:
        run(stopped, AGAIN, 12, told=told)
    assert error.value.exit_code == 143
    monkeypatch.setattr("flows.stopping._requested", False)
    assert run(stopped, AGAIN, 12).resumed
    assert files_of(stopped, 2) == files_of(whole, 2)


def test_killed_between_publishing_and_the_switch_no_second_base_is_made(with_base: WithBase, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = with_base()
    publish, write = Registry.publish, "online_model.retrain.work.Work.write"

    def kill(*_: object) -> None:
        raise Killed

    def then_killed(self: Registry, *given: Any) -> Any:
        monkeypatch.setattr(write, kill)
        return publish(self, *given)

    monkeypatch.setattr(Registry, "publish", then_killed)
    with pytest.raises(Killed):
        run(settings, AGAIN, 12)
    monkeypatch.undo()
    assert run(settings, AGAIN, 12.1, go_on=True).base == 2
    assert Registry.of(settings).bases.numbers() == [1, 2]


def test_killed_just_after_the_switch_the_next_one_begins(with_base: WithBase, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = with_base()
    switch_to = "online_model.retrain.run.switch_to"

    def then_killed(*given: Any) -> None:
        shadow.switch_to(*given)
        raise Killed

    monkeypatch.setattr(switch_to, then_killed)
    with pytest.raises(Killed):
        run(settings, AGAIN, 11)
    monkeypatch.undo()
    assert Registry.of(settings).current().base == 2
    after = run(settings, AGAIN, 13, go_on=True)
    assert (after.resumed, after.parent, after.base) == (False, 2, 3)


def test_a_head_that_one_model_lacks_is_refused_before_all_work(with_base: WithBase) -> None:
    settings = with_base()
    without = replace(SCRATCH, model=SMALL["model"] | {"revisit_head": False}, rule=Rule("revisit"))
    with pytest.raises(SettingsError, match="click, long_click, save, hide"):
        run(settings, without, 12)
    assert run(settings, replace(without, rule=Rule("click", "auc", 0.9)), 12).base == 2


def test_another_moment_begins_anew(with_base: WithBase) -> None:
    settings, other = with_base(), with_base("other")

    def told(name: str, done: int, total: int) -> None:
        if name == "catching up":
            raise Killed

    with pytest.raises(Killed):
        run(settings, AGAIN, 11, told=told)
    assert [c.base for c in Registry.of(settings).current().candidates] == [2]
    outcome = run(settings, AGAIN, 12)
    assert not outcome.resumed
    # The base that was given up in shadow has a number, and is nobody's.
    assert outcome.base == 3
    assert Registry.of(settings).current().candidates == ()
    run(other, AGAIN, 12)
    assert files_of(settings, 3) == files_of(other, 2)


def test_a_worse_model_is_refused_and_nothing_changes(with_base: WithBase) -> None:
    settings = with_base()
    # It has learned in leaps, and nothing mends what it says.
    bad = replace(
        SCRATCH,
        training=SMALL["training"] | {"learning_rate": 0.5},
        held=replace(SCRATCH.held, evaluation_ms=4 * DAY_MS, calibration_ms=0),
        rule=Rule("click", "logloss", 0.01),
    )
    registry = Registry.of(settings)
    before = registry.current()
    outcome = run(settings, bad, 12)
    assert not outcome.passed
    assert outcome.base is None
    assert "worse" in outcome.reason
    assert registry.current() == before
    assert registry.bases.numbers() == [1]
    assert outcome.refused is not None
    assert (outcome.refused / "manifest.json").exists()
    # Whoever knows better may serve it all the same.
    manifest = Manifest.from_bytes((outcome.refused / "manifest.json").read_bytes(), "refused")
    Base(outcome.refused, manifest).verify()
    # What was refused is no parent: the next one takes its examples once more.
    assert run(settings, AGAIN, 13).spans.begin == tuple(about(settings, 1).cut["positions"])


def test_from_scratch_is_judged_on_nothing_that_the_served_base_has_seen(with_base: WithBase) -> None:
    settings = with_base()
    served = run(settings, AGAIN, 12)
    outcome = run(settings, replace(SCRATCH, held=replace(SCRATCH.held, evaluation_ms=3 * DAY_MS), rule=Rule("click", "auc", 0.5)), 13)
    assert outcome.incumbent == 2
    assert outcome.parent is None
    assert outcome.spans.begin == (0, 0)
    assert outcome.spans.calibrated == served.spans.calibrated
    assert outcome.spans.cut == served.spans.cut


def test_after_a_rollback_the_next_one_begins_with_what_is_served(with_base: WithBase) -> None:
    settings = with_base()
    run(settings, AGAIN, 11)
    registry = Registry.of(settings)
    registry.rollback(START, 10**9)
    third = run(settings, AGAIN, 13)
    assert (third.parent, third.base) == (1, 3)
    assert third.spans.begin == tuple(about(settings, 1).cut["positions"])


def test_a_store_of_final_rows_alone_is_enough(tmp_path: Path) -> None:
    settings = data(tmp_path, kinds=(Kind.FINAL,))
    run(settings, SCRATCH, 8)
    outcome = run(settings, AGAIN, 12)
    assert outcome.metrics["gate"]["at"] == "final"
    assert outcome.metrics["gate"]["rows"] > 0


def test_nothing_to_learn_from_is_said(with_base: WithBase, tmp_path: Path) -> None:
    with pytest.raises(EmptyWindowError, match="nothing new"):
        run(with_base(), AGAIN, 7)
    settings = data(tmp_path / "young")
    with pytest.raises(EmptyWindowError, match="no label has matured"):
        run(settings, SCRATCH, 1)
    with pytest.raises(NoParentError, match="from-scratch"):
        run(settings, AGAIN, 8)


def test_what_is_damaged_is_refused(with_base: WithBase) -> None:
    for stage, file, error in (
        ("training", "checkpoints/batch-*/dense.safetensors", CheckpointError),
        ("candidate", "draft/pin_table.safetensors", CorruptionError),
        ("candidate", "trained.json", CorruptionError),
        ("training", "plan.json", CorruptionError),
    ):
        settings = with_base(file.replace("/", " ").replace("*", ""))

        def told(name: str, done: int, total: int, stage: str = stage) -> None:
            if name == stage and done > 350:
                raise Killed

        with pytest.raises(Killed):
            run(settings, AGAIN, 12, told=told)
        path = next((settings.data / "models" / "retrain").glob(file))
        damaged = bytearray(path.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(error, match="delete"):
            run(settings, AGAIN, 12)
        assert Registry.of(settings).current().base == 1


def test_other_features_are_refused(with_base: WithBase) -> None:
    settings = with_base()
    with pytest.raises(FingerprintError):
        run(replace(settings, allowed_lateness_ms=1), AGAIN, 12)
    # Examples that were made under others, behind those that fit.
    append(
        settings,
        replace(records(settings, 50), fingerprints=("other",), ready_time=np.full(len(records(settings, 50)), START + 40 * DAY_MS)),
    )
    with pytest.raises(FingerprintError, match="other"):
        run(settings, AGAIN, 40.1)


def test_a_window_that_does_not_fit_is_refused(with_base: WithBase) -> None:
    with pytest.raises(ExamplesTooLargeError, match="--memory"):
        run(with_base(), AGAIN, 12, memory_bytes=1_000)
