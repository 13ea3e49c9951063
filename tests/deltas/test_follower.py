"""A consumer has one base's rows at one of its deltas, whatever is switched, rolled back, tried on some users, or damaged meanwhile."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from flows.log import LocalLog
from online_model.deltas.chain import holds
from online_model.deltas.errors import NoSnapshotError, OtherBaseError, SecondLearnerError
from online_model.deltas.follower import Follower
from online_model.deltas.writer import DeltaWriter, fence
from online_model.registry.current import Start
from online_model.registry.errors import DamagedModelError, NoModelError
from online_model.registry.manifest import DENSE, TABLES
from online_model.registry.registry import Registry
from tests.deltas.making import Learner, rows_of, world
from tests.registry.making import publish


class World:
    """Bases with a learner each, one log, and who follows."""

    def __init__(self, directory: Path) -> None:
        self.registry, first, self.log = world(directory)
        self.learners = {1: first}
        self.writers: dict[int, DeltaWriter] = {}

    def base(self) -> int:
        base = publish(self.registry, len(self.learners) + 1)
        self.learners[base.number] = Learner(base)
        return base.number

    def learn(self, number: int, deltas: int = 1, snapshot: bool = False) -> None:
        """Put out deltas as its learner does."""
        learner = self.learners[number]
        writer = self.writers.setdefault(number, DeltaWriter.open(self.log, number, learner.base.digest))
        for _ in range(deltas):
            learned = learner.learn()
            closing = writer.append(learned.rows, learned.closing.positions, learned.closing.newest_event_time, learned.closing.ready_time)
        if snapshot:
            learner.snapshot(closing.delta, closing.position)

    def lose(self, number: int) -> None:
        """A delta that never comes to the log."""
        self.learners[number].learn()
        self.writers.pop(number, None)

    def start(self, number: int) -> Start:
        return self.registry.start_for(
            self.registry.base(number), self.log.end_position(0), lambda snapshot: holds(self.log, snapshot.point)
        )

    def serve(self, number: int) -> None:
        """As a switch goes: the learner of the base that is left puts out nothing more."""
        with suppress(NoModelError):
            fence(self.log, self.registry.current().base)
        self.registry.switch(self.start(number), 1, "published")

    def check(self, follower: Follower, number: int, delta: int | None = None) -> None:
        """It has a base's rows behind its last delta, or the one that is named."""
        follower.refresh()
        learner = self.learners[number]
        delta = len(learner.made) if delta is None else delta
        assert (follower.served.base.number, follower.served.delta) == (number, delta)
        assert rows_of(follower.served.tables) == (learner.made[delta - 1].after if delta else learner.begun())


@pytest.fixture
def it(tmp_path: Path) -> World:
    return World(tmp_path)


def test_it_follows(it: World) -> None:
    with it.log, pytest.raises(NoModelError):
        Follower(it.registry, it.log)
    it = World(it.registry.directory.parent / "another")
    with it.log:
        it.serve(1)
        follower = Follower(it.registry, it.log)
        assert not follower.refresh()
        it.check(follower, 1, 0)
        it.learn(1, 3)
        assert follower.refresh()
        it.check(follower, 1, 3)
        last = it.learners[1].made[-1].closing
        assert (follower.served.positions, follower.served.newest_event_time) == (last.positions, last.newest_event_time)
        assert (follower.trouble, follower.healed) == (None, 0)


def test_base_and_caught_up_rows_switch_together(it: World) -> None:
    """A candidate's learner catches up in shadow, in the same log; at the switch nobody sees the candidate without its rows."""
    with it.log:
        it.serve(1)
        it.learn(1, 2)
        follower = Follower(it.registry, it.log)
        it.check(follower, 1, 2)
        it.registry.announce(it.start(it.base()))
        it.learn(2, 2)
        it.learn(1)
        it.learn(2, 2, snapshot=True)
        it.learn(1)
        it.learn(2)
        it.check(follower, 1, 4)
        it.serve(2)
        begins = Follower(it.registry, it.log)
        assert (begins.served.delta, rows_of(begins.served.tables)) == (4, it.learners[2].made[3].after)
        for one in (begins, follower):
            it.check(one, 2, 5)
        with pytest.raises(SecondLearnerError):
            it.learn(1)
        it.learn(2)
        it.check(follower, 2, 6)
        assert follower.trouble is None


def test_back_and_on(it: World) -> None:
    with it.log:
        it.serve(1)
        follower = Follower(it.registry, it.log)
        it.learn(1, 2, snapshot=True)
        it.learn(1, 2)
        it.base()
        it.serve(2)
        it.learn(2, 3)
        it.check(follower, 2, 3)
        it.registry.rollback(9, fence(it.log, 2), lambda snapshot: holds(it.log, snapshot.point))
        for one in (follower, Follower(it.registry, it.log)):
            it.check(one, 1, 4)
        # Its learner goes on where it was; deltas of the other lie in between.
        it.writers.pop(1)
        it.learn(1, 2)
        it.check(follower, 1, 6)
        assert follower.trouble is None


