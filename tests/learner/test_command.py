"""`tidemark learn`: what it says, what it leaves, and how it ends."""

from __future__ import annotations

import json
import re
import signal
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from flows.examples.store import open_examples
from flows.settings import Settings
from online_model.deltas.chain import closings
from online_model.learner import ahead
from online_model.learner.learner import Site, begin_of, course_of
from online_model.learner.run import Options, learn
from online_model.registry.registry import Registry
from online_model.registry.snapshots import numbers
from tests import processes
from tests.learner.world import CONFIG, PARTITIONS, World, learn_all, served, state_of, told
from tests.processes import Ended


class Silent:
    """A display that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)

    warn = note

    def begin(self, flow: str, done: int, total: int | None) -> None:
        pass

    def advance(self, flow: str, offsets: int, watermark: int | None) -> None:
        pass


ASKED = {"batch_rows": CONFIG.batch_rows, "batch_ms": CONFIG.batch_ms, "learning_rate": CONFIG.learning_rate}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data", partitions=PARTITIONS)


@pytest.fixture
def world(settings: Settings) -> Iterator[World]:
    made = World(settings.data, registry=Registry.of(settings), logs=settings.logs)
    yield made
    made.close()


def run(settings: Settings, *arguments: object) -> Ended:
    return processes.tidemark("learn", *arguments, code=None, data=settings.data, partitions=PARTITIONS)


def test_it_learns_what_is_there_and_goes_on(world: World, settings: Settings) -> None:
    base = world.publish()
    follower = world.consumer()
    world.write(0.5)
    done = learn(settings, Options(asked=ASKED, publish_every_s=0.0), Silent())
    assert done.records > 100
    assert done.deltas == done.delta == max(one.delta for one in closings(world.embeddings, 1)) > 10
    assert not done.stopped
    assert done.waiting == sum(world.examples.end_positions()) - done.records
    assert served(follower)
    assert (done.users, done.pins) == tuple(len(follower.served.tables[name].ids) for name in ("user", "pin"))
    # The three IDs of the base were there before.
    assert done.admitted - done.expired == done.users + done.pins - 6
    assert numbers(base) == [done.delta]
    world.write()
    again = learn(settings, Options(), Silent())
    assert again.deltas == 1
    nothing = learn(settings, Options(), Silent())
    assert (nothing.records, nothing.deltas, nothing.loss) == (0, 0, None)
    assert len(numbers(base)) == 2
    other = World(settings.data.parent / "other", registry=None)
    other.rows = world.rows
    other.write()
    other.publish()
    course = replace(other.course(CONFIG), fingerprint=world.registry.bases.expected.features)
    from online_model.learner.learner import Learner

    whole = Learner.open(other.site, course)
    learn_all(whole)
    assert served(follower) == told(whole)
    assert nothing.waiting == sum(other.examples.end_positions()) - sum(whole.positions)
    other.close()


def test_of_a_history_that_has_ended_all_is_learned(world: World, settings: Settings) -> None:
    world.write()
    world.publish()
    done = learn(settings, Options(asked=ASKED, ended=True), Silent())
    assert (done.waiting, done.records) == (0, sum(world.examples.end_positions()))
    assert done.examples == sum(int(np.isin(rows.kind, (0, 1)).sum()) for rows in world.rows)
    assert done.keep_up
    assert learn(settings, Options(ended=True), Silent()).records == 0


def test_following_it_goes_over_to_the_base_that_is_served(world: World, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    world.publish()
    world.write(0.4)
    registry = world.registry

    class Watching(Silent):
        learned, began = 0, time.monotonic()

        def advance(self, flow: str, offsets: int, watermark: int | None) -> None:
            if len(registry.bases.numbers()) == 1:
                world.publish("transact_v1_1")
                world.write()
            self.learned += offsets

        def note(self, line: str) -> None:
            super().note(line)
            self.learned = 0

        def enough(self) -> bool:
            assert time.monotonic() - self.began < processes.PATIENCE_S
            return bool(self.lines) and self.learned > 250

    shown = Watching()
    monkeypatch.setattr("flows.stopping.requested", shown.enough)
    done = learn(settings, Options(follow=True, asked=ASKED, publish_every_s=0.1), shown)
    assert done.base == 2
    assert done.stopped
    assert any("base 2 is served now" in line for line in shown.lines)
    follower = world.consumer()
    assert follower.served.base.number == 2
    assert served(follower)
    assert follower.served.delta == done.delta


def test_a_process_reads_where_there_is_much_to_learn(world: World, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write()
    world.publish()
    one, other = world.learner(CONFIG), world.learner(CONFIG)
    begun = partial(ahead.ahead_of, one, world.examples, partial(open_examples, settings), follow=False)
    waiting = sum(world.examples.end_positions())
    monkeypatch.setattr(ahead, "_MANY_RECORDS", waiting + 1)
    with closing(begun()) as reading:
        assert isinstance(reading, ahead.InThread)
    monkeypatch.setattr(ahead, "_MANY_RECORDS", waiting)
    with closing(begun()) as reading:
        assert isinstance(reading, ahead.Apart)
        while not reading.ended:
            if (ready := reading.get(processes.PATIENCE_S)) is not None:
                one.learn(ready)
    learn_all(other)
    assert state_of(one) == state_of(other)
    assert sum(one.positions) > 100


def test_a_candidate_is_learned_in_shadow(world: World, settings: Settings) -> None:
    world.write()
    world.publish()
    follower = world.consumer()
    learn(settings, Options(asked=ASKED), Silent())
    world.publish("transact_v1_1", serve=False)
    done = learn(settings, Options(base=2, asked=ASKED), Silent())
    assert (done.base, done.deltas) == (2, 1)
    assert [one.base for one in world.registry.current().candidates] == [2]
    assert served(follower)
    assert follower.served.base.number == 1
    # Once it is served, consumers begin with what was learned.
    candidate = world.registry.base(2)
    world.registry.switch(world.registry.start_for(candidate, world.embeddings.end_position(0)), 2, "test")
    served(follower)
    assert (follower.served.base.number, follower.served.delta, follower.served.positions) == (2, 1, follower.served.positions)
    site = Site(world.registry, world.examples, world.embeddings)
    assert course_of(site, 2, lambda base: begin_of(base, PARTITIONS)).base == 2


@pytest.mark.parametrize(("begin", "learned"), [("start", True), ("end", False), (1, True)])
def test_where_a_base_begins_can_be_said(world: World, settings: Settings, begin: int | str, learned: bool) -> None:
    world.write()
    world.publish(positions=None)
    assert (learn(settings, Options(begin=begin), Silent()).records > 0) == learned


def test_the_ends_of_the_log_are_named_as_the_help_does(world: World, settings: Settings) -> None:
    world.write()
    world.publish(positions=None)
    assert "START|END|T" in run(settings, "--help").out
    refused = run(settings, "--from", "begin")
    assert refused.code == 2
    assert "or start or end of the log" in refused.err
    done = run(settings, "--from", "START", "--json")
    assert done.code == 0, done.err
    assert done.json()["records"] > 0


def test_the_command(world: World, settings: Settings) -> None:
    nothing = run(settings)
    assert nothing.code == 1
    assert "no model is served yet" in nothing.err
    world.write()
    world.publish()
    done = run(settings, "--batch", 16, "--delayed-labels", "wait", "--json")
    assert done.code == 0, done.err
    assert done.json()["deltas"] == 1
    assert done.json()["waiting"] > 0
    said = run(settings, "--delayed-labels", "fake-negative")
    assert said.code == 1
    assert re.search(r"base 1 is learned on with delayed_labels wait, and fake-negative is asked for", said.err)
    again = run(settings)
    assert again.out.startswith("nothing new to learn (base 1, delta 1)")
    for arguments in (("--ended", "--follow"), ("--batch", 0), ("--publish-every", "often")):
        assert run(settings, *arguments).code == 2


def test_sigterm_puts_out_what_is_learned_and_keeps_it(world: World, settings: Settings) -> None:
    world.write(0.3)
    base = world.publish()
    process = processes.start(
        "learn",
        "--follow",
        "--batch",
        16,
        "--publish-every",
        "1h",
        "--metrics-port",
        0,
        "--json",
        data=settings.data,
        partitions=PARTITIONS,
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    url = re.search(r"http://\S+", line)
    assert url, line
    deadline = time.monotonic() + processes.PATIENCE_S
    text = ""
    while "tidemark_learner_records_total 0.0" in (text or "tidemark_learner_records_total 0.0"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
        text = urllib.request.urlopen(url[0]).read().decode()
    for name in ("freshness_seconds", "lag_records", "keep_up", "rows", "admitted", "expired", "delta_published_timestamp_seconds"):
        assert f"tidemark_learner_{name}" in text
    assert not numbers(base)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=processes.PATIENCE_S)
    assert process.returncode == 0, err
    done = json.loads(out)
    assert done["stopped"]
    assert done["deltas"] == 1
    assert numbers(base) == [1]
    follower = world.consumer()
    assert served(follower)
    assert sum(follower.served.positions) == done["records"]
