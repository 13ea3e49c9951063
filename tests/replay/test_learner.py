"""`tidemark replay learner`: a bad span that was learned is as if it had never been, for consumers too, and whatever was interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flows import stopping
from flows.settings import Settings
from online_model.learner.run import Options, learn
from online_model.registry.registry import Registry
from online_model.registry.snapshots import numbers
from replay.learner import course_for, plan, positions_of, roll_back
from tests import processes
from tests.learner.test_command import ASKED, Silent
from tests.learner.world import PARTITIONS, World, learn_all, served, told
from tests.processes import Ended


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Settings(data=tmp_path / "data", partitions=PARTITIONS)
    torch.set_num_threads(before)


@pytest.fixture
def world(settings: Settings) -> Iterator[World]:
    made = World(settings.data, registry=Registry.of(settings), logs=settings.logs)
    made.publish()
    yield made
    made.close()


def run(settings: Settings, *arguments: object, code: int = 0) -> Ended:
    return processes.tidemark("replay", "learner", *arguments, code=code, data=settings.data, partitions=PARTITIONS)


def learned(world: World, settings: Settings) -> None:
    """Up to the end, with snapshots on the way."""
    for share in (0.3, 0.5, 0.7, 1.0):
        world.write(share)
        learn(settings, Options(asked=ASKED, publish_every_s=0.02), Silent())


def without(world: World, directory: Path, low: tuple[int, ...], high: tuple[int, ...]) -> World:
    """The same log, but for records that are of no kind that anybody learns from."""
    clean = World(directory)
    clean.rows = [replace(rows, kind=rows.kind.copy()) for rows in world.rows]
    for rows, begin, end in zip(clean.rows, low, high, strict=True):
        rows.kind[begin:end] = 2
    clean.write()
    clean.publish()
    return clean


def expected(clean: World, world: World) -> dict[tuple[str, int], bytes]:
    from online_model.learner.learner import Learner
    from tests.learner.world import CONFIG

    course = replace(clean.course(CONFIG), fingerprint=world.registry.bases.expected.features)
    learner = Learner.open(clean.site, course)
    learn_all(learner)
    return told(learner)


def test_a_bad_span_is_taken_back(world: World, settings: Settings, tmp_path: Path) -> None:
    learned(world, settings)
    follower = world.consumer()
    bad = served(follower)
    base, course = course_for(world_site := world.site, 1)
    middle = sorted(numbers(base))[1]
    low = tuple(max(0, end * 3 // 5) for end in follower.served.positions)
    high = tuple(end * 4 // 5 for end in follower.served.positions)
    where = [",".join(map(str, one)) for one in (low, high)]
    dry = run(settings, "--skip", *where, "--dry-run", "--json").json()
    assert dry["dry_run"]
    assert 0 < dry["after"] <= middle
    assert 0 < dry["records"] < sum(follower.served.positions)
    assert served(follower) == bad
    done = run(settings, "--skip", *where, "--json").json()
    assert done["finished"]
    assert done["records"] == dry["records"]
    good = served(follower)
    assert follower.healed == 0
    assert follower.served.delta == done["delta"] == dry["until"] + 1
    assert done["rows"] == sum(good.get(key) != bad.get(key) for key in good.keys() | bad.keys()) > 0
    clean = without(world, tmp_path / "clean", low, high)
    assert good == expected(clean, world)
    clean.close()
    # Learning goes on there, and from before it as well.
    assert learn(settings, Options(), Silent()).records == 0
    assert numbers(base)[0] == done["delta"]
    assert world_site.registry is world.registry
    assert course.skipped == ()


def test_without_a_span_the_rows_are_what_they_were(world: World, settings: Settings) -> None:
    learned(world, settings)
    follower = world.consumer()
    before = served(follower)
    said = run(settings, "--to", "0,0").out
    assert "tells 0 rows that differ" in said
    assert "from delta 0 on" in said
    assert served(follower) == before


def test_a_history_that_has_ended_is_learned_again_to_its_end(world: World, settings: Settings) -> None:
    world.write()
    learn(settings, Options(asked=ASKED, ended=True), Silent())
    follower = world.consumer()
    before = served(follower)
    done = run(settings, "--to", "0,0", "--json").json()
    assert (done["finished"], done["rows"]) == (True, 0)
    assert done["records"] == sum(world.examples.end_positions())
    assert served(follower) == before


def test_a_span_by_time(world: World, settings: Settings) -> None:
    learned(world, settings)
    times = sorted(int(t) for rows in world.rows for t in rows.ready_time)
    low, high = times[100], times[140]
    base, course = course_for(world.site, 1)
    done = run(settings, "--skip", low, high, "--json").json()
    assert tuple(done["skipped"]["begin"]) == positions_of(world.examples, low)
    assert tuple(done["skipped"]["end"]) == positions_of(world.examples, high)
    assert plan(world.site, base, course, positions_of(world.examples, 2**45), None).records == 0


def test_stopped_it_is_finished_by_whoever_learns(
    world: World, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    learned(world, settings)
    follower = world.consumer()
    low, high = (20, 40), (60, 90)
    base, course = course_for(world.site, 1)
    from online_model.learner.course import Span

    wanted = plan(world.site, base, course, low, Span(low, high))
    with monkeypatch.context() as patched:
        asked = iter([False] * 3)
        patched.setattr(stopping, "requested", lambda: next(asked, True))
        done = roll_back(world.site, course, wanted, lambda records: None)
    assert not done.finished
    # The same again, as whoever was interrupted would do.
    base, course = course_for(world.site, 1)
    assert plan(world.site, base, course, low, Span(low, high)) == wanted
    assert learn(settings, Options(), Silent()).records > 0
    clean = without(world, tmp_path / "clean", low, high)
    assert served(follower) == expected(clean, world)
    clean.close()


def test_what_can_not_be_is_refused(world: World, settings: Settings) -> None:
    world.write()
    assert "never learned on" in run(settings, "--to", "0,0", code=1).err
    learned(world, settings)
    for arguments, code, message in (
        ((), 2, "say how far back"),
        (("--to", "1,2,3"), 1, "2 partitions, and 3 positions"),
        (("--to", "1,99999999"), 1, "partition 1 ends at"),
        (("--to", "soon"), 2, "no time"),
        (("--skip", "9,9", "4,4"), 1, "no example lies"),
        (("--to", "0,0", "--base", 7), 1, "no base 7"),
    ):
        assert message in run(settings, *arguments, code=code).err
