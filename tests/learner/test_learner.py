"""A learner's rows at a position are a function of base, course and log: whatever is read at once, wherever it is killed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flows.errors import FingerprintError
from flows.examples.joining import joined
from flows.settings import Settings
from online_model.deltas.chain import closings
from online_model.deltas.errors import DivergedError, SecondLearnerError
from online_model.learner import course as courses
from online_model.learner.course import Span, read_course, write_course
from online_model.learner.delayed import DelayedLabels
from online_model.learner.errors import LearnerError, LearnerStateError, UnlearnableError
from online_model.learner.learner import Learner, begin_of, course_of
from online_model.learner.step import Step
from online_model.model.config import ModelConfig
from online_model.model.dense import load_dense
from online_model.registry import durable
from online_model.registry.manifest import DENSE
from online_model.registry.snapshots import numbers
from online_model.training.tables import Tables
from tests.learner.world import CONFIG, PARTITIONS, World, digests, learn_all, rows_for, served, state_of, told
from tests.model.embedding_runs import Runs
from tests.sparing import first


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.write()
    made.publish()
    yield made
    made.close()


def test_it_learns_the_records_by_when_they_became_known(world: World) -> None:
    learner = world.begun()
    learn_all(learner)
    base = learner.base
    # The same, with no log: all records sorted by hand, cut by hand.
    parts = [(int(t), p, i) for p, rows in enumerate(world.rows) for i, t in enumerate(rows.ready_time)]
    tables = Tables.load(base.path)
    step = Step(load_dense(ModelConfig.from_dict(base.manifest.about.config["model"]), base.path / DENSE), tables, CONFIG)
    whole = joined(world.rows)
    first = len(world.rows[0])
    batch: list[tuple[int, int, int]] = []
    done = [0] * PARTITIONS
    lowest = min(int(rows.ready_time[-1]) for rows in world.rows)
    for one in [*sorted(parts), (1 << 60, 0, 0)]:
        if batch and (len(batch) == CONFIG.batch_rows or one[0] // CONFIG.batch_ms != batch[0][0] // CONFIG.batch_ms):
            full = len(batch) == CONFIG.batch_rows and batch[-1][0] <= lowest
            if not full and (batch[0][0] // CONFIG.batch_ms + 1) * CONFIG.batch_ms > lowest:
                break
            step.learn(whole.take(np.array([i + first * p for _, p, i in batch])))
            for _, p, i in batch:
                done[p] = i + 1
            batch = []
        batch.append(one)
    assert learner.positions == tuple(done)
    assert sum(done) > 250
    assert digests(learner) == (tables.users.digest(), tables.pins.digest())
    assert learner.newest_event_time == max(int(rows.impression_time[:n].max()) for rows, n in zip(world.rows, done, strict=True))


@pytest.mark.parametrize("read", [1, 7, 1000])
def test_how_much_is_read_at_once_changes_nothing(world: World, tmp_path: Path, read: int) -> None:
    one = world.begun()
    learn_all(one)
    other = world.learner()
    learn_all(other, read_records=read)
    assert state_of(other) == state_of(one)
    growing = World(tmp_path / "growing")
    growing.publish()
    third = growing.begun()
    for share in (0.1, 0.15, 0.5, 0.9, 1.0):
        growing.write(share)
        learn_all(third, publish_every=2, read_records=read)
    assert state_of(third) == state_of(one)
    growing.close()


def test_a_consumer_has_the_learners_rows_at_each_delta(world: World) -> None:
    learner, follower = world.begun(), world.consumer()
    batches = learner.batches()
    n = 0
    while (ready := batches.next()) is not None:
        learner.learn(ready)
        n += 1
        if n % 3 == 0:
            assert learner.publish() is not None
            assert learner.publish() is None
            assert served(follower) == told(learner)
            assert follower.served.delta == learner.delta == n // 3
            assert follower.served.positions == learner.positions
            assert follower.served.newest_event_time == learner.newest_event_time
    assert n > 20


def test_the_first_delta_is_what_differs_from_the_base(world: World) -> None:
    learner = world.begun()
    batches = learner.batches()
    ready = batches.next()
    assert ready is not None
    before = told(learner)
    learner.learn(ready)
    closing = learner.publish()
    assert closing is not None
    after = told(learner)
    assert closing.rows == sum(after.get(key) != before.get(key) for key in after.keys() | before.keys()) < len(after)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("seed", first(2, range(4)))
def test_killed_anywhere_it_ends_with_the_same(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calm = World(tmp_path / "calm")
    calm.write()
    calm.publish()
    whole = calm.begun()
    learn_all(whole)

    world = World(tmp_path / "killed")
    world.publish()
    follower = world.consumer()
    rng = np.random.default_rng(seed)
    real = {"write": durable.write, "put_in_place": durable.put_in_place, "replace": durable.replace, "append": world.embeddings.append}
    fuse = [0]

    def burning(name: str, after: bool):  # type: ignore[no-untyped-def]
        def call(*args, **kwargs):  # type: ignore[no-untyped-def]
            fuse[0] -= 1
            if fuse[0] == 0 and not after:
                raise KilledError
            out = real[name](*args, **kwargs)
            if fuse[0] == 0:
                raise KilledError
            return out

        return call

    kills = 0
    for turn in range(40):
        world.write(min(1.0, (turn + 1) / 12))
        fuse[0] = int(rng.integers(1, 9)) if turn < 30 else 10_000
        with monkeypatch.context() as patched:
            for name in ("write", "put_in_place", "replace"):
                patched.setattr(durable, name, burning(name, bool(rng.integers(2))))
            patched.setattr(world.embeddings, "append", burning("append", bool(rng.integers(2))))
            try:
                learner = world.learner(CONFIG)
                learn_all(learner, publish_every=int(rng.integers(1, 6)), snapshot_every=int(rng.integers(1, 4)))
                learner.publish()
            except KilledError:
                kills += 1
                continue
        assert served(follower) == told(learner)
    assert kills > 5
    assert state_of(learner) == state_of(whole)
    found = [one.delta for one in closings(world.embeddings, 1)][::-1]
    assert found == list(range(1, len(found) + 1))
    assert len(found) > 5
    assert follower.healed == 0
    calm.close(), world.close()


def test_it_goes_on_at_its_snapshot_and_learns_nothing_twice(world: World) -> None:
    learner = world.begun()
    learn_all(learner, publish_every=1, snapshot_every=5)
    kept = numbers(learner.base)
    assert kept[0] == learner.delta - learner.delta % 5
    again = world.learner()
    assert again.again is (learner.delta % 5 > 0)
    assert sum(again.positions) > sum(learner.positions) / 2
    learn_all(again)
    assert not again.again
    assert state_of(again) == state_of(learner)
    assert again.delta == learner.delta


def test_relearning_from_the_base_gives_the_same_rows(world: World) -> None:
    learner = world.begun()
    learn_all(learner, publish_every=2, snapshot_every=4)
    for number in numbers(learner.base):
        durable.delete_directory(learner.base.path / "snapshots" / str(number))
    again = world.learner()
    assert again.positions == (0,) * PARTITIONS
    learn_all(again)
    assert state_of(again) == state_of(learner)


def test_killed_or_begun_anew_it_learns_with_the_vectors_that_were_served(tmp_path: Path) -> None:
    """Though the tables of then are swept away meanwhile."""
    world = World(tmp_path)
    world.write()
    runs = Runs(Settings(data=tmp_path, partitions=PARTITIONS))
    times = np.quantile(np.concatenate([rows.request_time for rows in world.rows]), (0.1, 0.4, 0.6, 0.9)).astype(np.int64)
    users = np.unique(np.concatenate([rows.user_id for rows in world.rows])).tolist()
    for i, as_of in enumerate(times[:3].tolist()):
        runs.run(as_of, users[i : i + 5])
    world.publish(taken=runs.taken)
    learner = world.begun()
    batches = learner.batches()
    for _ in range(10):
        ready = batches.next()
        assert ready is not None
        learner.learn(ready)
    learner.publish()
    learner.snapshot()
    for ready in iter(batches.next, None):
        learner.learn(ready)
    whole = state_of(learner)
    runs.run(int(times.max()) + 10**9, users)
    runs.run(int(times.max()) + 2 * 10**9, users)
    again = world.learner()
    assert again.delta == 1
    learn_all(again)
    assert state_of(again) == whole
    other = World(tmp_path / "other")
    other.write()
    other.publish()
    plain = other.begun()
    learn_all(plain)
    assert plain.positions == again.positions
    assert digests(plain) != digests(again)
    other.close()
    world.close()


def test_a_second_learner_is_refused(world: World) -> None:
    first = world.begun()
    second = world.learner()
    learn_all(first), learn_all(second)
    first.publish()
    with pytest.raises(SecondLearnerError):
        second.publish()


def test_what_was_put_out_and_is_learned_otherwise_is_refused(world: World) -> None:
    learn_all(world.begun(), publish_every=2)
    course = world.course()
    write_course(world.registry.directory, replace(course, config=replace(course.config, learning_rate=0.2)))
    with pytest.raises(DivergedError, match="other rows"):
        learn_all(world.learner())
    write_course(world.registry.directory, replace(course, config=replace(course.config, batch_rows=1_000, batch_ms=86_400_000)))
    with pytest.raises(DivergedError, match="replay learner"):
        learn_all(world.learner())


def test_other_settings_than_those_that_rows_were_learned_with_are_refused(world: World) -> None:
    world.begun()
    with pytest.raises(LearnerError, match=r"with learning_rate 0.1, and 0.3 is asked for"):
        world.learner(replace(CONFIG, learning_rate=0.3))
    assert world.learner(CONFIG).course == world.learner().course


def test_another_build_puts_out_what_differs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, follower = world.begun(), world.consumer()
    learn_all(learner, publish_every=2)
    before = learner.delta
    served(follower)
    # As if that build had computed otherwise.
    course = world.course()
    write_course(
        world.registry.directory, replace(course, build=dict(course.build) | {"torch": "1.0"}, config=replace(CONFIG, learning_rate=0.2))
    )
    again = world.learner()
    assert again.again
    learn_all(again)
    assert again.delta == before + 1
    assert numbers(again.base) == [before + 1]
    assert served(follower) == told(again) != told(learner)
    assert world.learner().delta == before + 1
    assert world.course().build == course.build


def test_a_span_that_is_left_out_is_as_if_it_had_never_been(world: World, tmp_path: Path) -> None:
    low, high = (60, 50), (90, 85)
    learner, follower = world.begun(), world.consumer()
    learn_all(learner, publish_every=2, snapshot_every=3)
    served(follower)
    until = learner.delta
    course = world.course()
    first = min(one for one in numbers(learner.base))
    write_course(world.registry.directory, course.again(0, until, [Span(low, high)]))
    again = world.learner()
    assert again.positions == (0,) * PARTITIONS
    batches = again.batches()
    while again.again:
        ready = batches.next()
        assert ready is not None
        again.learn(ready)
    reached = again.positions
    assert again.delta == until + 1
    learn_all(again, publish_every=1)
    assert served(follower) == told(again) != told(learner)
    assert first in numbers(again.base)
    # Nobody goes on at what is void.
    third = world.learner()
    assert third.positions == reached
    learn_all(third)
    assert state_of(third) == state_of(again)
    clean = World(tmp_path / "clean")
    # Records of no kind that anybody learns from, at the same places.
    for p, rows in enumerate(clean.rows):
        kind = rows.kind.copy()
        kind[low[p] : high[p]] = 2
        clean.rows[p] = replace(rows, kind=kind)
    clean.write()
    clean.publish()
    plainly = clean.begun()
    learn_all(plainly)
    assert told(plainly) == told(again)
    clean.close()


def test_killed_while_it_learns_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, follower = world.begun(), world.consumer()
    learn_all(learner, publish_every=2, snapshot_every=3)
    until = learner.delta
    write_course(world.registry.directory, world.course().again(0, until, [Span((10, 10), (40, 40))]))

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr("online_model.learner.learner.write_snapshot", killed)
        with pytest.raises(KilledError):
            learn_all(world.learner())
    assert served(follower)
    again = world.learner()
    learn_all(again)
    assert again.delta == until + 2
    assert served(follower) == told(again)
    assert world.course().is_void(until + 1)
    assert world.learner().delta == until + 2


def test_examples_of_other_definitions_are_refused_unless_they_are_asked_for(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.rows = rows_for(0, 120, "other")
    world.write()
    world.publish()
    with pytest.raises(FingerprintError, match="fingerprint other"):
        learn_all(world.begun())
    course = course_of(world.site, 1, lambda base: begin_of(base, PARTITIONS), fingerprint="other")
    assert learn_all(Learner.open(world.site, course)) > 10
    world.close()


def test_a_base_that_does_not_say_what_it_was_trained_on(tmp_path: Path) -> None:
    world = World(tmp_path)
    for positions in (None, (1,)):
        base = world.publish(serve=False, positions=positions)
        with pytest.raises(LearnerError, match=r"doesn't say up to which positions .* --from"):
            world.course(base=base.number)
    world.publish(serve=False, positions=(3, 5))
    assert world.course(base=3).begin == (3, 5)
    world.close()


def test_records_that_cannot_be_learned_are_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = world.begun()
    batches = learner.batches()
    ready = batches.next()
    assert ready is not None
    monkeypatch.setattr(learner._step, "forward_backward", lambda *_: (np.zeros((1, 5), np.float32), float("nan")))
    with pytest.raises(UnlearnableError, match=r"log 'examples', positions 0,0 to \d+,\d+: .* replay learner --skip"):
        learner.learn(ready)


def test_a_course_that_is_damaged_is_refused(world: World) -> None:
    world.begun()
    path = courses.path_of(world.registry.directory, 1)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"0.1", b"0.2", 1))
    with pytest.raises(LearnerStateError, match=r"can't be used .* its digest is another"):
        read_course(world.registry.directory, 1)
    path.write_bytes(data)
    other = read_course(world.registry.directory, 1)
    assert other is not None
    write_course(world.registry.directory, replace(other, base_digest="0" * 32))
    with pytest.raises(LearnerError, match="base 1 is another than the one that was learned on"):
        world.course()


@pytest.mark.parametrize("way", [DelayedLabels.WAIT, DelayedLabels.POSITIVES_FIRST])
def test_other_ways_with_delayed_labels(world: World, way: DelayedLabels) -> None:
    config = replace(CONFIG, delayed_labels=way)
    one = world.begun(config)
    learn_all(one, publish_every=3)
    two = world.learner()
    learn_all(two)
    assert state_of(two) == state_of(one)