def test_a_stale_learner_is_told_of_and_changes_nothing(it: World) -> None:
    with it.log:
        it.serve(1)
        it.learn(1)
        it.base()
        it.serve(2)
        follower = Follower(it.registry, it.log)
        it.learn(2, 2)
        it.check(follower, 2, 2)
        it.writers.pop(1)
        it.learn(1)
        it.learn(2)
        follower.refresh()
        assert isinstance(follower.trouble, OtherBaseError | NoSnapshotError)
        it.check(follower, 2, 2)
        it.learn(2, snapshot=True)
        it.check(follower, 2, 4)
        assert (follower.trouble, follower.healed) == (None, 1)


def test_some_users_get_another(it: World) -> None:
    """Each role's followers pass over the others' deltas."""
    with it.log:
        it.serve(1)
        it.base()
        it.base()
        served = Follower(it.registry, it.log)
        it.registry.give("canary", it.start(2), 0.1)
        it.registry.give("holdout", it.start(3), 0.1)
        canary, holdout = Follower(it.registry, it.log, "canary"), Follower(it.registry, it.log, "holdout")
        for number in (2, 1, 1, 3, 2, 3, 1, 2, 2):
            it.learn(number)
        for follower, number in ((served, 1), (canary, 2), (holdout, 3)):
            it.check(follower, number)
            assert follower.trouble is None
        it.registry.give("canary", None)
        canary.refresh()
        assert isinstance(canary.trouble, NoModelError)
        assert canary.served.base.number == 2
        it.learn(1)
        it.check(served, 1)


def test_a_gap_is_healed(it: World) -> None:
    with it.log:
        it.serve(1)
        follower = Follower(it.registry, it.log)
        # One from before is of no use: whoever goes on there comes to the same gap.
        it.learn(1, snapshot=True)
        it.learn(1)
        it.check(follower, 1, 2)
        it.lose(1)
        # Its writer goes on behind what the log says; another tool has put out what follows the lost one.
        learner = it.learners[1]
        learner.learn()
        it.log.append([(0, batch) for batch in learner.batches(4)])
        follower.refresh()
        assert isinstance(follower.trouble, NoSnapshotError)
        assert "is missing" in str(follower.trouble)
        it.check(follower, 1, 2)
        learner.snapshot(4, it.log.end_position(0))
        it.check(follower, 1, 4)
        assert follower.healed == 1


def test_a_switch_between_look_and_read(it: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other base's delta turns up before its consumer knows that there was a switch: one look more, and it is where it should be."""
    with it.log:
        it.serve(1)
        it.learn(1)
        follower = Follower(it.registry, it.log)
        it.check(follower, 1, 1)
        it.base()
        real = it.log.read

        def read(*arguments: Any, **named: Any) -> Any:
            monkeypatch.undo()
            it.serve(2)
            it.learn(2)
            return real(*arguments, **named)

        monkeypatch.setattr(it.log, "read", read)
        follower.refresh()
        assert (follower.served.base.number, follower.trouble) == (2, None)
        it.check(follower, 2, 1)


def test_a_damaged_model_changes_nothing(it: World) -> None:
    """What is switched to is damaged before it is loaded: whoever serves goes on with what it has."""
    with it.log:
        it.serve(1)
        it.learn(1)
        follower = Follower(it.registry, it.log)
        it.check(follower, 1, 1)
        it.base()
        it.serve(2)
        path = it.registry.bases.directory / "2" / DENSE
        whole = path.read_bytes()
        os.truncate(path, 5)
        it.check(follower, 1, 1)
        assert isinstance(follower.trouble, DamagedModelError)
        path.write_bytes(whole)
        it.check(follower, 2, 0)
        assert follower.trouble is None


def test_a_damaged_snapshot_heals_nobody(it: World) -> None:
    with it.log:
        it.serve(1)
        it.learn(1, 2, snapshot=True)
        it.learn(1, 2, snapshot=True)
        snapshots = it.learners[1].base.path / "snapshots"
        data = bytearray((snapshots / "4" / TABLES["pin"]).read_bytes())
        data[-1] ^= 1
        (snapshots / "4" / TABLES["pin"]).write_bytes(data)
        assert it.start(1).delta == 2
        it.serve(1)
        it.check(Follower(it.registry, it.log), 1, 4)


def test_without_a_log_there_is_the_base(tmp_path: Path) -> None:
    """A log that was made anew: `tidemark models publish` of the same base begins again with its own rows."""
    it = World(tmp_path)
    with it.log:
        it.serve(1)
        it.learn(1, 3, snapshot=True)
    registry: Registry = it.registry
    with LocalLog.open(tmp_path / "anew", "embeddings", 2, create=True) as log:
        follower = Follower(registry, log)
        follower.refresh()
        registry.switch(registry.start_for(registry.base(1), 0, lambda snapshot: holds(log, snapshot.point)), 5, "published")
        follower.refresh()
        assert (follower.served.delta, follower.trouble) == (0, None)
        assert rows_of(follower.served.tables) == it.learners[1].begun()
